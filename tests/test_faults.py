"""Channels that look wrong are reported, and those that do not are not."""

import numpy as np
import pytest

from semg.data.faults import find_faults


def test_channels_that_look_wrong_are_reported() -> None:
    counts = np.random.default_rng(0).integers(-500, 500, (5000, 5)).astype(np.int16)
    assert str(find_faults(counts, (1, 2, 3, 4, 5))) == ""
    counts[:, 1] = 7
    counts[:60, 2] = 2047
    counts[:, 4] = counts[:, 0]
    actual = find_faults(counts, (9, 10, 11, 12, 13))
    assert (actual.dead, actual.saturated, actual.duplicate) == ([10], [11], [(9, 13)])
    assert str(actual) == "dead channels 10, saturated channels 11, equal channels 9=13"


def test_a_few_samples_at_the_end_of_the_range_are_no_saturation() -> None:
    counts = np.random.default_rng(0).integers(-500, 500, (5000, 2)).astype(np.int16)
    counts[:49, 0], counts[:51, 1] = -2048, -2048
    assert find_faults(counts, (1, 2)).saturated == [2]


def test_channels_equal_in_part_only_are_no_duplicates() -> None:
    counts = np.random.default_rng(0).integers(-500, 500, (5000, 2)).astype(np.int16)
    counts[:, 1] = counts[:, 0]
    counts[4999, 1] += 1
    assert find_faults(counts, (1, 2)).duplicate == []


def test_a_dead_channel_at_the_converters_end_is_saturated_too() -> None:
    counts = np.random.default_rng(0).integers(-500, 500, (5000, 2)).astype(np.int16)
    counts[:, 0] = 2047
    actual = find_faults(counts, (1, 2))
    assert (actual.dead, actual.saturated) == ([1], [1])


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_where_the_converter_is_not_known_values_that_pile_up_at_the_ends_are_cut_off(scale: float) -> None:
    random = np.random.default_rng(0)
    signal = random.normal(0, 30, (5000, 4))
    signal[:, 1] = signal[:, 1].clip(-60, 45)
    signal[:, 2] = random.integers(-1, 2, 5000)  # a quiet channel of an 8-bit device
    signal[:, 3] = np.round(signal[:, 3])
    assert find_faults(signal * scale, (1, 2, 3, 4), None).saturated == [2]
    signal[:, 0], signal[:, 3] = 0.0, signal[:, 1]
    actual = find_faults(signal * scale, (1, 2, 3, 4), None)
    assert (actual.dead, actual.duplicate) == ([1], [(2, 4)])
