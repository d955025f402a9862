"""Features against slow loops written from the definitions, not from the code."""

import cmath
import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semg.common.errors import UsageError
from semg.data.putemg import MICROVOLTS_PER_COUNT
from semg.evaluation.hand_crafted_features import (
    AUTHORS,
    SETS,
    USUAL,
    FeatureExtractor,
    Thresholds,
    _as_float32,
    band_cover,
    feature_names,
)

ALL = ("RMS", "MAV", "IAV", "VAR", "WL", "ZC", "SSC", "WAMP")
RATE = 5120.0


# --- one channel, by loops -----------------------------------------------------------------------------------


def plain(x):
    mean = sum(x) / len(x)
    return {
        "RMS": math.sqrt(sum(v * v for v in x) / len(x)),
        "MAV": sum(abs(v) for v in x) / len(x),
        "IAV": sum(abs(v) for v in x),
        "VAR": sum((v - mean) ** 2 for v in x) / len(x),
    }


def slope_changes(x, threshold):
    count = 0
    for i in range(1, len(x) - 1):
        if (x[i] - x[i - 1]) * (x[i] - x[i + 1]) >= threshold:
            count += 1
    return count


def usual(x, limits):
    crossings = length = jumps = 0
    for a, b in itertools.pairwise(x):
        if a * b < 0 and abs(a - b) >= limits.zc:
            crossings += 1
        length += abs(b - a)
        jumps += abs(b - a) >= limits.wamp
    return {**plain(x), "WL": length, "ZC": crossings, "SSC": slope_changes(x, limits.ssc), "WAMP": jumps}


def authors(counts, zc=30, ssc=16, wamp=10):
    loud = [v for v in counts if abs(v) > zc]
    crossings = sum(1 for a, b in itertools.pairwise(loud) if (a > 0) != (b > 0))
    steps = [b - a for a, b in itertools.pairwise(counts)]
    turns = sum(1 for a, b in itertools.pairwise(steps) if a * b <= -ssc)
    jumps = sum(1 for step in steps if step >= wamp)
    return {**plain(counts), "WL": sum(steps), "ZC": crossings, "SSC": turns, "WAMP": jumps}


def compare(batch, reference, **settings):
    """Every feature of every channel of every window against `reference(list of samples)`."""
    extract = FeatureExtractor(names=ALL, rate=RATE, **settings)
    actual = extract(batch).reshape(len(batch), len(ALL), batch.shape[2])
    for row, window in enumerate(batch):
        for channel in range(batch.shape[2]):
            expected = reference([float(v) for v in window[:, channel]])
            got = dict(zip(extract.columns, actual[row, :, channel], strict=True))
            for name in ALL:
                assert got[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-2), (name, row, channel)


# --- whole counts, so that a value may lie exactly on a threshold -----------------------------------------------

windows_of_counts = st.lists(st.lists(st.integers(-60, 60), min_size=12, max_size=12), min_size=2, max_size=2)


@given(windows_of_counts)
def test_usual_definitions_with_thresholds_in_microvolts(rows):
    batch = np.array(rows, np.float32).T[None] * 2  # (1, 12, 2)
    limits = Thresholds(zc=30.0, ssc=400.0, wamp=20.0)
    compare(batch, lambda x: usual(x, limits), thresholds=limits)


@given(windows_of_counts)
def test_authors_definitions_with_thresholds_in_counts(rows):
    counts = np.array(rows, np.float32).T[None]
    extract = FeatureExtractor(names=ALL, rate=RATE, authors=True)
    actual = extract(counts * np.float32(MICROVOLTS_PER_COUNT)).reshape(len(ALL), 2)
    for channel in range(2):
        expected = authors([float(v) for v in counts[0, :, channel]])
        for name, got in zip(ALL, actual[:, channel], strict=True):
            assert got == pytest.approx(expected[name], rel=1e-4, abs=1e-3), name


def test_default_thresholds_on_noise_of_emg_size():
    batch = np.random.default_rng(0).normal(0, 30, (3, 200, 2)).astype(np.float32)
    compare(batch, lambda x: usual(x, USUAL))
    compare(batch, lambda x: authors([v / MICROVOLTS_PER_COUNT for v in x]), authors=True)


def test_authors_thresholds_are_the_same_in_counts_and_in_microvolts():
    assert AUTHORS.zc == pytest.approx(183.1, abs=0.1)  # 30 counts of 6.1 uV
    assert AUTHORS.ssc == pytest.approx(16 * MICROVOLTS_PER_COUNT**2)
    batch = np.random.default_rng(1).normal(0, 200, (2, 300, 3)).astype(np.float32)
    extract = {"names": ("ZC", "SSC", "WAMP"), "rate": RATE, "authors": True}
    given_by_hand = FeatureExtractor(**extract, thresholds=Thresholds.from_counts(30, 16, 10))
    np.testing.assert_array_equal(FeatureExtractor(**extract)(batch), given_by_hand(batch))


def test_what_the_two_definitions_disagree_on():
    falling = np.linspace(400, -400, 9, dtype=np.float32).reshape(1, 9, 1) * np.float32(MICROVOLTS_PER_COUNT)
    names = ("WL", "WAMP", "ZC")
    length, jumps, _ = FeatureExtractor(names=names, rate=RATE)(falling)[0]
    assert (length, jumps) == (pytest.approx(800 * MICROVOLTS_PER_COUNT), 8)
    # signed: last minus first, no rising step; and the sample at 0 is skipped, the change of sign is not
    np.testing.assert_allclose(FeatureExtractor(names=names, rate=RATE, authors=True)(falling)[0], [-800, 0, 1])


# --- log band powers -------------------------------------------------------------------------------------------


def slow_band_powers(x, rate, edges):
    """Naive Fourier sums; a bin of width rate / n is shared among the bands that it overlaps."""
    n = len(x)
    taper = [0.5 - 0.5 * math.cos(2 * math.pi * i / (n - 1)) for i in range(n)]
    energy = sum(w * w for w in taper)
    powers = [0.0] * (len(edges) - 1)
    for k in range(n // 2 + 1):
        total = sum(v * w * cmath.exp(-2j * math.pi * k * i / n) for i, (v, w) in enumerate(zip(x, taper, strict=True)))
        density = 2 * abs(total) ** 2 / (n * energy)
        low, high = (k - 0.5) * rate / n, (k + 0.5) * rate / n
        for band in range(len(powers)):
            overlap = min(high, edges[band + 1]) - max(low, edges[band])
            powers[band] += density * max(0.0, overlap) / (rate / n)
    return [math.log(power + 1e-2) for power in powers]


def test_log_band_powers_against_fourier_sums():
    batch = np.random.default_rng(2).normal(0, 20, (2, 64, 3)).astype(np.float32)
    extract = FeatureExtractor(names=("LOGBAND",), rate=RATE, bands=4, low=40, high=700)
    actual = extract(batch).reshape(2, 4, 3)
    edges = [40 * (700 / 40) ** (i / 4) for i in range(5)]
    for row in range(2):
        for channel in range(3):
            expected = slow_band_powers(batch[row, :, channel].astype(float), RATE, edges)
            np.testing.assert_allclose(actual[row, :, channel], expected, rtol=1e-3, atol=1e-3)


def test_a_sine_lies_in_its_band_with_its_power():
    time = np.arange(1280) / RATE
    sine = (50 * np.sin(2 * np.pi * 100 * time)).astype(np.float32).reshape(1, -1, 1)
    powers = FeatureExtractor(names=("LOGBAND",), rate=RATE)(sine)[0]
    edges = np.geomspace(20, 700, 9)
    band = int(np.searchsorted(edges, 100)) - 1
    assert powers.argmax() == band
    assert math.exp(powers[band]) == pytest.approx(50**2 / 2, rel=0.01)
    assert np.delete(powers, band).max() < math.log(5)


def test_bands_cover_their_range_once_and_end_at_half_the_rate():
    cover = band_cover(256, 1000.0, 8, 20.0, 700.0)  # (129, 8), bins of 3.9 Hz up to 500 Hz
    assert cover.sum() * 1000 / 256 == pytest.approx(500 - 20)
    assert cover.min() >= 0
    assert cover.sum(1).max() == pytest.approx(1)


# --- sets, shapes, memory ----------------------------------------------------------------------------------------


def test_sets_are_those_of_the_literature():
    assert SETS["hudgins"] == ("MAV", "WL", "ZC", "SSC")
    assert set(SETS["du"]) == {"IAV", "VAR", "WL", "ZC", "SSC", "WAMP"}
    assert feature_names("rms") == ("RMS",)
    assert feature_names("hudgins+du") == ("MAV", "WL", "ZC", "SSC", "IAV", "VAR", "WAMP")


@pytest.mark.parametrize("text", ["", "hudgin", "rms+", "rms,du", "RMS"])
def test_an_unknown_set_is_refused(text):
    with pytest.raises(UsageError, match="rms, hudgins, du, logband"):
        feature_names(text)


def test_columns_come_feature_by_feature():
    batch = np.ones((1, 40, 3), np.float16) * np.array([1, 2, 3], np.float16)
    extract = FeatureExtractor(names=feature_names("rms+du+logband"), rate=RATE)
    actual = extract(batch)
    assert actual.dtype == np.float32
    assert actual.shape == (1, 3 * len(extract.columns)) == (1, 3 * (1 + 6 + 8))
    np.testing.assert_allclose(actual[0, :6], [1, 2, 3, 40, 80, 120])  # RMS, then IAV
    assert extract.columns[-1] == "LOGBAND_8"


def test_every_float16_is_taken_as_it_is():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    for values in (finite[np.abs(finite) < 100], finite, every):
        np.testing.assert_array_equal(_as_float32(values, np.empty(len(values), np.float32)), values.astype(np.float32))


def test_silence_and_no_windows_at_all():
    extract = FeatureExtractor(names=feature_names("rms+hudgins+du+logband"), rate=RATE)
    for authors_too in (False, True):
        quiet = FeatureExtractor(names=extract.names, rate=RATE, authors=authors_too)(np.zeros((2, 50, 4), np.float16))
        assert np.isfinite(quiet).all()
    assert extract(np.zeros((0, 50, 4), np.float16)).shape == (0, 4 * extract.width)


def test_a_window_does_not_depend_on_its_batch():
    batch = np.random.default_rng(3).normal(0, 40, (70, 60, 2)).astype(np.float16)
    extract = FeatureExtractor(names=feature_names("hudgins+logband"), rate=RATE)
    alone = np.concatenate([extract(batch[i : i + 1]) for i in (0, 31, 32, 69)])
    np.testing.assert_allclose(extract(batch)[[0, 31, 32, 69]], alone, rtol=1e-5, atol=1e-5)


def test_memory_does_not_grow_with_the_batch():
    extract = FeatureExtractor(names=feature_names("du+logband"), rate=RATE)

    def peak(n):
        batch = np.zeros((n, 200, 8), np.float16)
        tracemalloc.start()
        extract(batch)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(640) < 2.5 * peak(32)
