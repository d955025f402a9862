"""A trained model applied to signals. This package knows no flags."""
