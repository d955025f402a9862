"""The disk is full in the middle of any script: one line says so, what was there stays, and the same command goes on.

What stops the writing is the limit of full_disks.py.
"""

import errno
import importlib
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import recordings
import small_shards
import torch
from downloading import tree
from full_disks import files_of_at_most
from tensorboardX.record_writer import RecordWriter
from test_bad_inputs import TINY, script, table
from waiting import wait_for

from semg.inference.checkpoint import open_checkpoint
from semg.inference.live_decoder import Chunk, LiveDecision
from semg.inference.live_outputs import DecisionTable, Recorder
from semg.training.classification import Classification


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/, table.npy, shards/, split/, run/ and results/."""
    folder = tmp_path_factory.mktemp("data")
    shards, split = small_shards.write_all(folder)
    (folder / "raw").mkdir()
    recordings.write(folder / "raw", table(), recordings.record_name(3), complevel=1)
    np.save(folder / "table.npy", np.random.default_rng(0).normal(0, 30, (20_000, 24)).astype(np.float32))
    places = ["--shards", shards, "--split", split]
    assert script("train", *places, "--out", folder / "run", *TINY.split()).code == 0
    model = ["--checkpoint", folder / "run/best_model.ckpt", "--device", "cpu"]
    assert script("evaluate", *model, *places, "--out", folder / "results").code == 0
    return folder


def commands(data: Path, out: Path) -> dict[str, list[object]]:
    places = ["--shards", data / "shards", "--split", data / "split"]
    model = ["--checkpoint", data / "run/best_model.ckpt", "--device", "cpu"]
    return {
        "preprocess": ["--raw", data / "raw", "--shards", out, "--workers", 1],
        "create_dataset_files": ["--shards", data / "shards", "--out", out],
        "train": [*places, "--out", out, *TINY.split()],
        "evaluate": [*model, *places, "--out", out],
        "baselines": [*places, "--out", out, "--features", "rms", "--classifiers", "lda"],
        "adapt": [data / "run/best_model.ckpt", data / "table.npy", "--rate", 5120, "--out", out / "own.ckpt"],
        "predict": [data / "table.npy", "--rate", 5120, *model, "--out", out],
        "compare": [data / "results", "--out", out],
        "plot": ["classes", data / "split", "--shards", data / "shards", "--out", out / "classes.png"],
        "simulate_putemg": [out, "--people", 3, "--seconds", 20, "--days", 1, "--workers", 1],
    }


ROOM = {  # bytes that a file may have: enough for some of what the script writes, too few for all of it
    "preprocess": 100_000,
    "create_dataset_files": 300,
    "train": 30_000,
    "evaluate": 10_000,
    "baselines": 10_000,
    "adapt": 5_000,
    "predict": 5_000,
    "compare": 5_000,
    "plot": 5_000,
    "simulate_putemg": 200_000,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "simulate_putemg" else name for name in ROOM]
)
def test_a_disk_that_is_full_in_the_middle(
    data: Path, tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("counted", "full disks")
    out, right = tmp_path / "out", tmp_path / "right"
    with files_of_at_most(ROOM[name]):
        done = script(name, *commands(data, out)[name], "--quiet")
    assert done.code == 1, done
    (line,) = [line for line in done.err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith(f"error: {out}") and re.search("free some|disk full|could not be written", line), line
    assert ("--resume" in line) == (name == "train"), line
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".lock"))]
    flags = ["--resume"] if (out / "last.ckpt").exists() else []
    assert script(name, *commands(data, out)[name], *flags).code == 0
    assert script(name, *commands(data, right)[name]).code == 0
    assert set(tree(out)) >= {path for path in tree(right) if "events.out" not in path}
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".lock"))]


def test_a_module_first_imported_on_a_full_disk_is_imported_later_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests that fill the disk must not damage the checkout in which they run."""
    (tmp_path / "imported_late.py").write_text(f"TEXT = {'x' * 5000!r}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for _ in range(2):
        with files_of_at_most(1000):
            importlib.import_module("imported_late")
        del sys.modules["imported_late"]
        importlib.invalidate_caches()
    assert len(importlib.import_module("imported_late").TEXT) == 5000
    monkeypatch.delitem(sys.modules, "imported_late")


def epochs_done(last: Path) -> int:
    """How many epochs of a run a last.ckpt holds."""
    return int(open_checkpoint(last).description["state"]["training"]["epoch"])


def test_a_disk_that_fills_up_in_training_leaves_both_checkpoints_whole(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epochs before are kept; with room again, --resume ends where an undisturbed run does."""
    flags = ["--shards", data / "shards", "--split", data / "split", *TINY.split(), "--epochs", 3]
    batches = Classification.batches
    with ExitStack() as full, monkeypatch.context() as patch:

        def fill_up_in_the_second(task: Classification, epoch: int, first: int) -> object:
            if epoch == 1:
                wait_for(lambda: epochs_done(tmp_path / "run/last.ckpt") == 1, "the first epoch's files")
                full.enter_context(files_of_at_most(20_000))
            return batches(task, epoch, first)

        patch.setattr(Classification, "batches", fill_up_in_the_second)
        done = script("train", *flags, "--out", tmp_path / "run")
    assert (done.code, done.err.count("error: ")) == (1, 1)
    assert "free some" in done.err and "resume" in done.err
    assert epochs_done(tmp_path / "run/last.ckpt") == 1
    assert open_checkpoint(tmp_path / "run/best_model.ckpt").description["epoch"] == 1
    assert script("train", *flags, "--out", tmp_path / "run", "--resume").code == 0
    assert script("train", *flags, "--out", tmp_path / "right").code == 0
    for name in ("last.ckpt", "best_model.ckpt"):
        ends = [open_checkpoint(tmp_path / run / name).tensors for run in ("run", "right")]
        assert all(torch.equal(ends[0][key], value) for key, value in ends[1].items()), name


@pytest.mark.parametrize("written", [-1, 0, 3, 12])
def test_tensorboards_log_that_finds_no_room_costs_the_log_and_not_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """tensorboardX's own thread died of it, and the run waited for that thread without end."""
    write, times = RecordWriter.write, []

    def full(record: RecordWriter, content: bytes) -> None:
        times.append(content)
        if len(times) > written + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(record, content)

    monkeypatch.setattr(RecordWriter, "write", full)
    places = ["--shards", data / "shards", "--split", data / "split", "--out", tmp_path]
    done = script("train", *places, *TINY.split(), "--epochs", 3)
    assert done.code == 0, done.err
    assert done.err.count("TensorBoard's log ends here (No space left on device)") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_live_tables_end_with_a_whole_row_and_are_named(tmp_path: Path) -> None:
    """The error named no file, and the last row was half a one."""
    table, record = DecisionTable(tmp_path / "table.csv", ["rest", "fist"]), Recorder(tmp_path / "record.csv", ["a"])
    decision = LiveDecision(1.0, 1.0, np.array([0.25, 0.75], np.float32), 0.0, 0)
    with files_of_at_most(1000):
        with pytest.raises(OSError) as first:
            for _ in range(1000):
                table.write(decision, 0.0)
        record.write(Chunk(np.ones((1000, 1), np.float32), np.arange(1000.0), 0.0))
        with pytest.raises(OSError) as second:
            record.close()
    table.close()
    assert (first.value.filename, second.value.filename) == (str(table.path), str(record.path))
    for path, columns in ((table.path, 8), (record.path, 3)):
        lines = path.read_text().splitlines(keepends=True)
        assert len(lines) > 10
        assert all(line.endswith("\n") and line.count(",") == columns - 1 for line in lines)
