"""Recordings in files, brought to what a trained model takes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from semg.common.errors import DataError
from semg.data.tables import Source, is_table, read_recording, read_table, resampled
from semg.inference.trained_model import TrainedModel


def recording_for(
    model: TrainedModel,
    path: Path,
    rate: float | None,
    unit: str,
    columns: Sequence[int] | None,
    *,
    causal: bool = False,
    warn: Callable[[str], None],
) -> Source:
    """The samples of a recording in putEMG's layout or of a table, at the model's rate.

    rate (Hz), unit, columns: of a table; columns None: all channels. causal: refuse what looks ahead. warn: told what
    was done to the samples. Raises DataError, which names the file.
    """
    signals = model.signal_path
    if not is_table(path):
        source = read_recording(path, signals.electrodes, signals.labels)
    elif rate is None:
        raise DataError(f"{path}: expected a sampling rate for a table, found none")
    else:
        source = read_table(path, rate, unit, columns, len(signals.electrodes), signals.channels)
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
    return source
