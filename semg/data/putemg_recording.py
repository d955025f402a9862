"""A checked, read-only reader of one putEMG recording.

A recording is a pandas/PyTables table. pandas keeps the table's column names as pickles in its attributes, and
`pandas.read_hdf` unpickles them, which lets a hostile file run code. This reader goes through h5py instead and
takes the names out of the pickles without executing anything.
"""

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import h5py
import hdf5plugin  # noqa: F401  registers blosc and the like, with which pandas can compress
import numpy as np

from semg.common.errors import DataError
from semg.data.putemg import (
    ADC_BITS,
    CHANNEL_COLUMNS,
    COLUMNS,
    GESTURES,
    LABEL_COLUMNS,
    N_CHANNELS,
    RATE,
    RATE_TOLERANCE,
    REST,
    is_record,
    parse_record,
)

_BLOCK_BYTES = 1 << 24  # of the table, read at once
_DAMAGE = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, MemoryError)  # h5py raises these


class Recording:
    """One HDF5 recording, opened read-only and checked; use it in a `with` block.

    Opening reads the layout only. `read` reads the samples and checks them.

    Attributes: `path`, `record` (from the file's name), `n_samples`, `rate` (Hz, from the index).
    Raises DataError wherever the file is not what putEMG's recordings are.
    """

    def __init__(self, path: Path, *, check_name: bool = True) -> None:
        self.path = path
        self.record = parse_record(path.stem) if check_name or is_record(path.stem) else None
        self._file = _open(path)
        try:
            self._table = _table(path, self._file)
            self._places = _places(path, self._table)
            self._check_numbers()
            self.n_samples: int = self._table.shape[0]
            self.rate = self._check_time_ends()
            if self.record and check_name:
                self._check_subject(self.record.subject)
        except BaseException as error:
            self._file.close()
            if isinstance(error, _DAMAGE):
                raise DataError(
                    f"{path}: expected an HDF5 recording, found a damaged file ({error}); fetch it again"
                ) from None
            raise

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, channels: tuple[int, ...], labels: str) -> tuple[np.ndarray, np.ndarray]:
        """All samples of `channels` (numbers 1-24) and the label column `labels`, in one pass over the file.

        Returns (n_samples, len(channels)) int16 ADC counts and (n_samples,) int8 labels. Checks that counts are
        whole and of 12 bits, time rises, and labels are known.
        """
        counts = np.empty((len(channels), self.n_samples), np.int16).T  # a channel in a row, as filters read it
        labelled = np.empty(self.n_samples, np.int8)
        columns = [CHANNEL_COLUMNS[number - 1] for number in channels]
        last = -np.inf
        for start, rows in self._blocks():
            stop = start + len(rows)
            self._check_rising(rows["index"], last, start)
            last = rows["index"][-1]
            counts[start:stop] = self._counts(rows, columns, start)
            labelled[start:stop] = self._known_labels(rows, labels, start)
        return counts, labelled

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of whole rows with the row they start at; only one is in memory at a time."""
        chunk = self._table.chunks[0] if self._table.chunks else 1024
        step = chunk * max(1, _BLOCK_BYTES // (chunk * self._table.dtype.itemsize))
        for start in range(0, self.n_samples, step):
            try:
                rows = self._table[start : start + step]
            except _DAMAGE as error:
                raise DataError(
                    f"{self.path}: expected {self.n_samples} samples, found damaged data at sample {start} "
                    f"({error}); fetch the file again"
                ) from None
            yield start, rows

    def _column(self, rows: np.ndarray, name: str) -> np.ndarray:
        block, position = self._places[name]
        values = rows[block]
        return values if values.ndim == 1 else values[:, position]

    def _counts(self, rows: np.ndarray, columns: list[str], start: int) -> np.ndarray:
        """(rows, channels) whole numbers of the columns named."""
        blocks = {self._places[name][0] for name in columns}
        if len(blocks) == 1 and rows[next(iter(blocks))].ndim == 2:  # the usual layout: one slice, one copy
            values = rows[blocks.pop()][:, _slice([self._places[name][1] for name in columns])]
        else:
            values = np.stack([self._column(rows, name) for name in columns], axis=1)
        limit = 2.0**ADC_BITS
        whole = values.astype(np.int16, casting="unsafe") if _within(values, limit) else None
        if whole is None or not np.array_equal(whole, values):
            raise DataError(f"{self.path}: {_first_wrong_count(values, columns, start, limit)}")
        return whole

    def _known_labels(self, rows: np.ndarray, column: str, start: int) -> np.ndarray:
        values = self._column(rows, column)
        known = np.isin(values, [REST, *GESTURES])
        if not known.all():
            row = int(np.argmin(known))
            raise DataError(
                f"{self.path}: column {column}: expected labels {REST} and {_listed(GESTURES)}, "
                f"found {values[row]} at sample {start + row}"
            )
        return values.astype(np.int8)

    def _check_numbers(self) -> None:
        """Samples and labels must be numbers: pandas keeps categories as codes, which would pass for labels."""
        for name in (*CHANNEL_COLUMNS, *LABEL_COLUMNS):
            block = self._places[name][0]
            if self._table.dtype[block].base.kind not in "fiu" or self._is_category(block):
                raise DataError(f"{self.path}: column {name}: expected numbers, found text or categories")

    def _check_rising(self, times: np.ndarray, last: float, start: int) -> None:
        steps = np.diff(times, prepend=last)
        rises = steps > 0  # False for NaN too
        if not rises.all():
            row = int(np.argmin(rises))
            raise DataError(
                f"{self.path}: expected time to rise from sample to sample, found {times[row]} s "
                f"at sample {start + row} after {times[row - 1] if row else last} s"
            )

    def _check_time_ends(self) -> float:
        """Sampling rate in Hz from the index's ends."""
        if self.n_samples < 2:
            raise DataError(f"{self.path}: expected a recording of some seconds, found {self.n_samples} samples")
        try:
            first, last = float(self._table[0]["index"]), float(self._table[self.n_samples - 1]["index"])
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise DataError(f"{self.path}: expected time in seconds as index, found {error}") from None
        span = last - first
        rate = (self.n_samples - 1) / span if span > 0 else float("nan")
        if not abs(rate - RATE) <= RATE_TOLERANCE * RATE:
            raise DataError(
                f"{self.path}: expected {RATE:g} Hz within {RATE_TOLERANCE:.0%}, found {rate:.6g} Hz by its index"
            )
        return rate

    def _check_subject(self, expected: str) -> None:
        """The column says whose recording it is; a renamed file would put a person in the wrong split."""
        block, position = self._places["subject"]
        value = self._table[0][block]
        value = value[position] if np.ndim(value) else value
        text = self._category(block, int(value)) if self._is_category(block) else value
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        try:
            same = float(text) == float(expected)
        except ValueError:
            same = False
        if not same:
            raise DataError(
                f"{self.path}: expected subject {expected} as in the file's name, "
                f"found {text} in column subject; give the file its right name"
            )

    def _is_category(self, block: str) -> bool:
        meta = self._table.attrs.get(f"{block}_meta")
        return isinstance(meta, bytes) and meta == b"category"

    def _category(self, block: str, code: int) -> object:
        """The value that a categorical column's code stands for."""
        try:
            return self._file[f"data/meta/{block}/meta/table"]["values"][code]
        except (KeyError, OSError, RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"{self.path}: expected a category for code {code} of {block}, found {error}") from None


def check_layout(path: Path) -> None:
    """Raise DataError unless the file opens as a putEMG recording with the expected columns and rate.

    Reads the layout only, not the samples, and does not ask how the file is named.
    """
    with Recording(path, check_name=False):
        pass


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise DataError(f"{path}: expected a recording, found no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: expected an HDF5 recording, found an empty file; fetch it again")
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: expected an HDF5 recording, found {error}; fetch it again") from None


def _table(path: Path, file: h5py.File) -> h5py.Dataset:
    try:
        table = file["data/table"]
    except (KeyError, OSError, RuntimeError, ValueError):
        try:
            found = ", ".join(sorted(file)) or "nothing"
        except (OSError, RuntimeError, ValueError):
            found = "an unreadable file"
        raise DataError(f"{path}: expected a pandas table under the key 'data', found {found}") from None
    names = table.dtype.names if isinstance(table, h5py.Dataset) else None
    if not names or "index" not in names or table.ndim != 1:
        raise DataError(f"{path}: expected a pandas table under the key 'data', found another kind of object")
    return table


def _places(path: Path, table: h5py.Dataset) -> dict[str, tuple[str, int]]:
    """Where each column lies: (field of the table, position in it). DataError if columns miss or are too many."""
    places: dict[str, tuple[str, int]] = {}
    for block in table.dtype.names:
        if block == "index":
            continue
        for position, name in enumerate(_column_names(path, table, block)):
            places[name] = (block, position)
        width = int(np.prod(table.dtype[block].shape, dtype=int))
        if sum(place[0] == block for place in places.values()) != width:
            raise DataError(f"{path}: expected {width} distinct column names for {block}, found others")
    missing = [name for name in COLUMNS if name not in places]
    if missing:
        raise DataError(f"{path}: expected putEMG's columns, found none named {_listed(missing)}")
    extra = [name for name in places if name.startswith("EMG_") and name not in COLUMNS]
    if extra:
        raise DataError(f"{path}: expected {N_CHANNELS} channels, found also {_listed(extra)}")
    return places


def _column_names(path: Path, table: h5py.Dataset, block: str) -> list[str]:
    """The columns that one field of the table holds, from pandas' pickled list, without unpickling it."""
    raw = table.attrs.get(f"{block}_kind")
    if raw is None:  # a data column: the field is the column
        return [block]
    try:
        return _pickled_strings(bytes(raw))
    except ValueError as error:
        raise DataError(f"{path}: expected the column names of {block}, found {error}") from None


_HARMLESS = frozenset(["PROTO", "FRAME", "MARK", "STOP", "LIST", "EMPTY_LIST", "APPEND", "APPENDS"])
_HARMLESS |= {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_TEXT = frozenset(["STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"])


def _pickled_strings(raw: bytes) -> list[str]:
    """The strings of a pickled flat list of strings. ValueError for a pickle that does anything else."""
    names: list[str] = []
    for opcode, argument, _ in pickletools.genops(raw):  # reads the instructions, executes none
        if opcode.name in _TEXT and isinstance(argument, str):
            names.append(argument)
        elif opcode.name not in _HARMLESS:
            raise ValueError(f"a pickle with the instruction {opcode.name}, which a list of names has no use for")
    return names


def _slice(places: list[int]) -> slice | list[int]:
    """The same places as a slice, which copies nothing, where they follow each other."""
    first, last = places[0], places[-1] + 1
    return slice(first, last) if places == list(range(first, last)) else places


def _within(values: np.ndarray, limit: float) -> bool:
    low, high = values.min(), values.max()
    return bool(low >= -limit and high <= limit)  # False for NaN too


def _first_wrong_count(values: np.ndarray, columns: list[str], start: int, limit: float) -> str:
    wrong = ~(np.isfinite(values) & (np.abs(values) <= limit) & (values == np.round(values)))
    row, column = np.argwhere(wrong)[0]
    return (
        f"column {columns[column]}: expected whole ADC counts within +-{limit:g}, "
        f"found {values[row, column]} at sample {start + row}"
    )


def _listed(names: "list[str] | dict[int, str]") -> str:
    texts = [str(name) for name in names]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")


@dataclass(frozen=True)
class ChannelFaults:
    """Channels (numbers 1-24) that look wrong in a recording. They are reported, not repaired."""

    dead: list[int] = field(default_factory=list)
    saturated: list[int] = field(default_factory=list)
    duplicate: list[tuple[int, int]] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"dead channels {_listed([str(n) for n in self.dead])}"] if self.dead else []
        if self.saturated:
            parts.append(f"saturated channels {_listed([str(n) for n in self.saturated])}")
        if self.duplicate:
            parts.append("equal channels " + _listed([f"{a}={b}" for a, b in self.duplicate]))
        return ", ".join(parts)


def find_faults(counts: np.ndarray, channels: tuple[int, ...]) -> ChannelFaults:
    """Dead (never changes), saturated (over 1 % of samples at the converter's ends) and equal channels.

    counts: (n_samples, len(channels)) ADC counts; channels: their numbers.
    """
    low, high = counts.min(axis=0), counts.max(axis=0)
    ends = 2 ** (ADC_BITS - 1)
    at_end = np.where((low <= -ends) | (high >= ends - 1))[0]
    saturated = [channels[i] for i in at_end if np.mean((counts[:, i] <= -ends) | (counts[:, i] >= ends - 1)) > 0.01]
    dead = [channels[i] for i in np.flatnonzero(low == high)]
    duplicate = []
    probe = counts[:: max(1, len(counts) // 4096)]
    for i in range(len(channels)):
        for j in range(i + 1, len(channels)):
            if channels[i] in dead or not np.array_equal(probe[:, i], probe[:, j]):
                continue
            if np.array_equal(counts[:, i], counts[:, j]):
                duplicate.append((channels[i], channels[j]))
    return ChannelFaults(dead, saturated, duplicate)
