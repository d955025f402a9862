"""The time stamps of a stream: how many samples were lost, and where windows must begin anew.

A device stamps each sample, or each packet as it is sent, and then stamps scatter: a late packet is no lost one. What
is lost for good shows in the stamps' lateness, the time of a sample less its number over the rate: it never falls back.
"""

import numpy as np

from semg.data.gaps import SMALLEST, TOLERANCE

_PIECE = 1.0  # seconds whose least lateness counts: within one, some packet is on time
_FORGETTING = 0.5  # of the scatter is left after a second without any
_CLOCK_SET_BACK = 1.0  # seconds by which stamps fall only when the sender's clock is another
_CLOCK_SET_AHEAD = 86400.0  # and by which they rise then; a device that pauses for less has lost what it did not send
_LATEST = 1e12  # seconds, 30,000 years: no clock says more


class StreamClock:
    """Counts samples that are missing between the time stamps of a stream."""

    def __init__(self, rate: float) -> None:
        """rate: Hz, as the stream announces it."""
        self._rate = rate
        self._lost = 0.0
        self.clocks = 1  # how many the stamps were of: one more each time that it was set, or is another
        self.begin_anew()

    def begin_anew(self) -> None:
        """The stream is another from here on; what was lost until now stays counted."""
        self._count = 0  # samples since then
        self._last: float | None = None  # lateness of the latest sample
        self._level: float | None = None  # least lateness of the last whole piece
        self._piece: list[float] = []  # lateness of the runs in the piece that is coming in
        self._piece_samples = 0
        self._scatter = 0.0  # seconds by which packets come early or late

    @property
    def lost(self) -> int:
        """Samples lost, known up to a second ago."""
        return max(0, round(self._lost))

    def push(self, stamps: np.ndarray) -> list[int]:
        """(n,) seconds of the next samples -> places among them before which so much is missing that no window may
        span it."""
        late = stamps - (self._count + np.arange(len(stamps))) / self._rate
        before = late[0] if self._last is None else self._last
        steps = np.diff(late, prepend=before)
        places = np.flatnonzero(np.abs(steps) >= SMALLEST / self._rate)
        breaks = [int(place) for place in places if self._breaks(float(steps[place]))]
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
        """Samples lost until now, at the stream's end."""
        if self._level is not None and self._piece:
            rise = min(self._piece[-2:]) - self._level
            if rise > 2 * self._scatter:  # two packets may both be late
                self._count_rise(rise)
        return self.lost

    def _breaks(self, step: float) -> bool:
        """Whether no window may span a step of the lateness, seconds; remembers how far steps scatter."""
        if _is_another_clock(step) or step > max(TOLERANCE, 2 * self._scatter):
            return True
        self._scatter = max(self._scatter, abs(step))
        return False

    def _add(self, late: np.ndarray) -> None:
        """(n,) lateness of samples that came evenly."""
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
        if abs(rise) >= SMALLEST:  # less is how two clocks differ; a fall takes back what only came late
            self._lost += rise


def _is_another_clock(step: float) -> bool:
    """Whether the lateness steps so far, in seconds, only where the sender's clock was set or is another."""
    return step < -_CLOCK_SET_BACK or step > _CLOCK_SET_AHEAD


def times_of(stamps: np.ndarray, before: float | None, rate: float) -> np.ndarray:
    """(n,) time stamps, of which some may be no time (NaN, infinite, beyond all clocks) -> (n,) seconds: those count on
    at `rate` Hz from the one before them, and from 0 where there is none. before: the last stamp until now."""
    good = np.isfinite(stamps) & (np.abs(stamps) < _LATEST)
    if good.all():
        return stamps
    places = np.arange(1, len(stamps) + 1)  # 0: the one before
    latest = np.maximum.accumulate(np.where(good, places, 0))
    known = np.concatenate([[0.0 if before is None else before], np.where(good, stamps, 0.0)])
    return np.asarray(known[latest] + (places - latest) / rate)
