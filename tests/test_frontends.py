"""semg/frontends.py: what tokens are made of, and that a new feature is one class and one name."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import small_shards
import torch
from torch import Tensor

import evaluate
import export
import predict
import train
from model import GPT2Classifier, ModelConfig
from semg import frontends
from semg.common.errors import SettingError
from semg.frontends import FEATURES, FrameFeature, FrontEnd


def test_band_powers_measure_a_sine_in_its_band_and_white_noise_as_zero():
    config = ModelConfig(channels=2, samples=1280, patch=64, frame=256)
    time = torch.arange(1280)
    x = torch.stack([torch.sin(2 * torch.pi * 0.03 * time), torch.randn(1280) * 0])[None]
    powers = FrontEnd(config)(x).view(20, 2, 6)
    assert powers[:, 0].argmax(-1).unique().tolist() == [3]  # 0.0230 to 0.0416 cycles a sample
    assert torch.allclose(powers[:, 1], torch.tensor(1e-4).log(), atol=1e-4)
    torch.manual_seed(0)
    noise = FrontEnd(config)(torch.randn(400, 2, 1280)).view(400, 20, 2, 6).exp().mean((0, 1, 2))
    np.testing.assert_allclose(noise.numpy(), np.ones(6), rtol=0.05)


def test_band_powers_equal_the_fft_of_hann_frames_centred_on_the_patches():
    config = ModelConfig(channels=1, samples=640, patch=64, frame=192, band_edges=(0.01, 0.1, 0.3))
    x = torch.randn(1, 1, 640)
    actual = FrontEnd(config)(x)[0]
    window = np.hanning(192)
    for token, at in enumerate(range(0, 640, 64)):
        start = min(max(0, at + 32 - 96), 640 - 192)
        spectrum = np.abs(np.fft.rfft(x[0, 0, start : start + 192].numpy() * window)) ** 2 / np.sum(window**2)
        for band, (low, high) in enumerate([(0.01, 0.1), (0.1, 0.3)]):
            centre = np.fft.rfftfreq(192)
            half = 0.5 / 192
            share = np.clip(np.minimum(centre + half, high) - np.maximum(centre - half, low), 0, None)
            power = np.sum(spectrum * share) / np.sum(share)
            assert actual[token, band] == pytest.approx(np.log(power + 1e-4), abs=2e-3)


def test_a_frame_of_two_samples_is_refused():
    """Its Hann window is zero throughout: every band was NaN, and training ended at its first step. 50 ms at 50 Hz."""
    shape = {"channels": 2, "samples": 12, "patch": 1, "band_edges": (0.04, 0.24, 0.48)}
    with pytest.raises(SettingError, match="frame: expected at least 3 for such band_edges, found 2"):
        ModelConfig(**shape, frame=2)
    assert FrontEnd(ModelConfig(**shape, frame=3))(torch.randn(2, 2, 12)).isfinite().all()


def test_the_narrowest_band_that_a_frame_resolves_is_taken():
    """Of 200 Hz, 25 - 20 Hz is a rounding error less than 0.025: a frame of 50 ms was refused for them."""
    shape = {"channels": 2, "samples": 50, "patch": 5, "frame": 10}
    assert ModelConfig(**shape, band_edges=(20 / 200, 25 / 200)).frame == 10
    with pytest.raises(SettingError, match="frame: expected at least 11 for such band_edges, found 10"):
        ModelConfig(**shape, band_edges=(20 / 200, 24.9 / 200, 80 / 200))


@pytest.mark.parametrize("edges", [(0.0, 0.45), tuple(place / 1000 for place in range(100))])
def test_the_longest_frame_that_is_named_is_the_longest_that_is_taken(monkeypatch, edges):
    """Whether a wide band needs most numbers or many narrow ones do."""
    monkeypatch.setattr(frontends, "MOST_WAVES", 40_000)
    shape = {"channels": 2, "samples": 1280, "patch": 64, "band_edges": edges}
    with pytest.raises(SettingError, match="frame: expected at most") as refused:
        ModelConfig(**shape, frame=1280)
    (longest,) = re.findall(r"at most (\d+) for such band_edges", str(refused.value))
    assert ModelConfig(**shape, frame=int(longest)).frame > 200
    with pytest.raises(SettingError, match="frame: expected at most"):
        ModelConfig(**shape, frame=int(longest) + 1)


@pytest.mark.parametrize(("patch", "frame"), [(64, 256), (128, 256), (32, 64), (64, 64)])
def test_cached_bands_of_a_recording_hold_the_tokens_of_its_windows(patch, frame):
    config = ModelConfig(channels=3, samples=640, patch=patch, frame=frame, band_edges=(0.02, 0.1, 0.3))
    powers = FrontEnd(config)
    frames = powers.frames
    recording, transform = torch.randn(4000, 2), torch.randn(2, 3)
    cached = powers.of_recording(recording, transform)
    transformed = (recording @ transform).T[None]
    for start in range(0, 4000 - 640, 7 * frames.hop):
        expected = powers(transformed[..., start : start + 640])[0]
        torch.testing.assert_close(cached[start // frames.hop + frames.at], expected)


def test_band_powers_do_not_depend_on_how_many_windows_are_taken_at_once(monkeypatch):
    powers = FrontEnd(ModelConfig(channels=3))
    x = torch.randn(70, 3, 1280)
    whole = powers(x)
    monkeypatch.setattr("semg.frontends.FRAME_BYTES", 1)
    torch.testing.assert_close(powers(x), whole)
    recording = torch.randn(5000, 3)
    alone = powers.of_recording(recording, torch.eye(3))
    monkeypatch.setattr("semg.frontends.FRAME_BYTES", 1 << 30)
    torch.testing.assert_close(powers.of_recording(recording, torch.eye(3)), alone)


class WaveformLength(FrameFeature):
    """The sum of the steps from sample to sample, on a logarithmic scale: a feature that this project does not have."""

    per_channel = 1

    def of_frames(self, frames: Tensor) -> Tensor:
        return frames.diff(dim=3).abs().sum(3, keepdim=True).log1p()


@pytest.fixture
def length(monkeypatch):
    """The whole of what adding a feature takes: its class, and its name in the registry."""
    monkeypatch.setitem(FEATURES, "length", WaveformLength)


@pytest.mark.usefixtures("length")
def test_a_new_feature_trains_is_scored_predicted_streamed_and_exported(monkeypatch, tmp_path):
    shards, split = small_shards.write_all(tmp_path)
    np.save(tmp_path / "new.npy", np.random.default_rng(0).normal(0, 30, (5120, 24)))

    def script(module, *words):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words)])
        assert module.main() == 0

    tiny = "--frontend bands+length --layers 1 --width 16 --patch 64 --frame 160 --epochs 4 --batch-size 32 --lr 0.01"
    how = "--init random --pretrain 1 --augment band_rotation=0.5 channel_dropout=0.1 jitter=1"
    places = ("--shards", shards, "--split", split)
    script(train, *places, "--out", tmp_path / "run", *tiny.split(), *how.split(), "--device", "cpu")
    best = tmp_path / "run" / "best_model.ckpt"
    script(evaluate, "--checkpoint", best, "--out", tmp_path / "results", "--device", "cpu")
    assert json.loads((tmp_path / "results" / "metrics.json").read_text())["macro_f1"] > 0.9
    for flags in ((), ("--stream", "--start-after", "0.2")):
        rate = ("--rate", "5120", "--device", "cpu")
        script(predict, tmp_path / "new.npy", "--checkpoint", best, *rate, "--out", tmp_path / "predicted", *flags)
        assert (tmp_path / "predicted" / "new.csv").read_text().count("\n") > 20
    script(export, "--checkpoint", best, "--out", tmp_path / "exported")  # ONNX computes the same, or this fails


@pytest.mark.usefixtures("length")
def test_a_new_feature_is_normalised_by_the_session_and_the_layout_says_where_it_lies():
    config = ModelConfig(channels=3, samples=640, patch=64, frame=128, frontend="raw+length+bands", layers=1, width=16)
    model = GPT2Classifier(config)
    assert [(group.name, group.start, group.size) for group in model.frontend.groups] == [
        ("raw", 0, 3 * 64),
        ("length", 192, 3),
        ("bands", 195, 18),
    ]
    x = 5 * torch.randn(40, 3, 640)
    statistics = model.finish_statistics(model.token_statistics(x)).expand(40, 2, -1)
    tokens = model.tokens(x, statistics)
    for group in model.frontend.groups:
        own = group.of(tokens)
        if group.normalized:
            assert abs(own.mean()) < 1e-4
            assert abs(own.std() - 1) < 1e-2
        else:
            torch.testing.assert_close(own, x.transpose(1, 2).unflatten(1, (10, 64)))
    alone = FrontEnd(replace(config, frontend="length"))
    torch.testing.assert_close(model.frontend.groups[1].of(model.features(x))[..., 0], alone(x))


@pytest.mark.usefixtures("length")
def test_what_a_token_is_made_of_says_which_samples_it_reads():
    for frontend in ("bands", "length", "raw", "raw+bands"):
        front = FrontEnd(ModelConfig(channels=2, samples=640, patch=64, frame=192, frontend=frontend))
        first, last = front.spans()
        x = torch.randn(1, 2, 640)
        for token in (0, 4, 9):
            outside = x.clone()
            outside[..., : first[token]] = 9.0
            outside[..., last[token] :] = -9.0
            torch.testing.assert_close(front(outside)[:, token], front(x)[:, token])


@pytest.mark.parametrize("wrong", ["mel", "bands+mel", "bands+bands", "both+raw", ""])
def test_front_ends_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="frontend: expected"):
        ModelConfig(frontend=wrong)
