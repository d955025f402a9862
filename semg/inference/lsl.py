"""Streams of the Lab Streaming Layer (LSL): find one, check it against a model, read it, and write others.

https://labstreaminglayer.readthedocs.io explains streams. pylsl, and the library it loads, are needed only for
streaming, so they are imported when the first stream is used.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from semg.common.console import counted
from semg.common.errors import DataError, short
from semg.data.columns import by_name, taken_in_order
from semg.inference.live_decoder import Chunk
from semg.inference.signal_path import SignalPath
from semg.inference.stream_clock import times_of

BUFFER = 5  # seconds of samples buffered for a slow reader; older ones are lost
_LEAST = 0.005  # seconds of signal to wait for: single samples, one by one, would keep a core busy
_MOST = 0.1  # seconds of signal read at once, so that a backlog does not delay decisions
SILENCE = 1.0  # seconds without a sample after which a stream counts as interrupted
_TWINS = 1.0  # seconds to wait for a second stream of the same name
_CONNECT = 5.0  # seconds to wait for a sender's answer
_CORRECTION = 5.0  # seconds between two measurements of the offset of the sender's clock
_NAMES_OF_UNITS = {
    "uV": "uv µv μv microvolt microvolts",
    "mV": "mv millivolt millivolts",
    "V": "v volt volts",
}
_UNITS = {written: unit for unit, names in _NAMES_OF_UNITS.items() for written in names.split()}
# Where liblsl looks for its settings. It logs to standard error, where the terminal view is drawn.
_SETTINGS = ("lsl_api.cfg", "~/lsl_api/lsl_api.cfg", "/etc/lsl_api/lsl_api.cfg")
_QUIET = "[log]\nlevel = -3\n"
_pylsl: list[ModuleType] = []


def pylsl() -> ModuleType:
    """The pylsl module. DataError, in one line, if it or its library cannot be loaded."""
    if _pylsl:
        return _pylsl[0]
    try:
        import pylsl as module
    except (ImportError, RuntimeError, OSError) as error:
        advice = "pip install -r requirements.txt, and see docs/live.md"
        raise DataError(f"pylsl: expected the Lab Streaming Layer's library, found: {short(error)}", advice) from None
    if "LSLAPICFG" not in os.environ and not any(Path(place).expanduser().exists() for place in _SETTINGS):
        module.set_config_content(_QUIET)
    _pylsl.append(module)
    return module


def clock() -> float:
    """Seconds by the clock that streams use for time stamps."""
    return float(pylsl().local_clock())


class _NoAnswerError(DataError):
    """A stream's sender did not answer in time, or disappeared."""


# --- a stream found --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StreamFacts:
    """A stream's description of itself. labels, units: one text per channel, or empty; rate: Hz, 0 if it has none."""

    name: str
    type: str
    source_id: str
    uid: str
    channels: int
    rate: float
    numeric: bool
    labels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: Any) -> "StreamFacts":
        """Read from a pylsl.StreamInfo."""
        labels, units = info.get_channel_labels() or [], info.get_channel_units() or []
        module = pylsl()
        return cls(
            info.name(),
            info.type(),
            info.source_id(),
            info.uid(),
            info.channel_count(),
            info.nominal_srate(),
            info.channel_format() not in (module.cf_string, module.cf_undefined),
            tuple(label or "" for label in labels) if any(labels) else (),
            tuple(unit or "" for unit in units) if any(units) else (),
        )

    def __str__(self) -> str:
        rate = f"{self.rate:g} Hz" if self.rate else "no regular rate"
        source = f", source id {self.source_id}" if self.source_id else ""
        return f"{self.name} ({self.type or 'no type'}, {counted(self.channels, 'channel')}, {rate}{source})"


@dataclass(frozen=True)
class Layout:
    """How a stream is read. places: of the model's channels among its channels, counted from 0, and their names; rate:
    Hz; unit: a key of `semg.data.tables.UNITS`, or None if the stream does not state it."""

    places: tuple[int, ...]
    names: tuple[str, ...]
    rate: float
    unit: str | None


def layout_for(
    facts: StreamFacts,
    signals: SignalPath,
    *,
    rate: float | None = None,
    channels: Sequence[int] | None = None,
    resample: bool = False,
    warn: Callable[[str], None],
) -> Layout:
    """How a model reads a stream.

    rate: Hz, to override the stream's own; channels: which ones to use, counted from 1, in the model's order (None: by
    their labels, otherwise all); resample: accept another rate than the model's.
    Raises DataError, which names the stream, if it does not fit the model.
    """
    if not facts.numeric:
        raise DataError(f"{facts.name}: expected a stream of numbers, found one of texts")
    actual = rate or facts.rate
    if not actual:
        raise DataError(f"{facts.name}: expected a stream with a sampling rate, found none", "{rate} says it")
    if abs(actual / signals.rate - 1) < 1e-4:
        actual = signals.rate
    elif not resample:
        raise DataError(
            f"{facts.name}: expected the model's {signals.rate:g} Hz, found {actual:g} Hz", "{resample} resamples it"
        )
    elif lacking := signals.lacking(actual):
        warn(f"{facts.name}: {lacking}")
    places = _places(facts, signals.electrode_names, channels, warn)
    return Layout(places, signals.electrode_names, actual, _unit(facts, places))


def _places(
    facts: StreamFacts, channels: Sequence[str], chosen: Sequence[int] | None, warn: Callable[[str], None]
) -> tuple[int, ...]:
    """Places of the model's channels among the stream's channels."""
    if chosen is not None:
        if len(chosen) != len(channels):
            hint = f"{{channels}} names {len(chosen)}"
            raise DataError(f"{facts.name}: expected the model's {len(channels)} channels, found {len(chosen)}", hint)
        if wrong := [one for one in chosen if not 1 <= one <= facts.channels]:
            actual = counted(facts.channels, "channel")
            raise DataError(f"{facts.name}: expected a channel {wrong[0]}, found {actual}", "see {channels}")
        return tuple(one - 1 for one in chosen)
    if own := by_name(facts.name, facts.labels, channels):
        return tuple(own)
    if facts.channels != len(channels):
        actual = f"{facts.channels}"
        raise DataError(
            f"{facts.name}: expected the model's {len(channels)} channels, found {actual}", "{channels} chooses"
        )
    if in_order := taken_in_order(facts.labels, channels):
        warn(f"{facts.name}: {in_order}")
    return tuple(range(len(channels)))


def _unit(facts: StreamFacts, places: Sequence[int]) -> str | None:
    """The unit of the channels used; None if they state none, several, or one that is not a voltage."""
    units = {_UNITS.get(facts.units[place].strip().casefold()) for place in places} if facts.units else {None}
    return units.pop() if len(units) == 1 else None


# --- reading ---------------------------------------------------------------------------------------------------


class StreamReader:
    """Reads the stream with a given name, waits for it when it is interrupted, and checks it again when it returns."""

    def __init__(self, called: str, layout: Callable[[StreamFacts], Layout], wait: float) -> None:
        """Find a stream by name, source id or type, and begin to read it.

        layout: called with the stream's description, now and whenever it returns; raises DataError for a stream that
        cannot be read. wait: seconds to wait for the stream to appear. Raises DataError if there is none, or several.
        """
        self._module, self._layout_of = pylsl(), layout
        quoted = _quoted(called)
        predicate = f"name={quoted} or source_id={quoted} or type={quoted}"
        self._resolver = self._module.ContinuousResolver(pred=predicate, forget_after=2.0)
        self._inlet: Any = None
        self.interruptions = 0
        self._heard = time.monotonic()
        self._latest: float | None = None  # latest time stamp, by the sender's clock
        self._corrected = -_CORRECTION
        self._correction = self._first_correction = 0.0  # seconds from the sender's clock to ours
        self._open(self._resolved(called, predicate, wait))

    @property
    def silent(self) -> float:
        """Seconds since the last sample."""
        return time.monotonic() - self._heard

    def pull(self, timeout: float) -> Chunk | None:
        """The next samples of the model's channels, with time stamps by our clock; None if none arrived in `timeout`
        seconds.

        After an interruption of the stream, `interruptions` has grown by one.
        """
        if self._inlet is None and not self._back():
            time.sleep(timeout)
            return None
        self._look_at_its_clock()
        least = max(1, round(_LEAST * self.layout.rate))
        try:
            samples, stamps = self._inlet.pull_chunk(
                timeout, max(least, round(_MOST * self.layout.rate)), min_samples=least
            )
        except self._module.util.LostError:
            self._inlet = None
            return None
        arrived = time.perf_counter()
        if not len(stamps):
            if self.silent > SILENCE:
                self._back()
            return None
        self._heard = time.monotonic()
        if self._latest is None:
            self._latest = clock() - self._first_correction
        stamps = times_of(np.asarray(stamps), self._latest, self.layout.rate)
        self._latest = float(stamps[-1])
        stamps = stamps + self._first_correction  # constant: a new measurement would look like a gap
        drift = self._correction - self._first_correction
        return Chunk(samples[:, self._chosen], stamps, arrived, drift)

    def close(self) -> None:
        """Stop reading."""
        self._inlet = None

    def _resolved(self, called: str, predicate: str, wait: float) -> Any:
        """The single stream with this name, otherwise with this source id, otherwise of this type."""
        streams = self._module.resolve_bypred(predicate, 1, wait)
        if not streams:
            others = [str(StreamFacts.of(info)) for info in self._module.resolve_streams(1.0)]
            there = "; ".join(others[:5]) or "no stream at all"
            raise DataError(
                f"{called}: expected a stream of this name, source id or type within {wait:g} s, found {there}",
                "see docs/live.md where a stream runs and is not found",
            )
        streams = self._module.resolve_bypred(predicate, 2, _TWINS) or streams
        by = [[info for info in streams if getattr(info, kind)() == called] for kind in ("name", "source_id", "type")]
        best = next(same for same in by if same)
        if len(best) > 1:
            both = "; ".join(str(StreamFacts.of(info)) for info in best[:3])
            raise DataError(f"{called}: expected one stream, found {both}", "{lsl} takes a source id too")
        return best[0]

    def _open(self, info: Any, before: Layout | None = None) -> None:
        """Begin to read. DataError if the stream does not answer, cannot be read, or is not as `before`."""
        inlet = self._module.StreamInlet(info, max_buflen=BUFFER, recover=False, as_numpy=True)
        try:
            facts = StreamFacts.of(inlet.info(_CONNECT))
            self.layout = self._layout_of(facts)
            _expect_as_before(facts, self.layout, before)
            inlet.open_stream(_CONNECT)
            self._correction = self._first_correction = inlet.time_correction(_CONNECT)
        except (self._module.util.LostError, self._module.util.TimeoutError):
            text = f"{info.name()}: expected the stream to answer within {_CONNECT:g} s, found none"
            raise _NoAnswerError(text) from None
        self.facts, self._inlet, self._heard, self._latest = facts, inlet, time.monotonic(), None
        in_order = self.layout.places == tuple(range(facts.channels))
        self._chosen: slice | list[int] = slice(None) if in_order else list(self.layout.places)
        self._corrected = time.monotonic()

    def _back(self) -> bool:
        """Open the stream again if its sender has returned: with the same source id or name, but a new stream."""
        for info in self._resolver.results():
            same = info.source_id() == self.facts.source_id and info.name() == self.facts.name
            if same and info.uid() != self.facts.uid:
                try:
                    self._open(info, self.layout)
                except _NoAnswerError:  # it disappeared again
                    return False
                self.interruptions += 1
                return True
        return False

    def _look_at_its_clock(self) -> None:
        now = time.monotonic()
        if now - self._corrected < _CORRECTION:
            return
        self._corrected = now
        try:
            self._correction = self._inlet.time_correction(0.0)
        except (self._module.util.LostError, self._module.util.TimeoutError):
            return  # keep the previous offset


def _expect_as_before(facts: StreamFacts, layout: Layout, before: Layout | None) -> None:
    """DataError if a stream has returned with another rate or unit: its samples would be taken for what they were."""
    if before is None or (before.rate, before.unit) == (layout.rate, layout.unit):
        return
    was, now = (f"{one.rate:g} Hz, unit {one.unit or 'not stated'}" for one in (before, layout))
    raise DataError(f"{facts.name}: expected the stream to return as it was, {was}; found {now}; start live.py again")


def _quoted(text: str) -> str:
    """A text quoted for an XPath predicate, which has no escapes. DataError for a text with both kinds of quotes."""
    if '"' in text and "'" in text:
        raise DataError(f"{text}: expected a stream's name with one kind of quotes at most, found both")
    return f'"{text}"' if "'" in text else f"'{text}'"


# --- writing ---------------------------------------------------------------------------------------------------


def outlet(
    name: str,
    kind: str,
    labels: Sequence[str],
    rate: float,
    *,
    source_id: str,
    units: str = "",
    facts: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """A stream of float32 for others to read, a pylsl.StreamOutlet.

    kind: LSL's content type, such as EMG; rate: Hz, 0 for samples at irregular times; units: of all channels; facts:
    lists for its description, such as the classes.
    """
    module = pylsl()
    info = module.StreamInfo(name, kind, len(labels), rate, module.cf_float32, source_id)
    info.set_channel_labels(list(labels))
    info.set_channel_types(kind)
    if units:
        info.set_channel_units(units)
    for key, values in (facts or {}).items():
        node = info.desc().append_child(key)
        for value in values:
            node.append_child_value("value", value)
    return module.StreamOutlet(info)
