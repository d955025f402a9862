"""The filters' measured response, not their coefficients."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.signal import freqz_sos, resample_poly, sosfiltfilt

from semg.common.errors import UsageError
from semg.data.filters import CausalFilter, FilterSpec, ZeroPhaseFilter, squared_response
from semg.data.resampling import CausalResampler, resampling_ratio

RATE = 5120.0


def sine(frequency: float, seconds: float = 8.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def zero_phase(spec: FilterSpec, x: np.ndarray) -> np.ndarray:
    return ZeroPhaseFilter(spec.sections(RATE), RATE, len(x))(x)


def level(y: np.ndarray) -> float:
    """dB of a unit sine's middle part."""
    middle = y[len(y) // 4 : -len(y) // 4].astype(float)
    return float(10 * np.log10(2 * np.mean(middle**2) + 1e-20))


@pytest.mark.parametrize("edge", [20.0, 700.0])
@pytest.mark.parametrize("order", [4, 5])
def test_zero_phase_edges_are_at_minus_6_db_and_causal_ones_at_minus_3(edge, order):
    spec = FilterSpec(order=order)
    assert level(zero_phase(spec, sine(edge))) == pytest.approx(-6.02, abs=0.1)
    causal = CausalFilter(spec.sections(RATE))(sine(edge)[:, None])[:, 0]
    assert level(causal) == pytest.approx(-3.01, abs=0.1)


def test_the_band_passes_and_what_lies_outside_does_not():
    assert level(zero_phase(FilterSpec(), sine(120.0))) == pytest.approx(0.0, abs=0.05)
    assert level(zero_phase(FilterSpec(), sine(5.0))) < -60
    assert level(zero_phase(FilterSpec(), sine(1500.0))) < -60


@pytest.mark.parametrize("mains", [30.0, 50.0, 60.0, 90.0, 150.0])
def test_a_notch_takes_out_its_frequency_and_leaves_the_neighbours(mains):
    spec = FilterSpec(notch=(30.0, 50.0, 60.0, 90.0, 150.0))
    assert level(zero_phase(spec, sine(mains, 20.0))) < -40
    assert level(zero_phase(spec, sine(mains, 20.0))) < level(zero_phase(FilterSpec(), sine(mains, 20.0))) - 35
    assert level(zero_phase(spec, sine(mains * 1.15, 20.0))) > -3


def test_zero_phase_shifts_nothing_and_the_causal_filter_does():
    burst = sine(300.0, 2.0) * np.exp(-(((np.arange(int(2 * RATE)) / RATE - 1.0) / 0.1) ** 2)).astype(np.float32)
    lags = np.arange(-40, 41)

    def best_lag(y: np.ndarray) -> int:
        return int(lags[np.argmax([np.dot(np.roll(burst, lag), y) for lag in lags])])

    assert best_lag(zero_phase(FilterSpec(), burst)) == 0
    assert best_lag(CausalFilter(FilterSpec().sections(RATE))(burst[:, None])[:, 0]) > 0


@pytest.mark.parametrize("spec", [FilterSpec(), FilterSpec(5, 900, 7, notch=(30.0, 50.0)), FilterSpec(0.5, 2500, 1)])
def test_the_squared_response_is_scipys(spec):
    sections, frequency = spec.sections(RATE), np.linspace(0, 0.5, 20_001)
    _, response = freqz_sos(sections, worN=2 * np.pi * frequency)
    actual = squared_response(sections, frequency)
    np.testing.assert_allclose(actual, np.abs(response) ** 2, rtol=1e-7, atol=1e-12)
    assert actual[0] < 1e-30


def test_zero_phase_equals_scipys_forward_backward_filter():
    random = np.random.default_rng(0)
    x = np.cumsum(random.normal(size=30_000)).astype(np.float32) + 300
    spec = FilterSpec(notch=(50.0,))
    expected = sosfiltfilt(spec.sections(RATE), x.astype(float), padlen=int(2 * RATE))
    assert np.abs(zero_phase(spec, x) - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("length", [2, 3, 100, 1281, 5120])
def test_short_signals_keep_their_length_and_stay_finite(length):
    y = zero_phase(FilterSpec(), np.random.default_rng(1).normal(size=length).astype(np.float32))
    assert y.shape == (length,)
    assert np.isfinite(y).all()


def test_causal_filter_gives_the_same_in_blocks_as_at_once_and_starts_without_a_step():
    x = np.random.default_rng(2).normal(size=(4000, 3)) + 500.0
    sections = FilterSpec(notch=(50.0,), causal=True).sections(RATE)
    whole = CausalFilter(sections)(x)
    blocks = CausalFilter(sections)
    pieces = [(0, 0), (0, 1), (1, 700), (700, 700), (700, 701), (701, 4000)]
    parts = np.concatenate([blocks(x[a:b]) for a, b in pieces])
    np.testing.assert_allclose(parts, whole, atol=1e-9)
    assert np.abs(CausalFilter(sections)(np.full((500, 1), 500.0))).max() < 1e-6


def test_an_empty_block_is_resampled_to_nothing_even_as_the_first():
    signal = np.random.default_rng(3).normal(size=(400, 2))
    whole, _ = CausalResampler(Fraction(2, 5), RATE)(signal)
    resampler = CausalResampler(Fraction(2, 5), RATE)
    parts = [resampler(signal[first:last]) for first, last in [(0, 0), (0, 7), (7, 7), (7, 400)]]
    assert [len(places) for _, places in parts] == [len(part) for part, _ in parts]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), whole)


@pytest.mark.parametrize(("rate", "wanted"), [(5120.0, 2000.0), (1000.0, 2000.0)])
def test_the_causal_resampler_gives_scipys_numbers_later(rate, wanted):
    """Rates at which the delay is a whole number of new samples."""
    ratio = resampling_ratio("x", rate, wanted)
    signal = np.random.default_rng(4).normal(size=(600, 2))
    signal[0] = 0
    resampler = CausalResampler(ratio, rate)
    actual = np.concatenate([resampler(signal[first : first + 50])[0] for first in range(0, 600, 50)])
    expected, late = resample_poly(signal, ratio.numerator, ratio.denominator), round(resampler.delay * wanted)
    assert resampler.delay * wanted == pytest.approx(late)
    np.testing.assert_allclose(actual[late:], expected[: len(actual) - late], atol=1e-5)


@pytest.mark.parametrize(("rate", "wanted"), [(2000.0, 5120.0), (5120.0, 2000.0), (1000.0, 2000.0)])
def test_a_resampled_offset_stays_an_offset(rate, wanted):
    """The filter of each phase has another sum: what is constant would become a tone."""
    resampler = CausalResampler(resampling_ratio("x", rate, wanted), rate)
    offset = np.array([1e5, -3.0])
    parts = [resampler(np.tile(offset, (n, 1)))[0] for n in (1, 40, 999)]
    np.testing.assert_array_equal(np.concatenate(parts) - offset, 0)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (FilterSpec(low=0), "low: expected above 0"),
        (FilterSpec(low=700, high=20), "low: expected above 0 and below high, 20 Hz, found 700"),
        (FilterSpec(high=2560), "Nyquist"),
        (FilterSpec(notch=(3000.0,)), "notch: expected between 0 and 2560 Hz, found 3000"),
    ],
)
def test_filters_that_cannot_be_are_refused(spec, told):
    with pytest.raises(UsageError, match=told):
        spec.sections(RATE)


@pytest.mark.parametrize(
    "spec",
    [FilterSpec(low=1e-9), FilterSpec(low=1e-300), FilterSpec(notch=(1e-13,))],
    ids=["low", "lowest", "notch"],
)
def test_a_filter_that_rounding_makes_unstable_is_refused(spec):
    with pytest.raises(UsageError, match="low: expected a band and notches that a stable filter can have at 5120 Hz"):
        spec.sections(RATE)


@pytest.mark.parametrize("order", range(1, 13))
def test_filters_that_can_be_are_not_refused(order):
    for rate in (200.0, 1000.0, 5120.0, 30_000.0):
        spec = FilterSpec(5.0, 0.45 * rate if rate < 2000 else 700.0, order, (50.0,))
        quiet = CausalFilter(spec.sections(rate))(np.ones((int(rate), 1)))
        assert np.isfinite(quiet).all()
