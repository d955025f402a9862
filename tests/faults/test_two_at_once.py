"""Two runs on one folder, and readers while it is rewritten: nobody gets a mix."""

import argparse
import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import recordings
import small_shards
from downloading import tree
from killing import finished, start
from waiting import beside

from semg.common.errors import DataError
from semg.common.files import atomic_path, folder_lock
from semg.data import shards
from semg.data.shards import list_records, open_shard, open_shards


def test_preprocess_twice_on_one_folder(tmp_path: Path) -> None:
    """One does the work. The other ends with a message, or does what is left once the first is done."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for subject in (3, 4):
        table = recordings.frame(subject, samples=4 * recordings.RATE)
        table["TRAJ_GT"] = np.repeat([0.0, 1.0, 9.0, 2.0], recordings.RATE)
        recordings.write(raw, table, recordings.record_name(subject))
    words = ["--raw", raw, "--workers", 1, "--shards"]
    assert finished(start("preprocess", [*words, tmp_path / "alone"])) == 0
    pair = [start("preprocess", [*words, tmp_path / "both"]) for _ in range(2)]
    codes = sorted(map(finished, pair))
    assert codes in ([0, 0], [0, 1])
    assert tree(tmp_path / "both") == tree(tmp_path / "alone")
    with folder_lock(tmp_path / "both"):
        assert finished(start("preprocess", [*words, tmp_path / "both", "--overwrite"])) == 1
    assert tree(tmp_path / "both") == tree(tmp_path / "alone")


def test_a_reader_during_a_rewrite_sees_one_shard_or_is_told(tmp_path: Path, record_property) -> None:
    """The old shard, the new one, or a line that says to wait: never a mix. A hundred rewrites, read all the while."""
    record, over = small_shards.write(tmp_path, 3, repetitions=1), threading.Event()
    other = {**small_shards.ARGUMENTS, "low": 30.0}

    def write() -> None:
        try:
            for _ in range(50):
                small_shards.write(tmp_path, 3, repetitions=2, arguments=other)
                small_shards.write(tmp_path, 3, repetitions=1)
        finally:
            over.set()

    read, output = 0, 0
    with beside(write):
        while not over.is_set():
            assert list_records(tmp_path) == [record]
            try:
                (shard,) = open_shards(tmp_path, [record], verify=True)
                seen = (shard.arguments["low"], len(shard.signal), int(shard.windows["repetition"].max()) + 1)
            except DataError as error:
                assert "being rewritten" in str(error) or "found it replaced" in str(error)
                output += 1
                continue
            assert seen in [(low, len(small_shards.labels(n)), n) for low, n in ((20.0, 1), (30.0, 2))]
            read += 1
    record_property("readings of a shard under rewrite", read + output)
    (shard,) = open_shards(tmp_path, [record], verify=True)
    assert len(shard.signal) == len(small_shards.labels(1))


def test_a_signal_replaced_while_it_is_mapped_is_the_one_that_was_opened(tmp_path: Path, monkeypatch) -> None:
    record, mapped = small_shards.write(tmp_path, 3, repetitions=2), mmap.mmap

    def replaced_first(*arguments: int, **named: int) -> mmap.mmap:
        small_shards.write(tmp_path, 3, repetitions=1)
        return mapped(*arguments, **named)

    (shard,) = open_shards(tmp_path, [record])
    monkeypatch.setattr(mmap, "mmap", replaced_first)
    assert shard.signal.shape == (len(small_shards.labels(2)), 24)


def test_a_writer_that_is_done_between_two_looks_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None, None, (1, 2)])  # no folder as it is opened, and right after; then the new one
    monkeypatch.setattr(shards, "version", lambda _: next(looks))
    with pytest.raises(DataError, match="being rewritten"):
        shards.open_shard(tmp_path / "away")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses to rename what another program has open")
def test_two_that_write_one_file_leave_a_whole_one(tmp_path: Path) -> None:
    """As two adapt.py or report.py with one --out do. One gave its name to what the other had half written."""
    path, wrong, read = tmp_path / "model.ckpt", list[BaseException](), set[bytes]()

    def write(content: bytes) -> None:
        try:
            for _ in range(200):
                with atomic_path(path) as temporary, temporary.open("wb") as file:
                    for begin in range(0, len(content), 1000):
                        file.write(content[begin : begin + 1000])
                        file.flush()
                read.add(path.read_bytes())
        except BaseException as error:
            wrong.append(error)

    contents = {b"a" * 20_000, b"b" * 30_000}
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not wrong
    assert read == contents
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames no file that is open: none is compared there")
def test_a_drive_that_numbers_files_anew_at_each_look_is_written_to(tmp_path: Path, monkeypatch) -> None:
    """An open file never seems to be the one at its name: writing waited for ever."""
    inodes, path = itertools.count(1), tmp_path / "a.txt"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda _: argparse.Namespace(st_dev=-1, st_ino=next(inodes)))
        with atomic_path(path) as temporary:
            temporary.write_text("whole")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["whole"]
    assert path.is_file()


def test_a_shard_swapped_while_it_is_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The swap falls between the description and the signal: alone, each file looks right."""
    import semg.data.shards

    record = small_shards.write(tmp_path, 3)
    read, swapped = semg.data.shards.read_meta, []

    def swap_after(path: Path) -> dict:
        meta = read(path)
        if not swapped:
            swapped.append(shutil.rmtree(path))
            small_shards.write(tmp_path, 3, arguments={**small_shards.ARGUMENTS, "low": 30.0})
        return meta

    monkeypatch.setattr(semg.data.shards, "read_meta", swap_after)
    with pytest.raises(DataError, match="expected a shard at rest, found one that is being rewritten"):
        open_shard(tmp_path / record)
    assert open_shard(tmp_path / record).arguments["low"] == 30.0


def test_a_writer_stopped_between_its_renames_is_named(tmp_path: Path) -> None:
    record = small_shards.write(tmp_path, 3)
    (tmp_path / record).rename(tmp_path / f".{record}.old.tmp")
    assert list_records(tmp_path) == [record]
    with pytest.raises(DataError, match=r"if it was stopped, run preprocess\.py or import_csv\.py again"):
        open_shards(tmp_path, [record])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks in another way")
def test_a_drive_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS answers where its lock service does not run; that nobody else writes there cannot be known then."""
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DataError, match=r"\.lock: expected a drive with locks, .* No locks"), folder_lock(tmp_path):
        pass


def interrupted_once(flock):
    """`fcntl.flock` that Ctrl-C ends once: after its work if the lock is free, else while it waits."""
    pressed = False

    def locked(descriptor: int, how: int) -> None:
        nonlocal pressed
        if pressed:
            return flock(descriptor, how)
        pressed = True
        with contextlib.suppress(BlockingIOError):
            flock(descriptor, how | fcntl.LOCK_NB)
        raise KeyboardInterrupt

    return locked


@pytest.mark.parametrize("hold", [atomic_path, folder_lock])
def test_ctrl_c_while_a_lock_is_taken_leaves_nothing(hold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", interrupted_once(fcntl.flock))
    with pytest.raises(KeyboardInterrupt), hold(tmp_path / "out"):
        pytest.fail("begun")
    assert list(tmp_path.rglob("*")) == []
    with hold(tmp_path / "out"):
        pass


def test_ctrl_c_while_another_run_writes_leaves_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.json"
    with atomic_path(path) as first:
        first.write_text("whole")
        monkeypatch.setattr(fcntl, "flock", interrupted_once(fcntl.flock))
        with pytest.raises(KeyboardInterrupt), atomic_path(path):
            pytest.fail("begun")
        assert first.read_text() == "whole"
    assert path.read_text() == "whole"
