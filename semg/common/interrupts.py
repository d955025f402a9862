"""Ctrl-C while a script imports what it needs, which takes seconds: one line, as later, instead of a traceback.

Every script imports this first. Once its `main` runs, `cli.run` answers Ctrl-C. What libraries read of the environment
as they are imported is mended here too, and what they say then.
"""

import logging
import os
import sys
from types import TracebackType

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS")
# Of matplotlib's own: no folder for its cache, a cache made anew that took over 5 s, one that could not be written.
_OF_A_CACHE = ("mkdir -p failed", "writable directory", "building the font cache", "save font_manager cache")
_usual = sys.excepthook


def _in_a_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _usual(kind, error, trace)
        return
    print("\nstopped: nothing was begun", file=sys.stderr, flush=True)
    os._exit(130)  # Python itself would end as killed by the signal; nothing is open yet


def mend_thread_settings() -> None:
    """Leave of a list of threads its first number, for the outermost loops; take out, with a line, what is no number
    above 0.

    OpenMP allows a list, `4,2`, and some clusters set one; libraries that pandas and scikit-learn load end the process
    over it, and over anything else that is no number.
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
    """Not of matplotlib's cache: a picture needs none, and jobs on clusters often have no place for it."""
    return not any(part in record.getMessage() for part in _OF_A_CACHE)


sys.excepthook = _in_a_line
mend_thread_settings()
for name in ("matplotlib", "matplotlib.font_manager"):  # a logger's filter does not see those below it
    logging.getLogger(name).addFilter(_matters)
