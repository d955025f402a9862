"""A run's settings: what they are made from and read back as, and defaults that fit other rates and windows."""

import json
from pathlib import Path

import pytest

import train
from semg.common.errors import SettingError
from semg.common.length import Length
from semg.flags import training
from semg.training.augmentation import Augmentation
from semg.training.config import BANDS, TrainConfig, bands_at, patch_of


def config(*words):
    return training.config_of(train.arguments().parse_args(list(words)))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--patch", "64", "--frame", "20ms", "--bands", "20", "100.5", "--augment", "gain=0.1", "--seed", "3"],
        ["--init", "shuffled", "--backbone-lr", "2e-4", "--embed-init", "orthogonal", "--embed-scale", "backbone"],
        ["--init", "random", "--layers", "3", "--normalize", "none", "--augment", "none", "--no-precompute"],
    ],
)
def test_settings_are_read_back_as_they_were(words):
    result = config(*words)
    kept = json.loads(json.dumps(result.to_dict()))
    assert TrainConfig.from_dict(kept).to_dict() == result.to_dict()
    assert TrainConfig.from_dict(kept).augment == result.augment


def test_what_is_left_out_follows_from_the_rest():
    assert (config().lr, config().backbone_lr, config().whitening) == (1e-3, None, "append")
    assert config("--normalize", "train").whitening == "none"
    assert (config("--lr", "0.5").lr, config("--backbone-lr", "0.1").backbone_lr) == (0.5, 0.1)
    assert config().augment == Augmentation()


def test_flags_have_the_settings_own_defaults():
    plain, result = TrainConfig(shards=Path("data/shards"), split=Path("splits/default")), config()
    assert plain.to_dict() == result.to_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {"frontend": "raw", "augment": Augmentation.parse(["gain=0.1"])},
        {"normalize": "train", "whitening": "append"},
        {"ridge": 0.0},
        {"backbone": "none", "pretrain": 1},
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes):
    with pytest.raises(SettingError):
        TrainConfig(shards=Path("s"), split=Path("t"), **changes)


@pytest.mark.parametrize("key", ["patch", "bands", "augment", "shards"])
def test_what_was_not_written_by_it_is_not_read(key):
    kept = config().to_dict()
    for value in (3.5, {}, "no such thing"):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            TrainConfig.from_dict({**kept, key: value, "strange": 1})
    with pytest.raises((TypeError, KeyError)):
        TrainConfig.from_dict({name: value for name, value in kept.items() if name != key} | {"strange": 1})


@pytest.mark.parametrize(
    ("rate", "edges"),
    [
        (5120, BANDS),
        (1400, BANDS),
        (1000, (20, 36, 65, 118, 213, 386, 500)),
        (800, (20, 36, 65, 118, 213, 400)),  # 386 to 400 Hz would be no band
        (200, (20, 36, 65, 100)),
    ],
)
def test_the_highest_band_ends_at_half_the_rate(rate, edges):
    assert bands_at(rate) == edges


@pytest.mark.parametrize(
    ("window", "rate", "samples"), [(1280, 5120, 128), (320, 5120, 160), (50, 200, 5), (512, 2048, 64), (7, 200, 7)]
)
def test_a_patch_divides_the_window_and_is_near_25_ms(window, rate, samples):
    assert patch_of(window, rate) == samples
    assert Length("25ms").samples(5120) == 128
