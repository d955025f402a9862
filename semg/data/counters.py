"""Counters of samples or packets: their step, and the length after which they wrap around."""

import math
from dataclasses import dataclass

import numpy as np

FEWEST = 4  # shortest cycle, in counts: values that alternate between two or three may be a trigger
_ROUND = 0.01  # tolerance, as a fraction of a step
_LATE = 0.25  # fraction of a cycle: a smaller fall means that samples arrived in another order


@dataclass(frozen=True)
class Cycle:
    """A counter of whole numbers that wraps around after `length`, such as 256 or 100; `step`: its usual step."""

    step: float
    length: float

    @property
    def of_bits(self) -> bool:
        """Whether the length is a power of two, as for a counter with a number of bits."""
        return math.log2(self.length).is_integer()

    def is_passed(self, steps: np.ndarray) -> np.ndarray:
        """Which steps from sample to sample are wrap-arounds, with or without lost samples; other falls are late
        samples."""
        return steps < -_LATE * self.length


def cycle_of(counter: np.ndarray) -> Cycle | None:
    """The cycle of a counter; None if it has none, or if its falls do not show its length.

    counter: (T,). A length that is a power of two or of ten is accepted after a single wrap-around. Any other length
    must have been seen at least twice, from the counter's end to its beginning, and at half or more of the falls: a
    device that was restarted starts counting again, too, but not always after the same number of samples.
    """
    steps = np.diff(counter)
    rising = steps[steps > 0]
    if not len(rising) or len(rising) == len(steps) or not (counter == np.round(counter)).all():
        return None
    step = float(np.median(rising))
    cycle = Cycle(step, float(np.ptp(counter)) + step)
    falls = steps[cycle.is_passed(steps)]
    if not len(falls) or not (cycle.length / step).is_integer() or cycle.length < FEWEST * step:
        return None
    whole = np.count_nonzero(_are(falls, step - cycle.length, step))
    seen_twice = whole >= 2 and 2 * whole >= len(falls)
    return cycle if cycle.of_bits or (whole and math.log10(cycle.length).is_integer()) or seen_twice else None


def unwrapped(counter: np.ndarray, cycle: Cycle | None) -> np.ndarray:
    """The counter without its wrap-arounds: (T,) -> (T,)."""
    if cycle is None:
        return counter
    return counter + np.concatenate([[0.0], np.cumsum(cycle.is_passed(np.diff(counter)) * cycle.length)])


def steps_evenly(values: np.ndarray, share: float) -> bool:
    """Whether at least a fraction `share` of the changes in (T,) finite numbers are one step up, or a wrap-around."""
    steps = np.diff(values)
    changes = steps[steps != 0]
    if not (changes > 0).any():
        return False
    usual = float(np.median(changes[changes > 0]))
    even = _are(changes, usual, usual)
    if (cycle := cycle_of(values)) is not None:
        even |= _are(changes, usual - cycle.length, usual)
    return bool(even.mean() >= share)


def _are(steps: np.ndarray, expected: float, unit: float) -> np.ndarray:
    return np.abs(steps - expected) <= _ROUND * unit
