"""Ctrl-C while a script is still importing, which takes seconds: one line, as later, instead of a traceback.

Every script imports this module first. When its `main` runs, `cli.run` handles Ctrl-C. This module also corrects
environment variables that libraries read when they are imported, and suppresses some of their messages.
"""

import logging
import os
import sys
from types import TracebackType

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS")
# Messages of matplotlib: no folder for its cache, a rebuilt cache that took over 5 s, a cache that cannot be written.
_OF_A_CACHE = ("mkdir -p failed", "writable directory", "building the font cache", "save font_manager cache")
_usual = sys.excepthook


def _in_a_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _usual(kind, error, trace)
        return
    print("\nstopped: nothing was begun", file=sys.stderr, flush=True)
    os._exit(130)  # Python itself would end as if killed by the signal; no files are open yet


def mend_thread_settings() -> None:
    """Replace a list of threads by its first number, for the outermost loops; remove, with a warning, anything that is
    not a number above 0.

    OpenMP allows a list, `4,2`, and some clusters set one. Libraries that pandas and scikit-learn load would end the
    process because of it, and because of any value that is not a number.
    """
    for name in _THREAD_SETTINGS:
        value = os.environ.get(name)
        if value is None:
            continue
        first = value.split(",")[0].strip()
        if first.isdecimal() and int(first):
            os.environ[name] = first
            continue
        del os.environ[name]
        if value and sys.stderr:
            print(f"warning: {name}: expected a number of threads, found {value!r}: left out", file=sys.stderr)


def _matters(record: logging.LogRecord) -> bool:
    """False for messages about matplotlib's cache: pictures do not need it, and jobs on clusters often have no place
    for it."""
    return not any(part in record.getMessage() for part in _OF_A_CACHE)


sys.excepthook = _in_a_line
mend_thread_settings()
for name in ("matplotlib", "matplotlib.font_manager"):  # a logger's filter does not apply to its child loggers
    logging.getLogger(name).addFilter(_matters)
