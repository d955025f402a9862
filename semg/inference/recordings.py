"""Recordings in files, converted to what a trained model accepts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.console import listed
from semg.common.errors import DataError
from semg.common.files import watched
from semg.data import gaps, putemg
from semg.data.columns import taken_in_order
from semg.data.faults import ADC_ENDS, ChannelFaults, find_faults, sign_in_words
from semg.data.filters import default_band
from semg.data.preprocessing import USUAL_RMS, common_scale, in_another_unit, signs_of_two_units
from semg.data.spectrum import Spectrum
from semg.data.tables import UNITS, RawRecording, in_order, is_table, read_recording, read_table, resampled
from semg.inference.trained_model import TrainedModel

# limits of the RMS in any unit, from volts to counts of many bits; beyond them, data are damaged
ANOTHER_UNIT = (1e-12, 1e9)
MOST_NAMED = 20  # of a model's classes, in a warning


def recording_for(
    model: TrainedModel,
    path: Path,
    rate: float | None,
    unit: str | None,
    columns: Sequence[int] | None,
    *,
    causal: bool = False,
    of_session: bool = False,
    warn: Callable[[str], None],
) -> RawRecording:
    """The samples of a recording in putEMG's layout, or of a table, at the model's rate.

    rate (Hz), unit, columns: for a table. unit None: that of training, or another that the signal shows, with a
    warning; columns None: all channels. causal: refuse operations that look ahead. of_session: leave it to
    `in_one_unit`, which knows the session's other tables, to find a unit. warn: called about changes to the samples and
    about missing samples.
    Raises DataError, which names the file.
    """
    signals = model.signal_path
    with watched(path, "a recording", warn):
        source = _read(model, path, rate, unit, columns, warn)
    if is_table(path) and unit is None and not of_session:
        source = in_usual_range(model, path, source, warn)
    faults = _faults(path, source, None if is_table(path) else ADC_ENDS, warn)
    recorded = len(source.samples), source.rate
    if source.rate != model.rate:
        if causal:
            raise DataError(
                f"{path}: expected the model's {model.rate:g} Hz for a stream, found {source.rate:g} Hz: "
                "resampling looks ahead"
            )
        warn(f"{path}: resampled from {source.rate:g} Hz to the model's {model.rate:g} Hz")
        if lacking := signals.lacking(source.rate):
            warn(f"{path}: {lacking}")
        source = resampled(source, model.rate)
    try:
        model.expect_a_window(*recorded)
    except DataError as error:
        raise DataError(f"{path}: {error.message}") from None
    if len(faults.dead) == source.samples.shape[1]:
        raise DataError(f"{path}: expected a signal, found channels that never change")
    return source


def _read(
    model: TrainedModel,
    path: Path,
    rate: float | None,
    unit: str | None,
    columns: Sequence[int] | None,
    warn: Callable[[str], None],
) -> RawRecording:
    """The samples as the file has them; see `recording_for`."""
    signals = model.signal_path
    if not is_table(path):
        return read_recording(path, signals.electrodes, signals.labels)
    if rate is None:
        raise DataError(f"{path}: expected a sampling rate for a table, found none")
    scale, names = signals.scale if unit is None else UNITS[unit], signals.electrode_names
    source = read_table(path, rate, scale, columns, len(names), names, signals.labels)
    if columns is None and (taken := taken_in_order(source.channels, names)):
        warn(f"{path}: {taken}")
    if unit is not None and source.unit not in ("", unit):
        warn(f"{path}: its unit is {source.unit} by the names of its channels, but {unit} is asked for")
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
    classes = listed(model.classes, MOST_NAMED)
    if others == there and there:
        return f"no label is one of the model's classes, {classes}: they are {listed(there)}"
    return f"windows of {listed(others)} are not used: the model's classes are {classes}" if others else ""


def in_one_unit(
    model: TrainedModel, sources: Mapping[Path, RawRecording], unit: str | None, warn: Callable[[str], None]
) -> dict[Path, RawRecording]:
    """The recordings of one session, whose tables, if `unit` is None, are brought to the usual range by one factor.

    Each by itself would be brought there by a factor of its own, and rest become as strong as a gesture. Warns of
    strengths that suggest two units; DataError for a table that must be in another unit than the others, and as
    `in_usual_range`.
    """
    tables = [path for path in sources if unit is None and is_table(path)]
    strengths = {path: strength for path in tables if np.isfinite(strength := _strength(sources[path]))}
    if not any(strengths.values()):
        return dict(sources)
    typical = float(np.median([strength for strength in strengths.values() if strength > 0]))
    for path in in_another_unit(strengths, typical):
        actual = f"found {strengths[path]:.3g}: it is in another unit"
        expected = f"expected an RMS near the others' {typical:.3g}"
        raise DataError(f"{path}: {expected}, {actual}", "if all are in one unit, {unit} says which")
    for sign in signs_of_two_units(strengths):
        warn(sign)
    scale = _usual_scale(model, listed(path.name for path in strengths), typical, model.signal_path.scale, warn)
    return {path: replace(one, scale=scale) if path in tables else one for path, one in sources.items()}


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
    return replace(source, scale=_usual_scale(model, path, _strength(source), source.scale, warn))


def _strength(source: RawRecording) -> float:
    """The median over channels of the root mean square, in the recording's own unit; infinite, or NaN, for samples
    beyond float32, which are refused after the filter as impossible amplitudes."""
    if not np.isfinite(source.samples).all():
        return math.nan
    with np.errstate(over="ignore"):  # values near that limit: an infinite power fits no unit either
        return float(np.median(Spectrum.of(source.samples, source.rate).rms(*default_band(source.rate))))


def _usual_scale(
    model: TrainedModel, where: Path | str, strength: float, scale: float, warn: Callable[[str], None]
) -> float:
    """The factor that brings samples of a `strength`, in units of `scale` microvolts, to the usual range."""
    rms, (low, high) = strength * scale, USUAL_RMS
    if low <= rms <= high or not ANOTHER_UNIT[0] < rms < ANOTHER_UNIT[1]:
        return scale
    if model.channel_normalization.method != "session":
        raise DataError(f"{where}: expected an RMS of {low:g} to {high:g}, found {rms:.3g}", "is {unit} right?")
    usual = common_scale(strength)
    warn(f"{where}: an RMS of {rms:.3g} is of another unit: multiplied by {usual / scale:g}")
    return usual
