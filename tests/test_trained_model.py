"""semg/inference/trained_model.py: what a notebook calls says what the scripts write, and refuses the rest."""

import csv
import json
import re
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_evaluate import trained  # noqa: F401  a fixture
from test_predict import checkpoint

import evaluate
import predict
from semg.common.errors import DataError, SettingError
from semg.data.shards import open_shards
from semg.data.splits import read_split
from semg.inference.trained_model import TrainedModel

SHIPPED = ROOT / "checkpoints" / "best_model.ckpt"


@pytest.fixture(scope="module")
def model():
    return TrainedModel.open(SHIPPED, "cpu")


@pytest.fixture
def signal():
    """Two seconds at 2000 Hz that get louder on the way."""
    return np.random.default_rng(0).normal(0, 50, (4000, 24)) * np.linspace(0.3, 1, 4000)[:, None]


@pytest.fixture
def script(monkeypatch):
    def run(module, *words):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words), "--device", "cpu", "--quiet"])
        return module.main()

    return run


def test_the_readmes_snippet_runs_from_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    output: dict = {}
    exec(snippet, output)  # noqa: S102  our own README
    assert list(output["table"])[:3] == ["time_s", "gesture", "p_idle"]
    assert len(output["table"]) == (10 * 5120 - 1280) // 640 + 1
    assert np.allclose(output["table"].filter(like="p_").sum(axis=1), 1, atol=1e-5)
    assert set(output["table"]["gesture"]) <= set(output["model"].classes)
    assert [one.end for one in output["decisions"]] == list(range(1280, 4001, 640))


def test_the_public_name_is_the_trained_model():
    from semg import Decoder

    assert Decoder is TrainedModel
    with pytest.raises(ImportError, match="Encoder"):
        from semg import Encoder  # noqa: F401


def test_a_recording_is_decided_as_predict_does(model, signal, script, tmp_path):
    np.save(tmp_path / "new.npy", signal)
    assert script(predict, tmp_path / "new.npy", "--checkpoint", SHIPPED, "--rate", 2000, "--out", tmp_path) == 0
    with (tmp_path / "new.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = model.predict(signal, rate=2000)
    assert list(table) == list(rows[0])
    assert table["gesture"].tolist() == [row["gesture"] for row in rows]
    np.testing.assert_allclose(table["time_s"], [float(row["time_s"]) for row in rows], atol=1e-6)
    np.testing.assert_allclose(table["p_fist"], [float(row["p_fist"]) for row in rows], atol=1e-5)


def test_shards_are_scored_as_evaluate_does(trained, script, tmp_path):  # noqa: F811
    best = trained / "run" / "best_model.ckpt"
    assert script(evaluate, "--checkpoint", best, "--out", tmp_path) == 0
    shards = open_shards(trained / "shards", read_split(trained / "split", trained / "shards").test)
    scores = TrainedModel.open(best, "cpu").score(shards)
    kept = np.load(tmp_path / "predictions.npz")
    np.testing.assert_allclose(scores.probabilities, kept["probabilities"], atol=1e-6)
    assert np.array_equal(scores.windows.start, kept["start"])


def test_folders_of_training_are_found_from_anywhere(trained, script, tmp_path, monkeypatch):  # noqa: F811
    """As relative as training was given them, and looked for above the checkpoint."""
    from semg.inference.checkpoint import open_checkpoint, write_checkpoint

    output = open_checkpoint(trained / "run" / "best_model.ckpt")
    home = tmp_path / "home"
    shutil.copytree(trained / "shards", home / "shards")
    shutil.copytree(trained / "split", home / "splits" / "one")
    split = output.description["split"] | {"folder": "splits/one"}
    best = home / "checkpoints" / "run" / "fold0" / "seed0" / "best_model.ckpt"  # as sweep.py lays them
    best.parent.mkdir(parents=True)
    write_checkpoint(best, output.description | {"shards": "shards", "split": split}, output.tensors)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert script(evaluate, "--checkpoint", best, "--out", "out") == 0
    assert json.loads((elsewhere / "out" / "metrics.json").read_text())["split"] == (home / "splits/one").as_posix()
    shutil.rmtree(home / "shards")
    with pytest.raises(DataError, match=rf"shards: expected .* found none here, nor in .*{home}.*preprocess") as error:
        script(evaluate, "--checkpoint", best, "--out", "out")
    assert "{shards}" in error.value.hint


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (np.zeros((4000, 8)), r"shape \(time, 24\), the model's channels, found float64 of shape \(4000, 8\)"),
        (np.zeros(4000), r"found float64 of shape \(4000,\)"),
        (np.full((4000, 24), "1"), "found <U1"),
        (np.full((4000, 24), np.nan), "finite numbers"),
        (np.random.default_rng(0).normal(0, 1e6, (4000, 24)), "below 65 mV"),
        (np.random.default_rng(0).normal(0, 1e300, (4000, 24)), "below 65 mV"),
        (np.zeros((100, 24)), "at least a window, 1280 samples, found 100"),
        (np.zeros((0, 24)), r"found float64 of shape \(0, 24\)"),
    ],
)
def test_what_is_no_signal_of_the_models_is_refused(model, wrong, told):
    with pytest.raises(DataError, match=told):
        model.predict(wrong)


@pytest.mark.parametrize("more", [0, 1, 2, 3])
def test_a_recording_of_a_single_window_is_decided(model, more):
    """It has fewer distinct windows than the statistics are computed in batches: that ended in NumPy's own error."""
    signal = np.random.default_rng(0).normal(0, 50, (model.window + more, 24))
    assert model.predict(signal)["time_s"].tolist() == [model.window / model.rate]


def test_rates_that_cannot_be_are_refused(model, signal):
    for rate in (0, 1e-3, 1e9, -5.0, float("nan")):
        with pytest.raises(DataError, match="expected a rate"):
            model.predict(signal, rate=rate)


def test_a_warm_up_is_refused_where_the_signal_so_far_is_not_used(tmp_path):
    model = TrainedModel.open(checkpoint(tmp_path / "m.ckpt", "train"), "cpu")
    with pytest.raises(SettingError, match="start_after: expected a model that is normalised by session, not by train"):
        model.stream(start_after=2.0)
    assert model.stream()


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(SettingError, match="device: expected one that this machine has, found abacus"):
        TrainedModel.open(SHIPPED, "abacus")
