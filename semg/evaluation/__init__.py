"""Numbers and pictures of how well a model does. It does not know the training loop."""

import logging


def _matters(record: logging.LogRecord) -> bool:
    """Whether a message of matplotlib's is more than that no folder for its cache can be written: a picture needs none,
    and a job on a cluster often has none."""
    return not any(part in record.getMessage() for part in ("mkdir -p failed", "writable directory"))


logging.getLogger("matplotlib").addFilter(_matters)
