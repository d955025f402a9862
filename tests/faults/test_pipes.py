"""A pipe in the place of a file is named: nobody writes to it, and whoever opened it would wait for ever."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import test_checkpoint
from test_fuzz import at_most

from semg.common.errors import DataError
from semg.data.recording_list import read_list
from semg.data.shards import open_shard
from semg.data.splits import read_names, read_split
from semg.data.tables import Table
from semg.evaluation.comparison import read_evaluation
from semg.evaluation.predictions import read_predictions
from semg.evaluation.run_record import read_epochs, read_run_record
from semg.inference.checkpoint import open_checkpoint, write_folder
from semg.inference.trained_model import TrainedModel
from semg.weight_files import stored_tensors

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
READERS: dict[str, Callable[[Path], object]] = {
    "a.csv": Table,
    "a.npy": Table,
    "list.csv": read_list,
    "train.txt": read_names,
    "split/test.txt": lambda path: read_split(path.parent),
    "metrics.json": lambda path: read_evaluation(path, "accuracy"),
    "predictions.npz": lambda path: read_evaluation(path, "accuracy"),
    "other/predictions.npz": lambda path: read_predictions(path, 3),
    "metrics.jsonl": read_epochs,
    "run/config.json": lambda path: read_run_record(path.parent),
    "best_model.ckpt": lambda path: TrainedModel.open(path, "cpu"),
    "weights.safetensors": lambda path: stored_tensors([path]),
    "shard/shard.json": lambda path: open_shard(path.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_place_of_a_file(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if path.name == "test.txt":
        for subset in ("train", "val"):
            path.with_name(f"{subset}.txt").write_text("a\n")
    os.mkfifo(path)
    with at_most(20), pytest.raises(DataError, match=f"{path.name}: expected .*, found (a pipe|no such file)"):
        READERS[name](path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_in_an_exported_folder(tmp_path, name):
    write_folder(tmp_path, test_checkpoint.checkpoint_of())
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with at_most(20), pytest.raises(DataError, match=f"{name}: expected .*, found a pipe"):
        open_checkpoint(tmp_path)
