"""Recordings of any device as tables: each is read and checked, and what all of a study must agree on is collected.

A table is read once (semg/data/tables.py) and kept in memory as far as there is room.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from semg.common.console import counted
from semg.common.errors import DataError
from semg.common.files import expect_file, expect_unchanged, version
from semg.data.columns import Roles
from semg.data.delimited_text import is_number
from semg.data.faults import sign_in_words
from semg.data.gaps import Gap
from semg.data.recording_list import Entry
from semg.data.spectrum import Spectrum
from semg.data.tables import Table


@dataclass(frozen=True)
class Layout:
    """What is known about the tables before they are read.

    rate: Hz. labels: the name of the column of labels, or its number, counted from 1, for tables without a header.
    channels: the numbers of the channels' columns, counted from 1; None if they are to be recognised.
    """

    rate: float
    labels: str
    channels: Sequence[int] | None = None


@dataclass(frozen=True)
class Reading:
    """A recording as its table has it.

    names: of all columns. samples: (T, channels) float64, in the table's own unit. missing: gaps; judged_by: the name
    of the column that shows them. labels: (T,), empty where there is none. trials: the name of the column that counts
    trials, and the samples at which a new one starts. unit, person: as the table states them, or empty. doubts: what
    may be wrong with it. of: the file that was read, see `version`.
    """

    names: tuple[str, ...]
    roles: Roles
    samples: np.ndarray
    missing: list[Gap]
    judged_by: str
    labels: np.ndarray
    trials: tuple[str, np.ndarray]
    unit: str
    person: str
    doubts: tuple[str, ...]
    of: tuple[int, int] | None

    @property
    def nbytes(self) -> int:
        """The memory that it takes, in bytes."""
        return self.samples.nbytes + self.labels.nbytes

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels."""
        return tuple(self.names[place] for place in self.roles.channels)

    def in_order(self, channels: Sequence[str]) -> "Reading":
        """The same with its channels in the order of the names `channels`, if it has these channels and no others."""
        if self.channels == tuple(channels) or not same_channels(self.channels, channels):
            return self
        order = [self.channels.index(name) for name in channels]
        places = tuple(self.roles.channels[one] for one in order)
        return replace(self, roles=replace(self.roles, channels=places), samples=self.samples[:, order])


def same_channels(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the names are those of the same channels, in any order."""
    return len(set(one)) == len(one) and sorted(one) == sorted(other)


def read(entry: Entry, layout: Layout) -> Reading:
    """Read a recording's table. DataError if it has an error, or if its time column has another rate."""
    path = entry.path
    expect_file(path, "a table of samples")
    with expect_unchanged(path, "a table of samples"):
        of = version(path)
        header = None if entry.label or layout.labels.isdigit() else True
        table = Table(path, header=header, texts=[layout.labels])
    place = _place_of_labels(table, entry, layout)
    roles = table.roles(layout.channels, place)
    missing = table.gaps(roles, layout.rate)
    samples, judged_by = table.samples(roles.channels), table.judged_by(roles)
    (person, doubts), end = table.belongs_to(roles), table.end_in_words()
    doubts = (*doubts, end) if end else doubts
    labels = np.full(table.n_samples, entry.label) if place is None else table.labels(place)
    belonging = (table.trials(roles), table.unit(roles.channels), person, doubts)
    return Reading(table.names, roles, samples, missing, judged_by, labels, *belonging, of)


def _place_of_labels(table: Table, entry: Entry, layout: Layout) -> int | None:
    """The place of the column of labels; None if the list names the gesture of the whole recording. DataError if both
    do, or neither."""
    place = table.find(layout.labels)
    if (place is None) == bool(entry.label):
        return place
    if entry.label:
        both = f"found {entry.label!r} in the list and a column {layout.labels!r}"
        raise DataError(f"{table.path}: expected its gestures in the list or in the table, {both}")
    actual, hint = f"found {', '.join(table.names)}", "{labels} names another"
    if sum(map(is_number, table.names)) > 1:
        actual = f"found {counted(len(table.names), 'column')} without a header"
        hint = f"{{labels}} counts it from 1, such as {{labels}} {len(table.names)}"
    hint += "; a column label in the list names the gesture of a whole recording"
    raise DataError(f"{table.path}: expected a column {layout.labels!r}, {actual}", hint)


class Readings:
    """Reads recordings, and keeps them until they are no longer needed, `most` bytes of them: parsing text is slow."""

    def __init__(self, layout: Layout, most: int) -> None:
        self._layout, self._most = layout, most
        self._kept: dict[Path, Reading] = {}
        self._channels: tuple[str, ...] = ()

    def put_in_order(self, channels: tuple[str, ...]) -> None:
        """From now on, give recordings of these channels with the channels in this order."""
        self._channels = channels

    @property
    def nbytes(self) -> int:
        """The memory that the recordings kept take, in bytes."""
        return sum(reading.nbytes for reading in self._kept.values())

    def get(self, entry: Entry) -> Reading:
        """A recording: the one kept, or read; then it is kept if there is room."""
        reading = self._kept.get(entry.path) or read(entry, self._layout)
        if entry.path not in self._kept and self.nbytes + reading.nbytes <= self._most:
            self._kept[entry.path] = reading
        return reading.in_order(self._channels)

    def drop(self, path: Path) -> None:
        """Keep a recording no longer."""
        self._kept.pop(path, None)


@dataclass(frozen=True)
class Look:
    """What the first reading of a recording found.

    samples: how many it has. places: the columns of its channels, counted from 0. left_out: columns that are not
    channels, with the reason. time, trials: the names of the columns that show missing samples and count trials; empty
    if there is none. rms: the median over the channels, in the table's own unit. mains, lines: frequencies, Hz, of the
    mains hum and of its multiples.
    of: the file that was read, see `version`.
    """

    samples: int
    places: tuple[int, ...]
    channels: tuple[str, ...]
    left_out: dict[str, str]
    time: str
    trials: str
    gestures: frozenset[str]
    rms: float
    mains: float | None
    lines: tuple[float, ...]
    of: tuple[int, int] | None


def look(reading: Reading, rate: float, low: float, high: float) -> Look:
    """What one recording says about the facts on which all recordings have to agree.

    rate: Hz; low, high: Hz, the band that the strength is measured in.
    """
    roles = reading.roles
    with np.errstate(over="ignore", invalid="ignore"):  # an RMS that is not finite is refused afterwards
        spectrum = Spectrum.of(reading.samples, rate)
        rms, mains = float(np.median(spectrum.rms(low, high))), spectrum.mains()
    return Look(
        len(reading.samples),
        roles.channels,
        reading.channels,
        roles.left_out,
        reading.judged_by,
        reading.trials[0],
        frozenset(reading.labels.tolist()) - {""},
        rms,
        mains,
        tuple(spectrum.harmonics(mains, high)) if mains else (),
        reading.of,
    )


def expect_another(path: Path, reading: Reading, known: dict[str, Path]) -> None:
    """DataError if the same samples are in `known` already: one person would count as two, or be in training and
    test."""
    digest = hashlib.sha256(np.ascontiguousarray(reading.samples).data).hexdigest()
    if (other := known.setdefault(digest, path)) != path:
        raise DataError(f"{path}: expected a recording of its own, found the samples of {other.name} again")


def doubts(reading: Reading, subject: str) -> list[str]:
    """What may be wrong with a recording, as messages. subject: who was recorded according to the list."""
    said, own = (re.sub(r"\D", "", name).lstrip("0") for name in (subject, reading.person))
    found = list(reading.doubts)
    if said and own and said != own:
        found.append(f"its column says that person {reading.person} was recorded, the list says {subject}")
    if sign := sign_in_words(reading.samples):
        found.append(sign)
    return found
