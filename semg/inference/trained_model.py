"""A trained model: a checkpoint's network, and all that is needed to apply it to signals.

from semg import Decoder                  # TrainedModel, under its public name

model = Decoder.open("checkpoints/best_model.ckpt")
table = model.predict(signal, rate=2000)  # (time, channels) microvolts as recorded -> one row per decision
stream = model.stream()                   # or block by block, as from a device
decisions = stream.push(block)

scores = model.score(shards)              # windows cut and labelled beforehand, see semg/data/shards.py
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.common.console import Progress
from semg.common.errors import DataError, SettingError
from semg.data import gestures, normalization, tables
from semg.data.batches import Batches
from semg.data.preprocessing import USUAL_RMS
from semg.data.shards import Shard, WindowSet, first_difference, second_moment
from semg.inference import batch
from semg.inference.checkpoint import Checkpoint, open_checkpoint
from semg.inference.network import network_of
from semg.inference.online_evaluation import online_probabilities
from semg.inference.online_normalization import Given, Normalization, OnlineNormalization
from semg.inference.origin import Origin
from semg.inference.prior import Prior
from semg.inference.session_statistics import SessionStatistics, read_statistics, write_statistics
from semg.inference.signal_path import SignalPath, as_samples
from semg.inference.streaming import Adapting, Predictions, Stream

DATA_FIELDS = ("rate", "channels", "classes", "arguments")


@dataclass(frozen=True)
class Scores:
    """Labelled windows and a model's probabilities (n, K) for them."""

    windows: WindowSet
    probabilities: np.ndarray


class TrainedModel:
    """A network with its weights, and how signals are prepared for it. `open` makes one from a checkpoint.

    network: in evaluation mode, on `device`. classes: gestures, in the order of the probabilities. rate: Hz.
    unit: of filtered signals, as in shard.json: uV or arbitrary. channels: names of the network's input channels.
    window, stride: samples. rest_classes: those of its classes in which no gesture is made; for older checkpoints,
    those with the usual names of rest. rings: for each ring of electrodes, the places of its channels around the arm;
    empty for older checkpoints. classes_of_training: all classes that it was trained on, even if it now decides between
    some of them only; classes_left_out: those it does not decide for.
    path: of the checkpoint; description: the checkpoint's description, as plain types.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        """DataError unless the checkpoint holds a network and weights that fit each other and the data."""
        network, self.channel_normalization = network_of(checkpoint)
        self.device, self.network = device, network.to(device)
        self._take(checkpoint)

    def _take(self, checkpoint: Checkpoint) -> None:
        """Set the attributes from the checkpoint."""
        self.checkpoint, self.path = checkpoint, checkpoint.path
        self.description: Mapping[str, Any] = checkpoint.description
        data = self.description["data"]
        self.classes: tuple[str, ...] = tuple(data["classes"])
        self.channels: tuple[str, ...] = tuple(data["channels"])
        self.rate: float = data["rate"]
        self.unit = "arbitrary" if data.get("unit") == "arbitrary" else "uV"
        self.window: int = data["arguments"]["window"]
        self.stride: int = data["arguments"]["stride"]
        self.rings: tuple[tuple[int, ...], ...] = tuple(map(tuple, data.get("rings") or ()))
        rest = data.get("rest_classes")
        self.rest_classes = tuple(
            one for one in self.classes if (gestures.is_rest(one) if rest is None else one in rest)
        )
        self.classes_of_training: tuple[str, ...] = tuple(self.description.get("classes_of_training", self.classes))
        self.classes_left_out = tuple(one for one in self.classes_of_training if one not in self.classes)

    @classmethod
    def open(cls, path: str | Path, device: str | torch.device = "auto") -> "TrainedModel":
        """Open a best_model.ckpt of train.py, or a folder of export.py.

        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`. Raises DataError, which names the file, for
        anything that is not a trained model, such as a last.ckpt, and SettingError for a device that does not exist.
        """
        where = batch.choose_device(device) if isinstance(device, str) else device
        return cls(open_checkpoint(Path(path)), where)

    def with_network(self, network: GPT2Classifier) -> "TrainedModel":
        """The same model with other weights, such as those of an adapted copy."""
        model = copy(self)
        model.network = network.to(self.device).eval()
        return model

    def restricted(self, classes: Sequence[str] | None = None, *, no_idle: bool = False) -> "TrainedModel":
        """The same model, deciding between these classes only, in this order; probabilities are renormalised over them.

        no_idle: all classes except those without a gesture. With neither, the model itself. Raises SettingError unless
        the choice is at least two of its classes.
        """
        chosen = gestures.chosen(self.classes, self.rest_classes, classes, no_idle=no_idle)
        if chosen == self.classes:
            return self
        before, places = self.description, [self.classes.index(name) for name in chosen]
        network = self.network.restricted(places).eval()
        data = {
            **before["data"],
            "classes": list(chosen),
            "rest_classes": [one for one in chosen if one in self.rest_classes],
        }
        description = {
            **before,
            "model": network.config.to_dict(),
            "data": data,
            "classes_of_training": list(self.classes_of_training),
        }
        counts = before.get("class_windows")
        if isinstance(counts, list) and len(counts) == len(self.classes):
            description["class_windows"] = [counts[place] for place in places]
        others = {name: value for name, value in self.checkpoint.tensors.items() if not name.startswith("model.")}
        weights = {f"model.{name}": value for name, value in network.state_dict().items()}
        model = copy(self)
        model.network = network
        model._take(Checkpoint(self.path, description, others | weights, self.checkpoint.sha256))
        return model

    def restriction(self) -> str:
        """A sentence saying which gestures it decides between and which not; empty if it decides between all."""
        if not self.classes_left_out:
            return ""
        decided, left_out = ", ".join(self.classes), ", ".join(self.classes_left_out)
        return f"deciding between {decided} alone, probabilities renormalised over them; left out: {left_out}"

    def facts(self) -> dict[str, Any]:
        """What results record about it: the checkpoint, the channel normalisation, and the classes left out."""
        how = self.channel_normalization
        checkpoint = {"checkpoint": self.path.as_posix(), "checkpoint_sha256": self.checkpoint.sha256}
        return checkpoint | {"normalize": how.method, "whitening": how.whitening} | self.restriction_facts()

    def restriction_facts(self) -> dict[str, Any]:
        """The restriction for metrics.json; empty if it decides between all classes."""
        return {"classes_left_out": list(self.classes_left_out)} if self.classes_left_out else {}

    @cached_property
    def signal_path(self) -> SignalPath:
        """How recordings become the network's signals. DataError if the checkpoint does not say how."""
        return SignalPath.of(self.checkpoint)

    @cached_property
    def origin(self) -> Origin:
        """How it was made. DataError if the checkpoint does not say how."""
        return Origin.of(self.checkpoint)

    # --- normalisation ---

    @cached_property
    def prior(self) -> Prior | None:
        """What training learnt about sessions; None for older checkpoints."""
        try:
            shape = (len(self.channels), self.network.frontend.n_features)
            return Prior.from_tensors(self.checkpoint.tensors, *shape)
        except ValueError as error:
            raise DataError(f"{self.path}: {error}") from None

    def transforms(self, shards: Sequence[Shard]) -> np.ndarray:
        """(n_shards, C, C') the matrices by which the shards' samples are multiplied, as in training."""
        return normalization.transform_of(shards, self.channel_normalization, self._train_gain)

    def statistics(self, shards: Sequence[Shard], transforms: np.ndarray) -> Tensor | None:
        """(n_shards, 2, F) token statistics of each shard's session; None if the network's own are used."""
        if self.channel_normalization.method != "session":
            return None
        return batch.session_statistics(self.network, shards, transforms, self.device)

    @property
    def _train_gain(self) -> np.ndarray:
        return self.checkpoint.tensors["train_gain"].numpy()

    def session_of(self, *signals: np.ndarray) -> Given:
        """The normalisation of a session's windows when all its recordings, each (T, C) filtered microvolts, are
        known."""
        if self.channel_normalization.method != "session":
            return Given(self.network, self._fixed_transform(), None, self.device)
        lengths = [len(signal) for signal in signals]
        moment = np.average([second_moment(signal) for signal in signals], axis=0, weights=lengths)
        transform = normalization.transform_from(moment, self.channel_normalization)
        sums = [batch.token_sums(self.network, signal, transform, self.device) for signal in signals]
        statistics = self.network.finish_statistics(torch.stack(sums).sum(0))
        return Given(self.network, transform, statistics, self.device)

    def _fixed_transform(self) -> np.ndarray:
        return normalization.fixed_transform(self.channel_normalization, len(self.channels), self._train_gain)

    # --- labelled windows ---

    def check_same_data(self, shard: Shard) -> None:
        """DataError, naming the field, unless the shard was made like the training data."""
        trained = self.description["data"]
        if apart := first_difference({key: trained[key] for key in DATA_FIELDS}, shard.meta):
            raise DataError(
                f"{shard.path}: expected data as in {self.path}: {apart}; preprocess.py or import_csv.py makes such"
            )

    def own_windows(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards; for a restricted model, with only the windows of its classes, in its order of them.

        DataError unless they were made like the training data.
        """
        as_trained = self.classes == self.classes_of_training
        own = list(shards) if as_trained else [gestures.restricted(one, self.classes) for one in shards]
        self.check_same_data(own[0])
        return own

    def decide(
        self,
        windows: WindowSet,
        *,
        batch_size: int = batch.INFERENCE_BATCH,
        autocast: torch.autocast | None = None,
        workers: int = 0,
        progress: Progress = iter,
    ) -> np.ndarray:
        """(n_windows, K) probabilities for all windows in order, normalised as in training.

        progress: wraps the batches.
        """
        transforms = self.transforms(windows.shards)
        batches = Batches(windows, transforms, self.device, workers)
        statistics = self.statistics(windows.shards, transforms)
        return batch.probabilities(self.network, batches, statistics, batch_size, autocast, progress)

    def decide_online(
        self,
        windows: WindowSet,
        *,
        batch_size: int = batch.INFERENCE_BATCH,
        autocast: torch.autocast | None = None,
        progress: Progress = iter,
        adaptation: Callable[[str], Adapting] | None = None,
    ) -> np.ndarray:
        """The same, as a live device would decide: each window is normalised by the session's signal so far.

        progress: wraps the sessions. adaptation: makes the adaptation for a session, given its name, when it begins.
        Raises SettingError for a model that is not normalised by session.
        """
        self.expect_by_session("normalize")
        return online_probabilities(
            self.network, self._online_by_session, windows, self.stride, batch_size, autocast, progress, adaptation
        )

    def score(self, shards: Sequence[Shard]) -> Scores:
        """Decide on all labelled windows of some shards, see `own_windows`."""
        windows = batch.open_windows(self.own_windows(shards))
        return Scores(windows, self.decide(windows))

    # --- recordings ---

    def predict(self, signal: np.ndarray | pd.DataFrame, rate: float | None = None) -> pd.DataFrame:
        """Decide on a whole recording, as recorded: window by window, normalised by the whole recording.

        signal: (time, channels) microvolts, unfiltered, the model's channels in the model's order; the columns of a
        data frame are taken by name if it has the model's. If the model's `unit` is arbitrary, the samples are in the
        unit of the recordings that it was trained on. rate: Hz, if it is not the model's; the signal is then resampled.
        Returns one row per decision: `time_s` (the window's end), `gesture`, and the probability of each class,
        `p_idle` and so on. Warns of a rate that is too low for the model's band. Raises DataError for anything but such
        a signal, and for one of another unit.
        """
        path = self.signal_path
        samples = as_samples(signal, path.electrode_names, "time")
        source = tables.RawRecording("signal", samples, self.rate if rate is None else _hertz(rate), path.scale)
        recorded = len(samples), source.rate
        if len(samples) and source.rate != self.rate:
            source = tables.resampled(source, self.rate)
            if lacking := path.lacking(recorded[1]):
                warnings.warn(f"a signal of {recorded[1]:g} Hz has {lacking}", stacklevel=2)
        self.expect_a_window(*recorded)
        filtered = path.apply(source.samples, source.scale)
        self._expect_unit(filtered)
        predictions = self.predict_filtered(filtered)
        shares = predictions.probabilities
        decided = {"time_s": predictions.end / self.rate, "gesture": np.array(self.classes)[shares.argmax(1)]}
        return pd.DataFrame(decided | {f"p_{name}": shares[:, k] for k, name in enumerate(self.classes)})

    def predict_filtered(self, signal: np.ndarray, session: Given | None = None) -> Predictions:
        """The same for (T, C) filtered microvolts at the model's rate, from `signal_path.apply`.

        session: the normalisation, if the signal is only a part of a session, see `session_of`.
        """
        self.expect_a_window(len(signal), self.rate)
        starts = np.arange(0, len(signal) - self.window + 1, self.stride)
        values = batch.signal_probabilities(self.network, signal, starts, session or self.session_of(signal))
        return Predictions(starts + self.window, values)

    def stream(
        self,
        *,
        start_after: float = 0.0,
        scale: float | None = None,
        normalization: Normalization | None = None,
        statistics: SessionStatistics | None = None,
        adaptation: Adapting | None = None,
    ) -> Stream:
        """A stream at its beginning: `push` blocks of (n, channels), unfiltered, at the model's rate.

        Nothing looks ahead, so the filter is causal even if that of training was not. start_after: seconds of signal
        before the first decision; scale: microvolts per unit of the samples pushed; None: they are in the unit that
        `predict` takes. normalization: of the windows, if not by the signal so far. statistics: of an earlier stream of
        the same session, from its `heard` or from `read_statistics`; this stream starts from them. adaptation: adapts
        the network during the stream, see semg/training/online_adaptation.py. Raises SettingError for a start_after or
        statistics if the model is not normalised by session, DataError for statistics of a model of another shape.
        """
        if start_after:
            self.expect_by_session("start_after")
        path = self.signal_path
        how = normalization or self.online(statistics)
        if isinstance(how, Given):  # there is nothing to wait for
            start_after = 0.0
        with torch.inference_mode():  # the first call is slow; a live device must not wait for it
            self.network(torch.zeros(1, self.network.config.channels, self.window, device=self.device))
        return Stream(
            self.network,
            how,
            replace(path.filter, causal=True).sections(self.rate),
            path.reference * np.float32(path.scale if scale is None else scale),
            self.stride,
            round(start_after * self.rate),
            adaptation,
            path.electrode_names,
        )

    def online(self, statistics: SessionStatistics | None = None) -> Normalization:
        """Normalisation by the signal of a session so far; for models with another method, that of training.

        statistics: as in `stream`.
        """
        if self.channel_normalization.method != "session":
            if statistics is not None:
                self.expect_by_session("statistics")
            return Given(self.network, self._fixed_transform(), None, self.device)
        if statistics is not None:
            statistics.expect_shape(self._statistics_shape)
        return self._online_by_session(statistics)

    def _online_by_session(self, statistics: SessionStatistics | None = None) -> OnlineNormalization:
        return OnlineNormalization(self.network, self.channel_normalization, self.device, self.prior, statistics)

    def read_statistics(self, path: str | Path) -> SessionStatistics:
        """The statistics that an earlier stream of the same session stored. DataError, which names the file, unless
        they fit."""
        self.expect_by_session("statistics")
        return read_statistics(Path(path), self._of_statistics(), self._statistics_shape)

    def write_statistics(self, path: str | Path, statistics: SessionStatistics | None) -> None:
        """Store a stream's statistics (`Stream.heard`) in a file, for `read_statistics` of this or a similar model.

        DataError if there are none yet, SettingError for a model that is not normalised by session.
        """
        self.expect_by_session("statistics")
        if statistics is None:
            raise DataError(f"{path}: expected statistics of a stream with at least a window of signal, found none")
        write_statistics(Path(path), statistics, self._of_statistics())

    @property
    def _statistics_shape(self) -> tuple[int, int, int, int]:
        channels, copies = len(self.channels), self.channel_normalization.copies
        return channels, channels * copies, self.window, self.network.frontend.n_features

    def _of_statistics(self) -> dict[str, Any]:
        """All properties that a session's statistics depend on; weights are not among them."""
        config, path = self.network.config.to_dict(), self.signal_path
        return {
            "channels": self.channels,
            "rate": self.rate,
            "electrodes": list(path.electrodes),
            "montage": self.description["data"]["arguments"].get("montage", "monopolar"),
            "filter": asdict(replace(path.filter, causal=True)),
            "normalize": self.channel_normalization.to_dict(),
            **{name: config[name] for name in ("samples", "frontend", "patch", "frame", "band_edges")},
        }

    def expect_by_session(self, field: str) -> None:
        """SettingError, about the setting `field`, for a model that is not normalised by session."""
        if (method := self.channel_normalization.method) != "session":
            raise SettingError(field, f"a model that is normalised by session, not by {method}")

    def expect_a_window(self, n_samples: int, rate: float) -> None:
        """DataError unless `n_samples` at `rate` Hz make at least a window at the model's rate."""
        least = math.floor((self.window - 1) * rate / self.rate) + 1
        if n_samples < least:
            raise DataError(f"expected at least a window, {least} samples, found {n_samples}")

    def _expect_unit(self, signal: np.ndarray) -> None:
        """DataError for (T, C) filtered microvolts whose strength shows that their unit is another."""
        each = np.sqrt(np.diag(second_moment(signal)))
        strength = float(np.median(each[each > 0])) if each.any() else 0.0  # dead channels have no unit
        low, high = USUAL_RMS
        if not low <= strength <= high:
            scale, unit = self.signal_path.scale, "uV" if self.unit == "uV" else "in the unit of its training"
            expected = f"expected an RMS of {low / scale:g} to {high / scale:g} {unit}"
            raise DataError(f"{expected}, found {strength / scale:.3g}: is the signal in another unit?")


def _hertz(rate: Any) -> float:
    """A rate as a number; an array of one element is taken, too, as MATLAB's files hold numbers."""
    try:
        return float(np.asarray(rate, np.float64).item())
    except (TypeError, ValueError):
        raise DataError(f"expected a rate in Hz, found {' '.join(repr(rate).split())[:60]}") from None
