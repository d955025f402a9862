"""Mains hum is seen where it is and not where there is none; the strength of a band is what a filter would leave."""

import numpy as np
import pytest

from semg.data.filters import FilterSpec, ZeroPhaseFilter, default_band
from semg.data.spectrum import Spectrum

RATES = (200.0, 1000.0, 2000.0, 5120.0)


def noise(rate: float, seconds: float, channels: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 30, (round(rate * seconds), channels))


def hum(rate: float, seconds: float, frequency: float, amplitude: float) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)[:, None]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("scale", [1, 1e-6, 1e6])
@pytest.mark.parametrize("frequency", [49.9, 60.1])
def test_hum_is_seen_at_any_rate_and_scale(rate, scale, frequency):
    signal = (noise(rate, 20) + hum(rate, 20, frequency, 12)) * scale
    assert Spectrum.of(signal, rate).mains() == round(frequency)
    signal[:, 0] = 0  # a dead channel says nothing
    assert Spectrum.of(signal, rate).mains() == round(frequency)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", [0, 0.01, 1, 3, 9, 20])
def test_noise_has_no_hum_however_short(rate, seconds):
    for seed in range(8):
        spectrum = Spectrum.of(noise(rate, seconds, channels=1 + seed % 3, seed=seed), rate)
        assert spectrum.mains() is None
        assert spectrum.harmonics(50, rate * 0.45) == []


def test_only_the_harmonics_that_are_there_are_named():
    signal = noise(2000.0, 30) + sum(hum(2000.0, 30, f, 15) for f in (50, 150, 350, 800))
    assert Spectrum.of(signal, 2000.0).harmonics(50, 700) == [50, 150, 350]


@pytest.mark.parametrize("rate", [50.0, 100.0, 110.0])
def test_slow_recordings_do_not_tell(rate):
    assert Spectrum.of(noise(rate, 30) + hum(rate, 30, 50, 100), rate).mains() is None


@pytest.mark.parametrize("rate", RATES)
def test_the_strength_of_a_band_is_what_the_filter_leaves(rate):
    signal = noise(rate, 30, 2).astype(np.float32) + 500
    low, high = default_band(rate)
    left = ZeroPhaseFilter(FilterSpec(low, high).sections(rate), rate, len(signal))(signal[:, 0])
    assert Spectrum.of(signal, rate).rms(low, high)[0] == pytest.approx(left.std(), rel=0.08)


@pytest.mark.parametrize(
    ("rate", "band"), [(200, (20, 90)), (1000, (20, 450)), (2000, (20, 700)), (5120, (20, 700)), (40, (1.8, 18))]
)
def test_the_band_to_keep_is_what_the_rate_allows(rate, band):
    assert default_band(rate) == pytest.approx(band)
    FilterSpec(*default_band(rate)).check(rate)
