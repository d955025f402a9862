"""From a raw recording to the signal that a trained model reads: channels, re-referencing, filter, as in training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from semg.common.errors import DataError, SettingError, short
from semg.common.schema import POSITIVE, TEXT, Field, check_fields, flag, is_whole, numbers
from semg.data.columns import by_name
from semg.data.filters import FilterSpec
from semg.data.preprocessing import MONTAGES, filtered, montage
from semg.data.putemg import CHANNEL_COLUMNS, N_CHANNELS
from semg.inference.checkpoint import Checkpoint

_SIGNAL = {  # arguments of the model's preprocessing; models of other devices have fewer of these
    "data.arguments.low": POSITIVE,
    "data.arguments.high": POSITIVE,
    "data.arguments.order": Field("a whole number from 1 to 12", lambda n: is_whole(n) and n <= 12, needed=False),
    "data.arguments.notch": Field("frequencies", numbers, needed=False),
    "data.arguments.causal": Field("true or false", flag, needed=False),
    "data.arguments.labels": replace(TEXT, needed=False),
    "data.arguments.scale": replace(POSITIVE, needed=False),
    "data.arguments.montage": Field("monopolar, car or bipolar", lambda kind: kind in list(MONTAGES), needed=False),
    "data.arguments.channels": Field(
        "numbers of channels",
        lambda value: isinstance(value, list) and bool(value) and all(map(is_whole, value)),
        False,
    ),
}


@dataclass(frozen=True)
class SignalPath:
    """How a recording's samples become the model's signal.

    electrodes: putEMG's numbers of the channels before re-referencing; channels: their names after it.
    reference: (electrodes, C) float32. labels: putEMG's column from which labels were taken. scale: the factor for
    samples whose unit is not given: 1 for microvolts, otherwise the factor that training used for its device's unit.
    """

    electrodes: tuple[int, ...]
    channels: tuple[str, ...]
    reference: np.ndarray
    filter: FilterSpec
    rate: float
    labels: str
    scale: float = 1.0

    @property
    def electrode_names(self) -> tuple[str, ...]:
        """Names of the device's channels before re-referencing."""
        if self.reference.shape[0] == self.reference.shape[1]:
            return self.channels
        return tuple(CHANNEL_COLUMNS[number - 1] for number in self.electrodes)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "SignalPath":
        """As the checkpoint's training data were made. DataError if it does not say how."""
        path, data = checkpoint.path, checkpoint.description["data"]
        check_fields(path, checkpoint.description, _SIGNAL, "what the model was trained on", "train.py writes it")
        how = {name: value for name, value in data["arguments"].items() if value is not None}
        electrodes = tuple(how.get("channels", range(1, len(data["channels"]) + 1)))
        try:
            names, reference = _montage(electrodes, how.get("montage", "monopolar"), data["channels"])
            notch, causal = tuple(how.get("notch", ())), how.get("causal", False)
            spec = FilterSpec(how["low"], how["high"], how.get("order", 4), notch, causal)
            spec.sections(data["rate"])
        except SettingError as error:  # its fields come from the checkpoint, not from flags of this script
            raise DataError(f"{path}: expected a filter and montage that can be, found {error}") from None
        if reference.shape[1] != len(data["channels"]):
            actual = f"{reference.shape[1]} of {len(data['channels'])}"
            raise DataError(f"{path}: expected a recording's channels to become the model's, found {actual}")
        scale = how.get("scale", 1.0) if data.get("unit") == "arbitrary" else 1.0
        return cls(electrodes, tuple(names), reference, spec, data["rate"], how.get("labels", "TRAJ_GT"), scale)

    def lacking(self, rate: float) -> str:
        """What a recording at `rate` Hz cannot have of the signal that the model was trained on; empty if it has
        all."""
        if rate / 2 >= self.filter.high:
            return ""
        return f"nothing above {rate / 2:g} Hz, where the model expects signal to {self.filter.high:g} Hz"

    def apply(self, samples: np.ndarray, scale: float = 1.0, *, causal: bool = False) -> np.ndarray:
        """(T, electrodes) in units of `scale` microvolts, at the model's rate -> (T, C) float16 microvolts.

        causal: filter without looking ahead, even if training did. DataError for amplitudes that float16 cannot hold.
        """
        spec = replace(self.filter, causal=causal or self.filter.causal)
        signal = filtered(samples, self.reference, spec, self.rate, scale)
        if not np.isfinite(signal).all():
            raise DataError("expected amplitudes below 65 mV, found more", hint="is {unit} right?")
        return signal


def as_samples(values: Any, names: Sequence[str], axis: str) -> np.ndarray:
    """What a caller gives as a signal -> (n, channels) float32. A data frame's columns are taken by the channels'
    `names`, as those of a table in a file, unless they have none of them.

    axis: what the rows are, for the message. DataError for anything but finite numbers of that shape.
    """
    expected = f"expected numbers of shape ({axis}, {len(names)}), the model's channels"
    if isinstance(values, pd.DataFrame):
        values = _columns_by_name(values, names)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of several lengths, a tensor on a GPU
        raise DataError(f"{expected}, found {short(error)}") from None
    if array.ndim != 2 or array.shape[1] != len(names) or array.dtype.kind not in "fiu":
        raise DataError(f"{expected}, found {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise DataError("expected finite numbers, found NaN or infinity")
    with np.errstate(over="ignore"):  # beyond float32: refused after the filter, as impossible amplitudes
        return array.astype(np.float32, copy=False)


def _columns_by_name(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    try:
        places = by_name("signal", [str(name) for name in frame.columns], names)
    except DataError as error:
        raise DataError(error.message) from None  # its hint is about a flag
    return frame if places is None else frame.iloc[:, places]


def _montage(channels: Sequence[int], kind: str, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """As `montage`; monopolar channels may belong to any device, under their own names."""
    if kind == "monopolar":
        return list(names), np.eye(len(channels), dtype=np.float32)
    if max(channels) > N_CHANNELS:
        raise SettingError("channels", "at most {}", max(channels), (N_CHANNELS,))
    return montage(channels, kind)
