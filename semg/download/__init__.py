"""Downloading putEMG: HTTP and files. This package knows neither torch nor signals."""
