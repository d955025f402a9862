"""What scripts in general need: flags, errors, files, provenance, processes. It knows neither EMG nor torch."""
