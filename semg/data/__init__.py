"""Signals, labels and subjects: recordings, shards, windows, splits, batches. This package knows neither GPT-2 nor
flags."""
