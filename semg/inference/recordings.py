"""A trained model on any recording: offline over the whole of it, or streamed as from a live device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from model import GPT2Classifier
from semg.common.errors import DataError, SettingError
from semg.common.schema import POSITIVE, TEXT, Field, check_fields, flag, numbers, whole
from semg.data.batches import Batches
from semg.data.filters import FilterSpec
from semg.data.normalization import ChannelNormalization
from semg.data.preprocessing import MONTAGES, montage
from semg.data.putemg import N_CHANNELS
from semg.data.shards import Shard, WindowSet
from semg.data.tables import Source
from semg.data.windows import WINDOW_FIELDS
from semg.inference.batch import (
    build_model,
    channel_normalization_of,
    open_model,
    probabilities,
    statistics_for,
    transform_for,
)
from semg.inference.checkpoint import Checkpoint
from semg.inference.streaming import Decision, Given, Normalization, OnlineNormalization, Stream

_BLOCK = 1 << 16  # samples summed at once: memory stays flat
_SIGNAL = {  # how recordings became the model's signals; other devices' models know fewer of these
    "data.arguments.low": POSITIVE,
    "data.arguments.high": POSITIVE,
    "data.arguments.order": Field("a whole number from 1 to 12", lambda n: whole(n) and n <= 12, needed=False),
    "data.arguments.notch": Field("frequencies", numbers, needed=False),
    "data.arguments.causal": Field("true or false", flag, needed=False),
    "data.arguments.labels": replace(TEXT, needed=False),
    "data.arguments.montage": Field("monopolar, car or bipolar", lambda kind: kind in list(MONTAGES), needed=False),
    "data.arguments.channels": Field(
        "numbers of channels", lambda found: isinstance(found, list) and bool(found) and all(map(whole, found)), False
    ),
}


@dataclass(frozen=True)
class Trained:
    """A model, and what its signals have to be like."""

    checkpoint: Checkpoint
    model: GPT2Classifier
    channel_normalization: ChannelNormalization
    device: torch.device
    rate: float
    classes: tuple[str, ...]
    channels: tuple[int, ...]  # putEMG's numbers, before re-referencing
    names: list[str]  # of the model's channels
    reference: np.ndarray  # (channels, C) re-referencing
    spec: FilterSpec
    stride: int
    labels: str

    @classmethod
    def open(cls, path: Path, device: torch.device) -> "Trained":
        """Open a checkpoint. DataError if it does not say what it was trained on."""
        checkpoint = open_model(path, origin=False)
        check_fields(path, checkpoint.description, _SIGNAL, "what the model was trained on", "train.py writes it")
        model = build_model(checkpoint).to(device)
        data = checkpoint.description["data"]
        how = data["arguments"]
        channels = tuple(how.get("channels", range(1, len(data["channels"]) + 1)))
        try:
            names, reference = _montage(channels, how.get("montage", "monopolar"), data["channels"])
            spec = FilterSpec(
                how["low"], how["high"], how.get("order", 4), tuple(how.get("notch", ())), how.get("causal", False)
            )
            spec.sections(data["rate"])
        except SettingError as error:  # of flags that the model's training was never given
            raise DataError(f"{path}: expected a filter and montage that can be, found {error}") from None
        if reference.shape[1] != len(data["channels"]):
            found = f"{reference.shape[1]} of {len(data['channels'])}"
            raise DataError(f"{path}: expected a recording's channels to become the model's, found {found}")
        facts = (data["rate"], tuple(data["classes"]), channels, names, reference, spec, how["stride"])
        return cls(
            checkpoint, model, channel_normalization_of(checkpoint), device, *facts, how.get("labels", "TRAJ_GT")
        )

    @property
    def window(self) -> int:
        """Samples of a window."""
        return self.model.config.samples


@dataclass(frozen=True)
class Predictions:
    """Of one recording. end: (n,) samples after the windows' last; found: (n, K); delay: (n,) seconds, if streamed."""

    end: np.ndarray
    found: np.ndarray
    delay: np.ndarray | None = None
    computing: np.ndarray | None = None


def _montage(channels: Sequence[int], kind: str, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """As `montage`; monopolar channels may be any device's, under their own names."""
    if kind == "monopolar":
        return list(names), np.eye(len(channels), dtype=np.float32)
    if max(channels) > N_CHANNELS:
        raise SettingError("channels", "at most {}", max(channels), (N_CHANNELS,))
    return montage(channels, kind)


def predict_offline(trained: Trained, source: Source, signal: np.ndarray) -> Predictions:
    """Windows on a grid of the stride over the whole recording, normalised by the whole recording's statistics."""
    shard = _as_shard(trained, source, signal)
    windows = WindowSet([shard])
    transform = transform_for(trained.checkpoint, [shard])
    statistics = statistics_for(trained.model, trained.channel_normalization.method, [shard], transform, trained.device)
    batches = Batches(windows, transform, trained.device, workers=0)
    return Predictions(windows.start + trained.window, probabilities(trained.model, batches, statistics, 512))


def _as_shard(trained: Trained, source: Source, signal: np.ndarray) -> Shard:
    """The recording as a shard that lies in memory alone: a session of its own, every window unlabelled."""
    start = np.arange(0, len(signal) - trained.window + 1, trained.stride)
    windows = np.zeros(len(start), WINDOW_FIELDS)
    windows["start"] = windows["low"] = windows["high"] = start
    moment = np.zeros((signal.shape[1],) * 2)
    for at in range(0, len(signal), _BLOCK):
        block = signal[at : at + _BLOCK].astype(np.float32)
        moment += block.T @ block
    meta = {
        **dict.fromkeys(("subject", "session", "task"), ""),
        "order": 0,
        "record": source.name,
        **{key: trained.checkpoint.description["data"][key] for key in ("rate", "channels", "classes")},
        "arguments": {"window": trained.window},
        "n_samples": len(signal),
        "second_moment": moment / len(signal),
    }
    return Shard(Path(source.name), meta, signal, windows)


def predict_streamed(trained: Trained, source: Source, block: int, warmup: int) -> Predictions:
    """The recording fed to a `Stream` in blocks of `block` samples."""
    normalization: Normalization
    if trained.channel_normalization.method == "session":
        normalization = OnlineNormalization(trained.model, trained.channel_normalization, trained.device)
    else:
        nothing = np.zeros((1, len(trained.names)), np.float16)  # gains of training data look at no signal
        scale = transform_for(trained.checkpoint, [_as_shard(trained, source, nothing)])[0]
        normalization, warmup = Given(trained.model, scale, None, trained.device), 0
    sections = replace(trained.spec, causal=True).sections(trained.rate)
    reference = trained.reference * np.float32(source.scale)
    stream = Stream(trained.model, normalization, sections, reference, trained.stride, warmup)
    with torch.inference_mode():  # the first call takes long, on whichever device; a live one would have made it
        trained.model(torch.zeros(1, trained.model.config.channels, trained.window, device=trained.device))
    decisions: list[Decision] = []
    delay = []
    for at in range(0, len(source.samples), block):
        made = stream.push(source.samples[at : at + block])
        decisions += made
        delay += [(stream.seen - one.end) / trained.rate + one.computing for one in made]
    if not decisions:
        seconds = len(source.samples) / trained.rate
        raise DataError(
            f"{source.name}: expected more signal than the warm-up, found {seconds:.1f} s",
            hint="give a shorter {warmup}",
        )
    return Predictions(
        np.array([one.end for one in decisions]),
        np.stack([one.probabilities for one in decisions]),
        np.array(delay),
        np.array([one.computing for one in decisions]),
    )
