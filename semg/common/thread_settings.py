"""Numbers of threads in the environment, in the one form that all libraries here read.

OpenMP allows a list, `4,2`, and some clusters set one; libraries that pandas and scikit-learn load end the process over
it, and over anything else that is no number. Scripts call this before they import them.
"""

import os
import sys

_SETTINGS = ("OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS")


def mend_thread_settings() -> None:
    """Leave of a list its first number, for the outermost loops; take out, with a line, what is no number above 0."""
    for name in _SETTINGS:
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
