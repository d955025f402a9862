"""The downloader against a loopback server: what it fetches, remembers, resumes, verifies and unpacks."""

import hashlib
import http.server
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import recordings
from conftest import ROOT
from downloading import FORCE, NAMES, PATHS, QUICK, download, from_mirror, md5sums, started, stock, tree
from share_server import MODIFIED, ShareServer
from waiting import LONGEST, wait_for

from semg.common.console import Console
from semg.common.errors import DataError
from semg.common.files import checksum, temporary_name
from semg.download import file_transfer, http_client, verification
from semg.download.http_client import Client, Server
from semg.download.putemg_share import Wanted
from semg.download.webdav import read_listing


@pytest.fixture
def share() -> Iterator[ShareServer]:
    with ShareServer() as server:
        yield server


def data_files(folder: Path) -> dict[str, bytes]:
    return {path: data for path, data in tree(folder).items() if path != ".verified.json"}


def test_a_file_that_is_replaced_while_it_is_verified_has_no_md5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / "list.txt", tmp_path / "new.txt"
    path.write_text("as it was")
    new.write_text("another")
    of_old = checksum(path, "md5")

    def replaced_behind(file: Path, algorithm: str) -> str:
        md5 = checksum(file, algorithm)
        new.replace(path)
        return md5

    monkeypatch.setattr(verification, "checksum", replaced_behind)
    with pytest.raises(DataError, match=r"^expected a file at rest, found it changed while it was read"):
        verification.verify(path, Wanted("list.txt", md5=of_old))


# --- fetching ----------------------------------------------------------------------------------------------


def test_files_arrive_whole_and_nothing_else_is_left(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    done = from_mirror(share, tmp_path / "raw")
    assert done.code == 0, done.err
    assert data_files(tmp_path / "raw") == files
    assert "3 of 3 files are there and verified (3 fetched, 0 were there)" in done.last
    assert f"next: python preprocess.py --raw {tmp_path}/raw/Data-HDF5" in done.last
    changed = (tmp_path / "raw" / PATHS[0]).stat().st_mtime
    assert time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(changed)) == MODIFIED


def test_a_second_run_asks_for_the_lists_only(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    from_mirror(share, tmp_path)
    share.requests.clear()
    done = from_mirror(share, tmp_path)
    assert done.code == 0
    assert "(0 fetched, 3 were there)" in done.last
    assert [request.path for request in share.requests] == ["records.txt", "Data-HDF5/MD5SUMS"]


def test_dry_run_counts_and_writes_nothing(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    done = from_mirror(share, tmp_path / "raw", "--dry-run", "--json")
    actual = json.loads(done.out)
    assert (actual["files"], actual["bytes"]) == (3, sum(map(len, files.values())))
    shown = from_mirror(share, tmp_path / "raw", "--dry-run").out
    assert all(path in shown for path in PATHS)
    assert "108.8 kB" in shown
    assert not (tmp_path / "raw").exists()
    assert not share.asked("hdf5")


def test_dry_run_counts_what_is_missing_only(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    from_mirror(share, tmp_path, "--subjects", "3")
    (tmp_path / PATHS[1]).with_suffix(".hdf5.part").write_bytes(files[PATHS[1]][:800])
    actual = json.loads(from_mirror(share, tmp_path, "--dry-run", "--json").out)
    assert (actual["files"], actual["there"]) == (2, 1)
    assert actual["bytes"] == len(files[PATHS[1]]) + len(files[PATHS[2]]) - 800


def test_subjects_and_experiment_choose(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    share.put(f"Data-HDF5/{FORCE}.hdf5", recordings.recording_bytes(3))
    assert from_mirror(share, tmp_path / "a", "--subjects", "3", "05").code == 0
    assert sorted(data_files(tmp_path / "a")) == [PATHS[0], PATHS[2]]
    forces = from_mirror(share, tmp_path / "b", "--experiment", "emg_force")
    assert forces.code == 0
    assert "preprocess.py" not in forces.last
    assert list(data_files(tmp_path / "b")) == [f"Data-HDF5/{FORCE}.hdf5"]
    both = from_mirror(share, tmp_path / "c", "--experiment", "emg_force", "emg_gestures", "--subjects", "03")
    assert "2 of 2 files" in both.last
    assert "next: python preprocess.py" in both.last
    unknown = from_mirror(share, tmp_path / "d", "--subjects", "03", "77")
    assert unknown.code == 1
    assert "expected recordings of subjects 77, found none; it has 03 04 05" in unknown.err


def test_one_missing_file_does_not_stop_the_others(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    del share.files[PATHS[1]]
    done = from_mirror(share, tmp_path)
    assert done.code == 1
    assert f"error: {PATHS[1]}: expected a file on the server, found none (404)" in done.err
    assert "2 of 3 files" in done.last
    assert "1 missing or wrong; re-run to fetch the rest" in done.last
    assert data_files(tmp_path) == {path: files[path] for path in (PATHS[0], PATHS[2])}
    share.put(PATHS[1], files[PATHS[1]])
    assert from_mirror(share, tmp_path).code == 0
    assert data_files(tmp_path) == files


def test_several_files_at_once_but_no_more_than_jobs(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    running, most, wanted, lock, met = 0, 0, 2, threading.Lock(), threading.Event()

    def counted(_: object, answer: object) -> None:
        def pieces(to: object, body: bytes) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
                if running == wanted:
                    met.set()
            assert met.wait(60)
            with lock:
                running -= 1
            to.write(body)

        answer.pieces = pieces

    from share_server import FAULTS

    FAULTS["counted"] = counted
    for path in PATHS:
        share.misbehave(path, "counted")
    assert from_mirror(share, tmp_path / "two", "--jobs", "2").code == 0
    assert most == 2
    most, wanted = 0, 1
    met.clear()
    assert from_mirror(share, tmp_path / "one", "--jobs", "1").code == 0
    assert most == 1


def test_the_disk_is_looked_at_first(share: ShareServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock(share)
    monkeypatch.setattr(file_transfer.shutil, "disk_usage", lambda _: os.terminal_size((0, 0)) and _Usage(1000))
    done = from_mirror(share, tmp_path)
    assert done.code == 1
    assert "expected 326.4 kB of free disk, found 1.0 kB; free some, or fetch fewer people by --subjects" in done.err
    assert not share.asked("hdf5")
    dry = from_mirror(share, tmp_path, "--dry-run")  # nothing is written then: what there is to fetch is still said
    assert (dry.code, "warning: " in dry.err, "326.4 kB of free disk, found 1.0 kB" in dry.err) == (0, True, True)
    assert dry.last.startswith("would fetch 3 files")


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


# --- resuming ----------------------------------------------------------------------------------------------


def leave_part(share: ShareServer, folder: Path, length: int, **changes: object) -> bytes:
    """A part file of the first recording as a killed run leaves it, its note changed by `changes`."""
    stored = share.files[PATHS[0]]
    part = folder / f"{PATHS[0]}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes((stored.data * 2)[:length])
    note = {"size": len(stored.data), "validator": stored.etag, "modified": MODIFIED, **changes}
    part.with_name(part.name + ".json").write_text(json.dumps(note))
    return stored.data


def test_only_the_missing_bytes_are_asked_for(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    leave_part(share, tmp_path, 70_000)
    assert from_mirror(share, tmp_path).code == 0
    assert data_files(tmp_path) == files
    (asked,) = share.asked(PATHS[0])
    assert asked.headers["Range"] == "bytes=70000-"
    assert asked.headers["If-Range"] == share.files[PATHS[0]].etag


def test_a_part_that_is_whole_is_verified_without_asking(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    leave_part(share, tmp_path, len(files[PATHS[0]]))
    assert from_mirror(share, tmp_path).code == 0
    assert data_files(tmp_path) == files
    assert not share.asked(PATHS[0])


@pytest.mark.parametrize(
    ("length", "changes"),
    [
        (70_000, {"size": 12}),
        (70_000, {"size": 150_000}),
        (70_000, {"validator": ""}),
        (70_000, {"size": "many"}),
        (70_000, {"validator": 'x"\r\nX-Evil: 1'}),
        (70_000, {"further": 1}),
        (150_000, {}),
        (0, {}),
    ],
    ids=str,
)
def test_a_part_of_no_use_is_thrown_away(share: ShareServer, tmp_path: Path, length: int, changes: dict) -> None:
    files = stock(share)
    leave_part(share, tmp_path, length, **changes)
    assert from_mirror(share, tmp_path).code == 0
    assert data_files(tmp_path) == files
    assert "Range" not in share.asked(PATHS[0])[0].headers


def test_a_part_without_or_with_a_broken_note_is_thrown_away(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    for number, note in enumerate((None, "", "[]", "{}", "[" * 5000)):
        folder = tmp_path / str(number)
        leave_part(share, folder, 70_000)
        path = folder / f"{PATHS[0]}.part.json"
        path.unlink() if note is None else path.write_text(note)
        assert from_mirror(share, folder).code == 0
        assert data_files(folder) == files


def test_a_part_of_an_older_version_is_not_continued(share: ShareServer, tmp_path: Path) -> None:
    """The server, told by If-Range which version the bytes are of, sends the whole new file."""
    files = stock(share)
    leave_part(share, tmp_path, 70_000, validator='"older"')
    (tmp_path / f"{PATHS[0]}.part").write_bytes(b"\x00" * 70_000)
    assert from_mirror(share, tmp_path).code == 0
    assert data_files(tmp_path) == files


def test_last_modified_serves_where_there_is_no_strong_etag(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    share.put(PATHS[0], files[PATHS[0]], etag='W/"weak"')
    share.misbehave(PATHS[0], "cut", at=70_000, times=1)
    assert from_mirror(share, tmp_path).code == 0
    assert data_files(tmp_path) == files
    again = share.asked(PATHS[0])[1]
    assert (again.headers["Range"], again.headers["If-Range"]) == ("bytes=70000-", MODIFIED)


def test_nothing_is_resumed_where_the_version_cannot_be_told(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    share.put(PATHS[0], files[PATHS[0]], etag="", modified="")
    share.misbehave(PATHS[0], "cut", at=70_000, times=1)
    assert from_mirror(share, tmp_path).code == 0
    assert data_files(tmp_path) == files
    assert "Range" not in share.asked(PATHS[0])[1].headers


def test_retries_start_anew_after_progress(tmp_path: Path, share: ShareServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file over a bad line: every attempt brings some, none brings all, more of them than --retries."""
    files = stock(share)
    monkeypatch.setattr(http_client, "PROGRESS", 10_000)
    share.misbehave(PATHS[0], "cut", at=12_000)
    assert from_mirror(share, tmp_path).code == 0  # 10 attempts at --retries 2
    assert data_files(tmp_path) == files
    assert len(share.asked(PATHS[0])) == 10


def test_progress_adds_up_whatever_is_thrown_away(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    share.misbehave(PATHS[0], "cut", at=30_000, times=1)
    share.misbehave(PATHS[0], "wrong_range", times=1)
    share.misbehave(PATHS[0], "cut", at=50_000, times=1)
    leave_part(share, tmp_path, 20_000)
    client = Client(Server(share.mirror + "/"), timeout=5, retries=5, wait=0)
    output: list[int] = []
    target = tmp_path / PATHS[0]
    size = file_transfer.fetch(client, PATHS[0], target, None, lambda path: path.stat().st_size, output.append)
    assert size == len(files[PATHS[0]])
    assert sum(output) == len(files[PATHS[0]])
    assert min(output) < 0
    assert target.read_bytes() == files[PATHS[0]]


def test_what_a_killed_run_left_is_tidied_up(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    from_mirror(share, tmp_path)
    right = tree(tmp_path)
    leave_part(share, tmp_path, 70_000)  # killed between the file's new name and the end of its note
    temporary_name(tmp_path / ".verified.json").write_text("{")
    (tmp_path / "Data-HDF5" / f".{NAMES[1]}.hdf5.part.json.tmp").write_text("{")
    for name in (f".{NAMES[0]}.tmp", f".{NAMES[0]}.old.tmp"):
        (tmp_path / "Data-CSV" / name / "inner").mkdir(parents=True)
        (tmp_path / "Data-CSV" / name / "inner" / "a.csv").write_text("1")
    (tmp_path / "Data-CSV" / "mine.tmp").write_text("somebody's own")
    assert from_mirror(share, tmp_path).code == 0
    assert tree(tmp_path) == {**right, "Data-CSV/mine.tmp": b"somebody's own"}
    assert [path.name for path in (tmp_path / "Data-CSV").iterdir()] == ["mine.tmp"]
    assert len(share.asked("hdf5")) == len(files)


def test_any_web_server_can_be_a_mirror(tmp_path: Path, share: ShareServer) -> None:
    """Python's own: HTTP/1.0, neither Range nor ETag nor a listing that could be used."""
    files = stock(share)
    (tmp_path / "www" / "Data-HDF5").mkdir(parents=True)
    for path, stored in share.files.items():
        (tmp_path / "www" / path).write_bytes(stored.data)
    leave_part(share, tmp_path / "raw", 70_000)
    handler = partial(Silent, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as mirror:
        threading.Thread(target=mirror.serve_forever, args=(0.02,), daemon=True).start()
        done = download(tmp_path / "raw", "--base-url", f"http://127.0.0.1:{mirror.server_address[1]}", *QUICK)
        mirror.shutdown()
    assert done.code == 0, done.err
    assert data_files(tmp_path / "raw") == files


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


# --- what is on disk is verified -----------------------------------------------------------------------------


def test_files_from_elsewhere_are_verified_and_remembered(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    (tmp_path / "Data-HDF5").mkdir()
    for path, data in files.items():
        (tmp_path / path).write_bytes(data)
    assert "(0 fetched, 3 were there)" in from_mirror(share, tmp_path).last
    assert not share.asked("hdf5")
    assert len(json.loads((tmp_path / ".verified.json").read_text())["files"]) == 3


@pytest.mark.parametrize("sums", [True, False], ids=["MD5SUMS", "no MD5SUMS"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "page", "longer"])
def test_a_damaged_file_is_fetched_again(share: ShareServer, tmp_path: Path, damage: str, sums: bool) -> None:
    files = stock(share, sums=sums)
    from_mirror(share, tmp_path)
    path, data = tmp_path / PATHS[1], bytearray(files[PATHS[1]])
    data[50_000] ^= 1
    others = {"cut": data[:-5], "flipped": data, "empty": b"", "page": b"<!DOCTYPE html>", "longer": data + b"x"}
    path.write_bytes(others[damage])
    done = from_mirror(share, tmp_path)
    assert done.code == 0
    assert f"{PATHS[1]}: expected" in done.out and "fetching it again" in done.out
    assert data_files(tmp_path) == files


def test_a_file_that_was_only_touched_is_looked_at_but_not_fetched(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    from_mirror(share, tmp_path)
    share.requests.clear()
    os.utime(tmp_path / PATHS[0], (1, 1))
    assert "(0 fetched, 3 were there)" in from_mirror(share, tmp_path).last
    assert not share.asked("hdf5")


def test_a_new_version_on_the_share_replaces_the_old(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    from_mirror(share, tmp_path)
    files[PATHS[0]] = recordings.recording_bytes(3, seed=1)
    share.put(PATHS[0], files[PATHS[0]])
    share.put("Data-HDF5/MD5SUMS", md5sums(files))
    assert "(1 fetched, 2 were there)" in from_mirror(share, tmp_path).last
    assert data_files(tmp_path) == files


def test_another_version_of_equal_length_is_fetched_too(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share, sums=False)
    from_mirror(share, tmp_path)
    assert "(0 fetched, 3 were there)" in from_mirror(share, tmp_path).last
    share.put(PATHS[0], files[PATHS[0]], etag='"another"')
    done = from_mirror(share, tmp_path, "--verify-only")
    assert done.code == 1
    assert f"{PATHS[0]}: expected the version that is on the server now, found an older one" in done.err
    assert "(1 fetched, 2 were there)" in from_mirror(share, tmp_path).last
    assert data_files(tmp_path) == files
    assert "(0 fetched, 3 were there)" in from_mirror(share, tmp_path).last


@pytest.mark.parametrize("line", ["MD5 ({name}) = {md5}", "{md5} {name}", "{md5}  ./{name}", "{md5} *{name}"])
def test_md5_sums_as_several_programs_write_them(share: ShareServer, tmp_path: Path, line: str) -> None:
    files = stock(share)
    text = "".join(
        line.format(name=Path(path).name, md5=hashlib.md5(data, usedforsecurity=False).hexdigest()) + "\n"
        for path, data in files.items()
    )
    share.put("Data-HDF5/MD5SUMS", text.encode())
    done = from_mirror(share, tmp_path)
    assert done.code == 0
    assert "MD5 sums of" not in done.out + done.err  # said where some are missing


@pytest.mark.parametrize(
    "memory",
    [
        *("", "{", "[]", "{}", '{"format": 2}', '{"format": 1}', "\x00\xff"),
        '{"format": 1, "files": [], "unpacked": {}}',
        '{"format": 1, "files": {"a": 1}, "unpacked": {}}',
        '{"format": 1, "files": {"NAME": {}}, "unpacked": {}}',
        '{"format": 1, "files": {"NAME": {"size": "x", "md5": 3}}, "unpacked": {}}',
    ],
)
def test_a_broken_memory_is_only_slow(share: ShareServer, tmp_path: Path, memory: str) -> None:
    files = stock(share)
    from_mirror(share, tmp_path)
    (tmp_path / ".verified.json").write_text(memory.replace("NAME", PATHS[0]), encoding="latin-1")
    done = from_mirror(share, tmp_path)
    assert done.code == 0, done.err
    assert data_files(tmp_path) == files
    assert len(json.loads((tmp_path / ".verified.json").read_text())["files"]) == 3


def test_verify_only_reads_every_byte_and_fetches_none(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share, sums=False)
    from_mirror(share, tmp_path)
    assert from_mirror(share, tmp_path, "--verify-only").last.startswith("3 of 3 files are there and verified")
    path = tmp_path / PATHS[0]
    before, data = path.stat(), bytearray(files[PATHS[0]])
    data[60_000] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a failing disk would do it
    (tmp_path / PATHS[1]).unlink()
    share.requests.clear()
    done = from_mirror(share, tmp_path, "--verify-only")
    assert done.code == 1
    assert f"{PATHS[0]}: expected MD5" in done.err
    assert f"{PATHS[1]}: expected a file, found none" in done.err
    assert "2 missing or wrong; run without --verify-only to fetch them" in done.last
    assert not share.asked("hdf5")
    assert path.read_bytes() == data


def test_progress_counts_what_is_verified(share: ShareServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stood at 0 while 11 GB were read."""
    size = sum(map(len, stock(share).values()))
    progress, bars = Console.progress, []

    def watched(console: Console, *items: object, **settings: object) -> object:
        bars.append([settings["total"], 0])
        bar = progress(console, *items, **settings)
        update = bar.update
        bar.update = lambda n=1: (bars[-1].__setitem__(1, bars[-1][1] + n), update(n))[1]
        return bar

    monkeypatch.setattr(Console, "progress", watched)
    from_mirror(share, tmp_path)
    from_mirror(share, tmp_path)
    from_mirror(share, tmp_path, "--verify-only")
    (tmp_path / ".verified.json").unlink()
    from_mirror(share, tmp_path)
    assert bars == [[size, size], [None, 0], [size, size], [size, size]]


def test_verify_only_writes_nothing(share: ShareServer, tmp_path: Path) -> None:
    """As it must on a share that is mounted read-only: no lock, no memory of its own, no tidying up."""
    stock(share)
    from_mirror(share, tmp_path)
    (tmp_path / ".verified.json").unlink()
    (tmp_path / f"{PATHS[0]}.part").write_bytes(b"half")
    before = {path.name: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    for folder in (tmp_path, tmp_path / "Data-HDF5"):
        folder.chmod(0o555)
    try:
        assert from_mirror(share, tmp_path, "--verify-only").code == 0
    finally:
        for folder in (tmp_path, tmp_path / "Data-HDF5"):
            folder.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]} == before


def test_files_can_be_verified_without_the_share(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    from_mirror(share, tmp_path)
    share.misbehave("records.txt", "status", code=404)
    done = from_mirror(share, tmp_path, "--verify-only")
    assert done.code == 0
    assert "found none (404)" in done.err and "verifying the files fetched before" in done.err
    assert "3 of 3 files are there and verified" in done.last
    (tmp_path / PATHS[0]).write_bytes(files[PATHS[1]])
    done = from_mirror(share, tmp_path, "--verify-only")
    assert (done.code, done.last[:6]) == (1, "2 of 3")
    assert f"error: {PATHS[0]}: expected" in done.err
    others = from_mirror(share, tmp_path, "--verify-only", "--subjects", "04", "05")
    assert (others.code, others.last[:6]) == (0, "2 of 2")
    assert from_mirror(share, tmp_path).code == 1  # fetching needs the list


def test_verify_only_on_an_empty_folder(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    done = from_mirror(share, tmp_path, "--verify-only")
    assert (done.code, done.last.split(",")[0]) == (1, "0 of 3 files are there and verified")
    assert data_files(tmp_path) == {}


def test_it_says_where_there_are_no_md5_sums(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share, sums=False)
    shown = from_mirror(share, tmp_path / "none").out
    assert "Data-HDF5: the share publishes no MD5SUMS" in shown
    assert "MD5 sums of 0 of 3 files; all are checked without one" in shown
    share.put("Data-HDF5/MD5SUMS", md5sums({PATHS[0]: files[PATHS[0]]}))
    assert "MD5 sums of 1 of 3 files; the others are checked without one" in from_mirror(share, tmp_path / "one").out
    share.put("Data-HDF5/MD5SUMS", md5sums(files))
    assert "MD5" not in from_mirror(share, tmp_path / "all").out


# --- the share itself ----------------------------------------------------------------------------------------


@pytest.fixture
def built_in(share: ShareServer, monkeypatch: pytest.MonkeyPatch) -> ShareServer:
    """The loopback server in the share's place."""
    import download_putemg

    monkeypatch.setattr(download_putemg, "SHARE", share.address)
    return share


def test_the_first_way_lists_sizes_so_that_no_file_is_asked_for_its_own(built_in: ShareServer, tmp_path: Path) -> None:
    files = stock(built_in)
    done = download(tmp_path, *QUICK)
    assert done.code == 0, done.err
    assert "public.php/dav/files/" in done.out
    assert data_files(tmp_path) == files
    assert not built_in.asked(method="HEAD")
    assert [request.path for request in built_in.asked(method="PROPFIND")] == ["Data-HDF5/"]


def test_the_second_way_is_tried_when_the_first_fails(built_in: ShareServer, tmp_path: Path) -> None:
    files = stock(built_in)
    built_in.ways = {"webdav"}
    done = download(tmp_path, *QUICK)
    assert done.code == 0, done.err
    assert "public.php/webdav/" in done.out
    assert data_files(tmp_path) == files


def test_when_no_way_works_each_is_named_with_its_reason(built_in: ShareServer, tmp_path: Path) -> None:
    built_in.ways = set()
    done = download(tmp_path, *QUICK)
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert line.count("records.txt: expected a file on the server, found none (404)") == 2
    assert "name a mirror by --base-url" in line


def test_a_share_that_lists_nothing_serves_all_the_same(built_in: ShareServer, tmp_path: Path) -> None:
    files = stock(built_in)
    built_in.lists = False
    assert download(tmp_path, *QUICK).code == 0
    assert data_files(tmp_path) == files
    assert len(built_in.asked(method="HEAD")) == 3


def test_a_listed_size_that_the_file_has_not_is_an_error(built_in: ShareServer, tmp_path: Path) -> None:
    files = stock(built_in, sums=False)
    built_in.misbehave(PATHS[0], "replaced", body=files[PATHS[0]][:-1])
    done = download(tmp_path, *QUICK)
    assert done.code == 1
    assert f"expected {len(files[PATHS[0]])} bytes as the server lists, found {len(files[PATHS[0]]) - 1}" in done.err


def test_a_size_on_the_share_that_changed_makes_a_remembered_file_old(built_in: ShareServer, tmp_path: Path) -> None:
    files = stock(built_in, sums=False)
    download(tmp_path, *QUICK)
    files[PATHS[2]] = recordings.recording_bytes(5, samples=700)
    built_in.put(PATHS[2], files[PATHS[2]])
    assert "(1 fetched, 2 were there)" in download(tmp_path, *QUICK).last
    assert data_files(tmp_path) == files


def test_other_media_are_named_as_the_share_lists_them(built_in: ShareServer, tmp_path: Path) -> None:
    stock(built_in)
    built_in.put(f"Video-576p/{NAMES[0]}.mp4", b"\0\0\0\x18ftyp usual")
    built_in.put(f"Video-576p/{NAMES[1]}-left.mp4", b"\0\0\0\x18ftyp left")
    built_in.put(f"Video-576p/{NAMES[1]}-right.mp4", b"\0\0\0\x18ftyp right")
    built_in.put(f"Video-576p/{NAMES[1]}-..%2fx.mp4", b"no")
    done = download(tmp_path, *QUICK, "--media", "video-576p", "--subjects", "03", "04")
    assert done.code == 0, done.err
    assert sorted(data_files(tmp_path)) == sorted(
        [f"Video-576p/{NAMES[0]}.mp4", f"Video-576p/{NAMES[1]}-left.mp4", f"Video-576p/{NAMES[1]}-right.mp4"]
    )


def test_several_media_each_in_its_folder(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    for path in (f"Video-1080p/{NAMES[0]}.mp4", f"Data-CSV/{NAMES[0]}.zip", f"Depth/{NAMES[0]}.zip"):
        files[path] = b"\0\0\0\x18ftyp" if path.endswith("mp4") else zipped({"a.csv": b"1,2\n"})
        share.put(path, files[path])
    media = ("--media", "data-hdf5", "data-csv", "depth", "video-1080p", "--subjects", "03")
    assert from_mirror(share, tmp_path, *media).code == 0
    assert data_files(tmp_path) == {path: data for path, data in files.items() if NAMES[0] in path}


# --- archives ------------------------------------------------------------------------------------------------


def zipped(entries: dict[str, bytes]) -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return result.getvalue()


ARCHIVE = f"Depth/{NAMES[0]}.zip"
CONTENTS = {"frames/0001.png": os.urandom(3000), "frames/0002.png": os.urandom(2000), "times.csv": b"0,1\n"}
DEPTH = ("--media", "depth", "--subjects", "03")


def stock_archive(share: ShareServer, data: bytes | None = None) -> None:
    stock(share)
    share.put(ARCHIVE, zipped(CONTENTS) if data is None else data)


def unpacked(folder: Path) -> dict[str, bytes]:
    return tree(folder / ARCHIVE.removesuffix(".zip"))


def test_archives_are_unpacked_and_later_runs_know_it(share: ShareServer, tmp_path: Path) -> None:
    stock_archive(share)
    done = from_mirror(share, tmp_path, *DEPTH, "--unpack")
    assert done.code == 0, done.err
    assert unpacked(tmp_path) == CONTENTS
    assert (tmp_path / ARCHIVE).exists()
    inside = (tmp_path / ARCHIVE).with_suffix("") / "times.csv"
    before = inside.stat().st_ino
    assert from_mirror(share, tmp_path, *DEPTH, "--unpack").code == 0
    assert inside.stat().st_ino == before


def test_removed_archives_are_not_fetched_again(share: ShareServer, tmp_path: Path) -> None:
    stock_archive(share)
    assert from_mirror(share, tmp_path, *DEPTH, "--unpack", "--remove").code == 0
    assert unpacked(tmp_path) == CONTENTS
    assert not (tmp_path / ARCHIVE).exists()
    share.requests.clear()
    for flags in (["--unpack", "--remove"], ["--unpack"], [], ["--verify-only"], ["--dry-run"]):
        done = from_mirror(share, tmp_path, *DEPTH, *flags)
        assert done.code == 0, done.err
    assert not share.asked(".zip") + share.asked(".zip", "HEAD")
    ((tmp_path / ARCHIVE).with_suffix("") / "times.csv").unlink()
    assert from_mirror(share, tmp_path, *DEPTH, "--unpack", "--remove").code == 0
    assert unpacked(tmp_path) == CONTENTS


def test_an_archive_fetched_before_is_unpacked_and_removed_later(share: ShareServer, tmp_path: Path) -> None:
    stock_archive(share)
    assert from_mirror(share, tmp_path, *DEPTH).code == 0
    assert from_mirror(share, tmp_path, *DEPTH, "--unpack").code == 0
    assert from_mirror(share, tmp_path, *DEPTH, "--unpack", "--remove").code == 0
    assert len(share.asked(".zip")) == 1
    assert unpacked(tmp_path) == CONTENTS
    assert not (tmp_path / ARCHIVE).exists()


def test_a_new_archive_replaces_what_the_old_one_held(share: ShareServer, tmp_path: Path) -> None:
    stock_archive(share)
    sums = {ARCHIVE: zipped(CONTENTS)}
    share.put("Depth/MD5SUMS", md5sums(sums))
    from_mirror(share, tmp_path, *DEPTH, "--unpack", "--remove")
    new = zipped({"times.csv": b"2\n"})
    share.put(ARCHIVE, new)
    share.put("Depth/MD5SUMS", md5sums({ARCHIVE: new}))
    assert from_mirror(share, tmp_path, *DEPTH, "--unpack", "--remove").code == 0
    assert unpacked(tmp_path) == {"times.csv": b"2\n"}


# --- flags, messages, signals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--media", "data"], "invalid choice: 'data'"),
        (["--experiment", "gestures"], "invalid choice: 'gestures'"),
        (["--subjects", "003"], "expected a subject number such as 03"),
        (["--subjects", "../3"], "expected a subject number such as 03"),
        (["--jobs", "0"], "expected a number of at least 1"),
        (["--retries", "-1"], "expected a number of at least 0"),
        (["--timeout", "0"], "expected a number above 0"),
        (["--timeout", "nan"], "expected a number above 0"),
        (["--retry-wait", "-1"], "expected a number of at least 0"),
        (["--base-url", "ftp://host/x"], "expected an address such as https://host/folder"),
        (["--base-url", "file:///etc"], "expected an address such as https://host/folder"),
        (["--base-url", "http://"], "expected an address such as https://host/folder"),
        (["--base-url", "http://host:0/"], "expected an address such as https://host/folder"),
        (["--base-url", "http://host:x/"], "expected an address such as https://host/folder"),
        (["--base-url", "http://me:secret@host/"], "expected an address such as https://host/folder"),
        (["--base-url", "http://host/?q"], "expected an address such as https://host/folder"),
        (["--remove"], "--remove: expected --unpack with it"),
        (["--unpack"], "--unpack: expected --media data-csv or depth"),
        (["--verify-only", "--dry-run"], "--verify-only: expected neither --dry-run nor --unpack"),
        (["--retry", "1"], "unrecognized arguments"),
    ],
    ids=str,
)
def test_wrong_flags_are_told_at_once(tmp_path: Path, flags: list[str], message: str) -> None:
    done = download(tmp_path / "raw", *flags)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "raw").exists()


def test_a_mirror_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # who has the port, and listens to none
        nobody.bind(("127.0.0.1", 0))
        done = download(tmp_path, "--base-url", f"http://127.0.0.1:{nobody.getsockname()[1]}", *QUICK)
    assert done.code == 1
    assert "records.txt: no connection ([Errno 111] Connection refused); gave up after 3 attempts" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_an_output_folder_that_is_a_file(share: ShareServer, tmp_path: Path) -> None:
    stock(share)
    (tmp_path / "raw").write_text("mine")
    done = from_mirror(share, tmp_path / "raw")
    assert done.code == 1
    assert str(tmp_path / "raw") in done.err
    assert (tmp_path / "raw").read_text() == "mine"


def test_help_is_the_manual_and_comes_at_once(run_script: object) -> None:
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = run_script("download_putemg.py", "--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5  # processor seconds: a busy machine must not fail this
    flags = "--experiment --media --subjects --base-url --jobs --retries --timeout --dry-run --verify-only"
    for word in [*flags.split(), "--unpack", "--remove", "--quiet", "--json", "CC BY-NC", "11 GB"]:
        assert word in shown


def test_the_script_starts_without_waiting_for_http_and_hdf5() -> None:
    code = "import sys, download_putemg; print({'requests', 'h5py', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_as_a_user_runs_it(share: ShareServer, tmp_path: Path, run_script: object) -> None:
    files = stock(share)
    del share.files[PATHS[2]]
    first = run_script("download_putemg.py", tmp_path, "--base-url", share.mirror, *QUICK, code=1)
    assert first.stdout.strip().endswith("1 missing or wrong; re-run to fetch the rest")
    share.put(PATHS[2], files[PATHS[2]])
    second = run_script("download_putemg.py", tmp_path, "--base-url", share.mirror, "--json", "--quiet")
    assert json.loads(second.stdout)["fetched"] == 1
    assert second.stderr == ""
    assert data_files(tmp_path) == files


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_at_once_and_resumed(share: ShareServer, tmp_path: Path, number: int, code: int) -> None:
    """One file is half there, one waits for an answer, one between two attempts: none holds the stop up."""
    files = stock(share)
    share.misbehave(PATHS[0], "drip", after=70_000, times=1)
    share.misbehave(PATHS[1], "silent", times=1)
    share.misbehave(PATHS[2], "status", code=503, Retry_After="120", times=1)
    process = started(share, tmp_path, "--timeout", "1200")  # none of the three would come to an end by itself
    part = tmp_path / f"{PATHS[0]}.part"
    try:
        held = lambda: part.exists() and part.stat().st_size >= 70_000 and len(share.asked("hdf5")) == 3  # noqa: E731
        wait_for(held, "the first half of a file")
        process.send_signal(number)
        _, errors = process.communicate(timeout=LONGEST)
    finally:
        process.kill()
    assert process.returncode == code
    assert errors.strip().splitlines()[-1] == "stopped: run the same command again to go on"
    assert "Traceback" not in errors
    assert not (tmp_path / PATHS[0]).exists()
    assert from_mirror(share, tmp_path).code == 0
    assert data_files(tmp_path) == files
    assert share.asked(PATHS[0])[-1].headers["Range"].startswith("bytes=7")


def test_two_at_once_on_one_folder(share: ShareServer, tmp_path: Path) -> None:
    files = stock(share)
    share.misbehave(PATHS[0], "held", times=1)
    first = started(share, tmp_path, "--timeout", "1200")
    try:
        wait_for(lambda: share.asked(PATHS[0]), "the first run's request")
        second = from_mirror(share, tmp_path)
        share.let_go.set()
        first.communicate(timeout=LONGEST)
    finally:
        first.kill()
    assert second.code == 1
    assert f"{tmp_path}: another run is writing there" in second.err
    assert first.returncode == 0
    assert data_files(tmp_path) == files


@pytest.mark.network
def test_the_real_share_has_264_gesture_recordings(run_script: object, tmp_path: Path) -> None:
    actual = json.loads(run_script("download_putemg.py", tmp_path, "--dry-run", "--json").stdout)
    assert actual["files"] == 264
    assert 8e9 < actual["bytes"] < 16e9


def test_a_listing_cannot_blow_up() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    with pytest.raises(DataError, match="found a document type in it; refused"):
        read_listing(bomb)


@pytest.mark.parametrize("encoding", ["utf-32", "none-such", "hex", "idna"])
def test_a_listing_in_an_encoding_that_cannot_be_read_is_refused(encoding: str) -> None:
    """It ended the run with the XML parser's own error."""
    with pytest.raises(DataError, match="expected a list of files, found unreadable XML"):
        read_listing(f'<?xml version="1.0" encoding="{encoding}"?><a/>'.encode())
