"""Deep baselines: decimation, the training loop on small modules, deep_baselines.py with a fake braindecode."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_shards
import torch
from torch import nn

from semg.common.errors import DataError, SettingError
from semg.data.normalization import ChannelNormalization, gain_of, transform_of
from semg.data.shards import WindowSet, open_shard, open_shards, write_shard
from semg.data.windows import whole_windows
from semg.training import deep_baselines
from semg.training.augmentation import Augmentation
from semg.training.loop import DivergedError
from semg.training.optimization import OptimizerConfig

CPU = torch.device("cpu")
CHANNELS, CLASSES = 24, len(small_shards.CLASSES)


def silent(items, **_):
    return items


class LogPower(nn.Module):
    """(B, C, N) -> (B, classes): a linear map of each channel's log power."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x):
        return self.head(x.square().mean(2).add(1e-6).log())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of five people and a split of three, one and one."""
    return small_shards.write_all(tmp_path_factory.mktemp("networks"))


def parts(data, factor=4):
    shards, split = data
    train, val = (
        [open_shard(shards / r) for r in (split / f"{part}.txt").read_text().split()] for part in ("train", "val")
    )
    return [
        deep_baselines.prepare(part, factor, transform_of(part, ChannelNormalization()), CPU, silent)
        for part in (train, val)
    ]


def recipe_of(lr=0.05, **changes):
    return deep_baselines.Recipe(**{"optimizer": OptimizerConfig(lr=lr), "batch_size": 16, **changes})


def trained(data, seed=0, **changes):
    train, val = parts(data)
    torch.manual_seed(seed)
    model = LogPower()
    recipe = recipe_of(epochs=12, seed=seed, **changes)
    return model, deep_baselines.fit(model, train, val, recipe, silent, print), val


# --- windows -----------------------------------------------------------------------------------------------------


def made_of(folder: Path, signal: np.ndarray, label: np.ndarray, **arguments) -> Path:
    """A shard with a signal of one's own."""
    record = small_shards.name(3)
    meta = {
        "record": record,
        "subject": "03",
        "session": "2018-05-11",
        "order": 1,
        "task": "repeats_long",
        "rate": small_shards.RATE,
        "unit": "uV",
        "rings": small_shards.RINGS if signal.shape[1] == CHANNELS else [],
        "rest_classes": [],
        "simulated": False,
        "channels": [f"EMG_{i}" for i in range(1, signal.shape[1] + 1)],
        "classes": small_shards.CLASSES,
        "arguments": {**small_shards.ARGUMENTS, **arguments},
    }
    windows = whole_windows(
        label, range(CLASSES), meta["arguments"]["window"], meta["arguments"]["stride"], transition_margin=5
    )
    write_shard(folder / record, meta, signal.astype(np.float16), windows)
    return folder / record


def test_decimation_keeps_what_lies_below_the_new_half_rate_and_where_windows_lie(tmp_path):
    time = np.arange(5121) / small_shards.RATE
    low, high = (np.sin(2 * np.pi * f * time)[:, None] for f in (100, 1500))  # 1500 Hz would fold to 220 Hz
    label = np.repeat([0, 1, 2], 1707)
    shard = open_shard(made_of(tmp_path, 100 * np.hstack([low, high, low + high]), label, window=322, stride=163))
    kept = deep_baselines.decimated(shard, 4)

    assert (kept.rate, kept.window, kept.arguments["stride"]) == (1280.0, 80, 40)
    inner = slice(20, -20)
    np.testing.assert_allclose(kept.signal[inner, 0], 100 * low[::4][inner, 0], atol=1)
    assert np.abs(kept.signal[inner, 1].astype(float)).max() < 1
    np.testing.assert_allclose(kept.signal[inner, 2], 100 * low[::4][inner, 0], atol=1)

    whole, fewer = shard.windows, kept.windows
    np.testing.assert_array_equal(whole["label"], fewer["label"])
    late = whole["start"] - 4 * fewer["start"]
    assert late.min() >= 0
    assert late.max() < 4
    assert np.any(late > 0)
    assert np.all(fewer["low"] <= fewer["start"])
    assert np.all(fewer["start"] <= fewer["high"])
    assert np.all(4 * fewer["high"] <= whole["high"])
    assert (fewer["high"] + kept.window).max() <= len(kept.signal)


def test_decimating_by_one_changes_nothing(data):
    shards, _ = data
    shard = open_shard(shards / small_shards.name(1))
    same = deep_baselines.decimated(shard, 1)
    np.testing.assert_array_equal(same.signal, shard.signal)
    np.testing.assert_array_equal(same.windows, shard.windows)
    with pytest.raises(SettingError, match="decimate: expected at most the 320 samples of a window, found 321"):
        deep_baselines.decimated(shard, 321)


@pytest.mark.parametrize(("rate", "factor"), [(5120, 4), (10240, 8), (2560, 2), (2000, 1), (1000, 1), (200, 1)])
def test_the_usual_decimation_keeps_what_the_rate_has(rate, factor):
    """An armband's signal at 200 Hz, decimated by putEMG's factor of 4, would end at 25 Hz."""
    assert deep_baselines.usual_decimation(rate) == factor


def test_scaling_follows_the_session_or_the_training_recordings(data):
    folder, _ = data
    shards = open_shards(folder, [small_shards.name(i) for i in (1, 2, 3)])
    np.testing.assert_array_equal(
        deep_baselines.scaled_by(shards, "session", shards[:1]), transform_of(shards, ChannelNormalization())
    )
    actual = deep_baselines.scaled_by(shards, "none", shards[:2])
    np.testing.assert_array_equal(actual, np.stack([np.diag(gain_of(shards[:2]))] * 3))


def test_an_epoch_visits_windows_once_and_moves_them_within_their_segment(data):
    train, _ = parts(data)
    windows, recipe = train.windows, recipe_of()
    task = deep_baselines.RawWindows(LogPower(), train, recipe)
    order, starts = (np.concatenate(part) for part in task.order(1))
    assert len(order) == len(windows) // 16 * 16
    assert len(set(order)) == len(order)
    assert np.all((windows.low[order] <= starts) & (starts <= windows.high[order]))
    moved = np.abs(starts - windows.start[order])
    assert moved.max() <= small_shards.STRIDE // 4
    assert moved.mean() > 5

    again, _ = task.order(1)
    other, _ = task.order(2)
    np.testing.assert_array_equal(np.concatenate(again), order)
    assert not np.array_equal(np.concatenate(other), order)
    still = replace(recipe, augmentation=Augmentation.parse(["none"]))
    order, starts = (np.concatenate(part) for part in deep_baselines.RawWindows(LogPower(), train, still).order(1))
    np.testing.assert_array_equal(starts, windows.start[order])


# --- training ------------------------------------------------------------------------------------------------------


def test_training_learns_and_depends_on_the_seed_alone(data):
    model, rows, val = trained(data)
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert deep_baselines.best_epoch(rows)["val_macro_f1"] > 0.9
    actual = deep_baselines.probabilities(model, val)
    assert np.mean(actual.argmax(1) == val.windows.label) == pytest.approx(
        deep_baselines.best_epoch(rows)["val_accuracy"]
    )

    again, same, _ = trained(data)
    assert same == rows
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    other, _, _ = trained(data, seed=1)
    assert not torch.equal(other.head.weight, model.head.weight)


class Spoiling(LogPower):
    """Useless after as many training steps as `good`: the last epoch is not the best."""

    def __init__(self, good):
        super().__init__()
        self.good = good
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        self.steps += self.training
        first_class = torch.eye(CLASSES)[0]
        return super().forward(x) + 50 * first_class * (self.steps > self.good)


def test_the_weights_kept_are_those_of_the_best_validation_epoch(data):
    train, val = parts(data)
    steps = len(train.windows) // 16
    model = Spoiling(good=2 * steps)
    rows = deep_baselines.fit(model, train, val, recipe_of(epochs=4), silent, print)
    best = deep_baselines.best_epoch(rows)
    assert best["epoch"] <= 2
    assert model.steps == best["epoch"] * steps
    assert rows[3]["val_macro_f1"] < best["val_macro_f1"]
    assert not model.training


class Recording(LogPower):
    """Keeps what it was trained on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x.detach().clone())
        return super().forward(x)


def test_windows_are_changed_as_in_train_py(tmp_path):
    signal = np.tile(np.arange(1.0, CHANNELS + 1), (3000, 1))  # every channel says which it is
    shard = open_shard(made_of(tmp_path, signal, np.repeat(np.arange(3), 1000), stride=10))
    batches = deep_baselines.prepare([shard], 4, np.eye(CHANNELS, dtype=np.float32)[None], CPU, silent)
    model = Recording()
    deep_baselines.fit(model, batches, batches, recipe_of(lr=1e-3, epochs=2), silent, print)

    rings = np.arange(1, CHANNELS + 1).reshape(3, 8)
    turned = {step: np.roll(rings, step, axis=1).ravel() for step in (-1, 0, 1)}
    counts, hidden = dict.fromkeys(turned, 0), 0.0
    windows = torch.cat(model.seen)[:, :, 40]  # the middle, away from the decimated recording's ends
    for window in windows.numpy():
        shown = window != 0
        hidden += 1 - shown.mean()
        (step,) = (step for step, expected in turned.items() if np.allclose(window[shown], expected[shown], rtol=0.01))
        counts[step] += 1
    assert counts[0] / len(windows) == pytest.approx(0.5, abs=0.1)
    assert counts[1] / len(windows) == pytest.approx(0.25, abs=0.1)
    assert hidden / len(windows) == pytest.approx(0.1, abs=0.02)
    assert Augmentation().rotated(0.5) == deep_baselines.AUGMENTATION


def test_a_loss_that_is_no_number_stops_training(data):
    with pytest.raises(DivergedError, match="step 0: expected a finite loss and gradient, found loss nan"):
        train, val = parts(data)
        model = LogPower()
        nn.init.constant_(model.head.weight, float("nan"))
        deep_baselines.fit(model, train, val, recipe_of(epochs=1), silent, print)


# --- deep_baselines.py ------------------------------------------------------------------------------------------------

FAKE_MODELS = """
import torch

class EEGNet(torch.nn.Module):
    def __init__(self, n_chans, n_outputs, n_times):
        super().__init__()
        if n_times < 40:
            raise ValueError("kernel longer than input")
        if n_chans == 1 and type(self).__name__ == "ShallowFBCSPNet":
            raise RuntimeError("self must be a matrix")
        self.shape = (n_chans, n_times)
        self.head = torch.nn.Linear(n_chans, n_outputs)

    def forward(self, x):
        assert x.shape[1:] == self.shape
        return self.head(x.square().mean(2).add(1e-6).log())

class ShallowFBCSPNet(EEGNet):
    pass
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """`fake(init)` puts a package braindecode that runs `init` first on the path."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "braindecode"]:
            del sys.modules[name]

    def make(init: str = "") -> None:
        package = tmp_path / "packages" / "braindecode"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(init)
        (package / "models.py").write_text(FAKE_MODELS)
        monkeypatch.syspath_prepend(package.parent)
        forget()

    yield make
    forget()


@pytest.fixture
def score(data, run_here, tmp_path):
    shards, split = data
    given = ("--shards", shards, "--split", split, "--out", tmp_path / "out", "--epochs", 40, "--lr", 0.1)

    def run(*arguments, code=0):
        return run_here("deep_baselines.py", *given, "--device", "cpu", *arguments, code=code)

    return run


def test_networks_are_scored_on_the_windows_of_the_others(data, score, fake, tmp_path):
    fake()
    done = score("--networks", "shallow", "eegnet")
    shards, split = data
    windows = WindowSet(open_shards(shards, (split / "test.txt").read_text().split()))
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"shallow-raw", "eegnet-raw"}
    for folder in out.iterdir():
        names = {"metrics.json", "per_subject.csv", "predictions.npz", "confusion_matrix.png", "per_subject.png"}
        assert {path.name for path in folder.iterdir()} == names
        metrics = json.loads((folder / "metrics.json").read_text())
        with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
            np.testing.assert_array_equal(arrays["record"], windows.record)
            np.testing.assert_array_equal(arrays["start"], windows.start)
            np.testing.assert_array_equal(arrays["label"], windows.label)
            np.testing.assert_array_equal(arrays["probabilities"].argmax(1), arrays["prediction"])
        assert metrics["macro_f1"] > 0.8  # the classes differ plainly
        assert metrics["subset"] == "test"
        assert len(metrics["epochs"]) == metrics["baseline"]["recipe"]["epochs"] == 40
        assert metrics["best_epoch"] == deep_baselines.best_epoch(metrics["epochs"])["epoch"]
        assert metrics["n_parameters"] == CLASSES * (CHANNELS + 1)
        assert (metrics["trained_on_subjects_scored"], metrics["chosen_on_subjects_scored"]) == ([], [])
    assert metrics["baseline"]["network"] in ("ShallowFBCSPNet", "EEGNet")
    assert metrics["baseline"]["decimate"] == metrics["made"]["arguments"]["decimate"] == 4
    assert "recordings decimated by 4, to 1280 Hz" in done.stdout
    assert "compare.py" in done.stdout

    done = score("--networks", "shallow")
    assert "1 of 1 results are there already" in done.stdout
    done = score("--networks", "shallow", "--decimate", 2, code=1)
    assert "decimate 2, found 4" in done.stderr


@pytest.mark.parametrize(
    ("name", "samples", "told"),
    [
        ("shallow", 320, r"ShallowFBCSPNet: expected two channels or more, found 1 .*; name others as {networks}"),
        ("shallow", 30, r"ShallowFBCSPNet: expected windows as long as its filters, found 30 samples"),
        ("eegnet", 30, r"EEGNet: expected windows as long as its filters, found 30 samples"),
    ],
)
def test_the_advice_for_a_network_of_one_channel_fits_what_is_wrong(fake, name, samples, told):
    fake()
    with pytest.raises(DataError) as error:
        deep_baselines.build(name, channels=1, samples=samples, classes=2, seed=0)
    assert re.search(told, f"{error.value.message}; {error.value.hint}")


def test_some_of_the_gestures_are_trained_and_scored_alone(data, score, fake, tmp_path):
    fake()
    score("--networks", "shallow", "--no-idle", "--epochs", 2)
    shards, split = data
    windows = WindowSet(open_shards(shards, (split / "test.txt").read_text().split()))
    output = json.loads((tmp_path / "out" / "shallow-raw" / "metrics.json").read_text())
    with np.load(tmp_path / "out" / "shallow-raw" / "predictions.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["start"], windows.start[windows.label > 0])
        assert arrays["probabilities"].shape[1] == CLASSES - 1
    assert (output["classes_left_out"], list(output["per_class"])) == (
        small_shards.CLASSES[:1],
        small_shards.CLASSES[1:],
    )
    assert output["n_parameters"] == (CLASSES - 1) * (CHANNELS + 1)


def test_the_test_people_have_no_part_in_training(data, score, fake, tmp_path):
    """The same network with the test person's recording made otherwise: all that was chosen is the same."""
    fake()
    score("--networks", "eegnet")
    shards, split = data
    other = tmp_path / "shards"
    other.mkdir()
    tested = (split / "test.txt").read_text().split()
    for shard in shards.iterdir():
        (other / shard.name).symlink_to(shard)
    for record in tested:
        (other / record).unlink()
        small_shards.write(other, 5, repetitions=2)
    score("--networks", "eegnet", "--shards", other, "--out", tmp_path / "again")
    output = [json.loads((tmp_path / out / "eegnet-raw/metrics.json").read_text()) for out in ("out", "again")]
    assert output[0]["n_windows"] != output[1]["n_windows"]
    assert output[0]["epochs"] == output[1]["epochs"]


@pytest.mark.parametrize(
    ("init", "arguments", "code", "expected"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'braindecode'\", name='braindecode')",
            ["--networks", "shallow"],
            1,
            "expected the package braindecode for this network, found none; pip install braindecode",
        ),
        ("import no_such_package", ["--networks", "shallow"], 1, "expected it to load, found No module named"),
        ("raise OSError('libcudart.so.13: cannot open')", ["--networks", "eegnet"], 1, "torchaudio in the same build"),
        ("", ["--networks", "conformer"], 1, "expected it to have EEGConformer"),
        ("", ["--networks", "eegnet", "--decimate", "16"], 1, "expected windows as long as its filters, found 20"),
        ("", ["--networks", "eegnet", "--decimate", "999"], 2, "--decimate 999: expected at most the 320 samples"),
        ("", ["--networks", "eegnet", "--lr", "1e15"], 1, "give a smaller --lr than 1e+15"),
        ("", ["--networks", "eegnet", "--features", "rms"], 2, "unrecognized arguments: --features rms"),
        ("", ["--networks", "eegnet", "--subset", "train"], 2, "not trained on"),
        ("", ["--networks", "resnet"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(score, fake, tmp_path, init, arguments, code, expected):
    fake(init)
    done = score(*arguments, code=code)
    assert expected in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "out").glob("*/metrics.json"))


def test_a_network_that_cannot_be_trained_does_not_stop_the_others(score, fake, tmp_path):
    fake()
    models = tmp_path / "packages" / "braindecode" / "models.py"
    models.write_text(
        FAKE_MODELS.replace("    pass", "    def forward(self, x):\n        return super().forward(x) / 0")
    )
    done = score("--networks", "shallow", "eegnet", code=1)
    assert "expected a finite loss" in done.stderr
    assert not (tmp_path / "out/shallow-raw/metrics.json").exists()
    assert (tmp_path / "out/eegnet-raw/metrics.json").exists()
