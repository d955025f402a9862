"""A full disk, by the system's limit on the size of a file, as `ulimit -f` sets it. No other file system is needed, and
the same errors come as from a full disk, from NumPy, PyTorch and Python alike."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Inside, no file of this process can be longer, in bytes.

    Bytecode is not stored meanwhile. CPython 3.11 takes a .pyc that is cut off for whole, and fails at each later
    import of the module.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    storing, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = storing
