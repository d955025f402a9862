"""A trained model on signals. It knows no flags."""
