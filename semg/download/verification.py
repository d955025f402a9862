"""Verification of downloaded files, and a memory of verified ones, so that checking again is quick."""

import threading
from pathlib import Path
from typing import Any

from semg.common.console import Console
from semg.common.errors import DataError
from semg.common.files import checksum, expect_unchanged, read_json, version, version_of, write_json
from semg.data.putemg_recording import check_layout
from semg.download import archive
from semg.download.http_client import looks_like_page
from semg.download.putemg_share import Wanted


class Memory:
    """What was verified and what was unpacked, in OUTDIR/.verified.json. Can be used by several threads."""

    FORMAT = 1

    def __init__(self, root: Path, console: Console) -> None:
        self.root, self.path = root, root / ".verified.json"
        self._lock = threading.Lock()
        self._files: dict[str, dict[str, Any]] = {}
        self._unpacked: dict[str, dict[str, Any]] = {}
        try:
            if self.path.exists():
                self._read(read_json(self.path, "a list of verified files"))
        except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = error if isinstance(error, DataError) else f"{self.path}: expected entries by file, found others"
            console.warn(f"{reason}; all files are verified again")

    def _read(self, value: dict[str, Any]) -> None:
        if value.get("format") != self.FORMAT:
            raise DataError(f"{self.path}: expected format {self.FORMAT}, found {value.get('format')!r}")
        self._files = {name: dict(entry) for name, entry in value["files"].items()}
        self._unpacked = {name: dict(entry) for name, entry in value["unpacked"].items()}

    def md5(self, file: Wanted) -> str | None:
        """The MD5 of a file that was verified and has not changed since, here or on the share."""
        entry, path = self._files.get(file.name, {}), self.root / file.name
        if not path.is_file() or not _matches(entry, file):
            return None
        return entry["md5"] if (entry["size"], entry.get("mtime_ns")) == version(path) else None

    def files(self) -> list[Wanted]:
        """All files that were verified, with their sizes and MD5 sums."""
        whole = Wanted("")
        return [Wanted(name, e["size"], e["md5"]) for name, e in self._files.items() if _matches(e, whole)]

    def is_outdated(self, file: Wanted) -> bool:
        """Whether the server has another version now than when the file was downloaded, possibly of equal length."""
        fetched = self._files.get(file.name, {}).get("version", "")
        return bool(fetched and file.version) and fetched != file.version

    def last_md5(self, name: str) -> str | None:
        """The MD5 that a file had when it was verified."""
        md5 = self._files.get(name, {}).get("md5")
        return md5 if isinstance(md5, str) else None

    def is_unpacked(self, file: Wanted) -> bool:
        """Whether this archive was unpacked and everything from it is still there."""
        entry, folder = self._unpacked.get(file.name, {}), (self.root / file.name).with_suffix("")
        if not folder.is_dir() or not _matches(entry, file):
            return False
        return archive.measure(folder) == {"members": entry.get("members"), "bytes": entry.get("bytes")}

    def verified(self, file: Wanted, md5: str) -> None:
        """Record that the file on disk is right, and, if there is no MD5 to compare, which version of the server's it
        is."""
        size, changed = version_of((self.root / file.name).stat())
        theirs = "" if file.md5 else file.version or self._files.get(file.name, {}).get("version", "")
        entry = {"size": size, "mtime_ns": changed, "md5": md5}
        self._write(self._files, file.name, entry | ({"version": theirs} if theirs else {}))

    def unpacked(self, name: str, result: dict[str, int]) -> None:
        """Record that the archive was unpacked, and the size of the result."""
        entry = self._files[name]
        self._write(self._unpacked, name, {"size": entry["size"], "md5": entry["md5"], **result})

    def _write(self, part: dict[str, dict[str, Any]], name: str, entry: dict[str, Any]) -> None:
        with self._lock:
            if part.get(name) == entry:
                return
            part[name] = entry
            files, unpacked = dict(sorted(self._files.items())), dict(sorted(self._unpacked.items()))
            write_json(self.path, {"format": self.FORMAT, "files": files, "unpacked": unpacked})


def _matches(entry: dict[str, Any], file: Wanted) -> bool:
    """Whether the record of a file agrees with what the share says about it."""
    size, md5 = entry.get("size"), entry.get("md5")
    known = isinstance(size, int) and isinstance(md5, str)
    same_version = not file.version or entry.get("version", file.version) == file.version
    return known and same_version and file.size in (None, size) and file.md5 in (None, md5)


_hdf5_lock = threading.Lock()  # the HDF5 library is not used from several threads at once


def verify(path: Path, file: Wanted, before: str | None = None) -> str:
    """The file's MD5, if it is the file wanted; otherwise DataError. before: its MD5 when it was last verified."""
    try:
        with expect_unchanged(path, "a file"):
            return _verified(path, file, before)
    except DataError as error:
        raise DataError(str(error).removeprefix(f"{path}: ")) from None


def _verified(path: Path, file: Wanted, before: str | None) -> str:
    size = path.stat().st_size
    if size == 0 or file.size not in (None, size):
        raise DataError(f"expected {file.size or 'some'} bytes, found {size}")
    if looks_like_page(path):
        raise DataError("expected a file, found a web page")
    md5, expected = checksum(path, "md5"), file.md5 or before
    if expected is not None and md5 != expected:
        raise DataError(f"expected MD5 {expected}, found {md5}")
    if file.name.endswith(".hdf5"):
        with _hdf5_lock:
            check_layout(path)
    elif file.is_archive:
        archive.check(path, contents=file.md5 is None)
    return md5
