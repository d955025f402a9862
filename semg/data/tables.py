"""Samples of any device: tables of numbers as text or as NumPy arrays, and recordings in putEMG's layout.

semg/data/columns.py decides which columns of a table are channels, a time or counter, labels, or something else.
"""

import math
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from semg.common.console import counted, listed
from semg.common.errors import DataError
from semg.common.files import expect_file
from semg.data import gaps, putemg
from semg.data.columns import (
    Roles,
    by_name,
    names_a_person,
    names_a_session,
    names_a_trial,
    told_apart,
    unit_of_signal,
    unit_of_time,
)
from semg.data.counters import Cycle, cycle_of, unwrapped
from semg.data.delimited_text import DelimitedText, as_written, is_number, number
from semg.data.gaps import Gap
from semg.data.preprocessing import exact_in_float32
from semg.data.putemg_recording import Recording, is_hdf5
from semg.data.resampling import resampling_ratio
from semg.data.times import seconds_of

TABLES = (".csv", ".txt", ".tsv", ".npy")  # file extensions, in lower or upper case
_HDF5 = (".hdf5", ".h5", ".hdf")
LABELS = "label"  # the usual column of labels: that of import_csv.py, and of what live.py records
UNITS = {"uV": 1.0, "mV": 1e3, "V": 1e6, "counts": putemg.MICROVOLTS_PER_COUNT}  # microvolts per unit
SIMULATED = "simulated.json"  # simulate_putemg.py writes this file beside its recordings
RATE_TOLERANCE = 0.02  # relative tolerance between the steps of a time column and the rate
_RATE_SEARCH = 12.0  # a time of unknown unit that is further off than this factor says nothing about the rate
_CHANCE = 1e-3  # probability that labels change only at a counter's wrap-arounds by chance
_HERTZ = re.compile(r"(\d+(?:[.,]\d+)?) ?hz", re.IGNORECASE)
_FULL_SHEETS = (65_536, 1_048_576)  # most rows of an Excel sheet, in the old and the new format
_NO_LABEL = ("NA", "<NA>", "<undefined>", "<missing>")
_HEAD = 1000  # first rows, from which it is decided which columns hold numbers


@dataclass(frozen=True)
class RawRecording:
    """samples: (T, channels) in units of `scale` microvolts at `rate` Hz; codes: (T,) true labels, if known: putEMG's
    numbers, or for a table the names of gestures, empty where there is none; missing: where samples are missing;
    channels: names of the columns, if they have any; assumed: a message about what was assumed of a counter, and
    of the table's end; unit: as stated in the table, otherwise empty; cuts: first samples of trials that follow
    another without a pause."""

    name: str
    samples: np.ndarray
    rate: float
    scale: float
    codes: np.ndarray | None = None
    missing: tuple[Gap, ...] = ()
    channels: tuple[str, ...] = ()
    assumed: str = ""
    unit: str = ""
    cuts: tuple[int, ...] = ()


def is_table(path: Path) -> bool:
    """Whether a file is to be read as a table, text or a NumPy array: by its name, otherwise by whether it is an HDF5
    file."""
    suffix = path.suffix.lower()
    if suffix in TABLES or suffix in _HDF5 or not path.is_file():
        return suffix in TABLES
    return not is_hdf5(path)


def is_simulated(path: Path) -> bool:
    """Whether a recording is beside the listing that simulate_putemg.py writes."""
    return (path.parent / SIMULATED).exists()


def read_recording(path: Path, channels: Sequence[int], labels: str) -> RawRecording:
    """A recording in putEMG's layout, under any file name: `channels` by number, true labels from the column
    `labels`."""
    if labels not in putemg.LABEL_COLUMNS or max(channels) > putemg.N_CHANNELS:
        raise DataError(f"{path}: expected a table, as the model is of another device, found putEMG's layout")
    with Recording(path, check_name=False) as recording:
        samples, codes = recording.read(tuple(channels), labels)
        missing = tuple(recording.gaps())
    return RawRecording(path.stem, samples, putemg.RATE, putemg.MICROVOLTS_PER_COUNT, codes, missing)


class Table:
    """A table of one recording: one row per sample, columns by name. Everything comes from a single pass over the file.

    Attributes: `path`; `names` of the columns, or their numbers from 1 without a header; `n_samples`.
    """

    def __init__(self, path: Path, *, header: bool | None = None, texts: Sequence[str] = ()) -> None:
        """Read a .npy (time, columns), or text in rows and columns under any name.

        header: whether the first row names the columns (None: detect it); texts: names of columns that are read as
        text, such as labels. Raises DataError for anything that is not a table.
        """
        self.path = path
        self._numbers: dict[int, np.ndarray] = {}  # (T,) for each column; NaN where a cell holds no number
        self._texts: dict[int, list[str]] = {}
        self._seconds: dict[int, np.ndarray | None] = {}  # (T,) for each column of dates; None if it cannot be read
        self._wrong: dict[int, tuple[int, str]] = {}  # line and text of the first cell of a column that holds no number
        self._decimal = "."
        self._below: tuple[list[str], ...] = ()  # rows below the names, with units and rates of the columns
        self._last_line = 0  # last line of the file that holds a sample
        self._cut = ""  # a message about a line after it that was left out
        if path.suffix.lower() == ".npy":
            values = _read_npy(path)
            self.names = tuple(str(place + 1) for place in range(values.shape[1]))
            self._numbers = dict(enumerate(values.T))
            self.n_samples = len(values)
            return
        text = DelimitedText(path, "a table of samples", header=header, may_be_cut=True)
        self._decimal = text.decimal
        self._below = text.units
        self.names = text.names or tuple(str(place + 1) for place in range(text.width))
        self.n_samples = self._read(text, [place for name in texts if (place := self.find(name)) is not None])
        self._cut = text.cut
        if not self.n_samples:
            raise DataError(f"{path}: expected a row a sample below the names of the columns, found none")

    def find(self, name: str) -> int | None:
        """The place of the column `name`; upper and lower case may differ if only one column matches. DataError if two
        do."""
        name = as_written(name)
        places = [place for place, one in enumerate(self.names) if one == name]
        places = places or [place for place, one in enumerate(self.names) if one.casefold() == name.casefold()]
        if len(places) > 1:
            both = " and ".join(str(place + 1) for place in places[:2])
            raise DataError(f"{self.path}: expected one column {name!r}, found columns {both}")
        return places[0] if places else None

    def roles(self, channels: Sequence[int] | None = None, labels: int | None = None) -> Roles:
        """What each column is, see `told_apart`.

        channels: numbers, counted from 1, of the columns that the user chose; labels: the place of the labels.
        """
        if channels and (wrong := [one for one in channels if not 1 <= one <= len(self.names)]):
            actual = counted(len(self.names), "column")
            raise DataError(f"{self.path}: expected a column {wrong[0]}, found {actual}", hint="see {channels}")
        chosen = None if channels is None else [one - 1 for one in channels]
        numbers = [self._numbers.get(place) for place in range(len(self.names))]
        texts = {place: next(filter(self._is_text, cells), "") for place, cells in self._texts.items()}
        return told_apart(self.path, self.names, numbers, chosen, labels, texts)

    def _is_text(self, cell: str) -> bool:
        return bool(cell) and not is_number(cell, self._decimal)

    def samples(self, places: Sequence[int]) -> np.ndarray:
        """(T, len(places)) float64. DataError, naming line or sample, if a cell holds no finite number."""
        for place in places:
            if place in self._wrong:
                line, cell = self._wrong[place]
                where = f"column {place + 1} ({self.names[place]})"
                raise DataError(f"{self.path}:{line}: expected a number in {where}, found {cell!r}")
        values = np.stack([self._numbers[place] for place in places], axis=1).astype(np.float64)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            where = f"at sample {row} in column {places[column] + 1} ({self.names[places[column]]})"
            raise DataError(
                f"{self.path}: expected finite numbers, found {values[row, column]} {where}",
                hint="take such rows out, a time or counter column then shows that they are missing; or leave the "
                "column out by {channels}",
            )
        return values

    def labels(self, place: int) -> np.ndarray:
        """(T,) the labels in a column, as `label` writes them; empty where there is none."""
        cells, decimal = self._texts.get(place), self._decimal
        if cells is None:
            cells, decimal = [repr(value) for value in self._numbers[place].tolist()], "."
        known = {cell: label(cell, decimal) for cell in set(cells)}
        return np.array([known[cell] for cell in cells], dtype=str)

    def unit(self, places: Sequence[int]) -> str:
        """uV, mV or V if the names of all these columns, or the row below them, state it; otherwise empty."""
        said = {next(filter(None, map(unit_of_signal, self._said(place))), "") for place in places}
        return said.pop() if len(said) == 1 else ""

    def _said(self, place: int) -> list[str]:
        """A column's name, and the cells of units below it."""
        return [self.names[place], *(row[place] for row in self._below if place < len(row))]

    def judged_by(self, roles: Roles) -> str:
        """The name of the column that shows missing samples, and its length if it wraps around; empty if there is none,
        or if its times cannot be read."""
        if roles.time is None or self._times(roles.time) is None:
            return ""
        cycle = self.cycle(roles)
        anew = "" if cycle is None else f", which wraps around after {cycle.length:g}"
        return (self.names[roles.time] or "the column without a name") + anew

    def cycle(self, roles: Roles) -> Cycle | None:
        """How the counter that `roles` names wraps around; None if it does not, or if the table has several recordings
        below each other.

        For a time, only a cycle of a power of two is accepted: one that starts again after a second may belong to the
        next trial.
        """
        times = None if roles.time is None else self._times(roles.time)
        cycle = None if times is None else cycle_of(times)
        if times is None or cycle is None or not (roles.counter or cycle.of_bits):
            return None
        anew = cycle.is_passed(np.diff(times))
        return None if any(self._changes_there(place, anew) for place in roles.facts) else cycle

    def assumed(self, roles: Roles) -> str:
        """A message about what is assumed of a counter; empty for one that has a number of bits."""
        if (cycle := self.cycle(roles)) is None or cycle.of_bits:
            return ""
        return (
            f"lost samples are judged by {self.judged_by(roles)}: the loss of that many, or a restart, is not detected"
        )

    def belongs_to(self, roles: Roles) -> tuple[str, tuple[str, ...]]:
        """The person that a column names, empty if there is none, and messages about values of several sessions.

        DataError for several people, because splits could not separate them.
        """
        person, doubts = "", []
        for place in roles.facts:
            who, when = names_a_person(self.names[place]), names_a_session(self.names[place])
            if not (who or when):
                continue
            cells = self._texts.get(place)
            values = in_order({label(one, self._decimal) for one in set(cells)} if cells else self._known(place))
            values = [one for one in values if one]
            if who and len(values) > 1:
                actual = f"found {listed(values)} in column {place + 1} ({self.names[place]})"
                raise DataError(f"{self.path}: expected one person's recording, {actual}", "write a table of each")
            if when and len(values) > 1:
                has = f"its column {self.names[place]} has {len(values)} values"
                doubts.append(f"{has}, but it is taken as one session")
            person = values[0] if who and values else person
        return person, tuple(doubts)

    def end_in_words(self) -> str:
        """A warning if the table seems to be truncated; otherwise empty."""
        full = f"it ends with line {self._last_line}, the last row of an Excel sheet"
        sign = self._cut or (full if self._last_line in _FULL_SHEETS else "")
        return f"{sign}: is the rest of it missing?" if sign else ""

    def trials(self, roles: Roles) -> tuple[str, np.ndarray]:
        """The name of the column that counts trials and the first samples of those that directly follow another; both
        empty if there are no such trials.

        Trials separated by empty cells or 0 need no cut: their labels separate them.
        """
        for place in roles.facts:
            if names_a_trial(self.names[place]):
                trial = self.labels(place)
                numbered = ~np.isin(trial, ("", "0"))
                cuts = np.flatnonzero((trial[1:] != trial[:-1]) & numbered[1:] & numbered[:-1]) + 1
                if len(cuts):
                    return self.names[place], cuts
        return "", np.empty(0, np.int64)

    def _known(self, place: int) -> set[str]:
        return {label(repr(value)) for value in np.unique(self._numbers[place]).tolist()}

    def _changes_there(self, place: int, anew: np.ndarray) -> bool:
        """Whether a column of labels, trials or the like changes at the counter's wrap-arounds, and nowhere else.

        By chance, a change falls on a wrap-around as often as there are wrap-arounds among the steps.
        """
        cells = np.array(self._texts[place]) if place in self._texts else np.nan_to_num(self._numbers[place])
        changes = cells[1:] != cells[:-1]
        if (changes & ~anew).any():
            return False
        return bool(float(anew.mean()) ** np.count_nonzero(changes) < _CHANCE)

    def gaps(self, roles: Roles, rate: float) -> list[Gap]:
        """Where samples are missing according to the time or counter that `roles` names; rate: Hz, the expected one.

        DataError if the steps of a time, or a row below the names, show another rate.
        """
        for place in roles.channels:
            for said in filter(None, map(_HERTZ.search, self._said(place)[1:])):
                hertz = float(said[1].replace(",", "."))  # units may have another decimal mark than the samples
                if abs(hertz / rate - 1) > RATE_TOLERANCE:
                    actual = f"found {hertz:g} Hz below the name of column {place + 1} ({self.names[place]})"
                    raise DataError(f"{self.path}: expected {rate:g} Hz, {actual}", "{rate} is another")
        if roles.time is None or self.n_samples < 2:
            return []
        times = self._times(roles.time)
        if times is None:
            return []
        times = unwrapped(times, self.cycle(roles))
        interval = gaps.sampling_interval(times, rate)
        if interval <= 0:
            return []
        stated = next(filter(None, map(unit_of_time, self._said(roles.time))), None)
        unit = 1.0 if roles.time in self._texts else stated
        if unit or not roles.counter:  # a column with a unit of time is one, whatever its name
            measured = _measured_rate(interval, rate, unit)
            if unit or 1 / _RATE_SEARCH < measured / rate < _RATE_SEARCH:
                self._check_rate(roles.time, measured, rate)
        return gaps.find_gaps(times, interval, rate)

    def _check_rate(self, place: int, measured: float, rate: float) -> None:
        if abs(measured / rate - 1) > RATE_TOLERANCE:
            raise DataError(
                f"{self.path}: expected {rate:g} Hz, found {measured:.5g} Hz by the times in column {place + 1} "
                f"({self.names[place]})",
                hint="{rate} is another, or they are in another unit than seconds, ms, us or ns: then call it counter",
            )

    def _times(self, place: int) -> np.ndarray | None:
        """(T,) the numbers of a time or counter, or seconds if it is written as a date or a time of day; None if it
        cannot be read and therefore cannot be used."""
        if place in self._numbers:
            times = self._numbers[place].astype(np.float64)
            return times if np.isfinite(times).all() else None
        if place not in self._seconds:
            self._seconds[place] = seconds_of(self._texts[place])
        return self._seconds[place]

    def _read(self, text: DelimitedText, as_text: Sequence[int]) -> int:
        """Read all rows; returns how many there are. Columns whose first cells are mostly not numbers are read as
        text."""
        head = [row for _, row in islice(text.rows(), _HEAD)]
        numeric = [
            place
            for place in range(text.width)
            if place not in as_text and _mostly_numbers([row[place] for row in head], text.decimal)
        ]
        self._texts = {place: [] for place in range(text.width) if place not in numeric}
        flat, n_samples = array("d"), 0
        for line, row in text.rows():
            cells = [row[place] for place in numeric]
            flat.extend(self._converted(text, line, numeric, cells))
            for place, column in self._texts.items():
                column.append(row[place])
            n_samples += 1
            self._last_line = line
        self._numbers = dict(zip(numeric, np.array(flat).reshape(n_samples, len(numeric)).T, strict=True))
        return n_samples

    def _converted(self, text: DelimitedText, line: int, places: Sequence[int], cells: Sequence[str]) -> list[float]:
        """The numbers in the cells, NaN where there is none; that is an error only if the column is used."""
        try:
            if text.decimal == "." and "_" not in "".join(cells):
                return list(map(float, cells))
            return list(map(text.number, cells))
        except ValueError:
            for place, cell in zip(places, cells, strict=True):
                if not is_number(cell, text.decimal):
                    self._wrong.setdefault(place, (line, cell))
            return [text.number(cell) if is_number(cell, text.decimal) else float("nan") for cell in cells]


def label(cell: str, decimal: str = ".") -> str:
    """A label in the form in which labels are compared: `1`, `1.0` and `01` are the same class.

    NaN is not a label, nor is what R, pandas and MATLAB write for a missing one.
    """
    cell = as_written(cell).strip()
    if not is_number(cell, decimal):
        return "" if cell in _NO_LABEL else cell
    value = number(cell, decimal)
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def in_order(labels: Iterable[str]) -> list[str]:
    """Distinct labels, sorted: first those that are numbers, by value, then the others."""
    return sorted(set(labels), key=lambda one: (0, float(one), one) if is_number(one) else (1, 0.0, one))


def read_table(
    path: Path,
    rate: float,
    scale: float,
    columns: Sequence[int] | None,
    n_channels: int,
    names: Sequence[str] = (),
    labels: str = "",
) -> RawRecording:
    """The channels of a table at `rate` Hz, in units of `scale` microvolts, and its labels if it has a column `labels`.

    A table without that column may have them in the usual one: a model of putEMG's recordings is used on others.

    columns: which ones to use, counted from 1, in the model's order of channels (None: those named like the model's
    channels, `names`, otherwise all channels); n_channels: how many the model needs.
    Raises DataError for anything but finite numbers of that shape, and for a time column of another rate.
    """
    named = list(dict.fromkeys([labels, LABELS])) if labels else []
    table = Table(path, texts=named)
    place = next((found for name in named if (found := table.find(name)) is not None), None)
    if columns is None and (own := by_name(path, table.names, names)):
        columns = [one + 1 for one in own]
    roles = table.roles(columns, place)
    if len(roles.channels) != n_channels:
        actual = counted(len(roles.channels), "column")
        transposed = f"its {n_channels} rows are the channels: transpose it, so that each row is a sample"
        hint = transposed if table.n_samples == n_channels else "{channels} names the columns"
        raise DataError(f"{path}: expected the model's {n_channels} channels, found {actual}", hint)
    with np.errstate(over="ignore"):  # infinities are found after filtering, as impossible amplitudes
        samples = exact_in_float32(table.samples(roles.channels))
    codes = None if place is None else table.labels(place)
    chosen = tuple(table.names[one] for one in roles.channels)
    missing = tuple(table.gaps(roles, rate))
    assumed = "; ".join(filter(None, (table.assumed(roles), table.end_in_words())))
    unit, cuts = table.unit(roles.channels), tuple(table.trials(roles)[1].tolist())
    return RawRecording(path.stem, samples, rate, scale, codes, missing, chosen, assumed, unit, cuts)


def _measured_rate(interval: float, rate: float, unit: float | None) -> float:
    """Hz, from the step of a time; if its unit is not known, the nearest of the rates for seconds, ms, us and ns."""
    rates = [1 / (interval * seconds) for seconds in ([unit] if unit else [1.0, 1e-3, 1e-6, 1e-9])]
    return min(rates, key=lambda one: abs(math.log(one / rate)))


def _mostly_numbers(cells: Sequence[str], decimal: str) -> bool:
    filled = [cell for cell in cells if cell]
    return 2 * sum(is_number(cell, decimal) for cell in filled) > len(filled)


def _read_npy(path: Path) -> np.ndarray:
    """(T, columns) numbers. Headers can be wrong or damaged in ways for which NumPy raises all kinds of errors."""
    expect_file(path, "a NumPy array")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # allocates no more memory than the file has
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: expected a NumPy array, found {reason}") from None
    if not isinstance(values, np.ndarray):
        raise DataError(f"{path}: expected one NumPy array, found an archive of several; save one with numpy.save")
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        shape = f"{values.dtype} of shape {values.shape}"
        raise DataError(f"{path}: expected numbers of shape (time, channels), found {shape}")
    return np.array(values)


@np.errstate(over="ignore", invalid="ignore")  # found after filtering, as impossible amplitudes
def resampled(source: RawRecording, rate: float) -> RawRecording:
    """The source at `rate` Hz, by a polyphase filter; it looks ahead, so it must not be used for a stream."""
    from scipy.signal import resample_poly  # not needed if the rates agree

    ratio = resampling_ratio(source.name, source.rate, rate)
    offset = source.samples.mean(axis=0, dtype=np.float64)  # would be a step at both ends, and a tone between them
    centred = (source.samples - offset).astype(np.float32)
    samples = resample_poly(centred, ratio.numerator, ratio.denominator, axis=0) + offset
    codes = source.codes
    if codes is not None:
        latest = np.arange(len(samples)) * ratio.denominator // ratio.numerator
        codes = codes[np.minimum(latest, len(codes) - 1)]
    missing = tuple(Gap(round(gap.start * ratio), round(gap.lost * ratio)) for gap in source.missing)
    begins = (math.ceil(cut * ratio) for cut in source.cuts)  # the first sample that has a trial's label
    cuts = tuple(cut for cut in begins if cut < len(samples))
    return replace(source, samples=samples.astype(np.float32), rate=rate, codes=codes, missing=missing, cuts=cuts)
