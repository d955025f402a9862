"""Messages of libraries that no user of a script can use."""

import logging


def quiet_matplotlib() -> None:
    """No word of a cache that cannot be kept: a picture needs none, and jobs on clusters often have no place for it."""
    logging.getLogger("matplotlib").addFilter(_matters)


def _matters(record: logging.LogRecord) -> bool:
    return not any(part in record.getMessage() for part in ("mkdir -p failed", "writable directory"))
