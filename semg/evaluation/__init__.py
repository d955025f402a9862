"""Numbers and pictures of how well a model does. It does not know the training loop."""
