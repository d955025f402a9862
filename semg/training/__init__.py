"""The training loop and everything that is trained. This package knows no flags."""
