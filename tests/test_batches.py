"""Batches and channel gains."""

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

CPU = torch.device("cpu")


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


def test_a_longer_recording_counts_for_more_in_its_sessions_scale(tmp_path):
    """The transform is that of all samples of the session together."""
    records = [small_shards.write(tmp_path, 3, repetitions=5), small_shards.write(tmp_path, 3, "repeats_short")]
    uneven = open_shards(tmp_path, records)
    transform = normalization.transform_of(uneven, ChannelNormalization())[0]
    pooled = np.concatenate([np.asarray(shard.signal, np.float64) @ transform for shard in uneven])
    np.testing.assert_allclose(np.sqrt(np.mean(pooled**2, axis=0)), 1.0, rtol=1e-3)


def test_a_sessions_recordings_are_in_the_order_of_their_times_not_of_their_names(tmp_path):
    """Adapting on a session's first recording would otherwise take another."""
    days = {"repeats_long": (20, 11), "sequential": (11, 11), "repeats_short": (15, 12)}
    records = [small_shards.write(tmp_path, 3, task, day, order=order) for task, (order, day) in days.items()]
    early = small_shards.write(tmp_path, 3, "early", 11, order=2)
    assert normalization.sessions(open_shards(tmp_path, [*records, early])) == {
        "03/2018-05-11": [3, 1, 0],
        "03/2018-05-12": [2],
    }


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
