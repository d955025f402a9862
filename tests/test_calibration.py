"""Adapting to a new person: which windows are used, what is scored, what trains."""

import json
import sys

import numpy as np
import pytest
import small_shards
import torch

import train
from model import GPT2Classifier, ModelConfig
from semg.common.errors import DataError, UsageError
from semg.data.shards import WindowSet, open_shards
from semg.training.calibration import adaptable, repetition_of_subject

TINY = "--layers 1 --width 16 --patch 64 --frame 160 --epochs 2 --batch-size 32 --init random --device cpu --quiet"


def test_repetitions_count_over_a_persons_recordings_in_the_order_of_recording(tmp_path):
    records = [
        small_shards.write(tmp_path, 3, day=20, repetitions=2),
        small_shards.write(tmp_path, 4, day=11, repetitions=1),
        small_shards.write(tmp_path, 3, day=11, repetitions=2),
    ]
    windows = WindowSet(open_shards(tmp_path, records))
    found = repetition_of_subject(windows)
    for place, expected in ((0, {2, 3}), (1, {0}), (2, {0, 1})):
        assert set(found[windows.shard == place]) == expected
    own = (windows.shard == 2) & (windows.label == 1)
    assert np.array_equal(found[own], windows.repetition[own])


@pytest.mark.parametrize("tune", ["full", "frozen", "fpt", "lora", "last:1"])
def test_an_adaptable_copy_computes_the_same_and_trains_what_it_should(tune):
    torch.manual_seed(0)
    config = ModelConfig(channels=8, samples=256, patch=32, frame=128, band_edges=(0.01, 0.1), width=16, heads=2)
    model = GPT2Classifier(config).eval()
    copy = adaptable(model, tune).eval()
    x = torch.randn(3, 8, 256)
    torch.testing.assert_close(copy(x), model(x))
    expected = GPT2Classifier(ModelConfig(**{**config.to_dict(), "band_edges": (0.01, 0.1), "tune": tune}))
    assert copy.parameter_counts() == expected.parameter_counts()
    assert copy is not model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Shards of people of whom the test person is loud on other channels, a split, and a trained model."""
    folder = tmp_path_factory.mktemp("calibration")
    shards, split = small_shards.write_all(folder)
    sys.argv = ["train.py", "--shards", shards, "--split", split, "--out", folder / "run", *TINY.split()]
    sys.argv = [str(word) for word in sys.argv]
    train.main()
    return folder


def calibrate(run, monkeypatch, out, *flags):
    common = ["--shards", run / "shards", "--split", run / "split", "--init-from", run / "run" / "best_model.ckpt"]
    words = ["train.py", *common, "--out", out, "--device", "cpu", "--quiet", *flags]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    return train.main()


def test_later_repetitions_alone_are_scored_beside_the_model_as_it_was(run, tmp_path, monkeypatch):
    assert calibrate(run, monkeypatch, tmp_path / "r", "--calibrate", 1, "--epochs", 15, "--lr", 0.01) == 0
    told = json.loads((tmp_path / "r" / "metrics.json").read_text())
    found = np.load(tmp_path / "r" / "predictions.npz", allow_pickle=False)
    assert told["calibrate"] == 1
    assert told["n_windows"] == len(found["start"]) == 40
    assert found["start"].min() >= len(small_shards.labels(1))
    before = told["zero_shot_on_the_same_windows"]["mean_over_subjects"]["macro_f1"]
    assert told["mean_over_subjects"]["macro_f1"] > max(before, 0.8)
    again = calibrate(run, monkeypatch, tmp_path / "again", "--calibrate", 1, "--epochs", 15, "--lr", 0.01)
    assert again == 0
    assert (tmp_path / "again" / "predictions.npz").read_bytes() == (tmp_path / "r" / "predictions.npz").read_bytes()


def test_what_cannot_be_calibrated_is_told(run, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="none of idle; choose fewer repetitions than --calibrate 3"):
        calibrate(run, monkeypatch, tmp_path, "--calibrate", 3)
    monkeypatch.setattr(sys, "argv", ["train.py", "--calibrate", "1"])
    with pytest.raises(UsageError, match="expected both or neither"):
        train.main()
