"""From samples as recorded to the signal in shards: re-referenced, in microvolts, filtered, float16."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from semg.common.errors import DataError, SettingError
from semg.data import putemg
from semg.data.filters import CausalFilter, FilterSpec, ZeroPhaseFilter

USUAL_RMS = (0.1, 1e4)  # RMS of surface EMG in microvolts; beyond these limits, the unit must be another
FURTHEST = 1000.0  # a recording may be at most this many times stronger or weaker than those that it belongs to
APART = 100.0  # a step between the strengths of recordings that suggests two units, which differ by 1000
COMMON_RMS = 100.0  # RMS to which `common_scale` brings a recording in an arbitrary unit
CAUSAL_BLOCK = 1 << 16  # samples filtered together
MONTAGES = ("monopolar", "bipolar", "car")


def montage(channels: Sequence[int], kind: str) -> tuple[list[str], np.ndarray]:
    """Names of the re-referenced channels, and the (channels, channels out) matrix that makes them.

    channels: putEMG's numbers, 1 to 24; kind: monopolar, car or bipolar. Raises SettingError if that is impossible.
    """
    names = [putemg.CHANNEL_COLUMNS[number - 1] for number in channels]
    identity = np.eye(len(channels), dtype=np.float32)
    if kind == "monopolar":
        return names, identity
    if kind == "car":
        if len(channels) < 2:
            raise SettingError("montage", "monopolar where {channels} is a single one", kind)
        return names, identity - np.float32(1 / len(channels))
    pairs = _pairs(channels)
    if not pairs:
        raise SettingError(
            "montage", "monopolar or car unless {channels} has neighbouring rings, such as 1 and 9", kind
        )
    matrix = np.stack([identity[:, near] - identity[:, far] for near, far in pairs], axis=1)
    return [f"{names[near]}-{names[far]}" for near, far in pairs], matrix


def _pairs(channels: Sequence[int]) -> list[tuple[int, int]]:
    """Places of the electrodes that have a neighbour in the next ring towards the wrist, and of that neighbour."""
    step = putemg.RING_SIZE
    return [
        (place, channels.index(number + step)) for place, number in enumerate(channels) if number + step in channels
    ]


def rings(channels: Sequence[int], kind: str) -> list[list[int]]:
    """The complete rings among the re-referenced channels: their places, counted from 0, in order around the arm.

    channels, kind: as in `montage`. A ring with a missing electrode is left out.
    """
    numbers = [channels[near] for near, _ in _pairs(channels)] if kind == "bipolar" else list(channels)
    around = [range(first, first + putemg.RING_SIZE) for first in range(1, putemg.N_CHANNELS, putemg.RING_SIZE)]
    return [[numbers.index(n) for n in ring] for ring in around if set(ring) <= set(numbers)]


@np.errstate(over="ignore", invalid="ignore", under="ignore")
def filtered(
    samples: np.ndarray,
    reference: np.ndarray,
    spec: FilterSpec,
    rate: float,
    scale: float = putemg.MICROVOLTS_PER_COUNT,
) -> np.ndarray:
    """(T, channels) -> (T, channels out) float16 microvolts, re-referenced by `reference` and filtered.

    rate: Hz; scale: microvolts per unit of `samples`; by default, the unit is putEMG's ADC count. Amplitudes that
    float16 cannot hold become infinite, or 0.
    """
    out = np.empty((len(samples), reference.shape[1]), np.float16)
    sections = spec.sections(rate)
    scaled = reference * np.float32(scale)
    if spec.causal:
        run = CausalFilter(sections)
        for start in range(0, len(samples), CAUSAL_BLOCK):
            block = samples[start : start + CAUSAL_BLOCK].astype(np.float32) @ scaled
            out[start : start + CAUSAL_BLOCK] = run(block)
        return out
    zero_phase = ZeroPhaseFilter(sections, rate, len(samples))
    for channel in range(reference.shape[1]):  # one at a time, to limit memory
        out[:, channel] = zero_phase(_mixed(samples, scaled[:, channel]))
    return out


def _mixed(samples: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One re-referenced channel, (T,) float32; channels with weight 0 are not read."""
    parts = np.flatnonzero(weights)
    if len(parts) < 4:
        return sum(samples[:, part].astype(np.float32) * weights[part] for part in parts)
    mixed = np.empty(len(samples), np.float32)
    for start in range(0, len(samples), CAUSAL_BLOCK):
        mixed[start : start + CAUSAL_BLOCK] = samples[start : start + CAUSAL_BLOCK].astype(np.float32) @ weights
    return mixed


def filtered_table(
    path: Path, samples: np.ndarray, spec: FilterSpec, rate: float, scale: float, unit: str = ""
) -> np.ndarray:
    """(T, channels) float64 from the table in `path` -> (T, channels) float16, multiplied by `scale` and filtered.

    unit: of the samples, for messages; empty if it is not known. DataError for amplitudes that float16 cannot hold.
    """
    signal = filtered(exact_in_float32(samples), np.eye(samples.shape[1], dtype=np.float32), spec, rate, scale)
    float16 = np.finfo(np.float16)
    if not np.isfinite(signal).all():
        limit = f"{float(float16.max) / scale:.4g} {unit}".rstrip()
        with np.errstate(over="ignore", invalid="ignore"):
            furthest = np.abs(samples - np.median(samples, axis=0))
        row, channel = np.unravel_index(np.argmax(furthest), furthest.shape)
        actual = f"{samples[row, channel]:.6g} at sample {row} of channel {channel + 1}"
        raise DataError(f"{path}: expected amplitudes below {limit}, found {actual}; is it in the others' unit?")
    if not signal.any():
        limit = f"{float(float16.smallest_subnormal) / scale:.2g} {unit}".rstrip()
        raise DataError(f"{path}: expected amplitudes above {limit}, found none; is it in the others' unit?")
    return signal


def common_scale(rms: float) -> float:
    """The power of ten that brings a root mean square nearest to 100, as for surface EMG in microvolts.

    With it, float16 represents signals in any unit equally well, and the same signal in volts and in microvolts gives
    the same numbers.
    """
    return 10.0 ** round(math.log10(COMMON_RMS / rms)) if rms > 0 else 1.0


def in_another_unit(rms: Mapping[Path, float], typical: float) -> list[Path]:
    """The recordings whose root mean square (above 0) is too far from the `typical` one to be in the same unit."""
    return [path for path, one in rms.items() if one > 0 and not 1 / FURTHEST <= one / typical <= FURTHEST]


def signs_of_two_units(rms: Mapping[Path, float]) -> Iterator[str]:
    """A message for each step between the recordings' root mean squares that suggests two units."""
    by_strength = sorted(((one, path) for path, one in rms.items() if one > 0), key=lambda pair: pair[0])
    for (weak, weaker), (strong, stronger) in pairwise(by_strength):
        if strong >= APART * weak:
            found = f"found an RMS of {weak:.3g} in {weaker.name} and of {strong:.3g} in {stronger.name}"
            question = "are some in mV and some in uV?"
            yield f"expected recordings in one unit, {found}, and none between; {question}"


def exact_in_float32(samples: np.ndarray) -> np.ndarray:
    """(T, channels) float64 -> float32. Channels so far from 0 that rounding would affect their signal are given
    relative to their first sample; a constant offset is filtered out anyway."""
    if len(samples) == 0:
        return samples.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        span = np.ptp(samples, axis=0)
        coarse = np.abs(samples).max(axis=0) * np.finfo(np.float32).eps > 1e-4 * span
        return (samples - np.where(coarse & (span > 0), samples[0], 0.0)).astype(np.float32)
