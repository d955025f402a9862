"""A result's predictions.npz, window by window: how reliable its confidence is, and where it was wrong.

The file may come from anybody: it is read without pickle, and its contents are checked before use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semg.common.errors import DAMAGED_NPZ, DataError
from semg.common.files import expect_file
from semg.common.schema import folder_name, text
from semg.data.shards import open_shard
from semg.evaluation.comparison import LONGEST, ROUNDING, subjects_of
from semg.evaluation.metrics import confusion
from semg.evaluation.result_record import ResultRecord

BINS = 10  # bins of confidence, of equal width
_BESIDE = 0.5  # signal shown before and after a window, as a fraction of its length


@dataclass(frozen=True)
class Predictions:
    """Decisions on n windows.

    record, subject: (n,) names; start: (n,) first sample; label, prediction: (n,) class indices; probabilities: (n, K),
    None if the method has none.
    """

    path: Path
    record: np.ndarray
    subject: np.ndarray
    start: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    probabilities: np.ndarray | None

    @property
    def confidence(self) -> np.ndarray | None:
        """(n,) probability of the decision."""
        return None if self.probabilities is None else self.probabilities[np.arange(len(self.label)), self.prediction]


@dataclass(frozen=True)
class Bin:
    """Windows with similar confidence: its mean, the fraction of correct decisions, and their number."""

    confidence: float
    accuracy: float
    windows: int


@dataclass(frozen=True)
class Excerpt:
    """The signal of a window and its surroundings.

    values: (T, C) in `unit`, at (T,) seconds from the window's start; begin: of the window in the recording, seconds;
    length: of the window, seconds; unit: as in shard.json.
    """

    time: np.ndarray
    values: np.ndarray
    channels: tuple[str, ...]
    begin: float
    length: float
    unit: str = "uV"


def unit_label(unit: str) -> str:
    """The unit of a signal for a reader; unit: as in shard.json, which says so if it is arbitrary."""
    return "µV" if unit == "uV" else "a.u."


def predictions_of(result: ResultRecord) -> Predictions:
    """The predictions.npz beside a result's metrics.json.

    DataError if it is not in the format of evaluate.py, or belongs to another evaluation, for example while one result
    replaces another.
    """
    predictions = read_predictions(result.path.with_name("predictions.npz"), len(result.classes))
    if result.confusion is not None:
        counts = confusion(predictions.label, predictions.prediction, len(result.classes))
        if not np.array_equal(counts, result.confusion):
            problem = f"expected the decisions that {result.path.name} counts, found others"
            raise DataError(f"{predictions.path}: {problem}: run this again when evaluate.py is done")
    return predictions


def read_predictions(path: Path, n_classes: int) -> Predictions:
    """Read a predictions.npz. DataError if it is not in the format of evaluate.py, for `n_classes` classes."""
    expect_file(path, "the predictions of a result")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in ("record", "start", "label", "prediction")}
            columns["subject"] = arrays["subject"] if "subject" in arrays.files else subjects_of(columns["record"])
            shares = arrays["probabilities"] if "probabilities" in arrays.files else None
        _check_columns(columns, n_classes)
        if shares is not None:
            _check_shares(shares, (len(columns["label"]), n_classes))
    except (*DAMAGED_NPZ, DataError) as error:
        raise DataError(f"{path}: expected predictions as evaluate.py writes them, found {error}") from None
    return Predictions(path, **columns, probabilities=shares)


def _check_columns(columns: dict[str, np.ndarray], n_classes: int) -> None:
    n = len(columns["label"])
    if not n or any(column.shape != (n,) for column in columns.values()):
        raise ValueError("columns of other lengths, or none")
    for name in ("start", "label", "prediction"):
        most = n_classes if name != "start" else 2**53
        values = columns[name]
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= most:
            raise ValueError(f"other values of {name} than whole numbers from 0 to {most - 1}")
    if any(columns[name].dtype.kind != "U" for name in ("record", "subject")):
        raise ValueError("names that are no text")
    if not all(folder_name(str(name)) for name in np.unique(columns["record"])):
        raise ValueError("a recording whose name is no folder's")
    if not all(text(str(name)) and 0 < len(name) <= LONGEST for name in np.unique(columns["subject"])):
        raise ValueError(f"people's names of other than 1 to {LONGEST} printable characters")


def _check_shares(shares: np.ndarray, shape: tuple[int, int]) -> None:
    if shares.dtype.kind != "f" or shares.shape != shape:
        raise ValueError(f"probabilities {shares.dtype} {shares.shape} in place of {shape}")
    most = 1 + 1e3 * ROUNDING  # float32 has larger rounding errors than float64
    if not (shares.min() >= 0 and shares.max() <= most):  # the comparisons are also false for NaN
        raise ValueError("probabilities that are not from 0 to 1")


def reliability(confidence: np.ndarray, right: np.ndarray) -> tuple[list[Bin], float]:
    """The non-empty bins of confidence, and the expected calibration error.

    This error is the mean distance between confidence and accuracy over BINS bins of equal width, weighted by their
    numbers of windows (Naeini et al. 2015).

    confidence: (n,) probability of each decision; right: (n,) whether it was correct.
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for one in np.unique(place):
        inside = place == one
        bins.append(Bin(float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())))
    error = sum(one.windows * abs(one.confidence - one.accuracy) for one in bins) / len(confidence)
    return bins, float(error)


def surest_errors(predictions: Predictions, most: int) -> list[int]:
    """Places of at most `most` wrong decisions, the most confident first.

    Each confusion of one gesture with another appears once per person, by its most confident window, because
    neighbouring windows resemble each other. Without probabilities, the order is that of the file.
    """
    wrong = np.flatnonzero(predictions.label != predictions.prediction)
    confidence = predictions.confidence
    if confidence is not None:
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    kinds: set[tuple[str, int, int]] = set()
    places: list[int] = []
    for place in map(int, wrong):
        if len(places) == most:
            break
        kind = str(predictions.subject[place]), int(predictions.label[place]), int(predictions.prediction[place])
        if kind not in kinds:
            kinds.add(kind)
            places.append(place)
    return places


def excerpt(shards: Path, record: str, start: int, channels: int, content: str = "") -> Excerpt:
    """The signal around the window that begins at sample `start`.

    channels: how many to include: those that are strongest in the window, in the shard's order. content: checksum of
    the shard's contents when it was scored, if known. DataError if the shard does not exist, has changed since or has
    no such window.
    """
    shard = open_shard(shards / record)
    if content and content != shard.content:
        raise DataError(f"{shard.path}: expected the shard that was scored, found it made again differently since")
    if start + shard.window > len(shard.signal):
        raise DataError(f"{shard.path}: expected a window at sample {start}, found {len(shard.signal)} samples")
    first = max(0, start - round(_BESIDE * shard.window))
    stop = min(len(shard.signal), start + round((1 + _BESIDE) * shard.window))
    values = shard.signal[first:stop].astype(np.float32)
    inside = values[start - first : start - first + shard.window]
    loudest: Sequence[int] = sorted(np.argsort(-np.square(inside).mean(axis=0), kind="stable")[:channels].tolist())
    time = (np.arange(first, stop) - start) / shard.rate
    names = tuple(shard.channels[place] for place in loudest)
    begin, length = start / shard.rate, shard.window / shard.rate
    return Excerpt(time, values[:, loudest], names, begin, length, shard.meta["unit"])
