"""Samples to predict from: a recording in putEMG's layout, or a table of numbers in a .csv or .npy file."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from semg.common.errors import DataError
from semg.data import putemg
from semg.data.putemg_recording import Recording

TABLES = (".csv", ".npy")
UNITS = {"uV": 1.0, "mV": 1e3, "V": 1e6, "counts": putemg.MICROVOLTS_PER_COUNT}  # microvolts of one unit
SIMULATED = "simulated.json"  # simulate_putemg.py writes it beside its recordings
_LARGEST_STEP = 1000  # of a resampling ratio's numerator and denominator
_LARGEST_RATIO = 100  # of two rates: beyond, one of them is a mistake, and resampling takes all memory


@dataclass(frozen=True)
class Source:
    """samples: (T, channels) in units of `scale` microvolts at `rate` Hz; codes: (T,) true labels, if known."""

    name: str
    samples: np.ndarray
    rate: float
    scale: float
    codes: np.ndarray | None = None


def is_simulated(path: Path) -> bool:
    """Whether a recording lies beside the list that simulate_putemg.py writes."""
    return (path.parent / SIMULATED).exists()


def read_recording(path: Path, channels: Sequence[int], labels: str) -> Source:
    """A recording in putEMG's layout, under any name: `channels` by number, truth from the column `labels`."""
    if labels not in putemg.LABEL_COLUMNS or max(channels) > putemg.N_CHANNELS:
        raise DataError(f"{path}: expected a .csv or .npy, as the model is of another device, found putEMG's layout")
    with Recording(path, check_name=False) as recording:
        samples, codes = recording.read(tuple(channels), labels)
    return Source(path.stem, samples, putemg.RATE, putemg.MICROVOLTS_PER_COUNT, codes)


def read_table(path: Path, rate: float, unit: str, columns: Sequence[int] | None, n_channels: int) -> Source:
    """A .csv (one row a sample, a header or none) or .npy (time, channels) file.

    columns: which to take, counted from 1, in the model's order of channels (None: all); n_channels: how many the
    model needs. Raises DataError for anything but finite numbers of that shape.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected samples, found no such file")
    values = _read_csv(path, columns) if path.suffix == ".csv" else _chosen(path, _read_npy(path), columns)
    if values.shape[1] != n_channels:
        raise DataError(
            f"{path}: expected the model's {n_channels} channels, found {values.shape[1]} columns",
            hint="{channels} takes some of them",
        )
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise DataError(f"{path}: expected finite numbers, found {values[row, column]} at sample {row}")
    with np.errstate(over="ignore"):  # infinities are found after filtering, as amplitudes that cannot be
        return Source(path.stem, values.astype(np.float32), rate, UNITS[unit])


def _check_columns(path: Path, columns: Sequence[int], width: int) -> None:
    if wrong := [n for n in columns if not 1 <= n <= width]:
        raise DataError(f"{path}: expected a column {wrong[0]}, found {width} columns", hint="see {channels}")


def _chosen(path: Path, values: np.ndarray, columns: Sequence[int] | None) -> np.ndarray:
    if columns is None:
        return values
    _check_columns(path, columns, values.shape[1])
    return values[:, [n - 1 for n in columns]]


def _read_csv(path: Path, columns: Sequence[int] | None) -> np.ndarray:
    """(T, columns); the other columns, such as labels, need not be numbers."""
    places = None if columns is None else [n - 1 for n in columns]
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline().split(",")
        if columns is not None:
            _check_columns(path, columns, len(first))
        header = not _are_numbers(first if places is None else [first[n] for n in places])
        with warnings.catch_warnings():  # of a file without a row; the number of columns tells
            warnings.simplefilter("ignore")
            return np.loadtxt(
                path, delimiter=",", skiprows=int(header), ndmin=2, encoding="utf-8-sig", usecols=places, comments=None
            )
    except (OSError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise DataError(f"{path}: expected a table of numbers, comma between columns, found {told}") from None


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False


def _read_npy(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, MemoryError) as error:  # a shape can lie
        raise DataError(f"{path}: expected a NumPy array, found {error}") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(f"{path}: expected numbers of shape (time, channels), found another array")
    return values


def resampled(source: Source, rate: float) -> Source:
    """The source at `rate` Hz, by a polyphase filter; it looks ahead, so it is no part of a live chain."""
    from scipy.signal import resample_poly  # not needed where the rates agree

    if not 1 / _LARGEST_RATIO <= source.rate / rate <= _LARGEST_RATIO:
        near = f"{rate / _LARGEST_RATIO:g} to {rate * _LARGEST_RATIO:g} Hz"
        raise DataError(f"{source.name}: expected a rate of {near}, found {source.rate:g} Hz")
    ratio = Fraction(rate / source.rate).limit_denominator(_LARGEST_STEP)
    if abs(float(ratio) * source.rate / rate - 1) > 1e-4:
        raise DataError(f"{source.name}: expected a rate that {rate:g} Hz can be made of, found {source.rate:g} Hz")
    samples = resample_poly(source.samples.astype(np.float32), ratio.numerator, ratio.denominator, axis=0)
    return Source(source.name, samples.astype(np.float32), rate, source.scale)
