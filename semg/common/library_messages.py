"""Messages of libraries that no user of a script can use."""

import logging

# Of matplotlib's own: no folder for its cache, a cache made anew that took over 5 s, one that could not be written.
_OF_A_CACHE = ("mkdir -p failed", "writable directory", "building the font cache", "save font_manager cache")


def quiet_matplotlib() -> None:
    """No word of a cache: a picture needs none, and jobs on clusters often have no place for it."""
    for name in ("matplotlib", "matplotlib.font_manager"):  # a logger's filter does not see those below it
        logging.getLogger(name).addFilter(_matters)


def _matters(record: logging.LogRecord) -> bool:
    return not any(part in record.getMessage() for part in _OF_A_CACHE)
