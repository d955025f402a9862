"""The training loop and all that trains. It knows no flags."""
