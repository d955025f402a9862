"""A trained model on windows: opening it, its sessions' statistics, its probabilities."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier, ModelConfig
from semg.common.errors import DataError, SettingError
from semg.common.schema import COUNT, OBJECT, POSITIVE, TEXT, TEXTS, Field, check_fields, folder_name, number
from semg.data import normalization
from semg.data.batches import Batches, CachedFrames, in_order
from semg.data.shards import Shard, WindowSet, current_arguments, difference
from semg.inference.checkpoint import Checkpoint, open_checkpoint

STATISTICS_WINDOWS = 128  # evenly spaced over a recording, whatever their labels; more change nothing
PIECE = 64  # windows whose tokens a CPU computes at once: its caches hold most of that
READY_BYTES = 1 << 30  # of tokens kept in memory at most: some 90,000 windows of the default model
Progress = Callable[[Iterable[Any]], Iterable[Any]]


def choose_device(name: str) -> torch.device:
    """`auto`: a GPU if there is one, else the CPU. Raises SettingError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[name]:
        raise SettingError("device", "one that this machine has", name, hint="use {device} cpu")
    return torch.device(name)


DATA_FIELDS = ("rate", "channels", "classes", "arguments")
_NETWORK = {
    "model": OBJECT,
    "data.rate": POSITIVE,
    "data.channels": TEXTS,
    "data.classes": TEXTS,
    "data.arguments": OBJECT,
    "data.arguments.window": COUNT,
    "data.arguments.stride": COUNT,
    "normalize": OBJECT,
}
_ORIGIN = {
    "run": Field("the name of a folder", folder_name),  # results are written under it
    "shards": TEXT,
    "split.folder": TEXT,
    "split.name": TEXT,
    "split.train": TEXTS,
    "trained_on": TEXTS,
    "validation": replace(OBJECT, needed=False),
    "validation.val/macro_f1": Field("a number", number, needed=False),
    "validation.val/accuracy": Field("a number", number, needed=False),
}


def open_model(path: Path, *, origin: bool = True) -> Checkpoint:
    """Open a checkpoint that a trained model can be built from. DataError for any other, such as a last.ckpt.

    origin: whether it must also say by which run and on whom it was trained.
    """
    checkpoint = open_checkpoint(path)
    told = checkpoint.description
    fields = _NETWORK | (_ORIGIN if origin else {})
    check_fields(path, told, fields, "a trained model, best_model.ckpt", "train.py writes one")
    gain, shape = checkpoint.tensors.get("train_gain"), (len(told["data"]["channels"]),)
    if gain is None or gain.shape != shape:  # another shape could pass for one by broadcasting
        found = "none" if gain is None else f"one of shape {tuple(gain.shape)}"
        raise DataError(f"{path}: expected train_gain of shape {shape}, found {found}")
    channel_normalization_of(checkpoint)
    return checkpoint


def channel_normalization_of(checkpoint: Checkpoint) -> normalization.ChannelNormalization:
    """How the checkpoint's training brought recordings to one scale. DataError for what cannot be."""
    try:
        return normalization.ChannelNormalization.from_dict(checkpoint.description["normalize"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{checkpoint.path}: expected how signals were normalised, found {error}") from None


def build_model(checkpoint: Checkpoint) -> GPT2Classifier:
    """The checkpoint's network with its weights, in evaluation mode. DataError if they do not fit each other."""
    try:
        config = ModelConfig.from_dict(checkpoint.description["model"])
        _check_shape(checkpoint, config)
        model = GPT2Classifier(config)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{checkpoint.path}: expected a model configuration, found {error}") from None
    prefix = "model."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in sorted(set(expected) ^ set(weights)):
        found = "none" if name in expected else f"{name}, which the model has no place for"
        raise DataError(f"{checkpoint.path}: expected the weights of the model ({name}), found {found}")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            shapes = f"{tuple(shape)}, found {tuple(weights[name].shape)}"
            raise DataError(f"{checkpoint.path}: expected {name} of shape {shapes}")
    model.load_state_dict(weights)
    return model.eval()


def _check_shape(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """DataError unless such a network fits the data, and the weights that are there: building it may take long."""
    data = checkpoint.description["data"]
    fitting = {
        "channels": (config.channels, len(data["channels"]) * channel_normalization_of(checkpoint).copies),
        "classes": (config.classes, len(data["classes"])),
        "samples": (config.samples, data["arguments"]["window"]),
    }
    for name, (found, expected) in fitting.items():
        if found != expected:
            raise DataError(
                f"{checkpoint.path}: expected a model of {expected} {name} for such data, found one of {found}"
            )
    if config.family is not None and config.layers > len(checkpoint.tensors):
        found_blocks = f"{len(checkpoint.tensors)} tensors in all"
        raise DataError(f"{checkpoint.path}: expected weights of {config.layers} blocks, found {found_blocks}")


def check_same_data(checkpoint: Checkpoint, shard: Shard) -> None:
    """DataError, naming the field, unless the shard was made as the checkpoint's training data was."""
    data = checkpoint.description["data"]
    trained = {**data, "arguments": current_arguments(data["arguments"])}
    for key in DATA_FIELDS:
        if shard.meta[key] != trained[key]:
            what = difference(trained, shard.meta, key)
            raise DataError(f"{shard.path}: expected data as in {checkpoint.path}: {what}; preprocess.py makes such")


def transform_for(checkpoint: Checkpoint, shards: Sequence[Shard]) -> np.ndarray:
    """(n_shards, C, C') what the shards' samples are multiplied by, as the checkpoint's training did it."""
    return normalization.transform_of(
        shards, channel_normalization_of(checkpoint), checkpoint.tensors["train_gain"].numpy()
    )


@torch.inference_mode()
def session_statistics(
    model: GPT2Classifier,
    shards: Sequence[Shard],
    transform: np.ndarray,
    device: torch.device,
    progress: Progress = iter,
) -> Tensor:
    """(n_shards, 2, F) mean and standard deviation of each shard's session's tokens; no label is looked at.

    A session's statistics are taken over all its shards given, from windows evenly spaced over the recordings.
    """
    each = zip(progress(shards), transform, strict=True)
    sums = torch.stack([_token_sums(model, shard, own, device) for shard, own in each])
    statistics = torch.empty(len(shards), 2, sums.shape[2], device=device)
    for places in normalization.sessions(shards).values():
        statistics[places] = model.finish_statistics(sums[places].sum(0))
    return statistics


def _token_sums(model: GPT2Classifier, shard: Shard, transform: np.ndarray, device: torch.device) -> Tensor:
    """(3, F) sums over evenly spaced windows of one recording."""
    last = len(shard.signal) - shard.window
    starts = np.unique(np.linspace(0, last, STATISTICS_WINDOWS).astype(np.int64))
    total: Tensor | None = None
    for part in np.array_split(starts, 4):
        x = np.stack([shard.signal[at : at + shard.window] for at in part])
        scaled = torch.from_numpy(x).to(device).float() @ torch.from_numpy(transform).to(device)
        sums = model.token_statistics(scaled.transpose(1, 2))
        total = sums if total is None else total + sums
    assert total is not None  # noqa: S101  a recording has at least one window
    return total


@torch.no_grad()
def cached_frames(
    model: GPT2Classifier,
    shards: Sequence[Shard],
    transform: np.ndarray,
    device: torch.device,
    progress: Progress = iter,
) -> CachedFrames:
    """The front-end's features of all frames, so that training need not compute those of overlapping windows anew."""
    frontend = model.frontend
    if frontend.frames is None:
        raise ValueError("frontend: expected features of frames to compute them beforehand, found none")
    parts = []
    for shard, own in zip(progress(shards), transform, strict=True):
        signal = torch.from_numpy(np.array(shard.signal)).to(device)
        parts.append(frontend.of_recording(signal, torch.from_numpy(own).to(device)).half())
    lengths = np.array([len(part) for part in parts])
    offset = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)[:-1]])).to(device)
    return CachedFrames(
        torch.cat(parts), offset, frontend.frames.hop, frontend.frames.at.to(device), not frontend.all_cacheable
    )


def statistics_for(
    model: GPT2Classifier,
    method: str,
    shards: Sequence[Shard],
    transform: np.ndarray,
    device: torch.device,
    progress: Progress = iter,
) -> Tensor | None:
    """Token statistics by shard under normalisation by session; None where the model's own serve."""
    return session_statistics(model, shards, transform, device, progress) if method == "session" else None


@torch.inference_mode()
def ready_tokens(
    model: GPT2Classifier, batches: Batches, statistics: Tensor | None, batch_size: int = 512
) -> Tensor | None:
    """(n_windows, T, F) normalised tokens of all windows, for one who asks for them every epoch: they don't depend on
    what trains. None where they would take more than READY_BYTES of memory."""
    shape = (len(batches.windows), model.config.tokens, model.frontend.n_features)
    if 4 * math.prod(shape) > READY_BYTES:
        return None
    tokens = torch.empty(shape, device=batches.device)
    order = in_order(shape[0], batch_size)
    for index, own in zip(order, _computed(model, batches, statistics, order), strict=True):
        tokens[index[0] : index[-1] + 1] = own
    return tokens


@torch.inference_mode()
def probabilities(
    model: GPT2Classifier,
    batches: Batches,
    statistics: Tensor | None,
    batch_size: int,
    autocast: torch.autocast | None = None,
    progress: Progress = iter,
    ready: Tensor | None = None,
) -> np.ndarray:
    """(n_windows, classes) float32 for all windows in order. The model should be in evaluation mode.

    ready: what `ready_tokens` gave, if it did; signals are not read then.
    """
    order = in_order(len(batches.windows), batch_size)
    tokens = _computed(model, batches, statistics, order) if ready is None else iter(ready.split(batch_size))
    parts = []
    for _ in progress(range(len(order))):
        own = next(tokens)
        with autocast or nullcontext():
            logits = model.classify(own)
        parts.append(logits.float().softmax(1).cpu())
    return torch.cat(parts).numpy()


def _computed(
    model: GPT2Classifier, batches: Batches, statistics: Tensor | None, order: Sequence[np.ndarray]
) -> Iterator[Tensor]:
    """The normalised tokens of each batch in `order`."""
    few = PIECE if batches.device.type == "cpu" else max(map(len, order), default=1)
    pieces = [[index[at : at + few] for at in range(0, len(index), few)] for index in order]
    loaded = batches.iterate([piece for own in pieces for piece in own])
    for own in pieces:
        made = []
        for batch in islice(loaded, len(own)):
            made.append(model.tokens(batch.x, None if statistics is None else statistics[batch.shard]))
        yield torch.cat(made)


@torch.inference_mode()
def pooled_features(
    model: GPT2Classifier,
    batches: Batches,
    statistics: Tensor | None,
    index: np.ndarray,
    batch_size: int = 512,
    ready: Tensor | None = None,
) -> np.ndarray:
    """(len(index), d) float32: what the head sees of the windows at the places `index`, in evaluation mode.

    ready: as in `probabilities`.
    """
    order = [index[places] for places in in_order(len(index), batch_size)]
    tokens = _computed(model, batches, statistics, order) if ready is None else (ready[places] for places in order)
    return torch.cat([model.pooled(own).float().cpu() for own in tokens]).numpy()


def open_windows(shards: Sequence[Shard]) -> WindowSet:
    """The shards' windows; DataError if there are none."""
    windows = WindowSet(shards)
    if len(windows) == 0:
        raise DataError(f"{shards[0].path.parent}: expected windows in {len(shards)} shards, found none")
    return windows
