"""Two runs on one folder, and readers while it is rewritten: nobody gets a mix."""

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import recordings
import small_shards
from downloading import tree
from killing import finished, start

from semg.common.errors import DataError
from semg.common.files import folder_lock
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


def rewritten(folder: Path, seconds: float, verify: bool) -> tuple[int, set[float], list[str]]:
    """Read a shard while it is rewritten in turns with two contents: how often, which contents, what went wrong."""
    record, over = small_shards.write(folder, 3, repetitions=1), threading.Event()
    faster = {**small_shards.ARGUMENTS, "low": 30.0}

    def write() -> None:
        while not over.is_set():
            small_shards.write(folder, 3, repetitions=2, arguments=faster)
            small_shards.write(folder, 3, repetitions=1)

    writer = threading.Thread(target=write)
    writer.start()
    read, seen, wrong, end = 0, set(), [], time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            read += 1
            if list_records(folder) != [record]:
                wrong.append("not in the list")
            (shard,) = open_shards(folder, [record], verify=verify)
            low, repetitions = shard.arguments["low"], len(shard.signal) // len(small_shards.labels(1))
            if (low, repetitions, int(shard.windows["repetition"].max()) + 1) not in ((20.0, 1, 1), (30.0, 2, 2)):
                wrong.append(f"a mix: {low}, {repetitions}")
            seen.add(low)
    except DataError as error:
        wrong.append(str(error))
    finally:
        over.set()
        writer.join()
    return read, seen, wrong


@pytest.mark.parametrize("verify", [True, False])
def test_a_reader_during_a_rewrite_sees_the_old_shard_or_the_new_one(
    tmp_path: Path, record_property, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # more rewrites in the same time
    read, seen, wrong = rewritten(tmp_path, 2.0, verify)
    record_property("readings of a shard under rewrite", read)
    assert wrong == []
    assert seen == {20.0, 30.0}


def test_a_shard_swapped_while_it_is_opened_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert open_shard(tmp_path / record).arguments["low"] == 30.0
