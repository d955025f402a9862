"""Files that are complete or absent: written to a temporary name, then renamed; checksums; locks."""

import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from semg.common.errors import DataError

_BLOCK = 1 << 22  # bytes read at once when hashing
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # errors of network drives without locks
# files that desktops, network drives and notebooks put into folders; names with a leading dot are hidden anyway
_SYSTEM_FILES = ("lost+found", "@eadir", "thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "#recycle")
_MOST_OTHERS = 1000  # after this many waits, the drive must number an open file differently than its name
_PART = re.compile(r"\d+ requested and \d+ written")
_LEVELS = 5  # levels above a file that `places_near` tries: HERE/checkpoints/RUN/fold0/seed0/best_model.ckpt


def is_system_file(name: str) -> bool:
    """Whether a file or folder of that name belongs to the system or is hidden, and so is not the user's data."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def temporary_name(path: Path) -> Path:
    """The name under which `path` is written before it is renamed.

    It depends only on `path`, so that a new run overwrites what a killed run left.
    """
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, otherwise delete it.

    If two runs write the same file at once, the second waits, and its file is the one that stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with _held(temporary):
            try:
                yield temporary
                _flush_to_disk(temporary)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)  # it is missing if a signal came just after the rename
                raise
    except OSError as error:
        _name(error, path)
        raise


@contextmanager
def _held(temporary: Path) -> Iterator[None]:
    """While the block runs, no other run writes `temporary`, which is empty at first. There is no such protection on
    Windows, which cannot rename open files, and on drives without locks."""
    if sys.platform == "win32":
        yield
        return
    import fcntl  # not available on Windows

    for others in itertools.count():
        held = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_EX)
            if others < _MOST_OTHERS and not _is_at(held, temporary):
                continue  # it was renamed while we waited for it
            os.ftruncate(held, 0)  # discard what a killed run left
            yield
            return
        except BaseException:
            with suppress(OSError):  # after Ctrl-C during the wait, the name is the other run's
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(held, temporary):
                    temporary.unlink()
            raise
        finally:
            os.close(held)


def _is_at(held: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(held)
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`; put it in place of `path` if the block succeeds, otherwise leave `path`
    as it was.

    A reader that opens the folder by its name finds all old files, all new files or, between two renames, no folder at
    all; never a mix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = temporary_name(path), _old_name(path)
    if old.is_dir() and not path.exists():  # killed between the two renames below
        old.replace(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            _flush_to_disk(file)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.replace(old)
        temporary.replace(path)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        if old.is_dir() and not path.exists():  # an error or a signal between the two renames
            old.replace(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _name(error: OSError, path: Path) -> None:
    """Make an error name `path`: a write to a full disk names no file, and one inside a temporary folder names that
    folder. NumPy says nothing of the disk if there was room for a part of an array."""
    if error.errno is None and _PART.fullmatch(str(error)):
        error.errno, error.strerror = errno.ENOSPC, f"a disk that takes no more ({error})"
    inside = str(error.filename or temporary_name(path)).startswith(str(temporary_name(path)))
    if error.errno is not None and inside:
        error.filename = str(path)


def _old_name(path: Path) -> Path:
    """Where `atomic_folder` keeps the old folder until the new one is in place."""
    return path.with_name(f".{path.name}.old.tmp")


def remove_leftovers(path: Path) -> None:
    """Delete what a killed `atomic_folder` may have left beside `path`; for a run that finds `path` complete."""
    shutil.rmtree(temporary_name(path), ignore_errors=True)
    shutil.rmtree(_old_name(path), ignore_errors=True)


def _flush_to_disk(path: Path) -> None:
    """Write a file to disk; otherwise a power failure could leave a renamed file without contents."""
    with path.open("rb+") as file:  # Windows does not flush a file that is open for reading only
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8, Unix line ends) so that `path` is the old file or the new one at every moment."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON in the order given; NaN and infinities are refused, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def expect_file(path: Path, what: str) -> None:
    """DataError, naming the expected contents `what`, unless `path` is a file: opening a pipe or a device could block
    forever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"{path}: expected {what}, found no such file") from None
    except OSError as error:
        raise DataError(f"{path}: expected {what}, found: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        kind = next((name for holds, name in _KINDS if holds(mode)), "a device")
        raise DataError(f"{path}: expected {what}, found {kind}")


def expect_place(path: Path, what: str) -> None:
    """DataError, naming the contents `what`, if `path` cannot become a file; call it before long work."""
    if path.is_dir():
        raise DataError(f"{path}: expected a file's name for {what}, found a folder")
    expect_room(path.absolute().parent, what)


def expect_room(folder: Path, what: str) -> None:
    """DataError, naming the contents `what`, if no file can be written into `folder`, which may not exist yet; call it
    before long work."""
    folder = folder.absolute()
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir():
        raise DataError(f"{above}: expected a folder, to write {what} under it, found a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise DataError(f"{above}: expected a folder to write {what} to, found one that you may not write to")


def json_value(text: str) -> Any:
    """The value of a JSON text.

    ValueError for invalid JSON, for duplicate keys, and for numbers that are not finite or do not fit 64 bits.
    """

    def whole(digits: str) -> int:
        value = int(digits)
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"a number beyond 64 bits: {digits[:24]}")
        return value

    def real(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"a number that is not finite: {digits[:24]}")
        return value

    return json.loads(text, parse_int=whole, parse_float=real, parse_constant=real, object_pairs_hook=_without_twins)


def places_near(folder: Path, file: Path) -> list[Path]:
    """Where a folder may be that was named when `file` was made: as seen from here, and, if it is relative, from
    folders above the file."""
    above = [] if folder.is_absolute() else file.resolve().parents[:_LEVELS]
    return [folder, *(parent / folder for parent in above)]


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in `path`. Raises DataError, naming the expected contents `what`, for anything else."""
    expect_file(path, what)
    try:
        text = path.read_text(encoding="utf-8-sig")
        value = json_value(text)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8 or JSON, numbers too long
        raise DataError(f"{path}: expected {what}, found unreadable JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected {what}, found JSON that is no object")
    if "\\ud" in text.lower():  # escape of half a surrogate pair: printing or writing it would fail
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(f"{path}: expected {what}, found half a character in a text") from None
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; ValueError for duplicate keys, because programs differ in which one they use."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return value


def checksum(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file, read in blocks."""
    with path.open("rb") as file:
        return digest_of(file, algorithm)


def digest_of(file: BinaryIO, algorithm: str = "sha256") -> str:
    """The same for an open file, from its beginning; opening it by name could find another file by now."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def version(path: Path) -> tuple[int, int] | None:
    """A pair by which a replaced or modified file can be detected: its size and time of change; None if it does not
    exist.

    For a folder, it shows whether the folder or files in it were replaced. The inode is not used, because some network
    drives number a file differently at each access.
    """
    try:
        return version_of(path.stat())
    except FileNotFoundError:
        return None


def version_of(there: os.stat_result) -> tuple[int, int]:
    """The same for an open file, from `os.fstat`: its name may mean another file by now."""
    return there.st_size, there.st_mtime_ns


@contextmanager
def expect_unchanged(path: Path, what: str) -> Iterator[None]:
    """DataError, at the end of a block that opens `path` several times, if the file was replaced or modified in the
    meantime.

    Otherwise a checksum could belong to one file and the contents to another. Errors that the block found in such a
    file are not reported.
    """

    def refuse(_message: str) -> None:
        raise DataError(_changed(path, what))

    with watched(path, what, refuse):
        yield


@contextmanager
def watched(path: Path, what: str, warn: Callable[[str], None]) -> Iterator[None]:
    """As `expect_unchanged`, but a file that changed and could be read is only warned of: it may still be being
    written. warn: called with the message."""
    before = version(path)
    try:
        yield
    except (DataError, OSError):
        if version(path) == before:
            raise
        raise DataError(_changed(path, what)) from None
    if version(path) != before:
        warn(f"{path}: it changed while it was read, as if it were still being written: what came later is left out")


def _changed(path: Path, what: str) -> str:
    return f"{path}: expected {what} at rest, found it changed while it was read; run this again"


def text_checksum(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for writing; DataError immediately if another process holds it.

    The operating system releases the lock when the process ends, so a killed run leaves none behind. The empty lock
    file is removed at the end, and so are folders that were made for it and in which nothing was written.
    """
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path, timeout=0)
    try:
        try:
            lock.acquire()
            while not path.exists():  # the previous run removed it between our opening and locking it: we hold nothing
                lock.release()
                lock.acquire()
        except Timeout:
            raise DataError(f"{folder}: another run is writing there; wait for it or choose another folder") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise DataError(
                f"{path}: expected a drive with locks, without which two runs could write there at once, found: "
                f"{error.strerror}; write to a folder on another drive"
            ) from None
        yield
    finally:
        if not lock.is_locked:  # Ctrl-C while it was being locked: its file may exist
            with suppress(Timeout, OSError):
                lock.acquire()
        if lock.is_locked:
            with suppress(PermissionError):  # Windows cannot delete an open file; there it is deleted on release
                path.unlink(missing_ok=True)
            lock.release()
        with suppress(OSError):  # not empty
            for place in created:
                place.rmdir()
