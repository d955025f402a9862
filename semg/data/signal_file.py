"""A shard's signal as a file that is read only while it is used, and what NumPy's readers raise for a damaged one."""

import os
import sys
import threading
import tokenize
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import numpy as np

from semg.common.errors import DataError

REDO = "run preprocess.py or import_csv.py {overwrite}"
_MOST_MAPPED = 4096  # signals at once, where the system would let more files be open


class SignalFile:
    """A shard's signal.npy, opened when it is read, not before: a data set may have more files than may be open.

    At most half of the files that the process may have open are mapped signals; the one mapped longest ago makes room.
    """

    _mapped: ClassVar["deque[weakref.ref[SignalFile]]"] = deque()  # in the order of mapping
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path) -> None:
        """Read the file's header. DataError if it is damaged or no float16 signal (time, channels)."""
        self.path = path
        with path.open("rb") as file, npy_errors(path):
            np.lib.format.read_magic(file)
            self.shape, fortran_order, self.dtype = np.lib.format.read_array_header_1_0(file)
            self._offset = file.tell()
        if len(self.shape) != 2 or self.dtype != np.float16 or fortran_order:
            raise DataError(f"{path}: expected a float16 signal (time, channels), found {self.dtype} {self.shape}")
        expected = self._offset + 2 * self.shape[0] * self.shape[1]
        self._identity = identity(path)
        if path.stat().st_size != expected:
            raise DataError(f"{path}: expected {expected} bytes, found {path.stat().st_size}", REDO)
        self._array: np.ndarray | None = None

    def array(self) -> np.ndarray:
        """(T, C) float16, memory-mapped. DataError if the file was replaced since it was opened first."""
        array = self._array
        if array is not None:
            return array
        with self._lock:
            while len(self._mapped) >= _most_mapped():
                if oldest := self._mapped.popleft()():
                    oldest._array = None
            # of a np.memmap, each slice would take microseconds: as long as copying a window
            self._array = array = self._mapped_file().view(np.ndarray)
            self._mapped.append(weakref.ref(self))
        return array

    def _mapped_file(self) -> np.memmap:
        """The file that is open is looked at: between two looks at its name, another could bear it."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            if _identity(os.fstat(file.fileno())) == self._identity:
                return np.memmap(file, np.float16, "r", self._offset, self.shape)
        raise DataError(f"{self.path}: expected the file as it was, found it replaced; start this run again")


def _most_mapped() -> int:
    """How many signals may be mapped at once: each holds a file open."""
    if sys.platform == "win32":
        return _MOST_MAPPED
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_MAPPED if limit == resource.RLIM_INFINITY else max(8, min(_MOST_MAPPED, limit // 2))


_OF_DAMAGED_NPY = (  # what NumPy's readers raise: the header is parsed as Python
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError),
    *(SyntaxError, tokenize.TokenError, RecursionError, MemoryError),
)


@contextmanager
def npy_errors(path: Path) -> Iterator[None]:
    """DataError for whatever NumPy makes of a damaged file; an OSError says nothing about the file and passes."""
    try:
        yield
    except _OF_DAMAGED_NPY as error:
        actual = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: expected a NumPy array, found {actual}", REDO) from None


def identity(path: Path) -> tuple[int, int] | None:
    """Which folder or file bears the name `path` now."""
    try:
        return _identity(path.stat())
    except FileNotFoundError:
        return None


def _identity(there: os.stat_result) -> tuple[int, int]:
    return there.st_ino, there.st_mtime_ns
