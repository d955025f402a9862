"""The time stamps of a stream: how many samples were lost, and where windows must start afresh.

A device stamps each sample, or each packet when it is sent. In the second case stamps scatter, because a late packet is
not a lost one. Lost samples show in the lateness of the stamps, i.e. the time of a sample minus its number divided by
the rate: after a loss, it never falls back.
"""

import numpy as np

from semg.data.gaps import SMALLEST, TOLERANCE

_PIECE = 1.0  # seconds over which the smallest lateness is taken: in this time, some packet is punctual
_FORGETTING = 0.5  # fraction of the scatter that remains after a second without any
_CLOCK_SET_BACK = 1.0  # stamps fall by this many seconds only if the sender's clock was changed
_CLOCK_SET_AHEAD = 86400.0  # rises that mean the same; after a shorter pause, samples count as lost
_LATEST = 1e12  # seconds, 30,000 years: no clock shows more


class StreamClock:
    """Counts the samples that are missing between the time stamps of a stream."""

    def __init__(self, rate: float) -> None:
        """rate: Hz, as the stream announces it."""
        self._rate = rate
        self._lost = 0.0
        self.clocks = 1  # number of clocks so far: one more each time the clock was set or replaced
        self.begin_anew()

    def begin_anew(self) -> None:
        """A new stream begins here; samples lost so far stay counted."""
        self._count = 0  # samples since the stream began
        self._last: float | None = None  # lateness of the latest sample
        self._level: float | None = None  # smallest lateness in the last complete piece
        self._piece: list[float] = []  # lateness of the runs in the current piece
        self._piece_samples = 0
        self._scatter = 0.0  # seconds by which packets are early or late

    @property
    def lost(self) -> int:
        """Samples lost; complete up to about a second ago."""
        return max(0, round(self._lost))

    def push(self, stamps: np.ndarray) -> list[int]:
        """(n,) time stamps of the next samples, seconds -> the places among them before which so many samples are
        missing that no window may span the gap."""
        late = stamps - np.arange(self._count, self._count + len(stamps)) / self._rate
        steps = np.empty_like(late)
        steps[0] = 0.0 if self._last is None else late[0] - self._last
        np.subtract(late[1:], late[:-1], out=steps[1:])
        places = np.flatnonzero(np.abs(steps) >= SMALLEST / self._rate).tolist()
        breaks = [place for place in places if self._breaks(float(steps[place]))]
        for begin, end in zip([0, *places], [*places, len(late)], strict=True):
            if end == begin:
                continue
            if _is_another_clock(float(steps[begin])):
                self._piece, self._piece_samples, self._level = [], 0, None
                self.clocks += 1
            self._add(late[begin:end])
        self._count += len(stamps)
        self._last = float(late[-1])
        self._scatter *= _FORGETTING ** (len(stamps) / self._rate)
        return breaks

    def finish(self) -> int:
        """Samples lost so far, at the end of the stream."""
        if self._level is not None and self._piece:
            rise = min(self._piece[-2:]) - self._level
            if rise > 2 * self._scatter:  # each of two packets may be late
                self._count_rise(rise)
        return self.lost

    def _breaks(self, step: float) -> bool:
        """Whether no window may span this step of the lateness, in seconds; also records how far steps scatter."""
        if _is_another_clock(step) or step > max(TOLERANCE, 2 * self._scatter):
            return True
        self._scatter = max(self._scatter, abs(step))
        return False

    def _add(self, late: np.ndarray) -> None:
        """(n,) lateness of samples without a step between them."""
        self._piece.append(float(late.min()))
        self._piece_samples += len(late)
        if self._piece_samples < _PIECE * self._rate:
            return
        lowest = min(self._piece)
        if self._level is not None:
            self._count_rise(lowest - self._level)
        self._level, self._piece, self._piece_samples = lowest, [], 0

    def _count_rise(self, seconds: float) -> None:
        rise = seconds * self._rate
        if abs(rise) >= SMALLEST:  # smaller steps are drift between clocks; a fall corrects samples that were only late
            self._lost += rise


def _is_another_clock(step: float) -> bool:
    """Whether a step of the lateness, in seconds, is so large that the sender's clock must have been set or
    replaced."""
    return step < -_CLOCK_SET_BACK or step > _CLOCK_SET_AHEAD


def times_of(stamps: np.ndarray, before: float | None, rate: float) -> np.ndarray:
    """(n,) time stamps, some of which may be invalid (NaN, infinite, beyond all clocks) -> (n,) seconds. Invalid ones
    are continued at `rate` Hz from the stamp before them, or from 0 if there is none. before: the last stamp of the
    previous call."""
    good = np.isfinite(stamps) & (np.abs(stamps) < _LATEST)
    if good.all():
        return stamps
    places = np.arange(1, len(stamps) + 1)  # 0 is the last stamp of the previous call
    latest = np.maximum.accumulate(np.where(good, places, 0))
    known = np.concatenate([[0.0 if before is None else before], np.where(good, stamps, 0.0)])
    return np.asarray(known[latest] + (places - latest) / rate)
