"""Missing samples are found from the time column: where, how many, and not where it is only uneven."""

import numpy as np
import pytest
from conftest import ROOT

from semg.data import gaps
from semg.data.gaps import Gap, breaks, find_gaps, in_words, sampling_interval

RATES = (200.0, 5120.0)


def gaps_in(times: np.ndarray, rate: float) -> list[Gap]:
    return find_gaps(times, sampling_interval(times, rate), rate)


def cut(times: np.ndarray, *pieces: tuple[int, int]) -> np.ndarray:
    """`times` without `length` samples from each `start`."""
    return np.delete(times, np.concatenate([np.arange(start, start + length) for start, length in pieces]))


def seconds(rate: float, length: float = 20.0) -> np.ndarray:
    return np.arange(round(length * rate)) / rate


@pytest.mark.parametrize("rate", RATES)
def test_each_gap_of_a_regular_index_is_found_with_its_length(rate):
    times = cut(seconds(rate), (1000, 600), (2000, 1), (3000, 2))
    assert gaps_in(times, rate) == [Gap(1000, 600), Gap(1400, 1), Gap(2399, 2)]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("scale", [1, 1e3, 1e6], ids=["s", "ms", "us"])
def test_the_unit_of_time_and_a_clock_that_is_fast_make_no_gap(rate, scale):
    times = cut(seconds(rate), (1000, 600))
    assert gaps_in(times * scale * 1.004 + 17e8, rate) == [Gap(1000, 600)]


def test_a_counter_is_a_time(rate=200.0):
    assert gaps_in(cut(np.arange(4000.0), (100, 7)), rate) == [Gap(100, 7)]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    "scatter",
    [
        lambda t: np.round(t, 3),
        lambda t: np.ceil(t / 0.05) * 0.05,  # written as packets of 50 ms arrived
        lambda t: t + np.random.default_rng(0).uniform(0, 0.03, len(t)),
    ],
    ids=["milliseconds", "packets", "jitter"],
)
def test_uneven_times_are_no_gaps_and_a_long_gap_among_them_is_found(rate, scatter):
    times = seconds(rate)
    assert gaps_in(scatter(times), rate) == []
    (gap,) = gaps_in(scatter(cut(times, (1500, round(0.5 * rate)))), rate)
    assert gap.start == 1500
    assert 0.4 < gap.lost / rate < 0.55


def test_time_that_falls_back_is_a_gap_of_unknown_length():
    times = seconds(200.0)
    times[2500:] -= 3.0
    (gap,) = gaps_in(times, 200.0)
    assert gap.start == 2500
    assert gap.lost < 0
    assert breaks([gap], 200.0).tolist() == [2500]
    assert in_words([gap], 200.0).endswith("; the time falls back 1 time")


def test_a_time_that_only_falls_back_parts_at_every_sample():
    assert len(find_gaps(np.arange(50.0, 0, -1), 1.0, 200.0)) == 49


def test_short_trials_below_each_other_part_where_they_begin():
    """With more than one fall in a hundred steps the column counted as uneven: windows spanned trials, and samples
    lost within one were not seen."""
    counter = np.delete(np.tile(np.arange(80.0), 10), np.s_[500:520])
    found = gaps_in(counter, 200.0)
    assert [gap.start for gap in found] == [80, 160, 240, 320, 400, 480, 500, 540, 620, 700]
    assert [gap.lost for gap in found if gap.lost > 0] == [20]


@pytest.mark.parametrize("rate", RATES)
def test_uneven_time_that_falls_back_is_found_too(rate):
    times = seconds(rate) + np.random.default_rng(0).uniform(0, 0.03, round(20 * rate))
    times[1500:] -= 1.0
    (gap,) = gaps_in(times, rate)
    assert gap.start == 1500
    assert -1.05 < gap.lost / rate < -0.9
    assert breaks([gap], rate).tolist() == [1500]


@pytest.mark.parametrize("late", [0.4, 0.6, 0.8, 1.0])
def test_a_late_sample_does_not_make_the_next_one_fall_back(late):
    """The step after it is short. It was a break, for which windows were left out, and told as time that falls back."""
    times = seconds(200.0)
    times[2000] += late / 200.0
    found = gaps_in(times, 200.0)
    assert found == ([] if late < gaps.SMALLEST else [Gap(2000, 1)])
    assert "falls back" not in in_words(found, 200.0)


def test_a_step_of_one_and_a_half_samples_is_no_gap_as_the_manual_says():
    times = np.concatenate([np.arange(100.0), np.arange(100.5, 200)])
    assert find_gaps(times, 1.0, 200.0) == []


def test_the_manual_says_the_tolerance():
    text = " ".join((ROOT / "docs" / "data.md").read_text(encoding="utf-8").split())
    assert f"No window spans a gap of more than {1000 * gaps.TOLERANCE:g} ms" in text
    assert f"A step of the index by more than {1 + gaps.SMALLEST:g} samples is a gap" in text


def test_windows_may_span_what_is_shorter_than_the_tolerance():
    gaps = [Gap(100, 12), Gap(200, 13), Gap(300, 1)]
    assert breaks(gaps, 5120.0).tolist() == [200]
    assert breaks(gaps, 200.0).tolist() == [100, 200, 300]


def test_what_is_said_of_gaps():
    assert in_words([], 200.0) == ""
    assert in_words([Gap(1000, 100)], 200.0) == "lost samples: 0.5 s in 1 gap, at 5 s"
    assert in_words([Gap(1000 * n, 100) for n in range(1, 6)], 200.0).endswith("2.5 s in 5 gaps, at 5, 10, 15, ... s")


def test_the_interval_of_a_short_recording_with_rounded_times():
    """It is shorter than the second over which rounding averages out."""
    times = np.round(np.arange(101) / 200, 2)
    assert sampling_interval(times, 200.0) == pytest.approx(1 / 200)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_short_recordings_have_no_gaps_of_their_own(n):
    assert gaps_in(np.arange(n) / 200.0, 200.0) == []


def test_where_no_channel_changes_for_a_while_is_found_and_said():
    samples = np.random.default_rng(0).normal(size=(1000, 3))
    samples[100:160] = samples[100]  # 0.3 s at 200 Hz
    samples[300:350] = 0
    samples[500:530] = 0  # too short
    samples[700:800, :2] = 0  # a channel goes on
    found = gaps.still_stretches(samples, 200.0)
    assert found == [(100, 60), (300, 50)]
    assert gaps.still_in_words(found, 200.0) == (
        "no channel changes for 0.55 s, at 0.5, 1.5 s: were samples lost there?"
    )
    assert gaps.still_stretches(np.ones((1000, 3)), 200.0) == []  # dead throughout: said as that
    assert gaps.still_in_words([], 200.0) == ""
