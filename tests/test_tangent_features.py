"""Riemannian features: what recentring takes away, turned rings, and baselines.py with them as a user runs it."""

import builtins
import json
from dataclasses import replace

import numpy as np
import pytest
import small_shards

from semg.data.rings import turned_by, turned_pairs
from semg.data.shards import Shard, open_shard
from semg.training import classical, tangent_features
from semg.training.feature_tables import SessionWindows
from semg.training.tangent_features import TangentFeatures

ORIGINS = [turned_by(small_shards.RINGS, 24, step) for step in (-1, 0, 1)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_shards.write_all(tmp_path_factory.mktemp("tangent"))


@pytest.fixture(scope="module")
def shard(data):
    return open_shard(data[0] / small_shards.name(1))


def with_signal(shard: Shard, signal: np.ndarray) -> Shard:
    """The same recording with other samples."""
    signal = signal.astype(np.float32)
    moment = (signal.T @ signal / len(signal)).tolist()
    return replace(shard, source=signal, meta={**shard.meta, "second_moment": moment})


def vectors(*shards: Shard, bands: int = 1) -> np.ndarray:
    """(n, bands, P) of the first shard's windows."""
    return TangentFeatures(shards, bands).of(0, shards[0].windows["start"])


def crosstalk(seed: int) -> np.ndarray:
    """(24, 24) what each electrode hears of the others, and how loudly: another person's skin and sleeve."""
    random = np.random.default_rng(seed)
    near = np.exp(-np.abs(np.subtract.outer(np.arange(24), np.arange(24))) * random.uniform(1.0, 2.0, (24, 24)))
    return near * random.uniform(0.3, 3.0, 24)[:, None]


def test_a_sessions_mean_is_the_origin_whatever_the_electrodes_hear(shard):
    """Of windows spread over the recordings, labelled or not; each session has a mean of its own."""
    other = open_shard(shard.path.with_name(small_shards.name(2)))
    features = TangentFeatures([shard, with_signal(other, other.signal @ crosstalk(0))])
    starts = np.unique(np.linspace(0, len(shard.signal) - shard.window, tangent_features.MEAN_WINDOWS).astype(int))
    for place in (0, 1):
        table = features.of(place, starts)
        assert np.linalg.norm(table.mean(0)) < 1e-3 * np.linalg.norm(table, axis=2).mean()


def test_recentring_removes_a_sessions_linear_mixing(shard):
    """How far windows are from their session's mean is left as it was, and the gestures of both lie together."""
    label, start = shard.windows["label"], shard.windows["start"]

    def centres(table: np.ndarray) -> np.ndarray:
        return np.stack([table[label == gesture].mean(0) for gesture in range(4)])

    own = vectors(shard)[:, 0]
    mixed = with_signal(shard, shard.signal @ crosstalk(1))
    other = vectors(mixed)[:, 0]
    np.testing.assert_allclose(np.linalg.norm(other, axis=1), np.linalg.norm(own, axis=1), rtol=0.15)
    one_mean = TangentFeatures([shard, mixed], 1)  # as recordings of one session
    before = np.subtract(*(centres(one_mean.of(place, start)[:, 0]) for place in (0, 1)))
    after = centres(other) - centres(own)
    assert np.all(np.linalg.norm(after, axis=1) < 0.5 * np.linalg.norm(before, axis=1))


def test_turned_rings_are_turned_pairs_of_channels(shard):
    table = vectors(shard, bands=2)
    turned = TangentFeatures([shard], 2).turned
    for origin, pairs in zip(ORIGINS, turned, strict=True):
        np.testing.assert_array_equal(pairs, turned_pairs(origin))
        rotated = vectors(with_signal(shard, shard.signal[:, origin]), bands=2)
        np.testing.assert_allclose(rotated, table[:, :, pairs], atol=1e-3)
    rotations = classical.with_rotations(table, turned)
    assert rotations.shape == (3 * len(table), 2, 300)
    assert not np.allclose(rotations[0], rotations[len(table)])
    windows = SessionWindows(table, np.zeros(len(table)), 0.1, 1.0, 24, shard.rings, pairs=True)
    flat = table.reshape(len(table), -1)
    np.testing.assert_array_equal(windows.turned(flat, 1), table[:, :, turned[2]].reshape(len(table), -1))
    np.testing.assert_array_equal(windows.turned(windows.turned(flat, 2), -2), flat)


@pytest.mark.parametrize(("hertz", "band"), [(48, 0), (496, 1)])
def test_each_band_has_its_own_covariance(shard, hertz, band):
    """A gesture in which one channel hums: its power rises in the band of the hum, and in the other it does not."""
    time = np.arange(len(shard.signal)) / shard.rate
    louder = shard.signal.astype(np.float32).copy()
    louder[:, 3] += 300 * np.sin(2 * np.pi * hertz * time) * (small_shards.labels() == 1)
    (power,) = np.flatnonzero(np.all(np.array(np.triu_indices(24)) == 3, axis=0))
    changed = (vectors(with_signal(shard, louder), bands=2) - vectors(shard, bands=2))[:, :, power]
    changed = changed[shard.windows["label"] == 1].mean(0)
    assert changed[band] > 2
    assert abs(changed[1 - band]) < 0.5


def test_dead_channels_and_flat_sessions_have_finite_features(shard):
    dead = shard.signal.astype(np.float32).copy()
    dead[:, 5] = 0
    dead[: len(dead) // 3] = 0
    assert np.all(np.isfinite(vectors(with_signal(shard, dead), bands=3)))
    assert np.all(vectors(with_signal(shard, np.zeros_like(dead))) == 0)


def test_a_run_with_all_that_the_network_has(data, run_here, tmp_path):
    shards, split = data
    flags = ("--shards", shards, "--split", split, "--features", "riemann", "--classifiers", "logistic")
    all_of_it = ("--augment", "rotation", "--choose", "--adapt", "session", "--adapt-by", "network", "--smooth", 2)
    run_here("baselines.py", *flags, *all_of_it, "--out", tmp_path / "a")
    report = json.loads((tmp_path / "a" / "logistic-riemann" / "metrics.json").read_text())
    tried = report["tried_on_validation"]
    assert [one["settings"] for one in tried] == classical.SETTINGS["logistic"]
    assert report["classifier_settings"] == max(tried, key=lambda one: one["val_macro_f1"])["settings"]
    assert report["baseline"]["pyriemann"]
    assert report["n_train_windows"] % 3 == 0
    assert report["smoothed"]["hold_seconds"] == 2
    assert report["adaptation"]["method"] == "self-training on the network's posteriors"
    (session,) = report["adaptation"]["sessions"]
    assert session["seconds_of_signal"] > 0
    run_here("baselines.py", *flags, "--out", tmp_path / "b")  # each class is louder on channels of its own, not turned
    assert json.loads((tmp_path / "b" / "logistic-riemann" / "metrics.json").read_text())["macro_f1"] > 0.9


def test_what_cannot_be_is_said_before_any_work(data, run_here, tmp_path, monkeypatch):
    flags = ("--shards", data[0], "--split", data[1], "--out", tmp_path, "--features", "rms", "riemann")
    done = run_here("baselines.py", *flags, "--normalize", "none", code=2)
    assert "--normalize none: expected session with --features riemann" in done.stderr
    done = run_here("baselines.py", *flags, "--preset", "paper", code=2)
    assert "--preset paper: expected without --choose and --features tokens and --features riemann" in done.stderr

    real = builtins.__import__
    for missing, said in (
        ("pyriemann", "found none; pip install pyriemann"),
        ("pyriemann.geometry", "found one without pyriemann.geometry, too old; pip install -U pyriemann"),
        ("array_api_compat", "found it without array_api_compat, which it needs; pip install -U pyriemann"),
    ):

        def absent(name, *arguments, missing=missing, **settings):
            if name == "pyriemann":
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
            return real(name, *arguments, **settings)

        monkeypatch.setattr(builtins, "__import__", absent)
        done = run_here("baselines.py", *flags, code=1)
        assert f"riemann: expected the package pyriemann for these features, {said}" in done.stderr
    assert not list(tmp_path.iterdir())
