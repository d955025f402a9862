"""Counters of samples or packets: what they count by, and after how much they begin anew."""

import math
from dataclasses import dataclass

import numpy as np

FEWEST = 4  # counts of a cycle: what goes to and fro between two or three values may be a trigger
_ROUND = 0.01  # of a step
_LATE = 0.25  # of a cycle: by less a counter falls where samples arrived in another order


@dataclass(frozen=True)
class Cycle:
    """A counter of whole numbers that begins anew after `length`, such as 256 or 100; `step`: its usual one."""

    step: float
    length: float

    @property
    def of_bits(self) -> bool:
        """Whether it begins anew as a number of some bits does."""
        return math.log2(self.length).is_integer()

    def is_passed(self, steps: np.ndarray) -> np.ndarray:
        """Of steps from sample to sample, which begin anew, samples being lost there or not; others came too late."""
        return steps < -_LATE * self.length


def cycle_of(counter: np.ndarray) -> Cycle | None:
    """The cycle of a counter; None where it has none, or where its falls say of none how long it is.

    counter: (T,). A number of bits, or a power of ten, is believed after one fall. Any other length must have been
    seen twice, from the counter's end to its begin, and at half of the falls: a device that was started anew begins
    anew as well, but not always after as many samples.
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
    """A counter as it would be if it never began anew: (T,) -> (T,)."""
    if cycle is None:
        return counter
    return counter + np.concatenate([[0.0], np.cumsum(cycle.is_passed(np.diff(counter)) * cycle.length)])


def steps_evenly(values: np.ndarray, share: float) -> bool:
    """Whether at least a `share` of the changes of (T,) finite numbers are one step up, or the begin of a new cycle."""
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
