"""A shard's signal as a file that is open only while it is used, and the errors that NumPy raises for damaged files."""

import mmap
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import numpy as np

from semg.common.errors import DAMAGED_NPY, DataError
from semg.common.files import version_of

REDO = "run preprocess.py or import_csv.py {overwrite}"
MAKE = "run preprocess.py first, or import_csv.py"
_MOST_MAPPED = 4096  # most signals mapped at once, even if the system allows more open files


class SignalFile:
    """A shard's signal.npy, opened only when it is read: a data set may have more files than a process may open.

    At most half of the process's limit of open files are mapped signals; the one mapped longest ago is closed first.
    """

    _mapped: ClassVar["deque[weakref.ref[SignalFile]]"] = deque()  # in the order of mapping
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path) -> None:
        """Read the file's header. DataError if it is damaged or not a float16 signal (time, channels)."""
        self.path = path
        with path.open("rb") as file, npy_errors(path):
            np.lib.format.read_magic(file)
            self.shape, fortran_order, self.dtype = np.lib.format.read_array_header_1_0(file)
            self._offset = file.tell()
            self._version = version_of(os.fstat(file.fileno()))
        if len(self.shape) != 2 or self.dtype != np.float16 or fortran_order:
            raise DataError(f"{path}: expected a float16 signal (time, channels), found {self.dtype} {self.shape}")
        self._bytes = self._offset + 2 * self.shape[0] * self.shape[1]
        if self._version[0] != self._bytes:
            raise DataError(f"{path}: expected {self._bytes} bytes, found {self._version[0]}", REDO)
        self._memory: tuple[mmap.mmap, np.ndarray] | None = None

    def array(self) -> np.ndarray:
        """(T, C) float16, memory-mapped; ask for it again for each segment that is read.

        DataError if the file has been replaced or truncated since it was first opened: reading beyond its end would
        kill the process.
        """
        mapped = self._memory
        if mapped is None:
            with self._lock:
                while len(self._mapped) >= _most_mapped():
                    if oldest := self._mapped.popleft()():
                        oldest._memory = None
                self._memory = mapped = self._mapped_file()
                self._mapped.append(weakref.ref(self))
        memory, array = mapped
        try:
            size = memory.size()
        except OSError:  # on a network drive, another machine may have removed the file
            size = 0
        if size < self._bytes:
            raise DataError(
                f"{self.path}: expected the file as it was, found it cut or removed; make it anew, then run this again"
            )
        return array

    def _mapped_file(self) -> tuple[mmap.mmap, np.ndarray]:
        """Checks the file that is open, not its name: between two accesses, the name could come to mean another
        file."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            if version_of(os.fstat(file.fileno())) == self._version:
                memory = mmap.mmap(file.fileno(), self._bytes, access=mmap.ACCESS_READ)
                # not np.memmap: each of its slices takes microseconds, as long as copying a window
                return memory, np.frombuffer(memory, np.float16, offset=self._offset).reshape(self.shape)
        raise DataError(f"{self.path}: expected the file as it was, found it replaced; start this run again")


def _most_mapped() -> int:
    """How many signals may be mapped at once; each needs an open file."""
    if sys.platform == "win32":
        return _MOST_MAPPED
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_MAPPED if limit == resource.RLIM_INFINITY else max(8, min(_MOST_MAPPED, limit // 2))


@contextmanager
def npy_errors(path: Path) -> Iterator[None]:
    """Raise DataError for any error of NumPy about a damaged file; an OSError is not about the contents and passes
    through."""
    try:
        yield
    except DAMAGED_NPY as error:
        actual = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: expected a NumPy array, found {actual}", REDO) from None
