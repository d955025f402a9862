"""Detection of faulty channels in a recording. They are reported, not repaired."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from semg.common.console import listed
from semg.data.putemg import ADC_BITS

ADC_ENDS = (-(2 ** (ADC_BITS - 1)), 2 ** (ADC_BITS - 1) - 1)  # the range of putEMG's converter
SATURATED_SHARE = 0.01  # fraction of samples at the ends of a converter's range
_NEAR = 2.0  # standard deviations between minimum and mean: 1.3 for a rectified Gaussian, over 3 for a raw one
_BITS = (8, 16, 24, 32)  # sizes of whole numbers
_OF_EITHER_SIGN = 0.1  # where signed numbers were read as unsigned, at least this fraction is near each end
_MORE = 3.0  # and there are more than this many times as many near both ends as in the middle
_FEW_VALUES = 64  # with fewer distinct values, a channel is often at its ends without being clipped


@dataclass(frozen=True)
class ChannelFaults:
    """Numbers of faulty channels, counted from 1: dead ones never change, saturated ones stay at the converter's ends,
    duplicates are equal."""

    dead: list[int] = field(default_factory=list)
    saturated: list[int] = field(default_factory=list)
    duplicate: list[tuple[int, int]] = field(default_factory=list)

    def __str__(self) -> str:
        return self.in_words(str)

    def in_words(self, name: Callable[[int], str]) -> str:
        """What is wrong; empty if nothing is. name: called for the name of a channel of that number."""
        parts = [f"dead channels {listed(map(name, self.dead))}"] if self.dead else []
        if self.saturated:
            parts.append(f"saturated channels {listed(map(name, self.saturated))}")
        if self.duplicate:
            parts.append("equal channels " + listed([f"{name(a)}={name(b)}" for a, b in self.duplicate]))
        return ", ".join(parts)


def find_faults(
    samples: np.ndarray, channels: Sequence[int], ends: tuple[float, float] | None = ADC_ENDS
) -> ChannelFaults:
    """Dead, saturated (over 1 % of the samples at the converter's ends) and equal channels.

    samples: (n_samples, len(channels)); channels: their numbers; ends: the converter's range, or None if it is not
    known: then a channel counts as saturated if it is at its own extremes more often than near them.
    """
    dead = [number for place, number in enumerate(channels) if samples[:, place].min() == samples[:, place].max()]
    saturated = [
        number
        for place, number in enumerate(channels)
        if (_is_cut(samples[:, place]) if ends is None else _is_at(samples[:, place], ends))
    ]
    duplicate = []
    probe = samples[:: max(1, len(samples) // 4096)]
    for i in range(len(channels)):
        for j in range(i + 1, len(channels)):
            if channels[i] in dead or not np.array_equal(probe[:, i], probe[:, j]):
                continue
            if np.array_equal(samples[:, i], samples[:, j]):
                duplicate.append((channels[i], channels[j]))
    return ChannelFaults(dead, saturated, duplicate)


def sign_in_words(samples: np.ndarray) -> str:
    """A warning about (T, channels) samples that are never negative; empty if a converter may count like that."""
    if samples.min() < 0:
        return ""
    if bits := _bits_of_unsigned(samples):
        return (
            f"its samples lie near 0 and near {2**bits - 1} and seldom between: negative ones were read as unsigned "
            f"numbers of {bits} bits"
        )
    if _is_rectified(samples):
        return (
            "its samples are never below 0 and most lie near it: a rectified signal or an envelope loses its course "
            "to the filter"
        )
    return ""


def _bits_of_unsigned(samples: np.ndarray) -> int:
    """The number of bits, if signed numbers were read as unsigned ones: samples are then at both ends of the range, and
    a signal around 0 is seldom in its middle. 0 if this is not the case."""
    most = samples.max()
    bits = next((bits for bits in _BITS if most < 2**bits), 0)
    if not bits or not np.array_equal(samples, np.round(samples)):
        return 0
    eighth = np.floor(samples * 8 / 2**bits)
    low, high, middle = ((np.isin(eighth, part)).mean(axis=0) for part in ((0,), (7,), (3, 4)))
    of_both_signs = np.median(np.minimum(low, high)) > _OF_EITHER_SIGN
    return bits if of_both_signs and np.median(low + high) > _MORE * np.median(middle) else 0


def _is_rectified(samples: np.ndarray) -> bool:
    """Whether the minimum of most channels is close to their mean, as for rectified signals and envelopes.

    samples: (T, channels). Samples of a converter that counts from 0 extend about as far below their mean as above it.
    """
    spread = samples.std(axis=0)
    alive = spread > 0
    below = (samples.mean(axis=0) - samples.min(axis=0))[alive] / spread[alive]
    return bool(len(below)) and bool(np.median(below) < _NEAR)


def _is_at(channel: np.ndarray, ends: tuple[float, float]) -> bool:
    low, high = ends
    if channel.min() > low and channel.max() < high:
        return False
    return bool(np.mean((channel <= low) | (channel >= high)) > SATURATED_SHARE)


def _is_cut(channel: np.ndarray) -> bool:
    """Whether values pile up at the channel's own ends."""
    low, high = channel.min(), channel.max()
    if low == high or not np.isfinite([low, high]).all():  # beyond the range of numbers: refused after the filter
        return False
    near = 0.1 * (high - low)
    for at_end, beside in (
        (channel == high, (channel < high) & (channel >= high - near)),
        (channel == low, (channel > low) & (channel <= low + near)),
    ):
        if at_end.mean() > SATURATED_SHARE and np.count_nonzero(at_end) > np.count_nonzero(beside):
            return len(np.unique(channel)) >= _FEW_VALUES
    return False
