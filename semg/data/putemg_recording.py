"""A checked, read-only reader of one putEMG recording.

A recording is a pandas/PyTables table. pandas stores the table's column names as pickles in its attributes, and
`pandas.read_hdf` unpickles them, so a hostile file could run code. This reader uses h5py instead and extracts the names
from the pickles without executing anything. Everything it reads is in the file itself: links to other files or
locations are refused before anything is read through them.
"""

import errno
import os
import pickletools
from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers blosc and other compressors that pandas can use
import numpy as np

from semg.common.console import counted, listed
from semg.common.errors import DataError
from semg.common.files import expect_file
from semg.data import putemg
from semg.data.gaps import Gap, find_gaps, sampling_interval

_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # first bytes of an HDF5 file
_BLOCK_BYTES = 1 << 24  # bytes of the table read at once
_RATE_ROWS = 4096  # rows whose times are used to measure the rate
# A recording's noise compresses to a tenth. Data that unpack to far more are no recording and would fill the memory.
_LARGEST_RATIO = 100  # of unpacked to stored bytes
_ANY_RATIO_BYTES = 1 << 26  # a table that unpacks to fewer bytes may have any ratio
_LARGEST_ROW = 1 << 16  # bytes; PyTables' rows have 300
_LARGEST_CHUNK = 1 << 28  # bytes that are unpacked at once; PyTables' chunks have 1 << 20
_HELD = (errno.EAGAIN, errno.EACCES)  # errors for a lock that another process holds
_DAMAGE = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, MemoryError)  # h5py raises these


class Recording:
    """One HDF5 recording, opened read-only and checked; use it in a `with` block.

    Opening reads the layout and the first rows. `read` reads the samples and checks them.

    Attributes: `path`, `record` (from the file's name), `n_samples`, `rate` (Hz, from the usual step of the index, so
    that a few missing samples do not change it).
    Raises DataError whenever the file differs from putEMG's recordings.
    """

    def __init__(self, path: Path, *, check_name: bool = True) -> None:
        self.path = path
        self.record = putemg.parse_record(path.stem) if check_name or putemg.is_record(path.stem) else None
        self._file = _open(path)
        try:
            self._table = _table(path, self._file)
            _check_size(path, self._table)
            self._places = _places(path, self._table)
            self._check_numbers()
            self.n_samples: int = self._table.shape[0]
            self.rate = self._check_rate()
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

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, channels: tuple[int, ...], labels: str) -> tuple[np.ndarray, np.ndarray]:
        """All samples of `channels` (numbers 1-24) and the label column `labels`, in one pass over the file.

        Returns (n_samples, len(channels)) int16 ADC counts and (n_samples,) int8 labels. Checks that counts are whole
        and within +-4096, that time rises, and that labels are known. `gaps` says where samples are missing.
        """
        # each channel contiguous in memory, as filters read it
        counts = np.empty((len(channels), self.n_samples), np.int16).T
        labelled = np.empty(self.n_samples, np.int8)
        columns = [putemg.CHANNEL_COLUMNS[number - 1] for number in channels]
        last = -np.inf
        self._times = np.empty(self.n_samples)
        for start, rows in self._blocks():
            stop = start + len(rows)
            self._check_rising(rows["index"], last, start)
            last = rows["index"][-1]
            self._times[start:stop] = rows["index"]
            counts[start:stop] = self._counts(rows, columns, start)
            labelled[start:stop] = self._known_labels(rows, labels, start)
        return counts, labelled

    def gaps(self) -> list[Gap]:
        """Where samples are missing according to the index. Call it after `read`."""
        return find_gaps(self._times, sampling_interval(self._times, putemg.RATE), putemg.RATE)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of complete rows, each with the row it starts at; only one is in memory at a time."""
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
        """(rows, channels) whole numbers of the given columns."""
        blocks = {self._places[name][0] for name in columns}
        if len(blocks) == 1 and rows[next(iter(blocks))].ndim == 2:  # the usual layout: a single slice, a single copy
            places = [self._places[name][1] for name in columns]
            first, end = places[0], places[-1] + 1
            values = rows[blocks.pop()][:, slice(first, end) if places == list(range(first, end)) else places]
        else:
            values = np.stack([self._column(rows, name) for name in columns], axis=1)
        limit = 2.0**putemg.ADC_BITS
        within = values.min() >= -limit and values.max() <= limit  # False for NaN too
        whole = values.astype(np.int16, casting="unsafe") if within else None
        if whole is None or not np.array_equal(whole, values):
            raise DataError(f"{self.path}: {_first_wrong_count(values, columns, start, limit)}")
        return whole

    def _known_labels(self, rows: np.ndarray, column: str, start: int) -> np.ndarray:
        values = self._column(rows, column)
        known = np.isin(values, [putemg.REST, *putemg.GESTURES])
        if not known.all():
            row = int(np.argmin(known))
            raise DataError(
                f"{self.path}: column {column}: expected labels {putemg.REST} and {listed(putemg.GESTURES)}, "
                f"found {values[row]} at sample {start + row}"
            )
        return values.astype(np.int8)

    def _check_numbers(self) -> None:
        """Samples and labels must be numbers: pandas stores categories as codes, which could be mistaken for labels."""
        index = self._table.dtype["index"]
        if index.kind not in "fiu":
            raise DataError(f"{self.path}: expected time in seconds as index, found {_kind(index)}")
        for name in (*putemg.CHANNEL_COLUMNS, *putemg.LABEL_COLUMNS):
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

    def _check_rate(self) -> float:
        """Sampling rate in Hz, from the usual step of the first rows' index."""
        if self.n_samples < 2:
            raise DataError(
                f"{self.path}: expected a recording of some seconds, found {counted(self.n_samples, 'sample')}"
            )
        times = self._table[:_RATE_ROWS]["index"].astype(float)
        with np.errstate(all="ignore"):
            interval = sampling_interval(times, putemg.RATE)
        rate = 1 / interval if interval > 0 else float("nan")
        if not abs(rate - putemg.RATE) <= putemg.RATE_TOLERANCE * putemg.RATE:
            expected = f"expected {putemg.RATE:g} Hz within {putemg.RATE_TOLERANCE:.0%}"
            raise DataError(f"{self.path}: {expected}, found {rate:.6g} Hz by its index")
        return rate

    def _check_subject(self, expected: str) -> None:
        """DataError if the subject column disagrees: a renamed file would put a person into the wrong subset."""
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
        return _attribute(self._table, f"{block}_meta") == b"category"

    def _category(self, block: str, code: int) -> object:
        """The value that a code of a categorical column stands for."""
        name = f"data/meta/{block}/meta/table"
        _check_links(self.path, self._file, name)
        try:
            categories = self._file[name]
            if code < 0:
                raise ValueError("a missing value")
            if not isinstance(categories, h5py.Dataset):
                raise ValueError("a group in place of its table")
            _check_own(self.path, categories)
            _check_size(self.path, categories)
            _check_fields(self.path, categories)
            return categories[code]["values"]
        except (KeyError, OSError, RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"{self.path}: expected a category for code {code} of {block}, found {error}") from None


def is_hdf5(path: Path) -> bool:
    """Whether a file starts like an HDF5 file; MATLAB's files of version 7.3 do so after 512 bytes of their own."""
    expect_file(path, "a recording")
    with path.open("rb") as file:
        head = file.read(520)
    return _SIGNATURE in (head[:8], head[512:])


def check_layout(path: Path) -> None:
    """Raise DataError unless the file opens as a putEMG recording with the expected columns and rate.

    Reads the layout only, not the samples, and does not depend on the file's name.
    """
    with Recording(path, check_name=False):
        pass


def _open(path: Path) -> h5py.File:
    expect_file(path, "a recording")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: expected an HDF5 recording, found an empty file; fetch it again")
    try:
        return _opened(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: expected an HDF5 recording, found {_why_not(error)}") from None


def _opened(path: Path) -> h5py.File:
    """The file, locked against writers if its drive supports locks; some network drives do not."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "unable to lock file" not in str(error) or error.errno in _HELD:
            raise
    return h5py.File(path, "r", locking=False)


def _why_not(error: Exception) -> str:
    """Why HDF5 could not open a file, and what to do."""
    number, text = getattr(error, "errno", None), str(error)
    if "unable to lock file" in text and number in _HELD:
        return (
            "one that another program has open for writing; close it there (a notebook's HDFStore, a viewer), "
            "the file itself need not be fetched again"
        )
    if "already open for write" in text:
        return (
            "one that the program which wrote it did not close; close it there, or if it has ended, run "
            "`h5clear -s FILE` (HDF5's tools) or fetch it again"
        )
    if number in (errno.EACCES, errno.EPERM):
        return "one that you may not read; its owner can give you the right (chmod +r)"
    if number in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return f"none that could be read now: {os.strerror(number)}; try again"
    return f"{error}; fetch it again"


def _table(path: Path, file: h5py.File) -> h5py.Dataset:
    """The table under the key `data`, which must be in this file and not a view of other data."""
    _check_links(path, file, "data/table")
    try:
        table = file["data/table"]
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        try:
            actual = ", ".join(sorted(file)) or "nothing"
            if isinstance(file.get("data"), h5py.Group) and "table" in file["data"]:
                actual = f"a damaged one ({error}); fetch it again"
        except (OSError, RuntimeError, ValueError):
            actual = "an unreadable file"
        raise DataError(f"{path}: expected a pandas table under the key 'data', found {actual}") from None
    names = table.dtype.names if isinstance(table, h5py.Dataset) else None
    if not names or "index" not in names or table.ndim != 1:
        raise DataError(f"{path}: expected a pandas table under the key 'data', found another kind of object")
    if wide := [name for name in names if len(table.dtype[name].shape) > (name != "index")]:
        raise DataError(f"{path}: expected a value or a row of values in {wide[0]}, found more dimensions")
    _check_own(path, table)
    _check_fields(path, table)
    return table


def _check_fields(path: Path, table: h5py.Dataset) -> None:
    """DataError unless each row holds values of a fixed size that do not overlap.

    Damage can make number types that NumPy does not have. h5py then widens the number but leaves the next field where
    it was, and HDF5 writes beyond the row and ends the process. pandas writes neither values of variable length nor
    nested tables.
    """
    stored, end = table.id.get_type(), 0
    kind = "damage in the description of"
    for name in table.dtype.names:  # ordered by their offsets
        dtype, offset = table.dtype.fields[name][:2]
        if dtype.base.kind not in "biufcS":
            raise DataError(f"{path}: expected numbers or text of a fixed length in {name}, found {_kind(dtype.base)}")
        number = stored.get_member_index(name.encode())
        member = stored.get_member_type(number)
        same = (dtype.itemsize, offset) == (member.get_size(), stored.get_member_offset(number))
        if not same or offset < end:
            raise DataError(f"{path}: expected an HDF5 recording, found {kind} {name}; fetch it again")
        end = offset + dtype.itemsize
    if not end <= table.dtype.itemsize == stored.get_size():
        raise DataError(f"{path}: expected an HDF5 recording, found {kind} its rows; fetch it again")


def _check_links(path: Path, file: h5py.File, name: str) -> None:
    """DataError if a link on the path to `name` leads elsewhere: to another file, or to a name instead of an object."""
    parts = name.split("/")
    for end in range(1, len(parts) + 1):
        way = "/".join(parts[:end])
        try:
            link = file.get(way, getlink=True)
        except (KeyError, OSError, RuntimeError, ValueError):
            return  # no such link; the reader reports it
        if link is not None and not isinstance(link, h5py.HardLink):
            target = f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else link.path
            raise DataError(f"{path}: expected its own pandas table under the key 'data', found a link to {target!r}")


def _check_own(path: Path, data: h5py.Dataset) -> None:
    """DataError unless a dataset's values are in this file: a virtual dataset could even refer to itself."""
    if data.is_virtual:
        raise DataError(f"{path}: expected samples of its own, found a virtual data set, a view of others")
    if data.external:
        raise DataError(f"{path}: expected samples of its own, found them in another file, {data.external[0][0]!r}")


def _check_size(path: Path, table: h5py.Dataset) -> None:
    """DataError, before memory is allocated, for a table that would unpack to far more than a recording."""
    row, (rows,) = table.dtype.itemsize, table.shape
    if row > _LARGEST_ROW:
        raise DataError(f"{path}: expected rows of {putemg.N_CHANNELS} channels, found rows of {row:,} bytes")
    stored, unfolded = table.id.get_storage_size(), row * rows
    if rows and not stored:
        raise DataError(f"{path}: expected {rows:,} samples, found room for them and no data; fetch it again")
    chunk = row * table.chunks[0] if table.chunks else 0
    if chunk > _LARGEST_CHUNK or (unfolded > _ANY_RATIO_BYTES and unfolded > _LARGEST_RATIO * stored):
        actual = f"{stored / 1e6:.3g} MB that unfold to {max(chunk, unfolded) / 1e6:,.0f} MB"
        raise DataError(f"{path}: expected a recording, packed to a tenth, found {actual}")


def _kind(dtype: np.dtype) -> str:
    return "text" if dtype.kind in "SUO" else f"values of type {dtype}"


def _places(path: Path, table: h5py.Dataset) -> dict[str, tuple[str, int]]:
    """The location of each column: (field of the table, position in it). DataError for missing columns or too many."""
    places: dict[str, tuple[str, int]] = {}
    for block in table.dtype.names:
        if block == "index":
            continue
        for position, name in enumerate(_column_names(path, table, block)):
            places[name] = (block, position)
        width = int(np.prod(table.dtype[block].shape, dtype=int))
        if sum(place[0] == block for place in places.values()) != width:
            raise DataError(f"{path}: expected {width} distinct column names for {block}, found others")
    missing = [name for name in putemg.COLUMNS if name not in places]
    if missing:
        raise DataError(f"{path}: expected putEMG's columns, found none named {listed(missing)}")
    extra = [name for name in places if name.startswith("EMG_") and name not in putemg.COLUMNS]
    if extra:
        raise DataError(f"{path}: expected {putemg.N_CHANNELS} channels, found also {listed(extra)}")
    return places


def _column_names(path: Path, table: h5py.Dataset, block: str) -> list[str]:
    """The columns in one field of the table, from pandas' pickled list, without unpickling it."""
    raw = _attribute(table, f"{block}_kind")
    if raw is None:  # for a data column, the field is the column
        return [block]
    try:
        return _pickled_strings(raw)
    except ValueError as error:
        raise DataError(f"{path}: expected the column names of {block}, found {error}") from None


def _attribute(table: h5py.Dataset, name: str) -> bytes | None:
    """An attribute that pandas wrote with a table: a text of fixed length. ValueError if it is anything else."""
    if name not in table.attrs:
        return None
    attribute = table.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind != "S":
        raise ValueError(f"attribute {name} of type {attribute.dtype}")
    return bytes(table.attrs[name])


_HARMLESS = frozenset(["PROTO", "FRAME", "MARK", "STOP", "LIST", "EMPTY_LIST", "APPEND", "APPENDS"])
_HARMLESS |= {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_TEXT = frozenset(["STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"])


def _pickled_strings(raw: bytes) -> list[str]:
    """The strings of a pickled flat list of strings. ValueError for a pickle that contains anything else."""
    names: list[str] = []
    for opcode, argument, _ in pickletools.genops(raw):  # reads the instructions without executing them
        if opcode.name in _TEXT and isinstance(argument, str):
            names.append(argument)
        elif opcode.name not in _HARMLESS:
            raise ValueError(f"a pickle with the instruction {opcode.name}, which a list of names has no use for")
    return names


def _first_wrong_count(values: np.ndarray, columns: list[str], start: int, limit: float) -> str:
    wrong = ~(np.isfinite(values) & (np.abs(values) <= limit) & (values == np.round(values)))
    row, column = np.argwhere(wrong)[0]
    return (
        f"column {columns[column]}: expected whole ADC counts within +-{limit:g}, "
        f"found {values[row, column]} at sample {start + row}"
    )
