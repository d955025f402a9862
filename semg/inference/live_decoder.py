"""Decisions over a stream that has time stamps, loses samples, and may have another rate or unit than the model.

decoder = LiveDecoder(model, rate=2000, scale=1.0, warn=print)
decisions = decoder.push(Chunk(samples, stamps, arrived))

What a window is normalised by outlives gaps in the stream; filter and windows begin anew after one.
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

UNIT_SECONDS = 2.0  # of signal from which its unit is told
_WATCHED_SECONDS = 2.0  # of signal that is looked at as a whole
_RATE_SECONDS = 5.0  # of signal from which its rate is measured


@dataclass(frozen=True)
class Chunk:
    """Samples as they came in. samples: (n, channels in), the model's channels in the model's order; stamps: (n,)
    seconds; arrived: when they came in, seconds by `time.perf_counter`; drift: seconds by which the sender's clock has
    gone slow since the stream began."""

    samples: np.ndarray
    stamps: np.ndarray
    arrived: float
    drift: float = 0.0


@dataclass(frozen=True)
class LiveDecision:
    """One window's outcome.

    stamp: of the window's last sample, seconds by this computer's clock; time: of its end, seconds since the stream's
    first sample; computing: seconds from the arrival of its last sample to the decision; lost: samples until now.
    """

    stamp: float
    time: float
    probabilities: np.ndarray  # (K,) float32
    computing: float
    lost: int


class LiveDecoder:
    """A model's decisions on chunks of a stream."""

    def __init__(
        self,
        model: TrainedModel,
        rate: float,
        scale: float | None,
        *,
        name: str = "stream",
        channels: Sequence[str] = (),
        warmup: float = 0.0,
        normalization: Normalization | None = None,
        adaptation: Adapting | None = None,
        hold: float = 0.0,
        warn: Callable[[str], None],
    ) -> None:
        """A decoder before the first sample.

        rate: Hz of the stream; another than the model's is resampled. scale: microvolts of one unit of the samples;
        None: the training's, or another that is seen in the first seconds and told. name: what messages begin with;
        channels: what they call the channels that come in (none: their numbers, from 1).
        warmup: seconds heard before anything is decided. normalization: if it is not to begin with this stream.
        adaptation: of the network while the stream goes on. hold: above 0, probabilities are those by all until then,
        for gestures that last so many seconds on average; see semg/evaluation/smoothing.py.
        Raises DataError for a rate that the model's cannot be made of.
        """
        self._model, self._rate, self._scale, self._name, self._warn = model, rate, scale, name, warn
        self._ratio = None if rate == model.rate else resampling_ratio(name, rate, model.rate)
        # seconds by which resampling delays the signal
        self.latency = 0.0 if self._ratio is None else CausalResampler(self._ratio, rate).delay
        self.normalization = normalization or model.online()
        self._warmup, self._adaptation = warmup, adaptation
        self._smooth = MarkovFilter(model.stride / model.rate, hold) if hold else None
        self._clock = StreamClock(rate)
        self._watch = SignalWatch(name, channels, rate, warn)
        self._held: list[Chunk] = []  # while the unit is not known
        self._samples = 0  # heard, all together
        self._since_begin = 0  # samples since the stream began anew
        self._first: float | None = None  # time stamps: of the first sample of all, and since the stream began anew
        self._begun = 0.0
        self._rate_checked = self._jump_told = self._excess_told = False
        self._any = False  # whether anything has been decided
        self._invalid = 0  # samples that were no numbers, or more than a model can take
        self._last: np.ndarray | None = None  # (channels in,) the latest sample that was
        self._stream: Stream | None = None
        self._resampler: CausalResampler | None = None

    @property
    def lost(self) -> int:
        """Samples that never came, were no numbers or too large, known up to a second ago."""
        return self._clock.lost + self._invalid

    def push(self, chunk: Chunk) -> list[LiveDecision]:
        """What can be decided now, in order.

        DataError for amplitudes that no model can take, before the first decision: the unit is wrong. Later they are a
        disturbance, which is left out, and windows begin anew after it.
        """
        if not len(chunk.samples):
            return []
        self._watch.see(chunk.samples)
        chunk = replace(chunk, samples=self._numbers(chunk.samples))
        if self._scale is not None:
            return self._decide(chunk, self._scale)
        self._held.append(chunk)
        if sum(len(one.samples) for one in self._held) < UNIT_SECONDS * self._rate:
            return []
        held, self._held = self._held, []
        samples = np.concatenate([one.samples for one in held])
        source = RawRecording(self._name, samples, self._rate, self._model.signal_path.scale)
        self._scale = scale = in_usual_range(self._model, self._name, source, self._warn).scale
        return [decision for one in held for decision in self._decide(one, scale)]

    def prepare(self) -> None:
        """Do what a decision need not wait for: call it when there is time."""
        if self._stream is not None:
            self._stream.prepare()

    def begin_anew(self) -> None:
        """The stream was away: filter and windows begin anew with the next chunk, and so does its clock."""
        self._clock.begin_anew()
        self._since_begin = 0
        self._leave_windows()

    def finish(self) -> int:
        """Samples lost until the end."""
        return self._clock.finish() + self._invalid

    def heard(self) -> SessionStatistics | None:
        """What has been learnt of the session, for a later stream of it; None before the first whole window."""
        return self.normalization.heard()

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
                part = replace(chunk, samples=chunk.samples[begin:end], stamps=chunk.stamps[begin:end])
                decisions += self._decide_evenly(part, scale)
        if self._clock.clocks > clocks:
            self._tell_of_a_jump()
        else:
            self._check_rate(chunk)
        return decisions

    def _decide_evenly(self, chunk: Chunk, scale: float) -> list[LiveDecision]:
        """Decisions over samples between which none is missing."""
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
        """Go on after amplitudes that no model can take: an electrode came off, or something was switched on."""
        self._invalid += len(chunk.samples)
        self._leave_windows()
        if not self._excess_told:
            self._excess_told = True
            self._warn(f"{self._name}: {error.message}: left out, counted as lost; windows begin anew after it")

    def _tell_of_a_jump(self) -> None:
        """Warn, once, of time stamps that are of another clock than those before; the rate is measured anew."""
        self._since_begin = 0
        if not self._jump_told:
            self._jump_told = True
            self._warn(
                f"{self._name}: its time stamps jumped, as the sender's clock was set; windows begin anew there, and "
                "times are by the new clock"
            )

    def _leave_windows(self) -> None:
        """Samples are missing: what comes next is filtered anew, in other windows."""
        self.prepare()
        if self._adaptation is not None:
            self._adaptation.begin_recording()
        if self._smooth is not None:
            self._smooth.begin_anew()
        self._stream = None

    def _begun_stream(self, scale: float) -> Stream:
        """Filter and windows at their beginning, normalisation as it is."""
        left = max(0.0, self._warmup - self._samples / self._rate)
        self._stream = self._model.stream(
            warmup=left, scale=scale, normalization=self.normalization, adaptation=self._adaptation
        )
        self._resampler = None if self._ratio is None else CausalResampler(self._ratio, self._rate)
        return self._stream

    def _numbers(self, samples: np.ndarray) -> np.ndarray:
        """(n, channels) with a channel's number before in place of what is none, which would stay in the filter."""
        if samples.dtype.kind in "iu":
            self._last = samples[-1]
            return samples
        good = np.isfinite(samples)
        if not good.all():
            self._invalid += int((~good.all(axis=1)).sum())
            last = np.zeros(samples.shape[1], samples.dtype) if self._last is None else self._last
            places = np.arange(1, len(samples) + 1)[:, None]  # 0: the last one before
            latest = np.maximum.accumulate(np.where(good, places, 0))
            samples = np.take_along_axis(np.concatenate([last[None], samples]), latest, 0)
        self._last = samples[-1]
        return samples

    def _check_rate(self, chunk: Chunk) -> None:
        """Warn, once, of time stamps by which the rate is another than announced."""
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
    """Looks at a stream's samples as they come and tells of each channel once."""

    def __init__(self, name: str, channels: Sequence[str], rate: float, warn: Callable[[str], None]) -> None:
        """name: what messages begin with; channels: their names, or nothing, which counts them from 1; rate: Hz."""
        self._name, self._channels, self._warn = name, channels, warn
        self._samples = round(_WATCHED_SECONDS * rate)
        self._told: dict[str, set[int]] = {}  # kind of message to channels
        self._forget()

    def see(self, samples: np.ndarray) -> None:
        """(n, channels) the next samples, as they came."""
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
        # (channels,) of each piece: lowest and highest number, whether all samples are numbers
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
        """Warn of the channels, (channels,) bool, that nobody was warned of yet."""
        told = self._told.setdefault(what, set())
        new = [place for place in np.flatnonzero(wrong).tolist() if place not in told]
        if not new:
            return
        told.update(new)
        names = [self._channels[place] if self._channels else str(place + 1) for place in new]
        self._warn(f"{self._name}: channel{'s' if len(new) > 1 else ''} {listed(names)} {what}")
