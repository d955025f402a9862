"""Recordings in files, converted to what a trained model accepts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.console import listed
from semg.common.errors import DataError
from semg.data import gaps, putemg
from semg.data.columns import taken_in_order
from semg.data.faults import ADC_ENDS, ChannelFaults, find_faults, sign_in_words
from semg.data.filters import default_band
from semg.data.preprocessing import USUAL_RMS, common_scale
from semg.data.spectrum import Spectrum
from semg.data.tables import UNITS, RawRecording, in_order, is_table, read_recording, read_table, resampled
from semg.inference.trained_model import TrainedModel

# limits of the RMS in any unit, from volts to counts of many bits; beyond them, data are damaged
ANOTHER_UNIT = (1e-12, 1e9)


def recording_for(
    model: TrainedModel,
    path: Path,
    rate: float | None,
    unit: str | None,
    columns: Sequence[int] | None,
    *,
    causal: bool = False,
    warn: Callable[[str], None],
) -> RawRecording:
    """The samples of a recording in putEMG's layout, or of a table, at the model's rate.

    rate (Hz), unit, columns: for a table. unit None: that of training, or another that the signal shows, with a
    warning; columns None: all channels. causal: refuse operations that look ahead. warn: called about changes to the
    samples and about missing samples.
    Raises DataError, which names the file.
    """
    signals = model.signal_path
    ends: tuple[float, float] | None = None
    if not is_table(path):
        ends = ADC_ENDS
        source = read_recording(path, signals.electrodes, signals.labels)
    elif rate is None:
        raise DataError(f"{path}: expected a sampling rate for a table, found none")
    else:
        scale = signals.scale if unit is None else UNITS[unit]
        names = signals.electrode_names
        source = read_table(path, rate, scale, columns, len(names), names, signals.labels)
        if columns is None and (in_order := taken_in_order(source.channels, names)):
            warn(f"{path}: {in_order}")
        if unit is not None and source.unit not in ("", unit):
            warn(f"{path}: its unit is {source.unit} by the names of its channels, but {unit} is asked for")
        if unit is None:
            source = in_usual_range(model, path, source, warn)
    faults = _faults(path, source, ends, warn)
    if source.rate != model.rate:
        if causal:
            raise DataError(
                f"{path}: expected the model's {model.rate:g} Hz for a stream, found {source.rate:g} Hz: "
                "resampling looks ahead"
            )
        warn(f"{path}: resampled from {source.rate:g} Hz to the model's {model.rate:g} Hz")
        if source.rate / 2 < signals.filter.high:
            top = f"nothing above {source.rate / 2:g} Hz, where the model expects signal to {signals.filter.high:g} Hz"
            warn(f"{path}: {top}")
        source = resampled(source, model.rate)
    if len(source.samples) < model.window:
        raise DataError(f"{path}: expected at least a window, {model.window} samples, found {len(source.samples)}")
    if len(faults.dead) == source.samples.shape[1]:
        raise DataError(f"{path}: expected a signal, found channels that never change")
    return source


def labels_of(codes: np.ndarray | None, classes: Sequence[str]) -> np.ndarray | None:
    """(T,) true labels of a `RawRecording` -> (T,) places among the classes, -1 for any other label; None if there are
    no labels."""
    if codes is None:
        return None
    places: dict[Any, int] = {name: place for place, name in enumerate(classes)}
    if codes.dtype.kind != "U":
        names = {**putemg.GESTURES, putemg.REST: "rest"}
        places = {code: places[name] for code, name in names.items() if name in places}
    values, index = np.unique(codes, return_inverse=True)
    return np.array([places.get(value, -1) for value in values.tolist()], np.int64)[index]


def unknown_labels(codes: np.ndarray | None, model: TrainedModel) -> str:
    """Which of a table's labels are no class of the model, in words: a name may be misspelt. Empty if there are
    none."""
    if codes is None or codes.dtype.kind != "U":
        return ""
    there = in_order(name for name in np.unique(codes).tolist() if name)
    others = [name for name in there if name not in (*model.classes, *model.classes_left_out)]
    classes = ", ".join(model.classes)
    if others == there and there:
        return f"no label is one of the model's classes, {classes}: they are {listed(there)}"
    return f"windows of {listed(others)} are not used: the model's classes are {classes}" if others else ""


def expect_one_unit(scales: Mapping[Path, float]) -> None:
    """DataError if tables of one session seem to be in different units. scales: of each recording, see `RawRecording`.

    A table in an unknown unit is brought to the usual strength; of a session, rest would become as strong as a gesture.
    """
    tables = [path for path in scales if is_table(path)]
    for path in tables:
        first, own = scales[tables[0]], scales[path]
        if own != first:
            factors = f"multiplied by {first:g}, found one to be multiplied by {own:g}, by their strengths"
            raise DataError(f"{path}: expected the unit of {tables[0].name}, {factors}", "{unit} says what it is")


def _faults(
    path: Path, source: RawRecording, ends: tuple[float, float] | None, warn: Callable[[str], None]
) -> ChannelFaults:
    """The faults of a recording's channels. Warns about these, about missing samples (and how they were detected, if
    that is uncertain), and about a signal that does not change."""
    faults = find_faults(source.samples, range(1, source.samples.shape[1] + 1), ends)
    if str(faults):
        warn(f"{path}: {faults} of the model's")
    if source.assumed:
        warn(f"{path}: {source.assumed}")
    if source.missing:
        warn(f"{path}: {gaps.in_words(source.missing, source.rate)}; times of decisions do not count them")
    if sign := sign_in_words(source.samples):
        warn(f"{path}: {sign}")
    if still := gaps.still_in_words(gaps.still_stretches(source.samples, source.rate), source.rate):
        warn(f"{path}: {still}")
    return faults


def in_usual_range(
    model: TrainedModel, path: Path | str, source: RawRecording, warn: Callable[[str], None]
) -> RawRecording:
    """The source; multiplied by a power of ten if its samples are in another unit than those of the training.

    path: prefix of messages. Only a model that normalises by session is independent of the scale; for other models,
    DataError.
    """
    if not np.isfinite(source.samples).all():  # beyond float32: refused after the filter, as impossible amplitudes
        return source
    with np.errstate(over="ignore"):  # values near that limit: an infinite power fits no unit either
        measured = float(np.median(Spectrum.of(source.samples, source.rate).rms(*default_band(source.rate))))
    rms, (low, high) = measured * source.scale, USUAL_RMS
    if low <= rms <= high or not ANOTHER_UNIT[0] < rms < ANOTHER_UNIT[1]:
        return source
    if model.channel_normalization.method != "session":
        raise DataError(f"{path}: expected an RMS of {low:g} to {high:g}, found {rms:.3g}", "is {unit} right?")
    scale = common_scale(measured)
    warn(f"{path}: an RMS of {rms:.3g} is of another unit: multiplied by {scale / source.scale:g}")
    return replace(source, scale=scale)
