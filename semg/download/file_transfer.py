"""Downloading files over HTTP so that each is complete and verified, or absent.

A file is written to `NAME.part`; beside it, `NAME.part.json` records which version of the file it is (ETag or
Last-Modified, length), so that a later attempt, in this run or another, can request only the missing bytes. A file gets
its name after its length and its contents have been checked.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import requests

from semg.common.errors import FULL_DISK, DataError
from semg.download.http_client import (
    Client,
    DiskFullError,
    TemporaryError,
    declared_length,
    is_page,
    refuse_encoded,
    refuse_page,
    validator,
)
from semg.download.partial_file import Note, PartialFile

T = TypeVar("T")


def fetch(
    client: Client,
    path: str,
    target: Path,
    size: int | None,
    check: Callable[[Path], T],
    report: Callable[[int], None],
    *,
    any_length: bool = False,
) -> T:
    """Download `path` to `target`, resuming from `target`'s part file; returns the result of `check`.

    size: the length from a listing, if any. check: raises DataError if a complete file is wrong; any other exception
    counts as that, too. report: called with the number of bytes by which the part file grew (negative: it was
    discarded). any_length: accept a file whose length nobody declares, because `check` knows its MD5.
    Raises DataError (final), DiskFullError or StoppedError; the part file is kept as long as it is useful.
    """
    part = PartialFile(target, report)
    wrong = 0

    def attempt() -> T:
        nonlocal wrong
        _transfer(client, path, part, size, any_length)
        try:
            return check(part.path)
        except (DataError, MemoryError, ValueError, LookupError, TypeError, RuntimeError, EOFError) as error:
            part.discard()
            wrong += 1
            if wrong > 1:  # wrong twice: the server's file is wrong, not the transfer
                raise as_data_error(error) from None
            raise TemporaryError(str(as_data_error(error))) from None

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        result = client.retried(path, attempt, part.size)
        part.finish()
    except OSError as error:
        raise full_disk(error, target.parent) or DataError(f"could not be written ({error})") from None
    return result


def _transfer(client: Client, path: str, part: PartialFile, size: int | None, any_length: bool) -> None:
    """Add the missing bytes to the part file, or all bytes if those already there are of no use."""
    note = part.resume(size)
    have = part.size()
    if note and have == note.size:
        return
    headers = {"Range": f"bytes={have}-", "If-Range": note.validator} if note else {}
    with client.open("GET", path, headers, allowed=(200, 206, 416)) as response:
        refuse_page(response)
        # 200: the whole file, as requested, or because Range is not supported or the file has changed
        if response.status_code == 200:
            refuse_encoded(response)
            note, have = _fresh_note(response, size, any_length), 0
        elif note is None or not _continues(response, have, note):
            part.discard()
            raise TemporaryError("expected the missing bytes of the same file, found another range or version")
        _check_room(part.path.parent, (note.size or 0) - have)
        if have == 0:
            part.begin(note)
        _copy(client, response, part, have, note.size)


def _copy(client: Client, response: requests.Response, part: PartialFile, have: int, total: int | None) -> None:
    with part.path.open("ab") as file:
        for block in client.blocks(response):
            if have == 0 and is_page(block):
                part.discard()
                raise DataError("expected a file, found a web page")
            have += len(block)
            if total is not None and have > total:
                break
            file.write(block)
            part.grew(len(block))
    if total is None:
        return
    if have > total:
        part.discard()
        raise TemporaryError(f"expected {total} bytes as declared, found more")
    if have < total:
        raise TemporaryError(f"expected {total} bytes, found {have} when the connection ended")


def _fresh_note(response: requests.Response, listed: int | None, any_length: bool) -> Note:
    """The version and length of the file in a 200 response; a missing length is accepted only if the contents will be
    checked."""
    length = declared_length(response)
    if length is not None and listed is not None and length != listed:
        raise DataError(f"expected {listed} bytes as the server lists, found {length}")
    size = listed if length is None else length
    if size is None and not any_length:
        raise DataError("expected a declared length, found none, so that nobody could tell if the file is whole")
    if size == 0:
        raise DataError("expected a file, found an empty one on the server")
    return Note(size, validator(response), response.headers.get("last-modified", ""))


def _continues(response: requests.Response, have: int, note: Note) -> bool:
    """Whether a 206 response has exactly the missing bytes of the version in `note`."""
    content_range = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", response.headers.get("content-range", "")
    )
    if response.status_code != 206 or not content_range or note.size is None:
        return False
    start, end, total = (int(text) for text in content_range.groups())
    length = declared_length(response)
    return (
        (start, end, total) == (have, note.size - 1, note.size)
        and length in (None, note.size - have)
        and validator(response) in ("", note.validator)
    )


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def as_data_error(error: Exception) -> DataError:
    """An unforeseen exception in the check of a file, as a failure of that file only."""
    return error if isinstance(error, DataError) else DataError(f"could not be read ({type(error).__name__}: {error})")


def full_disk(error: OSError, folder: Path) -> DiskFullError | None:
    """The error that ends the run, if `error` means that a disk, quota or limit is full; otherwise None."""
    if error.errno not in FULL_DISK:
        return None
    return DiskFullError(f"{folder}: expected space for the files, found the disk full; free some and run again")


def _check_room(folder: Path, needed: int) -> None:
    free = free_bytes(folder)
    if needed > free:
        raise DataError(f"expected {needed} bytes of free disk, found {free}; free some and run again")
