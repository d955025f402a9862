"""Zip archives from an untrusted source: checked before anything is written, and unpacked completely or not at all.

Refused are entries that would land outside the folder, links and other special files, encrypted entries, two entries of
the same name, and archives that would unpack to far more than their size (zip bombs).
"""

import errno
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from semg.common.errors import DataError
from semg.common.files import atomic_folder

MAX_MEMBERS = 200_000
MAX_RATIO = 200  # numbers as text compress about 10-fold, deflate at most 1032-fold
_BLOCK = 1 << 20
_LONGEST_PATH = 1000  # most bytes of an entry's path; together with the folder's, Linux allows 4096


def check(path: Path, *, contents: bool) -> None:
    """Raise DataError unless `path` is a zip archive that is safe to unpack; contents: also check the CRCs."""
    with _opened(path) as archive:
        members = _members(path, archive)
        if contents:
            for member in members:
                with archive.open(member) as file:
                    while file.read(_BLOCK):
                        pass


def unpack(path: Path, folder: Path, stop: Callable[[], None]) -> dict[str, int]:
    """Unpack `path` into `folder`, which appears when everything is unpacked; returns the result of `measure`.

    stop: called between blocks; may raise to end the work.
    """
    with _opened(path) as archive:
        members = _members(path, archive)
        declared, free = sum(member.file_size for member in members), shutil.disk_usage(path.parent).free
        if declared > free:
            raise DataError(f"{path}: expected {declared} free bytes to unpack it, found {free}; free some")
        with atomic_folder(folder) as temporary:
            for member in members:
                target = temporary.joinpath(*PurePosixPath(member.filename).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(archive, member, target, stop)
            return measure(temporary)


def measure(folder: Path) -> dict[str, int]:
    """The number of files in `folder` and their total bytes, to check later whether everything is still there."""
    sizes = [(Path(place) / name).lstat().st_size for place, _, names in os.walk(folder) for name in names]
    return {"members": len(sizes), "bytes": sum(sizes)}


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, stop: Callable[[], None]) -> None:
    written = 0
    with archive.open(member) as source, target.open("xb") as file:
        while block := source.read(_BLOCK):
            stop()
            written += len(block)
            if written > member.file_size:
                break
            file.write(block)
    if written != member.file_size:
        raise DataError(f"{archive.filename}: {member.filename}: expected {member.file_size} bytes, found {written}")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
        raise _broken(path, error) from None
    except OSError as error:
        # a disk error; without a number it is bz2's error for damaged data, EINVAL an entry before the file's beginning
        if error.errno not in (None, errno.EINVAL):
            raise
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: expected a whole zip archive, found {error}; fetch it again")


def _members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The archive's files, without folders, after a check of all entries."""
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        raise DataError(f"{path}: expected at most {MAX_MEMBERS} entries, found {len(entries)}; refused")
    size = path.stat().st_size
    packed, unpacked = sum(e.compress_size for e in entries), sum(e.file_size for e in entries)
    if packed > size or unpacked > MAX_RATIO * size:
        raise DataError(
            f"{path}: expected an archive of measurements, found {size} bytes that unpack to {unpacked}; refused"
        )
    files = {entry.filename.lower() for entry in entries if not _is_folder(entry)}
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename.lower()
        reason = _refusal(entry)
        if not reason and name in seen:
            reason = "a second entry of that name"
        if not reason and not files.isdisjoint(_folders(name)):
            reason = "a file of the name of its folder"
        if reason:
            printed_name = repr(entry.filename[:200])
            raise DataError(f"{path}: {printed_name}: expected a plain file in the archive, found {reason}; refused")
        seen.add(name)
    return [entry for entry in entries if not _is_folder(entry)]


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.endswith("/")  # is_dir() fails for an empty name


def _folders(name: str) -> Iterator[str]:
    """The folders that contain an entry: `a` and `a/b` for the file `a/b/c`, and also for the folder `a/b/c/`."""
    end = name.find("/")
    while end >= 0:
        yield name[:end]
        end = name.find("/", end + 1)


def _refusal(entry: zipfile.ZipInfo) -> str:
    """Why an entry must not be unpacked; empty if it may be."""
    name = entry.orig_filename  # zipfile truncates `filename` at a NUL
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not name or not name.isprintable() or any(len(part.encode()) > 200 for part in name.split("/")):
        return "a name with control characters or too long a name"
    if len(name.encode()) > _LONGEST_PATH:
        return "too long a path"
    if "\\" in name or ":" in name or name.startswith("/") or ".." in name.split("/"):
        return "a path that leads out of the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or special file"
    return "an encrypted entry" if entry.flag_bits & 0x1 else ""
