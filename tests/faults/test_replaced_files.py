"""A file that is replaced, removed or cut while a script uses it: what was opened counts, or one line says so."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recordings
import small_shards
import torch
from safetensors.torch import save
from test_checkpoint import checkpoint_of

import calibrate
import evaluate
import preprocess
from semg.common.errors import DataError
from semg.common.files import checksum, expect_unchanged
from semg.data.shards import open_shards
from semg.data.windows import UNLABELLED
from semg.evaluation import comparison, metrics, result_record
from semg.evaluation.hand_crafted_features import FeatureExtractor, feature_names
from semg.evaluation.predictions import predictions_of
from semg.evaluation.report import write_results
from semg.evaluation.scored_windows import ScoredWindows
from semg.inference.batch import open_windows
from semg.inference.checkpoint import write_checkpoint, write_folder
from semg.inference.trained_model import Scores, TrainedModel
from semg.training import feature_tables
from semg.weight_files import stored_tensors

CPU = torch.device("cpu")


def replaced(path: Path, content: bytes) -> None:
    """Another file takes the name, as every script here and most others write."""
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)


CHANGES = {
    "replaced": lambda path: replaced(path, b"another"),
    "removed": Path.unlink,
    "cut": lambda path: os.truncate(path, 9),
    "written over": lambda path: path.write_bytes(b"another" * 9999),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_in_a_block_is_named(tmp_path, change):
    path = tmp_path / "a.csv"
    path.write_bytes(b"0123456789")
    with expect_unchanged(path, "a table"):
        path.read_bytes()
    with (
        pytest.raises(DataError, match=r"a\.csv: expected a table at rest, found it changed while it was read"),
        expect_unchanged(path, "a table"),
    ):
        change(path)


# --- models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_model_is_the_one_that_was_opened(tmp_path, change, folder):
    path = weights = tmp_path / "model"
    own = checkpoint_of()
    if folder:
        write_folder(path, own)
        weights = path / "model.safetensors"
    else:
        write_checkpoint(path, own.description, own.tensors)
    sha256 = checksum(weights)
    model = TrainedModel.open(path, "cpu")
    change(weights)
    assert model.checkpoint.sha256 == model.restricted(["idle", "fist"]).checkpoint.sha256 == sha256
    for name, value in own.tensors.items():
        torch.testing.assert_close(model.checkpoint.tensors[name], value, rtol=0, atol=0)


def scored(folder: Path) -> tuple[TrainedModel, list, Scores]:
    """A model whose file is gone, shards, and what it decided."""
    model = TrainedModel(replace(checkpoint_of(folder / "gone"), sha256="of the one opened"), CPU)
    shards = open_shards(folder / "shards", [small_shards.write(folder / "shards", 3, repetitions=2)])
    windows = open_windows(shards)
    return model, shards, Scores(windows, np.eye(len(shards[0].classes))[windows.label])


def test_scores_name_the_model_that_made_them(tmp_path, monkeypatch):
    """The checksum was that of the file which bore the name when the scores were written."""
    model, shards, scores = scored(tmp_path)
    flags = {"adapt": "none", "normalize": "trained", "vote": 1, "smooth": 0.0, "subset": "test", "out": tmp_path}
    args = argparse.Namespace(**flags, checkpoint=model.path, split=tmp_path)
    for name, result in (("decide", scores.probabilities), ("warn_of_leaks", {}), ("how_made", {})):
        monkeypatch.setattr(evaluate, name, lambda *_, result=result: result)
    monkeypatch.setattr(evaluate, "write_results", lambda *_, extra, **__: extra)
    split = argparse.Namespace(checksum="of the split")
    assert evaluate.score(model, shards, split, args, None)["checkpoint_sha256"] == "of the one opened"


def test_calibrated_scores_name_the_model_that_made_them(tmp_path, monkeypatch):
    model, shards, scores = scored(tmp_path)
    args = argparse.Namespace(
        subset="test", repetitions=1, adapt="none", checkpoint=model.path, split=tmp_path, out=tmp_path
    )
    monkeypatch.setattr(calibrate, "how_made", lambda *_: {})
    monkeypatch.setattr(calibrate, "write_results", lambda *_, extra, **__: extra)
    shares = scores.probabilities
    known = np.flatnonzero(scores.windows.label != UNLABELLED)
    person = argparse.Namespace(before=shares[known], calibrated=shares[known], after=shares[known], scored=known)
    split = argparse.Namespace(checksum="of the split")
    content = calibrate.write([person], model, shards, split, {}, args)
    assert content["checkpoint_sha256"] == "of the one opened"


def test_pretrained_weights_are_of_one_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({"a": torch.ones(2), "b": torch.ones(2)}))
    held = stored_tensors([path])
    first = held["a"].read()
    replaced(path, save({"a": torch.zeros(2), "b": torch.zeros(2), "more": torch.zeros(1)}))
    with pytest.raises(DataError, match="expected the file as it was, found it replaced; start this run again"):
        held["b"].read()
    os.truncate(path, 9)
    with pytest.raises(DataError, match="found it replaced"):
        held["b"].read()
    assert first.tolist() == [1, 1]


def test_features_of_a_shard_that_was_made_anew_are_none_of_its_windows(tmp_path):
    """The windows were the old shard's, and their signal the new one's."""
    record = small_shards.write(tmp_path, 3, repetitions=2)
    shards = open_shards(tmp_path, [record])
    extract = FeatureExtractor(names=feature_names("rms"), rate=shards[0].rate)
    source = feature_tables.HandCrafted(shards, extract, by_session=False)
    assert source.of(0, shards[0].windows["start"][:3]).shape[0] == 3
    small_shards.write(tmp_path, 3, repetitions=2, arguments={**small_shards.ARGUMENTS, "low": 30.0})
    with pytest.raises(DataError, match="expected the shard as it was, found it replaced; start this run again"):
        source.of(0, shards[0].windows["start"][:3])


# --- recordings and results ------------------------------------------------------------------------------------


def test_a_recording_that_is_replaced_between_checksum_and_reading_is_no_shard(tmp_path, monkeypatch):
    path = recordings.write(tmp_path, recordings.frame(3, samples=600))
    other = recordings.recording_bytes(4)

    def replaced_after(file: Path) -> str:
        actual = checksum(file)
        replaced(path, other)
        return actual

    monkeypatch.setattr(preprocess, "checksum", replaced_after)
    flags = {"low": 20.0, "high": 700.0, "order": 4, "notch": (50.0,), "causal": False, "window": 128, "stride": 64}
    flags |= {"labels": "TRAJ_GT", "rest": False, "transition_margin": 0.0, "label_rule": "whole-window"}
    how = preprocess.Arguments(channels=tuple(range(1, 25)), montage="monopolar", **flags)
    outcome = preprocess.process(preprocess.Conversion(path, tmp_path / "shards" / path.stem, how, False))
    told = f"{path}: expected a recording at rest, found it changed while it was read; run this again"
    assert (outcome.state, outcome.message) == ("failed", told)
    assert not (tmp_path / "shards").exists()


def test_all_metrics_of_a_result_are_of_one_reading(tmp_path, monkeypatch):
    """The file was read again for each metric, and may have been another by then."""
    path = tmp_path / "metrics.json"
    names = [one.name for one in metrics.headlines()]
    people = [{"7": {**dict.fromkeys(names, score), "n_windows": 9}} for score in (0.25, 0.5, 0.75)]
    contents = iter([{"per_subject": one, "subset": "test"} for one in people])
    for module in (result_record, comparison):
        monkeypatch.setattr(module, "read_json", lambda *_: next(contents))
    result = result_record.read_result(path, metrics.headlines())
    assert [one.subjects for one in result.evaluations.values()] == [{"7": 0.25}] * len(names)
    assert {one.subjects["7"] for one in comparison.read_evaluations(path, names).values()} == {0.5}


def test_decisions_of_another_evaluation_are_not_shown_beside_its_scores(tmp_path):
    _, _, scores = scored(tmp_path)
    windows = ScoredWindows.of(scores.windows)
    right, wrong = windows.label, (windows.label + 1) % len(windows.classes)
    for folder, decided in (("right", right), ("wrong", wrong)):
        write_results(tmp_path / folder, windows, decided, None, extra={"subset": "test"})
    result = result_record.read_result(tmp_path / "right" / "metrics.json", metrics.headlines())
    assert predictions_of(result).prediction.tolist() == right.tolist()
    replaced(tmp_path / "right" / "predictions.npz", (tmp_path / "wrong" / "predictions.npz").read_bytes())
    with pytest.raises(DataError, match=r"expected the decisions that metrics\.json counts, found others"):
        predictions_of(result)
