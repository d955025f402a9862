"""Missing samples of a recording, detected by large steps in its time column or counter.

A device that loses samples continues with the next ones, so a window across the gap would join two different moments.
Lost samples show only in single steps of the time column: over five minutes, half a second is less than the difference
between two clocks. Some devices write something in place of lost samples, zeros or the last sample again; then no
channel changes for a while. This is reported but not cut out, because a smoothed or rounded signal may look the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semg.common.console import counted
from semg.data.windows import segments

SMALLEST = 0.5  # samples: a jump of the time by this much or less is rounding, not a lost sample
TOLERANCE = 0.0025  # seconds: a window may span a gap of this length, 1 % of the usual window
STILL = 0.2  # seconds without a change in any channel: two equal samples are common in whole numbers, this many are not
_EVEN = 0.25  # samples: a step that is this close to the usual one is even
_MOSTLY = 0.99  # a column is regular if more than this fraction of its steps forward is even


@dataclass(frozen=True)
class Gap:
    """`lost` samples (rounded) are missing before sample `start`; negative if the time falls back there."""

    start: int
    lost: int


def find_gaps(times: np.ndarray, interval: float, rate: float) -> list[Gap]:
    """The places where samples are missing.

    times: (n,) time or counter of each sample, finite; interval: its usual step, in the same unit; rate: Hz.

    In a regular column, each step is judged by itself; a sample that merely comes early, such as the one after a late
    sample, has not fallen back. In a column whose times scatter, because they were rounded or
    written when packets arrived, a jump counts if all times within a second after it are later than any time within the
    second before it would predict: scatter averages out within a second, whereas a loss remains.
    """
    steps = np.diff(times) / interval - 1  # in samples; 0 where none is lost
    if len(steps) == 0 or np.abs(steps).max() <= SMALLEST:
        return []
    if _is_regular(steps):
        jumps = np.where((steps < 0) & (steps >= -1 - SMALLEST), 0.0, steps)
    else:
        jumps = _lasting_jumps(times / interval, round(rate))
    return [Gap(int(i) + 1, round(float(jumps[i]))) for i in np.flatnonzero(np.abs(jumps) > SMALLEST)]


def _is_regular(steps: np.ndarray) -> bool:
    """Whether nearly all of (n,) steps are even, as `find_gaps` has them; those that fall back say nothing: short
    trials written one after another have many."""
    ahead = steps[steps >= -1 - SMALLEST]
    return len(ahead) > 0 and bool(np.mean(np.abs(ahead) < _EVEN) > _MOSTLY)


def _lasting_jumps(times: np.ndarray, reach: int) -> np.ndarray:
    """(n,) times in samples -> (n - 1,) how far each sample and the `reach` samples after it are from those before
    it."""
    from scipy.ndimage import maximum_filter1d, minimum_filter1d  # imported here because few recordings need them

    late = times - np.arange(len(times))
    reach = max(1, reach)
    settings = {"size": reach, "mode": "nearest"}
    before, after = (reach - 1) // 2, -(reach // 2)  # position of the window: up to a sample, or from it on
    rise = minimum_filter1d(late, origin=after, **settings)[1:] - maximum_filter1d(late, origin=before, **settings)[:-1]
    fall = minimum_filter1d(late, origin=before, **settings)[:-1] - maximum_filter1d(late, origin=after, **settings)[1:]
    return np.where(rise > 0, rise, np.where(fall > 0, -fall, 0.0))


def sampling_interval(times: np.ndarray, rate: float) -> float:
    """The usual step from sample to sample, regardless of gaps: a median; over pieces of a second if times are rounded.

    times: (n,) of at least two samples; rate: Hz, approximate.
    """
    steps = np.diff(times)
    usual = float(np.median(steps))
    if usual > 0 and _is_regular(steps / usual - 1):
        return usual
    length = min(max(1, round(rate)), len(times) - 1)
    ends = times[::length]
    return float(np.median(np.diff(ends))) / length


def breaks(gaps: Sequence[Gap], rate: float) -> np.ndarray:
    """The first samples after those gaps that no window may span: longer than the tolerance, or with time falling
    back."""
    wide = [gap.start for gap in gaps if gap.lost < 0 or gap.lost > TOLERANCE * rate]
    return np.array(wide, np.int64)


def still_stretches(samples: np.ndarray, rate: float) -> list[tuple[int, int]]:
    """(first sample, number of samples) where no channel of (n, C) changes for STILL or longer; empty if none ever
    changes."""
    same = (samples[1:] == samples[:-1]).all(1)
    if same.all():
        return []
    starts, ends, still = segments(same)
    long = still & (ends - starts >= STILL * rate)
    return [(int(first), int(end - first) + 1) for first, end in zip(starts[long], ends[long], strict=True)]


def still_in_words(stretches: Sequence[tuple[int, int]], rate: float) -> str:
    """`no channel changes for 0.5 s, at 12.3 s`; empty if that never happens."""
    if not stretches:
        return ""
    held = sum(samples for _, samples in stretches) / rate
    where = ", ".join(f"{first / rate:.4g}" for first, _ in stretches[:3]) + (", ..." if len(stretches) > 3 else "")
    return f"no channel changes for {held:.3g} s, at {where} s: were samples lost there?"


def in_words(gaps: Sequence[Gap], rate: float) -> str:
    """`lost samples: 0.5 s in 1 gap, at 95.2 s`; empty if there are no gaps."""
    if not gaps:
        return ""
    lost = sum(max(0, gap.lost) for gap in gaps) / rate
    back = sum(gap.lost < 0 for gap in gaps)
    where = ", ".join(f"{gap.start / rate:.4g}" for gap in gaps[:3]) + (", ..." if len(gaps) > 3 else "")
    summary = f"lost samples: {lost:.3g} s in {counted(len(gaps), 'gap')}, at {where} s"
    return summary + (f"; the time falls back {counted(back, 'time')}" if back else "")
