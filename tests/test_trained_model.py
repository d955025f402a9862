"""semg/inference/trained_model.py: what a notebook calls says what the scripts write, and refuses the rest."""

import csv
import json
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from test_evaluate import trained  # noqa: F401  a fixture
from test_predict import checkpoint

import evaluate
import predict
from semg.common.errors import DataError, SettingError
from semg.data.shards import open_shards
from semg.data.splits import read_split
from semg.inference.checkpoint import open_checkpoint, write_checkpoint
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
        (np.zeros((0, 24)), "at least a window, 1280 samples, found 0"),
        ([[1.0] * 24, [1.0]], r"shape \(time, 24\), the model's channels, found setting an array element"),
        (np.random.default_rng(0).normal(0, 50e-6, (4000, 24)), r"an RMS of 0\.1 to 10000 uV, found .*e-05: is the"),
        (np.zeros((4000, 24)), r"an RMS of 0\.1 to 10000 uV, found 0: "),
    ],
)
def test_what_is_no_signal_of_the_models_is_refused(model, wrong, told):
    with pytest.raises(DataError, match=told):
        model.predict(wrong)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rate", [None, 2000])
def test_impossible_amplitudes_are_refused_at_any_rate_without_a_warning_of_numpy(model, rate):
    with pytest.raises(DataError, match="below 65 mV"):
        model.predict(np.full((8000, 24), 1e300), rate)


def test_a_rate_too_low_for_the_models_band_is_warned_of(model, signal):
    """predict.py and live.py warn, too; from Python, nothing was said."""
    with pytest.warns(UserWarning, match="1000 Hz has nothing above 500 Hz, where the model expects signal to 700 Hz"):
        model.predict(signal, rate=1000)


def test_a_program_in_which_numpy_raises_gets_the_same_decisions(model, signal):
    expected = model.predict(signal), [one.probabilities for one in model.stream().push(signal)]
    with np.errstate(all="raise"):
        pd.testing.assert_frame_equal(model.predict(signal), expected[0])
        np.testing.assert_array_equal([one.probabilities for one in model.stream().push(signal)], expected[1])


@pytest.mark.parametrize("more", [0, 1, 2, 3])
def test_a_recording_of_a_single_window_is_decided(model, more):
    """It has fewer distinct windows than the statistics are computed in batches: that ended in NumPy's own error."""
    signal = np.random.default_rng(0).normal(0, 50, (model.window + more, 24))
    assert model.predict(signal)["time_s"].tolist() == [model.window / model.rate]


def test_rates_that_cannot_be_are_refused(model, signal):
    for rate in (0, 1e-3, 1e9, -5.0, float("nan")):
        with pytest.raises(DataError, match="expected a rate"):
            model.predict(signal, rate=rate)


@pytest.mark.parametrize("rate", [np.float32(2000), np.array([[2000]], np.uint16), "2000"])
def test_a_rate_is_a_number_however_it_is_stored(model, signal, rate):
    """scipy.io.loadmat reads one as a matrix of whole numbers; a mean of float32 times is one of NumPy's."""
    pd.testing.assert_frame_equal(model.predict(signal, rate=rate), model.predict(signal, rate=2000))


@pytest.mark.parametrize("rate", [[2000, 2000], "2 kHz", {}])
def test_a_rate_that_is_no_number_is_refused(model, signal, rate):
    with pytest.raises(DataError, match="expected a rate in Hz, found "):
        model.predict(signal, rate=rate)


def test_a_recording_that_is_too_short_is_measured_in_its_own_samples(model, script, tmp_path, capsys):
    """It was told in samples of the model's rate, which it does not have."""
    signal = np.random.default_rng(0).normal(0, 50, (500, 24))
    assert len(model.predict(signal, rate=2000)) == 1
    with pytest.raises(DataError, match="expected at least a window, 500 samples, found 499"):
        model.predict(signal[:499], rate=2000)
    np.save(tmp_path / "short.npy", signal[:499])
    assert script(predict, tmp_path / "short.npy", "--checkpoint", SHIPPED, "--rate", 2000, "--out", tmp_path) == 1
    assert "short.npy: expected at least a window, 500 samples, found 499" in capsys.readouterr().err


def test_columns_of_a_data_frame_are_taken_by_name(model, signal):
    """As predict.py takes those of a table. In another order they were taken for each other."""
    expected = model.predict(signal)
    named = pd.DataFrame(signal, columns=list(model.channels))
    others = {"upside down": named.iloc[:, ::-1], "with a time": named.assign(time=np.arange(len(named)))}
    for how, frame in {**others, "unnamed": pd.DataFrame(signal)}.items():
        pd.testing.assert_frame_equal(model.predict(frame), expected, obj=how)
    by_block = [model.stream().push(values)[-1].probabilities for values in (signal, named.iloc[:, ::-1])]
    np.testing.assert_array_equal(*by_block)
    with pytest.raises(DataError, match=r"^signal: expected the model's channel EMG_24, found EMG_1, [^;]*$"):
        model.predict(named.rename(columns={"EMG_24": "other"}))


@pytest.mark.parametrize("normalize", ["session", "train", "none"])
def test_samples_of_a_device_of_its_own_unit_are_scaled_as_in_training(tmp_path, script, signal, normalize):
    """import_csv.py without --unit multiplies them by a factor; predict and stream took them for microvolts."""
    saved = open_checkpoint(checkpoint(tmp_path / "m.ckpt", normalize, causal=True))
    arguments = saved.description["data"]["arguments"] | {"scale": 1e6}
    data = saved.description["data"] | {"unit": "arbitrary", "arguments": arguments}
    write_checkpoint(tmp_path / "m.ckpt", saved.description | {"data": data}, saved.tensors)
    np.save(tmp_path / "volts.npy", signal * 1e-6)
    words = (tmp_path / "volts.npy", "--checkpoint", tmp_path / "m.ckpt", "--rate", 5120, "--out")
    assert script(predict, *words, tmp_path / "whole") == script(predict, *words, tmp_path / "live", "--stream") == 0
    whole, live = (pd.read_csv(tmp_path / how / "volts.csv").filter(like="p_") for how in ("whole", "live"))
    model = TrainedModel.open(tmp_path / "m.ckpt", "cpu")
    np.testing.assert_allclose(model.predict(signal * 1e-6).filter(like="p_"), whole, atol=1e-5)
    streamed = [one.probabilities for one in model.stream().push(signal * 1e-6)]
    np.testing.assert_allclose(streamed, live, atol=1e-5)
    with pytest.raises(DataError, match=r"an RMS of 1e-07 to 0\.01 in the unit of its training, found "):
        model.predict(signal * 1e-12)


def test_a_warm_up_is_refused_where_the_signal_so_far_is_not_used(tmp_path):
    model = TrainedModel.open(checkpoint(tmp_path / "m.ckpt", "train"), "cpu")
    with pytest.raises(SettingError, match="start_after: expected a model that is normalised by session, not by train"):
        model.stream(start_after=2.0)
    assert model.stream()


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(SettingError, match="device: expected one that this machine has, found abacus"):
        TrainedModel.open(SHIPPED, "abacus")
