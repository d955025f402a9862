"""The statistics of a session that a stream has learnt, in a file from which a later stream of the same session can
start.

FILE.npz   about          JSON: format version, and properties that the model must share with the one that wrote it
           products       (C, C) float64 sums over samples of the channels' products, uV^2
           transform      (C, C') float32 by which windows were multiplied
           sums           (3, F) float64 of tokens under that transform: sum, sum of squares, count
           kept           (n, N, C) float16 past windows, filtered microvolts, in their order
           counts         (4,) int64: samples received, samples received when the transform was computed, windows
                          decided, every how many windows one is kept
The windows kept are part of the person's signal: the file is as private as a recording.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.errors import DAMAGED_NPZ, DataError, short
from semg.common.files import atomic_path, expect_file, json_value

VERSION = 1
MOST_KEPT = 64  # past windows
_ARRAYS = ("products", "transform", "sums", "kept", "counts")
_WHAT = "statistics of an earlier stream"
_HINT = "the statistics are written anew with {save_statistics}"


@dataclass(frozen=True)
class SessionStatistics:
    """What `OnlineNormalization` knows about a session; shapes and units as in the file, see the module.

    samples: received; renewed_at: samples received when the transform was computed; decided: number of windows; every:
    every how many windows one is kept.
    """

    products: np.ndarray
    transform: np.ndarray
    sums: np.ndarray
    kept: np.ndarray
    samples: int
    renewed_at: int
    decided: int
    every: int

    def expect_shape(self, shape: tuple[int, int, int, int]) -> None:
        """DataError unless they are those of a model with this C, C', N, F."""
        actual = (*self.transform.shape, self.kept.shape[1], self.sums.shape[1])
        if actual != shape:
            names = "channels, channels after whitening, samples of a window, features"
            raise DataError(f"expected {_WHAT} of this model ({names}: {shape}), found another's: {actual}")


def write_statistics(path: Path, statistics: SessionStatistics, model: Mapping[str, Any]) -> None:
    """Write a file for `read_statistics`. model: plain types, the properties that a later model must share."""
    about = json.dumps({"version": VERSION, "model": model}, sort_keys=True)
    counts = [statistics.samples, statistics.renewed_at, statistics.decided, statistics.every]
    arrays = {name: getattr(statistics, name) for name in _ARRAYS if name != "counts"}
    arrays |= {"about": np.array(about), "counts": np.array(counts, np.int64)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_statistics(path: Path, model: Mapping[str, Any], shape: tuple[int, int, int, int]) -> SessionStatistics:
    """Read a file that `write_statistics` wrote for a model with the same properties `model`.

    shape: the model's C, C', N, F. Raises DataError, which names the file, for anything else.
    """
    expect_file(path, _WHAT)
    arrays = _arrays(path, shape)
    _check_model(path, arrays["about"], model)
    _check_arrays(path, arrays, shape)
    samples, renewed_at, decided, every = arrays["counts"].tolist()
    state = {name: arrays[name] for name in _ARRAYS if name != "counts"}
    return SessionStatistics(**state, samples=samples, renewed_at=renewed_at, decided=decided, every=every)


def _arrays(path: Path, shape: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    channels, mixed, window, features = shape
    most = 2 * MOST_KEPT * window * channels + 8 * channels**2 + 4 * channels * mixed + 24 * features + (1 << 20)
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                size = sum(one.file_size for one in archive.infolist())
            if size > most:  # before memory is allocated
                raise DataError(f"{path}: expected {_WHAT} of at most {most} bytes, found {size}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in ("about", *_ARRAYS)}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("an entry that is no array")
    except DAMAGED_NPZ as error:
        problem = f"found a file that is damaged or another: {short(error)}"
        raise DataError(f"{path}: expected {_WHAT}, {problem}", _HINT) from None
    return arrays


def _check_model(path: Path, about: np.ndarray, model: Mapping[str, Any]) -> None:
    """DataError, naming the first difference, unless the file was written for a model with these properties."""
    try:
        content = json_value(str(about))
        version, theirs = content["version"], dict(content["model"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DataError(f"{path}: expected {_WHAT}, found a file that does not say what it is") from None
    if version != VERSION:
        raise DataError(f"{path}: expected {_WHAT} of version {VERSION}, found version {version}")
    for name, value in json.loads(json.dumps(model)).items():
        if theirs.get(name) != value:
            actual = f"{name} {theirs.get(name)}"
            raise DataError(f"{path}: expected {_WHAT} with a model of {name} {value}, found {actual}")


def _check_arrays(path: Path, arrays: Mapping[str, np.ndarray], shape: tuple[int, int, int, int]) -> None:
    channels, mixed, window, features = shape
    expected = {
        "products": ("float64", (channels, channels)),
        "transform": ("float32", (channels, mixed)),
        "sums": ("float64", (3, features)),
        "kept": ("float16", (len(arrays["kept"]) if arrays["kept"].ndim else 0, window, channels)),
        "counts": ("int64", (4,)),
    }
    for name, (kind, expected_shape) in expected.items():
        array = arrays[name]
        if (str(array.dtype), array.shape) != (kind, expected_shape):
            actual = f"{array.dtype} of shape {array.shape}"
            raise DataError(f"{path}: expected {name} as {kind} of shape {expected_shape}, found {actual}")
        if not np.isfinite(array).all():
            raise DataError(f"{path}: expected finite numbers in {name}, found others")
    samples, renewed_at, decided, every = arrays["counts"].tolist()
    sound = 0 < renewed_at <= samples and decided >= 1 and every >= 1 and 1 <= len(arrays["kept"]) <= MOST_KEPT
    if not sound or (np.diag(arrays["products"]) < 0).any() or (arrays["sums"][1:] < 0).any():
        raise DataError(f"{path}: expected {_WHAT}, found counts or powers that cannot be")
