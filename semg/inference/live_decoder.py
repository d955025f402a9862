"""Decisions on a stream that has time stamps, loses samples, and may have another rate or unit than the model.

decoder = LiveDecoder(model, rate=2000, scale=1.0, warn=print)
decisions = decoder.push(Chunk(samples, stamps, arrived))

After a gap in the stream, the filter and the windows start afresh; the statistics for normalisation are kept.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from semg.common.console import listed
from semg.common.errors import DataError
from semg.data.resampling import CausalResampler, resampling_ratio
from semg.data.tables import RATE_TOLERANCE, RawRecording
from semg.evaluation.smoothing import MarkovFilter
from semg.inference.online_normalization import Normalization
from semg.inference.recordings import in_usual_range
from semg.inference.session_statistics import SessionStatistics
from semg.inference.stream_clock import StreamClock
from semg.inference.streaming import Adapting, Stream
from semg.inference.trained_model import TrainedModel

UNIT_SECONDS = 2.0  # of signal from which its unit is determined
_WATCHED_SECONDS = 2.0  # of signal that is checked for faults at once
_RATE_SECONDS = 5.0  # of signal from which its rate is measured


@dataclass(frozen=True)
class Chunk:
    """Samples as they came in. samples: (n, channels in), the model's channels in the model's order; stamps: (n,)
    seconds; arrived: the time of arrival, seconds by `time.perf_counter`; drift: seconds that the sender's clock has
    lost since the stream began."""

    samples: np.ndarray
    stamps: np.ndarray
    arrived: float
    drift: float = 0.0


@dataclass(frozen=True)
class LiveDecision:
    """The outcome for one window.

    stamp: time stamp of the window's last sample, seconds by this computer's clock; time: the window's end, in seconds
    since the stream's first sample; computing: seconds from the arrival of its last sample to the decision; lost:
    number of samples lost so far.
    """

    stamp: float
    time: float
    probabilities: np.ndarray  # (K,) float32
    computing: float
    lost: int


class LiveDecoder:
    """Decides on chunks of a stream with a trained model."""

    def __init__(
        self,
        model: TrainedModel,
        rate: float,
        scale: float | None,
        *,
        name: str = "stream",
        channels: Sequence[str] = (),
        start_after: float = 0.0,
        normalization: Normalization | None = None,
        adaptation: Adapting | None = None,
        hold: float = 0.0,
        warn: Callable[[str], None],
    ) -> None:
        """A decoder before the first sample.

        rate: Hz of the stream; if it is not the model's, the stream is resampled. scale: microvolts per unit of the
        samples; None: that of training, or another that the first seconds show, with a warning. name: prefix of
        messages; channels: names of the incoming channels for messages (none: numbers from 1).
        start_after: seconds of signal before the first decision. normalization: an existing one to continue; None for a
        new one.
        adaptation: adapts the network during the stream. hold: if above 0, probabilities are smoothed over all windows
        so far, for gestures that last this many seconds on average; see semg/evaluation/smoothing.py.
        Raises DataError for a rate that cannot be resampled to the model's.
        """
        self._model, self._rate, self._scale, self._name, self._warn = model, rate, scale, name, warn
        self._ratio = None if rate == model.rate else resampling_ratio(name, rate, model.rate)
        # seconds by which resampling delays the signal
        self.latency = 0.0 if self._ratio is None else CausalResampler(self._ratio, rate).delay
        self.normalization = normalization or model.online()
        self._start_after, self._adaptation = start_after, adaptation
        self._smooth = MarkovFilter(model.stride / model.rate, hold) if hold else None
        self._clock = StreamClock(rate)
        self._watch = SignalWatch(name, channels, rate, warn)
        # chunks that wait until the unit is known; a list for each stretch between two interruptions
        self._held: list[list[Chunk]] = [[]]
        self._samples = 0  # received in all
        self._since_begin = 0  # samples since the stream last started
        self._first: float | None = None  # time stamps of the very first sample, and of the first since the last start
        self._begun = 0.0
        self._rate_checked = self._jump_told = self._excess_told = False
        self._any = False  # whether anything has been decided
        self._invalid = 0  # samples that were not finite, or too large for the model
        self._last: np.ndarray | None = None  # (channels in,) the latest valid sample
        self._unwatched: np.ndarray | None = None  # the latest samples, until they are checked for faults
        self._stream: Stream | None = None
        self._resampler: CausalResampler | None = None

    @property
    def lost(self) -> int:
        """Number of samples that were lost, not finite or too large; complete up to about a second ago."""
        return self._clock.lost + self._invalid

    def push(self, chunk: Chunk) -> list[LiveDecision]:
        """Process the next samples; returns the decisions that they complete, in order.

        DataError for impossible amplitudes before the first decision, because then the unit is wrong. Later they are
        treated as a disturbance: they are left out, and windows start afresh after them.
        """
        if not len(chunk.samples):
            return []
        self._look_for_faults()
        self._unwatched = chunk.samples
        chunk = replace(chunk, samples=self._numbers(chunk.samples))
        if self._scale is not None:
            return self._decide(chunk, self._scale)
        self._held[-1].append(chunk)
        samples = [one.samples for stretch in self._held for one in stretch]
        if sum(map(len, samples)) < UNIT_SECONDS * self._rate:
            return []
        source = RawRecording(self._name, np.concatenate(samples), self._rate, self._model.signal_path.scale)
        self._scale = in_usual_range(self._model, self._name, source, self._warn).scale
        return self._decide_held(self._scale)

    def prepare(self) -> None:
        """Do work that no decision needs to wait for. Call it when there is time; otherwise the next `push` does it."""
        self._look_for_faults()
        if self._stream is not None:
            self._stream.prepare()

    def begin_anew(self) -> None:
        """Call it after an interruption: filter, windows and clock start afresh with the next chunk."""
        if self._scale is None:
            self._held.append([])
        self._clock.begin_anew()
        self._since_begin = 0
        self._leave_windows()

    def finish(self) -> int:
        """Number of samples lost until the end of the stream."""
        self._look_for_faults()
        return self._clock.finish() + self._invalid

    def heard(self) -> SessionStatistics | None:
        """The statistics of the session, for a later stream of the same session; None before the first complete
        window."""
        return self.normalization.heard()

    def _decide_held(self, scale: float) -> list[LiveDecision]:
        """Decisions on the chunks that waited until the unit was known."""
        (first, *others), self._held = self._held, []
        decisions = [decision for chunk in first for decision in self._decide(chunk, scale)]
        for stretch in others:
            self.begin_anew()
            decisions += [decision for chunk in stretch for decision in self._decide(chunk, scale)]
        return decisions

    def _decide(self, chunk: Chunk, scale: float) -> list[LiveDecision]:
        if self._first is None:
            self._first = float(chunk.stamps[0])
        clocks = self._clock.clocks
        breaks = self._clock.push(chunk.stamps)
        decisions: list[LiveDecision] = []
        for begin, end in zip([0, *breaks], [*breaks, len(chunk.samples)], strict=True):
            if begin in breaks:
                self._leave_windows()
            if end > begin:
                part = slice(begin, end)
                even = replace(chunk, samples=chunk.samples[part], stamps=chunk.stamps[part]) if breaks else chunk
                decisions += self._decide_evenly(even, scale)
        if self._clock.clocks > clocks:
            self._tell_of_a_jump()
        else:
            self._check_rate(chunk)
        return decisions

    def _decide_evenly(self, chunk: Chunk, scale: float) -> list[LiveDecision]:
        """Decisions on samples without a gap."""
        stream, samples = self._stream or self._begun_stream(scale), chunk.samples
        self._samples += len(samples)
        places = np.arange(len(samples))
        if self._resampler is not None:
            samples, places = self._resampler(samples)
        if not len(samples):
            return []
        seen = stream.seen
        try:
            pushed = stream.push(samples)
        except DataError as error:
            if not self._any:
                raise DataError(f"{self._name}: {error.message}", error.hint) from None
            self._leave_out(chunk, error)
            return []
        now = time.perf_counter()
        behind = 1 / self._rate - (self._first or 0.0)
        decisions = []
        self._any = self._any or bool(pushed)
        for one in pushed:
            stamp = float(chunk.stamps[places[one.end - seen - 1]])
            shares = one.probabilities if self._smooth is None else self._smooth(one.probabilities).astype(np.float32)
            decisions.append(LiveDecision(stamp + chunk.drift, stamp + behind, shares, now - chunk.arrived, self.lost))
        return decisions

    def _leave_out(self, chunk: Chunk, error: DataError) -> None:
        """Continue after impossible amplitudes: an electrode came off, or something was switched on."""
        self._invalid += len(chunk.samples)
        self._leave_windows()
        if not self._excess_told:
            self._excess_told = True
            self._warn(f"{self._name}: {error.message}: left out, counted as lost; windows start afresh after it")

    def _tell_of_a_jump(self) -> None:
        """Warn, once, that time stamps come from another clock than before; the rate is measured again."""
        self._since_begin = 0
        if not self._jump_told:
            self._jump_told = True
            self._warn(
                f"{self._name}: its time stamps jumped, as the sender's clock was set; windows start afresh there, and "
                "times are by the new clock"
            )

    def _leave_windows(self) -> None:
        """After missing samples: the filter and the windows start afresh."""
        self.prepare()
        if self._adaptation is not None:
            self._adaptation.begin_recording()
        if self._smooth is not None:
            self._smooth.begin_anew()
        self._stream = None

    def _begun_stream(self, scale: float) -> Stream:
        """A new stream, with filter and windows at their beginning and the existing normalisation."""
        left = max(0.0, self._start_after - self._samples / self._rate)
        self._stream = self._model.stream(
            start_after=left, scale=scale, normalization=self.normalization, adaptation=self._adaptation
        )
        self._resampler = None if self._ratio is None else CausalResampler(self._ratio, self._rate)
        return self._stream

    def _look_for_faults(self) -> None:
        """Check the latest samples for faulty channels, once."""
        if self._unwatched is not None:
            self._watch.see(self._unwatched)
            self._unwatched = None

    def _numbers(self, samples: np.ndarray) -> np.ndarray:
        """(n, channels), with values that are not finite replaced by the channel's previous value; they would never
        leave the filter."""
        if samples.dtype.kind in "iu":
            self._last = samples[-1]
            return samples
        good = np.isfinite(samples)
        if not good.all():
            self._invalid += int((~good.all(axis=1)).sum())
            last = np.zeros(samples.shape[1], samples.dtype) if self._last is None else self._last
            places = np.arange(1, len(samples) + 1)[:, None]  # 0 is the last sample of the previous chunk
            latest = np.maximum.accumulate(np.where(good, places, 0))
            samples = np.take_along_axis(np.concatenate([last[None], samples]), latest, 0)
        self._last = samples[-1]
        return samples

    def _check_rate(self, chunk: Chunk) -> None:
        """Warn, once, if the time stamps show another rate than the announced one."""
        if self._since_begin == 0:
            self._begun = float(chunk.stamps[0])
        self._since_begin += len(chunk.stamps)
        if self._rate_checked or self._since_begin < _RATE_SECONDS * self._rate:
            return
        self._rate_checked = True
        passed = float(chunk.stamps[-1]) - self._begun
        if passed <= 0:
            self._warn(f"{self._name}: its time stamps do not rise: neither its rate nor lost samples can be told")
            return
        measured = (self._since_begin - 1) / passed
        if abs(measured / self._rate - 1) > RATE_TOLERANCE:
            self._warn(
                f"{self._name}: announces {self._rate:g} Hz, but {measured:.4g} samples a second came by its time "
                "stamps: it loses samples, or its rate is another and decisions are worth nothing"
            )


class SignalWatch:
    """Checks a stream's samples as they arrive, and warns about each faulty channel once."""

    def __init__(self, name: str, channels: Sequence[str], rate: float, warn: Callable[[str], None]) -> None:
        """name: prefix of messages; channels: their names, or empty, which means numbers from 1; rate: Hz."""
        self._name, self._channels, self._warn = name, channels, warn
        self._samples = round(_WATCHED_SECONDS * rate)
        self._told: dict[str, set[int]] = {}  # message -> channels already reported
        self._forget()

    def see(self, samples: np.ndarray) -> None:
        """(n, channels) the next samples, as they arrived."""
        finite = np.isfinite(samples)
        values = samples.astype(np.float64)
        self._low.append(np.where(finite, values, np.inf).min(0))
        self._high.append(np.where(finite, values, -np.inf).max(0))
        self._numbers.append(finite.all(0))
        self._count += len(samples)
        if self._count >= self._samples:
            self._look()
            self._forget()

    def _forget(self) -> None:
        self._count = 0
        # (channels,) for each piece: minimum, maximum, whether all samples are finite
        self._low: list[np.ndarray] = []
        self._high: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []

    def _look(self) -> None:
        still = np.min(self._low, 0) == np.max(self._high, 0)
        self._tell(
            ~np.all(self._numbers, 0), "brought samples that are no numbers: the number before is taken for each"
        )
        self._tell(still, f"did not change for {_WATCHED_SECONDS:g} s: is the electrode connected?")

    def _tell(self, wrong: np.ndarray, what: str) -> None:
        """Warn about those channels, (channels,) bool, that have not been reported yet."""
        told = self._told.setdefault(what, set())
        new = [place for place in np.flatnonzero(wrong).tolist() if place not in told]
        if not new:
            return
        told.update(new)
        names = [self._channels[place] if self._channels else str(place + 1) for place in new]
        self._warn(f"{self._name}: channel{'s' if len(new) > 1 else ''} {listed(names)} {what}")
