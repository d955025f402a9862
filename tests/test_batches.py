"""Batches, channel gains and augmentation."""

import numpy as np
import pytest
import small_shards
import torch

from model import GPT2Classifier, ModelConfig
from semg.data import normalization
from semg.data.batches import Batches, in_order
from semg.data.normalization import ChannelNormalization
from semg.data.shards import WindowSet, open_shards
from semg.inference import batch as inference
from semg.training.augmentation import Augmentation, TokenAugmenter, TokenLayout, mixed

CPU = torch.device("cpu")
LAYOUT = TokenLayout(channels=24, bands=2, patch=3, ring=8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    records = [
        small_shards.write(folder, 3),
        small_shards.write(folder, 3, "repeats_short"),
        small_shards.write(folder, 3, day=20),
        small_shards.write(folder, 4),
    ]
    return open_shards(folder, records)


def test_session_normalisation_brings_each_session_to_unit_power_over_its_recordings(shards):
    transform = normalization.transform_of(shards, ChannelNormalization())
    assert np.array_equal(transform[0], transform[1])
    assert not np.array_equal(transform[0], transform[2])
    pooled = np.concatenate([np.asarray(s.signal, np.float64) @ transform[0] for s in shards[:2]])
    np.testing.assert_allclose(np.sqrt(np.mean(pooled**2, axis=0)), 1.0, rtol=1e-3)


def test_normalisation_by_the_training_set_and_none(shards):
    gain = normalization.gain_of(shards[3:])
    assert np.array_equal(
        normalization.transform_of(shards, ChannelNormalization("train"), gain), np.stack([np.diag(gain)] * 4)
    )
    assert np.array_equal(
        normalization.transform_of(shards, ChannelNormalization("none")), np.stack([np.eye(24, dtype=np.float32)] * 4)
    )
    with pytest.raises(ValueError, match="train_gain"):
        normalization.transform_of(shards, ChannelNormalization("train"))


def test_whitened_channels_are_uncorrelated_and_each_still_its_electrodes():
    random = np.random.default_rng(0)
    skin = np.eye(24) + 0.4 * np.eye(24, k=1) + 0.4 * np.eye(24, k=-1)  # neighbours pick each other up
    muscles = random.normal(size=(50_000, 24)) * random.uniform(0.5, 20, 24)
    seen = muscles @ skin
    moment = seen.T @ seen / len(seen)
    whitened = seen @ normalization.transform_from(moment, ChannelNormalization(whitening="replace", ridge=1e-6))
    np.testing.assert_allclose(whitened.T @ whitened / len(seen), np.eye(24), atol=1e-3)
    closeness = np.corrcoef(whitened.T, muscles.T)[:24, 24:]
    assert np.array_equal(np.abs(closeness).argmax(1), np.arange(24))
    appended = normalization.transform_from(moment, ChannelNormalization(whitening="append", ridge=1e-6))
    np.testing.assert_array_equal(appended[:, :24], normalization.transform_from(moment, ChannelNormalization()))
    np.testing.assert_array_equal(seen @ appended[:, 24:], whitened)


def test_a_ridge_keeps_weak_directions_from_becoming_noise():
    moment = np.array([[100.0, 99.99], [99.99, 100.0]])  # two electrodes that see the same
    strong = normalization.transform_from(moment, ChannelNormalization(whitening="replace", ridge=0.1))
    assert np.linalg.norm(np.array([1, -1]) @ strong) < np.sqrt(2) * 0.1 / np.sqrt(0.1) * 1.01


@pytest.mark.parametrize(
    "wrong", [{"method": "magic"}, {"whitening": "blue"}, {"method": "train", "whitening": "replace"}, {"ridge": 0.0}]
)
def test_channel_normalisations_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected .*, found"):
        ChannelNormalization(**wrong)


def test_a_dead_channel_stays_flat(tmp_path):
    record = small_shards.write(tmp_path, 3)
    (shard,) = open_shards(tmp_path, [record])
    shard.meta["second_moment"] = np.zeros((24, 24)).tolist()
    assert np.isfinite(normalization.gain_of([shard])).all()
    assert np.isfinite(normalization.transform_of([shard], ChannelNormalization(whitening="append"))).all()


@pytest.mark.parametrize(("workers", "whitens"), [(0, False), (1, True), (3, False)])
def test_batches_are_the_windows_scaled_in_the_order_asked_for(shards, workers, whitens):
    windows = WindowSet(shards)
    factors = np.array([0.5, 3.0, 0.25, 7.0], np.float32)
    transform = np.eye(24, dtype=np.float32) * factors[:, None, None]
    if whitens:  # any matrix that is not diagonal
        transform = np.concatenate([transform, transform[:, :, ::-1]], axis=2)
    order = [np.array([5, 200, 3]), np.array([0]), np.arange(len(windows))]
    batches = list(Batches(windows, transform, torch.device("cpu"), workers).iterate(order))
    for index, batch in zip(order, batches, strict=True):
        factor = factors[windows.shard[index], None, None]
        expected = windows.gather(index).astype(np.float32).transpose(0, 2, 1) * factor
        assert np.array_equal(batch.x[:, :24].numpy(), expected)
        assert batch.x.shape[1] == (48 if whitens else 24)
        if whitens:
            assert np.array_equal(batch.x[:, 24:].numpy(), expected[:, ::-1])
        assert batch.label.tolist() == windows.label[index].tolist()
        assert batch.shard.tolist() == windows.shard[index].tolist()
    assert np.concatenate(in_order(10, 4)).tolist() == list(range(10))


def tokens(batch: int = 6) -> torch.Tensor:
    """Feature values that tell their channel: 100 * channel + place."""
    bands = 100 * torch.arange(24)[:, None] + torch.arange(2)
    raw = 100 * torch.arange(24)[None] + torch.arange(3)[:, None] + 50
    one = torch.cat([bands.flatten(), raw.flatten()]).float()
    return one.expand(batch, 5, -1).clone()


def augmenter(seed: int = 0, layout: TokenLayout = LAYOUT, **how: float) -> TokenAugmenter:
    parsed = Augmentation.parse([f"{name}={value}" for name, value in how.items()] or ["none"])
    return TokenAugmenter(parsed, layout, torch.Generator().manual_seed(seed))


def test_no_augmentation_changes_nothing():
    assert torch.equal(augmenter()(tokens()), tokens())


def test_rolling_turns_all_rings_together_and_takes_bands_and_samples_along():
    rolled = augmenter(roll=1.0)(tokens(64))
    shifts = set()
    for window in rolled:
        bands, raw = window[0, :48].view(24, 2), window[0, 48:].view(3, 24)
        source = (bands[:, 0] / 100).long()
        assert torch.equal(bands[:, 1], bands[:, 0] + 1)
        assert torch.equal((raw[0] - 50) / 100, source.float())
        shift = (torch.arange(24) - source)[3].item()
        expected = torch.arange(24) // 8 * 8 + (torch.arange(24) % 8 - shift) % 8
        assert torch.equal(source, expected)
        shifts.add(shift)
    assert shifts == {-1, 1}


def test_rolling_needs_whole_rings():
    layout = TokenLayout(channels=24, bands=2, patch=3, ring=0)
    assert torch.equal(augmenter(layout=layout, roll=1.0)(tokens()), tokens())


def test_masking_hides_whole_channels_times_and_bands():
    masked = augmenter(mask=0.3)(tokens(200) + 1) == 0
    bands, raw = masked[..., :48].view(200, 5, 24, 2), masked[..., 48:].view(200, 5, 3, 24)
    hidden = bands[:, 0, :, 0]
    assert hidden.float().mean() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(bands, hidden[:, None, :, None].expand_as(bands))
    assert torch.equal(raw, hidden[:, None, None, :].expand_as(raw))
    times = augmenter(time_mask=0.5)(tokens(100) + 1) == 0
    assert torch.equal(times.all(2), times.any(2))
    assert times.float().mean() == pytest.approx(0.5, abs=0.06)
    by_band = (augmenter(band_mask=0.5)(tokens(100) + 1) == 0)[..., :48].view(100, 5, 24, 2)
    assert torch.equal(by_band, by_band[:, :1, :1].expand_as(by_band))


def test_an_electrode_is_hidden_and_rolled_in_both_of_its_views():
    layout = TokenLayout(channels=48, bands=1, patch=0, ring=8, copies=2)
    both = torch.arange(24.0).repeat(2).expand(300, 5, 48) + 1
    hidden = augmenter(layout=layout, mask=0.3)(both) == 0
    assert torch.equal(hidden[..., :24], hidden[..., 24:])
    assert hidden.float().mean() == pytest.approx(0.3, abs=0.03)
    rolled = augmenter(layout=layout, roll=1.0)(both)
    assert torch.equal(rolled[..., :24], rolled[..., 24:])
    assert not torch.equal(rolled, both)


def test_gain_shifts_a_channels_bands_alike_and_leaves_samples():
    change = augmenter(gain=0.5)(tokens()) - tokens()
    bands = change[..., :48].view(6, 5, 24, 2)
    assert torch.allclose(bands, bands[:, :1, :, :1].expand_as(bands), atol=1e-3)
    assert bands.std() == pytest.approx(0.5, abs=0.1)
    assert (change[..., 48:] == 0).all()


def test_noise_is_on_every_feature_of_band_powers_and_of_samples():
    change = augmenter(noise=0.5)(tokens(200)) - tokens(200)
    for part in (change[..., :48], change[..., 48:]):
        assert part.std() == pytest.approx(0.5, abs=0.01)
        assert part.std(dim=0).min() > 0.3


def test_the_same_seed_draws_the_same_and_another_does_not():
    how = {"roll": 0.5, "mask": 0.2, "gain": 0.1, "noise": 0.1, "band_mask": 0.1, "time_mask": 0.1}
    assert torch.equal(augmenter(1, **how)(tokens()), augmenter(1, **how)(tokens()))
    assert not torch.equal(augmenter(1, **how)(tokens()), augmenter(2, **how)(tokens()))


def test_mixup_mixes_windows_and_targets_by_the_same_share():
    x, target = torch.arange(4.0)[:, None, None].expand(4, 2, 3), torch.eye(4)
    changed, mixed_target = mixed(x, target, 0.4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(changed[:, 0, 0], mixed_target @ torch.arange(4.0))
    torch.testing.assert_close(mixed_target.sum(1), torch.ones(4))
    assert not torch.equal(mixed_target, target)
    assert mixed(x, target, 0.0, torch.Generator())[0] is x


@pytest.mark.parametrize("words", [["roll"], ["colour=1"], ["roll=2"], ["mask=-1"], ["mask=x"], ["none", "roll=1"]])
def test_wrong_augmentations_are_refused(words):
    with pytest.raises(ValueError, match=r"expected|could not convert"):
        Augmentation.parse(words)


def test_tokens_made_ready_give_the_same_probabilities_and_too_many_are_not_made(shards, monkeypatch):
    model = GPT2Classifier(ModelConfig(samples=320, patch=64, frame=160, layers=1, width=16, heads=2, classes=4)).eval()
    transform = normalization.transform_of(shards, ChannelNormalization())
    batches = Batches(WindowSet(shards), transform, CPU)
    statistics = inference.session_statistics(model, shards, transform, CPU)
    tokens = inference.ready_tokens(model, batches, statistics, batch_size=7)
    assert tokens.shape == (len(batches.windows), 5, 144)
    usual = inference.probabilities(model, batches, statistics, 50)
    np.testing.assert_allclose(inference.probabilities(model, batches, statistics, 50, ready=tokens), usual, atol=1e-5)
    monkeypatch.setattr(inference, "READY_BYTES", 1000)
    assert inference.ready_tokens(model, batches, statistics) is None
