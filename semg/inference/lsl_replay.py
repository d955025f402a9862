"""Playing a recording into a stream of the Lab Streaming Layer in real time, as its device would send it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from semg.common.console import counted
from semg.common.errors import DataError
from semg.data import gaps, putemg
from semg.data.preprocessing import exact_in_float32
from semg.data.tables import Table, is_table, read_recording
from semg.inference import lsl

_PACKET = 0.025  # seconds of signal sent at once
_LAST_WORDS = 1.0  # seconds for readers to receive the last samples
_UNITS = {"uV": "microvolts", "mV": "millivolts", "V": "volts", "counts": "counts"}  # as streams state them


@dataclass(frozen=True)
class Playable:
    """samples: (T, channels) float32 at `rate` Hz; labels: names of the channels; unit: empty if unknown."""

    name: str
    samples: np.ndarray
    rate: float
    labels: tuple[str, ...]
    unit: str

    def beginning(self, seconds: float) -> "Playable":
        """Its first `seconds`, or one sample if they are shorter."""
        return replace(self, samples=self.samples[: max(1, round(seconds * self.rate))])


def read_playable(
    path: Path,
    rate: float | None,
    unit: str | None,
    channels: Sequence[int] | None,
    warn: Callable[[str], None] = lambda _: None,
) -> Playable:
    """A recording in putEMG's layout, with all 24 channels in microvolts, or a table as predict.py reads it.

    rate (Hz), unit, channels (columns counted from 1): for a table; warn: called about missing samples. DataError for
    any other file.
    """
    if not is_table(path):
        source = read_recording(path, range(1, putemg.N_CHANNELS + 1), "TRAJ_GT")
        if source.missing:
            warn(f"{path}: {gaps.in_words(source.missing, source.rate)}")
        microvolts = source.samples.astype(np.float32) * np.float32(source.scale)
        return Playable(path.stem, microvolts, source.rate, putemg.CHANNEL_COLUMNS, _UNITS["uV"])
    if rate is None:
        raise DataError(f"{path}: expected a sampling rate for a table, found none", "{rate} says it")
    table = Table(path)
    roles = table.roles(channels)
    missing = table.gaps(roles, rate)  # refuses a time column with another rate
    for text in filter(None, (table.assumed(roles), table.end_in_words(), gaps.in_words(missing, rate))):
        warn(f"{path}: {text}")
    places = roles.channels
    samples = exact_in_float32(table.samples(places))
    labels = tuple(table.names[place] for place in places)
    labels = tuple(f"ch{label}" if label.isdigit() else label for label in labels)
    return Playable(path.stem, samples, rate, labels, _UNITS[unit] if unit else "")


def play(
    recording: Playable,
    name: str,
    *,
    say: Callable[[str], None],
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Send a recording once there is a reader.

    name: of the stream; progress: called with the number of samples in each packet.
    """
    samples, rate = recording.samples, recording.rate
    source = f"replay of {recording.name} as {name}"
    out = lsl.outlet(name, "EMG", recording.labels, rate, source_id=source, units=recording.unit)
    channels = counted(len(recording.labels), "channel")
    say(f"{name}: a stream of {channels} at {rate:g} Hz; it starts when a program in another terminal reads it")
    while not out.wait_for_consumers(0.2):
        pass
    packet = max(1, round(_PACKET * rate))
    begun = lsl.clock()
    for begin in range(0, len(samples), packet):
        part = samples[begin : begin + packet]
        last = begun + (begin + len(part)) / rate  # a device has a sample at the end of its sampling interval
        while (early := last - lsl.clock()) > 0:
            time.sleep(min(early, 0.1))
        out.push_chunk(part, last)
        progress(len(part))
    ended = time.monotonic()
    while out.have_consumers() and time.monotonic() - ended < _LAST_WORDS:
        time.sleep(0.05)
