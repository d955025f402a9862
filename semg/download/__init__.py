"""Fetching putEMG: HTTP and files. It knows neither torch nor signals."""
