"""Numbers and pictures about the quality of a model. This package does not know the training loop."""
