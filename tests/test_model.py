"""The network: shapes, what trains, pretrained weights, what the front-end measures."""

import numpy as np
import pytest
import torch

from model import FRONTENDS, POOLINGS, BandPowers, GPT2Classifier, ModelConfig

SMALL = {"channels": 8, "samples": 256, "patch": 32, "frame": 128, "band_edges": (0.01, 0.05, 0.14)}


def small(**changes) -> GPT2Classifier:
    torch.manual_seed(0)
    return GPT2Classifier(ModelConfig(**{**SMALL, "width": 16, "heads": 2, **changes}))


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("kind", ["gpt2", "attention", "none"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_windows_become_logits_and_everything_that_trains_gets_a_gradient(frontend, kind, pooling):
    model = small(frontend=frontend, backbone=kind, pooling=pooling)
    logits = model(torch.randn(3, 8, 256))
    assert logits.shape == (3, 8)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        if name != "backbone.wpe.weight" or pooling == "mean":
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gpt2_small_trains_824832_backbone_parameters_under_fpt():
    """Lu et al. 2021: 25 LayerNorms of 2 x 768 and 1024 positions of 768."""
    model = GPT2Classifier(ModelConfig(layers=12, width=768, heads=12, tune="fpt"))
    assert model.parameter_counts()["backbone_trainable"] == 824_832


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ("full", 3 * (12 * 16**2 + 13 * 16) + 2 * 16 + 1024 * 16),
        ("last:1", 12 * 16**2 + 13 * 16 + 2 * 16),
        ("last:2", 2 * (12 * 16**2 + 13 * 16) + 2 * 16),
        ("fpt", 7 * 2 * 16 + 1024 * 16),
        ("lora", 3 * 4 * (16 + 3 * 16 + 16 + 16)),
        ("frozen", 0),
    ],
)
def test_trainable_parameters_are_exactly_those_named(tune, expected):
    counts = small(layers=3, tune=tune, lora_rank=4).parameter_counts()
    assert counts["backbone_trainable"] == expected
    outside = small(layers=3, tune="frozen").parameter_counts()["trainable"]
    assert counts["trainable"] == expected + outside


def test_no_embedding_matrix_of_words_is_kept():
    names = [name for name, _ in small().named_parameters()]
    assert not [name for name in names if "wte" in name]
    assert not [name for name in small().state_dict() if "wte" in name]


def test_band_powers_measure_a_sine_in_its_band_and_white_noise_as_zero():
    config = ModelConfig(channels=2, samples=1280, patch=64, frame=256)
    time = torch.arange(1280)
    x = torch.stack([torch.sin(2 * torch.pi * 0.03 * time), torch.randn(1280) * 0])[None]
    powers = BandPowers(config)(x).view(20, 2, 6)
    assert powers[:, 0].argmax(-1).unique().tolist() == [3]  # 0.0230 to 0.0416 cycles a sample
    assert torch.allclose(powers[:, 1], torch.tensor(1e-4).log(), atol=1e-4)
    torch.manual_seed(0)
    noise = BandPowers(config)(torch.randn(400, 2, 1280)).view(400, 20, 2, 6).exp().mean((0, 1, 2))
    np.testing.assert_allclose(noise.numpy(), np.ones(6), rtol=0.05)


def test_band_powers_equal_the_fft_of_hann_frames_centred_on_the_patches():
    config = ModelConfig(channels=1, samples=640, patch=64, frame=192, band_edges=(0.01, 0.1, 0.3))
    x = torch.randn(1, 1, 640)
    found = BandPowers(config)(x)[0]
    window = np.hanning(192)
    for token, at in enumerate(range(0, 640, 64)):
        start = min(max(0, at + 32 - 96), 640 - 192)
        spectrum = np.abs(np.fft.rfft(x[0, 0, start : start + 192].numpy() * window)) ** 2 / np.sum(window**2)
        for band, (low, high) in enumerate([(0.01, 0.1), (0.1, 0.3)]):
            centre = np.fft.rfftfreq(192)
            half = 0.5 / 192
            share = np.clip(np.minimum(centre + half, high) - np.maximum(centre - half, low), 0, None)
            power = np.sum(spectrum * share) / np.sum(share)
            assert found[token, band] == pytest.approx(np.log(power + 1e-4), abs=2e-3)


@pytest.mark.parametrize(("patch", "frame"), [(64, 256), (128, 256), (32, 64), (64, 64)])
def test_cached_bands_of_a_recording_hold_the_tokens_of_its_windows(patch, frame):
    config = ModelConfig(channels=3, samples=640, patch=patch, frame=frame, band_edges=(0.02, 0.1, 0.3))
    powers = BandPowers(config)
    recording, transform = torch.randn(4000, 2), torch.randn(2, 3)
    cached = powers.of_recording(recording, transform)
    transformed = (recording @ transform).T[None]
    for start in range(0, 4000 - 640, 7 * powers.hop):
        expected = powers(transformed[..., start : start + 640])[0]
        torch.testing.assert_close(cached[start // powers.hop + powers.at], expected)


def test_band_powers_do_not_depend_on_how_many_windows_are_taken_at_once(monkeypatch):
    powers = BandPowers(ModelConfig(channels=3))
    x = torch.randn(70, 3, 1280)
    whole = powers(x)
    monkeypatch.setattr("model.FRAME_BYTES", 1)
    torch.testing.assert_close(powers(x), whole)
    recording = torch.randn(5000, 3)
    alone = powers.of_recording(recording, torch.eye(3))
    monkeypatch.setattr("model.FRAME_BYTES", 1 << 30)
    torch.testing.assert_close(powers.of_recording(recording, torch.eye(3)), alone)


def test_statistics_normalise_band_powers_and_leave_samples_alone():
    model = small(frontend="both")
    x = 7 * torch.randn(64, 8, 256) + 0.1
    statistics = model.finish_statistics(model.token_statistics(x[:30]) + model.token_statistics(x[30:]))
    tokens = model.tokens(x, statistics.expand(64, 2, -1))
    bands = tokens[..., : model.config.band_features]
    assert bands.mean((0, 1)).abs().max() < 1e-4
    assert (bands.std((0, 1)) - 1).abs().max() < 1e-2
    samples = tokens[..., model.config.band_features :]
    torch.testing.assert_close(samples, x.transpose(1, 2).reshape(64, 8, 32 * 8))


def test_a_later_patch_does_not_change_an_earlier_token_of_the_causal_backbone():
    model = small(frontend="raw").eval()
    x = torch.randn(1, 8, 256)
    changed = x.clone()
    changed[..., -32:] += 1
    before, after = model.hidden(model.tokens(x)), model.hidden(model.tokens(changed))
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch": 48},
        {"frame": 16},
        {"frame": 512},
        {"heads": 3},
        {"architecture": {"n_positions": 4}},
        {"architecture": {"colour": 3}},
        {"layers": 1001},
        {"dropout": 1.0},
        {"tune": "last:9"},
        {"tune": "some"},
        {"frontend": "mel"},
        {"backbone": "bert"},
        {"pooling": "max"},
        {"band_edges": (0.3, 0.1)},
        {"band_edges": (0.1, 0.7)},
        {"band_edges": (0.1, 0.1001)},
        {"layers": 0},
    ],
)
def test_what_cannot_be_built_is_refused_by_name(wrong):
    (name,) = wrong
    expected = "frame" if wrong.get("band_edges") == (0.1, 0.1001) else name
    expected = "patch" if wrong.get("architecture") == {"n_positions": 4} else expected
    with pytest.raises(ValueError, match=f"^{expected}: expected"):
        small(**wrong)


def test_configuration_survives_its_plain_form():
    config = ModelConfig(**SMALL, tune="last:2")
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(TypeError):
        ModelConfig.from_dict({"colour": "red"})


def test_one_batch_can_be_overfitted():
    model = small(dropout=0.0)
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 8, 256, generator=random), torch.randint(8, (16,), generator=random)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert model(x).argmax(1).tolist() == y.tolist()
