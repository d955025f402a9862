"""A hostile or broken server, and a downloader that is killed: what is right in the folder stays right.

Every fault here ends in one of two ways, and the exit code and the last line say which: the file is fetched all
the same, or it is named as missing, with the reason, while the others are fetched. Either way, the same command,
with the server well again, leaves exactly what an undisturbed run leaves.

`pytest tests/faults/test_server.py --collect-only -q` counts the faults.
"""

import gzip
import io
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import recordings
from conftest import ROOT
from downloading import NAMES, PATHS, QUICK, Done, download, from_mirror, md5sums, started, stock, tree, undisturbed
from share_server import ShareServer
from test_recording import virtual_of_itself
from waiting import LONGEST, beside, wait_for

from semg.common.errors import DataError
from semg.download import verification

FIRST = PATHS[0]
SIZE = len(recordings.recording_bytes(3))
HALF = SIZE // 2
ONCE, TWICE, ALWAYS = 1, 2, None
SUMS = "Data-HDF5/MD5SUMS"


@pytest.fixture(autouse=True)
def _surroundings(record_property: Callable[[str, object], None]) -> None:
    record_property("counted", "server faults")


@pytest.fixture
def share() -> Iterator[ShareServer]:
    with ShareServer() as server:
        yield server


def check_ended(done: Done, *, code: int) -> None:
    """The exit code is `code`, and the last line says the same."""
    assert done.code == code, f"{done.out}\n{done.err}"
    assert ("re-run to fetch the rest" in done.last) == (code == 1)
    assert ("3 of 3 files are there and verified" in done.last) == (code == 0)


def well_again(share: ShareServer, folder: Path, *flags: object) -> None:
    """With the server well, the same command leaves what an undisturbed run leaves, and nothing else."""
    share.behave()
    done = from_mirror(share, folder, *flags)
    assert done.code == 0, done.err
    assert tree(folder) == undisturbed(share, *flags)


# --- faults that pass: the file is fetched all the same -------------------------------------------------------

PASSING: list[tuple[str, int | None, dict[str, Any]]] = [
    ("status", ONCE, {"code": 500}),
    ("status", TWICE, {"code": 502}),
    ("status", ONCE, {"code": 503, "Retry_After": "0"}),
    ("status", ONCE, {"code": 503, "Retry_After": "soon"}),
    ("status", ONCE, {"code": 503, "Retry_After": formatdate(0, usegmt=True)}),
    ("status", ONCE, {"code": 429, "Retry_After": "0"}),
    ("status", ONCE, {"code": 408}),
    ("status", ONCE, {"code": 504}),
    ("cut", ONCE, {"at": 0}),
    ("cut", ONCE, {"at": 1}),
    ("cut", TWICE, {"at": HALF // 2}),
    ("cut", ONCE, {"at": SIZE - 1}),
    ("hang_up", TWICE, {}),
    ("garbage", ONCE, {}),
    ("corrupt", ONCE, {"at": HALF}),
    ("declared", ONCE, {"by": -1}),  # with HEAD telling the right length
    ("replaced", ONCE, {"body": b"\x00" * SIZE}),
    ("redirect", ALWAYS, {"to": f"/mirror/{FIRST}?again"}),
    ("chunked", ALWAYS, {}),
    ("no_length", ALWAYS, {}),
    ("header", ALWAYS, {"Content_Type": "text/plain", "Last_Modified": "yesterday", "ETag": '"\x01"'}),
    ("header", ALWAYS, {"Content_Type": "", "Last_Modified": "", "ETag": ""}),
    ("header", ALWAYS, {"Content_Length": "many"}),
    ("header", ALWAYS, {"Content_Length": "-5"}),
    ("header", ALWAYS, {"Last_Modified": "Fri, 31 Dec 9999 23:59:59 GMT"}),
]


@pytest.mark.parametrize(("kind", "times", "options"), PASSING, ids=str)
def test_a_fault_that_passes(
    share: ShareServer, tmp_path: Path, kind: str, times: int | None, options: dict[str, Any]
) -> None:
    files = stock(share)
    if kind == "redirect":
        share.files[f"{FIRST}?again"] = share.files[FIRST]
    share.misbehave(FIRST, kind, times=times, **options)
    done = from_mirror(share, tmp_path)
    if kind == "declared":  # too short a length is found against HEAD's: an error, nothing wrong let through
        check_ended(done, code=1)
    else:
        check_ended(done, code=0)
        assert {path: data for path, data in tree(tmp_path).items() if path in files} == files
        assert set(tree(tmp_path)) == {*files, ".verified.json"}
    share.misbehave(FIRST, "status", code=500)
    assert share.asked(FIRST)


# --- faults that stay: the file is missing, and said to be; the others are fetched ----------------------------

STAYING: list[tuple[str, dict[str, Any], str]] = [
    ("status", {"code": 500}, "the server answered 500; gave up after 3 attempts"),
    ("status", {"code": 503, "Retry_After": "0"}, "the server answered 503; gave up after 3 attempts"),
    ("status", {"code": 404}, "found none (404)"),
    ("status", {"code": 410}, "found none (410)"),
    ("status", {"code": 401}, "found the answer 401"),
    ("status", {"code": 403}, "found the answer 403"),
    ("status", {"code": 204}, "found the answer 204"),
    ("status", {"code": 304}, "found the answer 304"),
    ("status", {"code": 206, "Content_Range": "bytes 0-1/2"}, "found another range or version"),
    ("status", {"code": 416}, "found another range or version"),
    ("cut", {"at": 0}, f"expected {SIZE} bytes|no connection"),
    ("hang_up", {}, "no connection"),
    ("garbage", {}, "no connection"),
    ("corrupt", {"at": HALF}, "expected MD5"),
    ("corrupt", {"at": 0}, "expected MD5"),
    ("declared", {"by": 1000}, f"expected {SIZE} bytes as the server lists, found {SIZE + 1000}"),
    ("declared", {"by": -1000}, f"expected {SIZE} bytes as the server lists, found {SIZE - 1000}"),
    ("chunked", {"more": b"x"}, f"expected {SIZE} bytes as declared, found more"),
    ("header", {"Content_Encoding": "gzip"}, "found them sent as 'gzip'"),
    ("replaced", {"body": b"<html>Log in</html>", "Content_Type": "text/html"}, "found a web page"),
    ("replaced", {"body": b"<!doctype HTML>" + b" " * (SIZE - 15)}, "found a web page"),
    ("replaced", {"body": b"\xef\xbb\xbf \n<HTML>" + b" " * (SIZE - 11)}, "found a web page"),
    ("replaced", {"body": b""}, f"expected {SIZE} bytes as the server lists, found 0"),
    ("replaced", {"body": b"\x00" * SIZE}, "expected MD5"),
    ("redirect", {"to": f"/mirror/{FIRST}"}, "found more than 5 redirects"),
    ("redirect", {"to": f"https://127.0.0.1/mirror/{FIRST}"}, "no connection"),
    ("redirect", {"to": "ftp://127.0.0.1/x"}, "a redirect from http to 'ftp://127.0.0.1/x'; refused"),
    ("redirect", {"to": "file:///etc/passwd"}, "a redirect from http to 'file:///etc/passwd'; refused"),
    ("redirect", {"to": "http://169.254.169.254/latest"}, "an unencrypted redirect to 169.254.169.254; refused"),
    ("redirect", {"to": "http://[::1"}, "an answer that cannot be understood"),
    ("redirect", {"to": "/\xff\xfe"}, "an answer that cannot be understood|found none"),
    ("redirect", {"to": "//"}, "expected|no connection"),
    ("redirect", {"to": "http://127.0.0.1:port/x"}, "expected"),
    ("redirect", {"to": ""}, "a redirect from http to ''; refused"),
    ("redirect", {"to": "http://127.0.0.1:1/x", "code": 308}, "no connection"),
]


@pytest.mark.parametrize(("kind", "options", "message"), STAYING, ids=str)
def test_a_fault_that_stays(
    share: ShareServer, tmp_path: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    files = stock(share)
    share.misbehave(FIRST, kind, **options)
    done = from_mirror(share, tmp_path)
    check_ended(done, code=1)
    errors = [line for line in done.err.splitlines() if line]
    assert len(errors) == 1 and errors[0].startswith(f"error: {FIRST}: ")
    assert any(words in errors[0] for words in message.split("|")), errors[0]
    assert "2 of 3 files" in done.last
    there = tree(tmp_path)
    assert FIRST not in there
    assert all(there[path] == files[path] for path in PATHS[1:])
    assert len(share.asked(FIRST)) <= 6 + 1  # first attempt, retries, redirects: bounded
    well_again(share, tmp_path)


SLOW: list[tuple[str, dict[str, Any]]] = [
    ("silent", {}),
    ("drip", {"pause": 0.02}),
    ("drip", {"pause": 0.02, "after": HALF}),
]


@pytest.mark.parametrize(("kind", "options"), SLOW, ids=str)
def test_a_server_that_keeps_one_waiting(
    share: ShareServer, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    """A body that comes byte by byte, so that no socket's time-out comes, is cut off after --timeout all the same."""
    stock(share)
    share.misbehave(FIRST, kind, **options)
    timeout = ("--timeout", "1")  # for the lists and the other files too, on a busy machine
    done = from_mirror(share, tmp_path, *timeout, "--retries", "0")  # else it would get all, in an hour
    check_ended(done, code=1)
    assert f"error: {FIRST}: " in done.err and "gave up after 1 attempt" in done.err
    well_again(share, tmp_path)


def test_a_slow_head_holds_nothing_up(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    share.misbehave(FIRST, "silent", methods=("HEAD",))
    share.misbehave(PATHS[1], "hang_up", methods=("HEAD",))
    share.misbehave(PATHS[2], "status", code=405, methods=("HEAD",))
    check_ended(from_mirror(share, tmp_path, "--timeout", "1"), code=0)


def test_the_server_says_how_long_to_wait(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    share.misbehave(FIRST, "status", code=503, Retry_After="1", times=1)
    began = time.monotonic()
    check_ended(from_mirror(share, tmp_path), code=0)
    assert time.monotonic() - began >= 1


def test_waits_double_and_never_exceed_the_cap(monkeypatch: pytest.MonkeyPatch, share: ShareServer) -> None:
    from semg.download import http_client as transfer

    stock(share)
    waits: list[float] = []
    client = transfer.Client(transfer.Server(share.mirror + "/"), timeout=5, retries=9, wait=1)
    monkeypatch.setattr(client._stop, "wait", waits.append)
    share.misbehave("records.txt", "status", code=429, times=8)
    share.misbehave("records.txt", "status", code=429, Retry_After="100000", times=1)
    client.text("records.txt")
    assert waits == [1, 2, 4, 8, 16, 32, 64, 120, 120]


# --- lengths nobody told ---------------------------------------------------------------------------------------


def no_sizes(share: ShareServer) -> None:
    """HEAD is unknown to this server, so lengths are known from the answers alone."""
    for path in PATHS:
        share.misbehave(path, "status", code=405, methods=("HEAD",))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("declared", {"by": 1000}, f"expected {SIZE + 1000} bytes|connection"),
        ("declared", {"by": -1000}, "expected MD5"),
        ("declared", {"by": 10**15}, "bytes of free disk, found"),
        ("replaced", {"body": b""}, "found an empty one on the server"),
        ("replaced", {"body": b"\x89HDF\r\n\x1a\n" + b"\x00" * 5000}, "expected MD5"),
        ("header", {"Content_Length": str(10**30)}, "expected a declared length, found none|connection"),
    ],
    ids=str,
)
def test_lengths_known_from_the_answer_alone(
    share: ShareServer, tmp_path: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    stock(share)
    no_sizes(share)
    share.misbehave(FIRST, kind, **options)
    done = from_mirror(share, tmp_path)
    check_ended(done, code=1)
    assert any(words in done.err for words in message.split("|")), done.err
    assert FIRST not in tree(tmp_path)
    well_again(share, tmp_path)


@pytest.mark.parametrize("kind", ["no_length", "chunked"])
def test_a_file_of_undeclared_length_is_taken_if_its_md5_is_known(
    share: ShareServer, tmp_path: Path, kind: str
) -> None:
    files = stock(share)
    no_sizes(share)
    share.misbehave(FIRST, kind)
    check_ended(from_mirror(share, tmp_path / "known"), code=0)
    assert tree(tmp_path / "known")[FIRST] == files[FIRST]
    share.files.pop("Data-HDF5/MD5SUMS")
    done = from_mirror(share, tmp_path / "unknown")
    check_ended(done, code=1)
    assert "expected a declared length, found none" in done.err


def test_a_file_of_undeclared_length_that_ends_early_is_not_let_through(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    no_sizes(share)
    share.misbehave(FIRST, "no_length")
    share.files[FIRST].data = share.files[FIRST].data[:-1]
    done = from_mirror(share, tmp_path)
    check_ended(done, code=1)
    assert "expected MD5" in done.err
    assert FIRST not in tree(tmp_path)


# --- what servers add that changes nothing ----------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["", "identity", "aws-chunked"])
def test_an_encoding_that_leaves_the_bytes_as_they_are_is_taken(
    share: ShareServer, tmp_path: Path, encoding: str
) -> None:
    files = stock(share)
    for path in (*PATHS, "records.txt", "Data-HDF5/MD5SUMS"):
        share.misbehave(path, "header", Content_Encoding=encoding or " ", methods=("GET", "HEAD"))
    check_ended(from_mirror(share, tmp_path), code=0)
    assert {path: data for path, data in tree(tmp_path).items() if path in files} == files


def test_lists_that_are_compressed_unasked_are_read(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    for path in ("records.txt", "Data-HDF5/MD5SUMS"):
        packed = gzip.compress(share.files[path].data)
        share.misbehave(path, "replaced", body=packed, Content_Encoding="gzip")
    done = from_mirror(share, tmp_path)
    check_ended(done, code=0)
    assert "MD5 sums" not in done.out  # all were known


def test_a_list_whose_packing_is_damaged(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    share.misbehave("records.txt", "replaced", body=b"\x1f\x8bno", Content_Encoding="gzip")
    done = from_mirror(share, tmp_path)
    assert done.code == 1
    assert "cannot be unpacked" in done.err


def test_nextcloud_is_told_that_a_program_asks(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    check_ended(from_mirror(share, tmp_path), code=0)
    assert {request.headers.get("X-Requested-With") for request in share.requests} == {"XMLHttpRequest"}


@pytest.mark.parametrize(
    ("old", "location", "new"),
    [
        ("http://a.org/x", "https://a.org/y", "https://a.org/y"),
        ("https://a.org/x", "/y", "https://a.org/y"),
        ("https://a.org/x", "https://b.org/y", "https://b.org/y"),
        ("http://a.org/x", "https://b.org/y", None),
        ("https://a.org/x", "http://a.org/y", None),
    ],
)
def test_redirects_may_begin_to_encrypt_and_never_cease_to(old: str, location: str, new: str | None) -> None:
    from semg.download.http_client import _redirected

    if new is None:
        with pytest.raises(DataError, match="refused"):
            _redirected(old, location)
        return
    assert _redirected(old, location) == new


def test_each_new_attempt_is_announced(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    share.misbehave(FIRST, "status", code=503, times=1)
    done = from_mirror(share, tmp_path)
    check_ended(done, code=0)
    assert f"{FIRST}: the server answered 503; attempt 2 of 3 in 0 s" in done.out


def test_a_length_in_head_that_no_disk_has(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    share.misbehave(FIRST, "declared", by=10**15, methods=("HEAD",))
    done = from_mirror(share, tmp_path)
    assert done.code == 1
    assert "expected 1000000.0 GB of free disk" in done.err
    well_again(share, tmp_path)


# --- wrong content that only the file itself can tell, as no MD5SUMS is published ------------------------------

FOREIGN = {
    "zeros": b"\x00" * 5000,
    "text": b"EMG_1,EMG_2\n" * 500,
    "half": recordings.recording_bytes(3)[:HALF],
    "other HDF5": recordings.recording_bytes(3).replace(b"EMG_24", b"EMG_99"),
    "signature": b"\x89HDF\r\n\x1a\n" + b"\xff" * 5000,
    "script": b"#!/bin/sh\nrm -rf ~\n" * 300,
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_that_is_no_recording(share: ShareServer, tmp_path: Path, what: str) -> None:
    stock(share, sums=False)
    right = share.files[FIRST].data
    share.put(FIRST, FOREIGN[what])
    done = from_mirror(share, tmp_path)
    check_ended(done, code=1)
    assert f"error: {FIRST}: expected" in done.err
    assert not [path for path in tree(tmp_path) if NAMES[0] in path]
    share.put(FIRST, right)
    well_again(share, tmp_path)


def test_a_recording_whose_samples_lie_elsewhere_is_no_file_that_is_kept(share: ShareServer, tmp_path: Path) -> None:
    """To read a virtual data set of itself ends a process: the next run would have met it again."""
    (tmp_path / "made").mkdir()
    made = recordings.write(tmp_path / "made", recordings.frame())
    virtual_of_itself(made, made)
    stock(share, sums=False)
    right = share.files[FIRST].data
    share.put(FIRST, made.read_bytes())
    for _ in range(2):
        done = from_mirror(share, tmp_path / "raw")
        check_ended(done, code=1)
        assert f"error: {FIRST}: expected" in done.err and "a virtual data set" in done.err
        assert not [path for path in tree(tmp_path / "raw") if NAMES[0] in path]
    share.put(FIRST, right)
    well_again(share, tmp_path / "raw")


# --- resuming from a server that answers wrongly ---------------------------------------------------------------

FLAT = recordings.recording_bytes(3, complevel=0)
END = len(FLAT)
MIDDLE = END // 2
RANGES: list[tuple[str, dict[str, Any]]] = [
    ("whole", {}),
    ("wrong_range", {"by": 1}),
    ("wrong_range", {"by": 1000}),
    ("shifted_range", {"by": 1000}),
    ("lying_range", {}),
    ("status", {"code": 416}),
    ("status", {"code": 206}),
    ("header", {"Content_Range": "bytes */*"}),
    ("header", {"Content_Range": f"bytes {MIDDLE}-{END - 1}/*"}),
    ("header", {"Content_Range": f"bytes {MIDDLE}-{END}/{END + 1}"}),
    ("header", {"Content_Range": f"bytes {MIDDLE}-{END - 1}/{END + 1}"}),
    ("header", {"Content_Range": f"bytes {MIDDLE}-{MIDDLE}/{END}"}),
    ("header", {"Content_Range": "bytes -5--1/-1"}),
    ("header", {"Content_Range": f"lines {MIDDLE}-{END - 1}/{END}"}),
    ("header", {"Content_Length": str(END)}),
    ("header", {"ETag": '"another"'}),
    ("corrupt", {"at": 10}),
    ("chunked", {"more": b"further bytes"}),
    ("replaced", {"body": b"<html>Log in again"}),
    ("cut", {"at": 10}),
    ("hang_up", {}),
]


@pytest.mark.parametrize(("kind", "options"), RANGES, ids=str)
def test_a_wrong_answer_to_a_range(share: ShareServer, tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    """The first attempt is cut off half-way; the second, for the other half, gets a wrong answer.

    The recording is not compressed, so that with wrong bytes in it it opens all the same; and there are no MD5
    sums but where nothing else can tell.
    """
    stock(share, sums=False)
    share.put(FIRST, FLAT)
    if kind in ("lying_range", "corrupt"):
        share.put(SUMS, md5sums({FIRST: FLAT}))
    share.misbehave(FIRST, "cut", at=MIDDLE, times=1)
    share.misbehave(FIRST, kind, times=1, **options)
    done = from_mirror(share, tmp_path, "--retries", "4", "--timeout", "1")
    assert share.asked(FIRST)[1].headers["Range"] == f"bytes={MIDDLE}-"
    there = tree(tmp_path)
    assert there.get(FIRST, FLAT) == FLAT
    check_ended(done, code=0 if FIRST in there else 1)
    assert FIRST in there or kind == "replaced"
    well_again(share, tmp_path)


@pytest.mark.parametrize("server", ["obeys If-Range", "ignores If-Range", "ignores Range", "knows no ETag"])
@pytest.mark.parametrize("sums", [True, False], ids=["MD5SUMS", "no MD5SUMS"])
def test_a_file_that_changes_between_attempts(share: ShareServer, tmp_path: Path, server: str, sums: bool) -> None:
    """Half of the old version and half of the new open as HDF5, and are as long: only the version tells."""
    files = stock(share, sums=sums)
    files[FIRST], new = (recordings.recording_bytes(3, seed=seed, complevel=0) for seed in (0, 8))
    assert len(files[FIRST]) == len(new)
    etag = {"etag": ""} if server == "knows no ETag" else {}
    share.put(FIRST, files[FIRST], **etag)
    share.misbehave(FIRST, "cut", at=HALF)
    check_ended(from_mirror(share, tmp_path, "--retries", "0"), code=1)
    files[FIRST] = new
    share.put(FIRST, new, modified="Sat, 12 May 2018 11:05:00 GMT", **etag)
    if sums:
        share.put(SUMS, md5sums(files))
    share.behave()
    share.ranges = server != "ignores Range"
    if server == "ignores If-Range":
        share.misbehave(FIRST, "careless_range")
    check_ended(from_mirror(share, tmp_path), code=0)
    assert share.asked(FIRST)[1].headers["Range"] == f"bytes={HALF}-"
    assert tree(tmp_path)[FIRST] == files[FIRST]
    well_again(share, tmp_path)


# --- records.txt and MD5SUMS -----------------------------------------------------------------------------------

EVIL_NAMES = [
    f"../{NAMES[0]}",
    f"../../../../tmp/{NAMES[0]}",
    f"/etc/{NAMES[0]}",
    f"C:\\{NAMES[0]}",
    f"..\\{NAMES[0]}",
    f"{NAMES[0]}/../../x",
    f"{NAMES[0]}\x00",
    f"{NAMES[0]}\x1b[2J",
    f"{NAMES[0]}\u202e5fdh",
    f"{NAMES[0]}\x0b",
    f"{NAMES[0]}\u2028",
    f"{NAMES[0]}%2e%2e",
    f"{NAMES[0]};rm -rf ~",
    f"$(touch evil)-{NAMES[0]}",
    NAMES[0].replace("repeats_long", ".."),
    NAMES[0].replace("03", "٠٣"),
    "emg_gestures-" + "9" * 5000,
]


@pytest.mark.parametrize("name", EVIL_NAMES, ids=lambda name: ascii(name)[:40])
def test_a_name_that_is_no_record_name_is_refused(share: ShareServer, tmp_path: Path, name: str) -> None:
    """It never becomes a path or an address; it is shown harmless, and counted as missing."""
    stock(share)
    right = share.files["records.txt"].data
    share.put("records.txt", right + name.encode() + b"\n")
    folder = tmp_path / "deep" / "raw"
    done = from_mirror(share, folder)
    assert done.code == 1
    assert "3 of 4 files are there and verified" in done.last and "1 name refused" in done.last
    (line,) = done.err.strip().splitlines()
    assert line.startswith("warning: records.txt: expected a record name, found ") and line.isprintable()
    assert sorted(tree(tmp_path)) == sorted(f"deep/raw/{path}" for path in [*PATHS, ".verified.json"])
    assert {request.path for request in share.requests} == {"records.txt", SUMS, *PATHS}
    share.put("records.txt", right)
    well_again(share, folder)


LISTS: list[tuple[str, dict[str, Any], str]] = [
    ("status", {"code": 404}, "found none (404)"),
    ("status", {"code": 500}, "the server answered 500; gave up after 3 attempts"),
    ("replaced", {"body": b""}, "expected record names, found none"),
    ("replaced", {"body": b"\n\r\n # nothing\n"}, "expected record names, found none"),
    ("replaced", {"body": b"<html></html>", "Content_Type": "text/html"}, "found a web page"),
    ("replaced", {"body": b"<!DOCTYPE html>"}, "found a web page"),
    ("replaced", {"body": bytes(range(256)) * 100}, "expected record names, found none"),
    ("replaced", {"body": b"emg\n" * 2_200_000}, "expected a list of at most 8388608 bytes, found more"),
    ("redirect", {"to": "records.txt"}, "found more than 5 redirects"),
    ("redirect", {"to": "https://127.0.0.1/"}, "no connection"),
    ("redirect", {"to": "ftp://127.0.0.1/"}, "a redirect from http to"),
    ("cut", {"at": 30}, "gave up after 3 attempts"),
    ("hang_up", {}, "gave up after 3 attempts"),
    ("header", {"Content_Encoding": "br"}, "found them sent as 'br'"),
]


@pytest.mark.parametrize(("kind", "options", "message"), LISTS, ids=lambda value: str(value)[:40])
def test_no_list_of_records(
    share: ShareServer, tmp_path: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    stock(share)
    share.misbehave("records.txt", kind, **options)
    done = from_mirror(share, tmp_path)
    assert done.code == 1
    assert message in done.err and len(done.err.strip().splitlines()) == 1
    assert tree(tmp_path) == {}
    well_again(share, tmp_path)


def test_a_list_of_records_written_on_windows(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    share.put("records.txt", b"\xef\xbb\xbf" + "\r\n".join(["# putEMG", "", f"  {NAMES[0]}\t", *NAMES]).encode())
    check_ended(from_mirror(share, tmp_path), code=0)


RIGHT_SUM = md5sums({FIRST: recordings.recording_bytes(3)}).decode().split()[0]
SUM_LISTS = {
    "404": ("status", {"code": 404}, "publishes no MD5SUMS"),
    "500": ("status", {"code": 500}, "MD5SUMS: the server answered 500"),
    "page": ("replaced", {"body": b"<html>"}, "MD5SUMS: expected a text file, found a web page"),
    "empty": ("replaced", {"body": b""}, "MD5 sums of 0 of 3 files"),
    "binary": ("replaced", {"body": bytes(range(256))}, "found 2 others; not used"),
    "SHA-1": ("replaced", {"body": f"{'a' * 40}  {NAMES[0]}.hdf5\n".encode()}, "found 1 others; not used"),
    "no name": ("replaced", {"body": b"a" * 32}, "found 1 others; not used"),
    "../": ("replaced", {"body": f"{'a' * 32}  ../{NAMES[0]}.hdf5\n".encode()}, "found 1 others; not used"),
    "absolute": ("replaced", {"body": f"{'a' * 32}  /{NAMES[0]}.hdf5\n".encode()}, "found 1 others; not used"),
    "elsewhere": ("replaced", {"body": f"{'a' * 32}  Depth/{NAMES[0]}.hdf5\n".encode()}, "found 1 others"),
    "control": ("replaced", {"body": f"{'a' * 32}  {NAMES[0]}.hdf5\x07\n".encode()}, "found 1 others; not used"),
    "huge": ("replaced", {"body": b"a" * (9 << 20)}, "expected a list of at most"),
    "BSD, contradictory": (
        "replaced",
        {"body": f"MD5 ({NAMES[0]}.hdf5) = {'a' * 32}\n{RIGHT_SUM}  {NAMES[0]}.hdf5\n".encode()},
        "found 1 others; not used",
    ),
    "contradictory": (
        "replaced",
        {"body": f"{'a' * 32}  {NAMES[0]}.hdf5\n{RIGHT_SUM}  {NAMES[0]}.hdf5\n".encode()},
        "found 1 others; not used",
    ),
}


@pytest.mark.parametrize("what", SUM_LISTS)
def test_md5_sums_of_no_use_are_told_and_not_used(share: ShareServer, tmp_path: Path, what: str) -> None:
    files = stock(share)
    kind, options, message = SUM_LISTS[what]
    share.misbehave(SUMS, kind, **options)
    done = from_mirror(share, tmp_path)
    check_ended(done, code=0)
    assert message in done.out + done.err
    assert "checked without one" in done.out
    assert {path: tree(tmp_path)[path] for path in PATHS} == files
    well_again(share, tmp_path)


def test_a_wrong_md5_is_never_let_through(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    right = share.files[SUMS].data
    share.put(SUMS, right.replace(RIGHT_SUM.encode(), b"0" * 32))
    for _ in range(2):
        done = from_mirror(share, tmp_path)
        check_ended(done, code=1)
        assert f"{FIRST}: expected MD5 {'0' * 32}, found {RIGHT_SUM}" in done.err
        assert FIRST not in tree(tmp_path)
    assert len(share.asked(FIRST)) == 4  # twice in a run: the second time it is not the line's fault
    share.put(SUMS, right)
    well_again(share, tmp_path)


# --- archives --------------------------------------------------------------------------------------------------

ARCHIVE = f"Data-CSV/{NAMES[0]}.zip"
CSV = ("--media", "data-csv", "--subjects", "03", "--unpack", "--remove")
NUMBERS = b"".join(b"%d,%d\n" % (n, n * n) for n in range(500))
GOOD = {"recording.csv": b"EMG_1,EMG_2\n" + b"12,-7\n" * 300}


def zipped(entries: dict[str, bytes] | None = None, kind: int = zipfile.ZIP_DEFLATED, **changes: int) -> bytes:
    """An archive; `changes` are attributes of its first entry."""
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (GOOD if entries is None else entries).items():
            entry = zipfile.ZipInfo("placeholder")
            entry.filename, entry.compress_type = name, kind
            for attribute, value in changes.items():
                setattr(entry, attribute, value)
            archive.writestr(entry, data)
    return result.getvalue()


def special(kind: int) -> bytes:
    return zipped({"link": b"/etc/passwd"}, external_attr=(kind | 0o777) << 16, create_system=3)


def twice_the_same() -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        archive.writestr("a.csv", b"1")
        archive.writestr("b.csv", b"2")
    return result.getvalue().replace(b"b.csv", b"A.csv")


def overlapping() -> bytes:
    """Many entries of the directory that all name the same packed bytes (a bomb without nesting)."""
    once = zipped({"a": os.urandom(2000)})
    end = once.rindex(b"PK\x05\x06")
    start = once.index(b"PK\x01\x02")
    entries = b"".join(once[start:end].replace(b"a", bytes([65 + i]), 1) for i in range(20))
    tail = bytearray(once[end:])
    tail[8:10] = tail[10:12] = (20).to_bytes(2, "little")
    tail[12:16] = len(entries).to_bytes(4, "little")
    return once[:start] + entries + bytes(tail)


def bit(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def encrypted() -> bytes:
    data = bytearray(zipped())
    data[6] |= 1  # the flags, in the entry and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def understated() -> bytes:
    """A directory that declares fewer bytes than there are."""
    data = bytearray(zipped({"a.csv": b"1,2\n" * 1000}))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (100).to_bytes(4, "little")
    return bytes(data)


def before_the_file() -> bytes:
    """A directory that is said to lie later than it does, by more than there is before it."""
    data = bytearray(zipped())
    at = data.index(b"PK\x05\x06") + 16
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "little") + 50).to_bytes(4, "little")
    return bytes(data)


def nameless() -> bytes:
    """An entry whose name has no letters."""
    data = bytearray(zipped({"a": b"x"}))
    for mark, length, name in ((b"PK\x01\x02", 28, 46), (b"PK\x03\x04", 26, 30)):
        at = data.index(mark)
        data[at + length] = 0
        del data[at + name]
    end = data.index(b"PK\x05\x06")
    for place, less in ((12, 1), (16, 1)):
        data[end + place] -= less
    return bytes(data)


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "slip": (lambda: zipped({"../evil": b"x"}), "a path that leads out of the folder"),
    "deep slip": (lambda: zipped({"a/../../../evil": b"x"}), "a path that leads out of the folder"),
    "absolute": (lambda: zipped({"/tmp/evil": b"x"}), "a path that leads out of the folder"),  # noqa: S108
    "backslash": (lambda: zipped({"..\\evil": b"x"}), "a path that leads out of the folder"),
    "drive": (lambda: zipped({"C:evil": b"x"}), "a path that leads out of the folder"),
    "slip after a good entry": (lambda: zipped({**GOOD, "../evil": b"x"}), "a path that leads out"),
    "symbolic link": (lambda: special(stat.S_IFLNK), "a link or special file"),
    "device": (lambda: special(stat.S_IFBLK), "a link or special file"),
    "pipe": (lambda: special(stat.S_IFIFO), "a link or special file"),
    "control characters": (lambda: zipped({"a\nb": b"x"}), "a name with control characters"),
    "NUL": (lambda: zipped({"a\0b": b"x"}), "a name with control characters"),
    "long name": (lambda: zipped({"a" * 300: b"x"}), "too long a name"),
    "twice the same name": (twice_the_same, "a second entry of that name"),
    "bomb": (lambda: zipped({"a.csv": b"0" * 5_000_000}), "bytes that unpack to 5000000; refused"),
    "overlapping bomb": (overlapping, "an archive of measurements|a whole zip archive"),
    "encrypted": (encrypted, "an encrypted entry"),
    "understated": (understated, "expected a whole zip archive|expected 100 bytes"),
    "cut": (lambda: zipped()[:-30], "expected a whole zip archive"),
    "damaged": (lambda: bit(zipped(), 60), "expected a whole zip archive"),
    "damaged LZMA": (
        lambda: bit(zipped({"a.csv": NUMBERS}, kind=zipfile.ZIP_LZMA), 45),
        "expected a whole zip archive",
    ),
    "damaged bzip2": (
        lambda: bit(zipped({"a.csv": NUMBERS}, kind=zipfile.ZIP_BZIP2), 38),
        "expected a whole zip archive",
    ),
    "damaged directory": (lambda: bit(zipped(), zipped().index(b"PK\x01\x02") + 1), "expected a whole zip archive"),
    "no archive": (lambda: b"PK but not really" * 20, "expected a whole zip archive"),
    "file and folder of one name": (lambda: zipped({"a": b"1", "a/b": b"2"}), "a file of the name of its folder"),
    "file and empty folder": (lambda: zipped({"a/": b"", "A": b"2"}), "a file of the name of its folder"),
    "long path": (lambda: zipped({"/".join(["a" * 150] * 30): b"x"}), "too long a path"),
    "no name": (nameless, "too long a name"),
    "entry before the file": (before_the_file, "expected a whole zip archive"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_that_is_not_to_be_trusted(share: ShareServer, tmp_path: Path, what: str) -> None:
    """Nothing is unpacked, neither in its folder nor elsewhere; the archive is named with the reason."""
    stock(share)
    make, message = ARCHIVES[what]
    share.put(ARCHIVE, make())
    folder = tmp_path / "deep" / "raw"
    done = from_mirror(share, folder, *CSV)
    assert done.code == 1
    assert any(words in done.err for words in message.split("|")), done.err
    assert "0 of 1 files" in done.last and "re-run to fetch the rest" in done.last
    left = set(tree(tmp_path)) - {f"deep/raw/{ARCHIVE}", "deep/raw/.verified.json"}
    assert not left
    share.put(ARCHIVE, zipped())
    share.put("Data-CSV/MD5SUMS", md5sums({ARCHIVE: zipped()}))
    well_again(share, folder, *CSV)
    assert tree((folder / ARCHIVE).with_suffix("")) == GOOD


def test_a_check_that_fails_unforeseen_is_that_files_failure_alone(
    share: ShareServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock(share)
    real = verification.check_layout

    def check(path: Path) -> None:
        if path.name.startswith(Path(FIRST).name):
            raise LookupError("nobody thought of this")
        real(path)

    monkeypatch.setattr(verification, "check_layout", check)
    done = from_mirror(share, tmp_path)
    check_ended(done, code=1)
    assert f"error: {FIRST}: could not be read (LookupError: nobody thought of this)" in done.err
    assert "2 of 3 files" in done.last
    assert {path for path in tree(tmp_path) if "hdf5" in path} == set(PATHS[1:])  # no part file is kept either
    monkeypatch.undo()
    well_again(share, tmp_path)


def test_an_archive_too_large_for_the_disk(share: ShareServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock(share)
    share.put(ARCHIVE, zipped())

    class Usage:
        free = 1500

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    done = from_mirror(share, tmp_path, *CSV)
    assert done.code == 1
    assert "expected 1812 free bytes to unpack it, found 1500" in done.err
    assert (tmp_path / ARCHIVE).exists()
    monkeypatch.undo()
    assert from_mirror(share, tmp_path, *CSV).code == 0
    assert tree((tmp_path / ARCHIVE).with_suffix("")) == GOOD


# --- the disk is full ------------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_run_and_keeps_what_is_there(share: ShareServer, tmp_path: Path) -> None:
    """Writing fails in the middle of a file, by the limit on a file's size: the system's own error, and no root."""
    files = stock(share)
    no_sizes(share)
    command = [sys.executable, ROOT / "download_putemg.py", tmp_path, "--base-url", share.mirror, *QUICK, "--jobs", "1"]
    limit = HALF
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=LONGEST,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},  # see full_disks.py
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert "expected space for the files, found the disk full; free some and run again" in done.stderr
    assert "Traceback" not in done.stderr
    assert "0 of 3 files" in done.stdout and "re-run to fetch the rest" in done.stdout
    parts = {path: data for path, data in tree(tmp_path).items() if path.endswith(".part")}
    assert list(parts) == [f"{FIRST}.part"]
    assert 0 < len(parts[f"{FIRST}.part"]) <= HALF
    assert files[FIRST].startswith(parts[f"{FIRST}.part"])
    before = len(share.requests)
    well_again(share, tmp_path)
    resumed = [request for request in share.requests[before:] if "Range" in request.headers]
    assert len(resumed) == 1


def test_a_full_file_system(share: ShareServer, tmp_path: Path) -> None:
    """The same on a file system that is too small for two of three files, where one can be mounted."""
    files = stock(share)
    no_sizes(share)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f'mount -t tmpfs -o size=192k tmpfs "{disk}" || exit 77; '
        f'"{sys.executable}" "{ROOT / "download_putemg.py"}" "{disk}" --base-url {share.mirror} {" ".join(QUICK)} '
        f'--jobs 1; code=$?; cp -a "{disk}" "{tmp_path / "kept"}"; exit $code'
    )
    try:
        done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=LONGEST)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.returncode in (77, 1) and "are there and verified" not in done.stdout:
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 1
    assert "free some and run again" in done.stderr
    assert "Traceback" not in done.stderr
    assert "1 of 3 files are there and verified" in done.stdout
    kept = tree(tmp_path / "kept")
    assert all(data == files[path] for path, data in kept.items() if path in files)
    well_again(share, tmp_path / "kept")


# --- killed, and two at once -----------------------------------------------------------------------------------


BUFFER = io.DEFAULT_BUFFER_SIZE  # bytes that have come may wait in memory


def kill_and_go_on(share: ShareServer, folder: Path, draw: random.Random) -> bool:
    """Kill a run where one of its files has just reached some length, at which the server holds it.

    By then the files before it are whole, or half there, or unpacked. False where there was nothing to hold: the file
    was there, or what was missing of it was less, from a run that was killed before.
    """
    path = draw.choice([*PATHS, *(f"Data-CSV/{name}.zip" for name in NAMES)])
    length = draw.randrange(BUFFER, len(share.files[path].data))
    share.misbehave(path, "drip", after=length, times=1)
    part = folder / f"{path}.part"
    process = started(share, folder, "--jobs", str(draw.randint(1, 3)), *CSV_TOO, "--timeout", "600")
    try:
        wait_for(lambda: process.poll() is not None or size_of(part) >= length - BUFFER, "the file to be held")
    finally:
        process.kill()
        told = process.communicate()
        share.behave()  # what held nothing here would hold a later run
    assert process.returncode in (0, -signal.SIGKILL), told
    return process.returncode != 0


def size_of(path: Path) -> int:
    """Of a file that may get another name at any time; 0 where it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


CSV_TOO = ("--media", "data-hdf5", "data-csv", "--unpack", "--remove")


def stock_all(share: ShareServer) -> None:
    """Three recordings and three archives."""
    stock(share)
    for number, name in enumerate(NAMES):
        share.put(f"Data-CSV/{name}.zip", zipped({"a.csv": random.Random(number).randbytes(40_000), **GOOD}))


def killed_at(share: ShareServer, tmp_path: Path, moments: Iterable[int]) -> int:
    stock_all(share)
    right = undisturbed(share, *CSV_TOO)
    killed = 0
    for number in moments:
        folder, draw = tmp_path / str(number), random.Random(number)
        for _ in range(1 + number % 2):
            killed += kill_and_go_on(share, folder, draw)
        assert from_mirror(share, folder, *CSV_TOO).code == 0
        assert tree(folder) == right, number
    return killed


def test_killed_anywhere_it_ends_the_same(
    share: ShareServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    killed = killed_at(share, tmp_path, range(4))
    record_property("kills at random moments", killed)
    assert killed >= 4  # each of the four at least once


@pytest.mark.slow
def test_killed_at_many_moments_it_ends_the_same(
    share: ShareServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    killed = killed_at(share, tmp_path, range(100, 140))
    record_property("kills at random moments", killed)
    assert killed >= 40


def test_two_started_at_the_same_time_never_corrupt(share: ShareServer, tmp_path: Path) -> None:
    """One does the work; the other does it after, or ends with the reason. Killed, the lock goes too."""
    stock_all(share)
    for path in PATHS:
        share.misbehave(path, "pace", rate=400_000)
    right = undisturbed(share, *CSV_TOO)
    pair = [started(share, tmp_path, *CSV_TOO, "--timeout", "60") for _ in range(2)]
    try:
        told_by = [process.communicate(timeout=LONGEST) for process in pair]
    finally:
        for process in pair:
            process.kill()
    codes = sorted(process.returncode for process in pair)
    assert codes in ([0, 1], [0, 0]), told_by
    assert codes == [0, 0] or any("another run is writing there" in errors for _, errors in told_by)
    assert tree(tmp_path) == right


def test_a_reader_sees_a_whole_file_or_none(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    for path in PATHS:
        share.misbehave(path, "pace", rate=600_000)
    seen, wrong, over = 0, 0, threading.Event()

    def look() -> None:
        nonlocal seen, wrong
        while True:
            ended = over.is_set()  # then all of them are there
            for path, data in files.items():
                if (tmp_path / path).exists():
                    seen += 1
                    wrong += (tmp_path / path).read_bytes() != data
            if ended:
                return

    with beside(look):
        try:
            check_ended(from_mirror(share, tmp_path), code=0)
        finally:
            over.set()
    assert seen >= len(files) and wrong == 0


def test_a_hostile_listing_leads_nowhere(share: ShareServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in the share's own lists are taken only in the form of a record's file."""
    import download_putemg

    monkeypatch.setattr(download_putemg, "SHARE", share.address)
    stock(share)
    for evil in ("../x", "/etc/x", "\x1b[2J", "%2e%2e%2fx"):
        share.put(f"Video-576p/{NAMES[0]}{evil}.mp4", b"ftyp")
    done = download(tmp_path / "raw", *QUICK, "--media", "video-576p", "--subjects", "03")
    assert done.code == 1
    assert sorted(tree(tmp_path)) == []
    for body in (b"<x", b"<!DOCTYPE a><a/>", b"\x00" * 50, b""):
        share.misbehave("Data-HDF5/", "replaced", body=body, methods=("PROPFIND",), times=1)
        assert download(tmp_path / "good", *QUICK).code == 0
    assert sorted(tree(tmp_path / "good")) == [".verified.json", *PATHS]
