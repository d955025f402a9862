"""What the scripts share: the data set's facts, shards, splits, filters, features, metrics, checkpoints."""
