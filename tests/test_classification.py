"""What a training run learns and by which weights it is scored: balance, smoothed targets, averaged weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import RANDOM, data, here, of_classes, rows, weights  # noqa: F401  fixtures

from semg.data.shards import open_shard
from semg.inference.trained_model import TrainedModel
from semg.training.classification import Classification, class_weights

PLAIN = [*RANDOM, "--augment", "none"]


@dataclass
class Windows:
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


def test_weights_of_classes_are_the_inverse_of_their_shares_and_one_on_average():
    label = np.repeat([0, 1, 3], [60, 30, 10])
    actual = class_weights(Windows(label), 4).numpy()
    assert actual[2] == 0, "a class without a window"
    np.testing.assert_allclose(actual[[0, 1, 3]] * [60, 30, 10], 100 / 3, rtol=1e-6)
    assert actual[label].mean() == pytest.approx(1)


def test_the_sampler_shows_rare_gestures_as_often_as_common_ones(here, tmp_path, monkeypatch):  # noqa: F811
    seen, loss = [], Classification.loss

    def counted(self, batch, generator):
        seen.append(batch.label)
        return loss(self, batch, generator)

    monkeypatch.setattr(Classification, "loss", counted)
    places = of_classes(tmp_path, train=[*[0] * 20, 1, 2, 3], val=[0, 1, 2, 3], test=[0, 1, 2, 3])
    shares = {}
    for balance in ("none", "sampler"):
        seen.clear()
        here(tmp_path / balance, *PLAIN, *places, "--balance", balance)
        shares[balance] = np.bincount(torch.cat(seen).numpy(), minlength=4) / sum(map(len, seen))
    assert shares["none"][0] > 0.8
    np.testing.assert_allclose(shares["sampler"], 0.25, atol=0.1)


@pytest.mark.parametrize("balance", ["none", "loss"])
def test_no_loss_is_below_the_uncertainty_of_smoothed_targets(here, tmp_path, balance):  # noqa: F811
    """Whoever is sure of the gesture is wrong by what smoothing gives to the others."""
    losses = []
    for smoothing in (0.0, 0.8):
        flags = ("--balance", balance, "--label-smoothing", smoothing, "--lr", 0.02)
        here(tmp_path / f"{smoothing}", *PLAIN, *flags)
        losses.append(rows(tmp_path / f"{smoothing}")[-1]["train/loss"])
    target = np.array([0.4, 0.2, 0.2, 0.2])  # 0.2 + 0.8 / 4 of the window's own gesture
    assert losses[0] < 1.1 < -(target * np.log(target)).sum() < losses[1]


def test_the_averaged_weights_are_those_that_are_validated_and_kept(here, data, tmp_path):  # noqa: F811
    here(tmp_path, *PLAIN, "--ema", 0.9, "--epochs", 1)
    kept, last = weights(tmp_path / "best_model.ckpt"), weights(tmp_path / "last.ckpt")
    names = [name.removeprefix("ema.") for name in last if name.startswith("ema.")]
    assert names
    assert all(torch.equal(kept[f"model.{name}"], last[f"ema.{name}"]) for name in names)
    assert any(not torch.equal(kept[f"model.{name}"], last[f"model.{name}"]) for name in names)
    shards, split = Path(data[1]), Path(data[3])
    validated = [open_shard(shards / record) for record in (split / "val.txt").read_text().split()]
    scores = TrainedModel.open(tmp_path / "best_model.ckpt", "cpu").score(validated)
    decided, label = scores.probabilities, scores.windows.label
    expected = -np.log(decided[np.arange(len(label)), label]).mean()
    assert rows(tmp_path)[0]["val/loss"] == pytest.approx(expected, rel=1e-4)
