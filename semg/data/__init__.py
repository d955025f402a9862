"""Signals, labels and subjects: recordings, shards, windows, splits, batches. It knows neither GPT-2 nor flags."""
