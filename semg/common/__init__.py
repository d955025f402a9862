"""What all scripts need: flags, errors, files, provenance, processes. This package knows neither EMG nor torch."""
