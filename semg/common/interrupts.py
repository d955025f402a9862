"""Ctrl-C while a script imports what it needs, which takes seconds: one line, as later, instead of a traceback.

Every script imports this first. Once its `main` runs, `cli.run` answers Ctrl-C. What libraries read of the environment
as they are imported is mended here too, and what they say then.
"""

import os
import sys
from types import TracebackType

from semg.common.library_messages import quiet_matplotlib
from semg.common.thread_settings import mend_thread_settings

_usual = sys.excepthook


def _in_a_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _usual(kind, error, trace)
        return
    print("\nstopped: nothing was begun", file=sys.stderr, flush=True)
    os._exit(130)  # Python itself would end as killed by the signal; nothing is open yet


sys.excepthook = _in_a_line
mend_thread_settings()
quiet_matplotlib()
