"""A network applied to many windows: session statistics, tokens, probabilities."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.common.console import Progress, counted
from semg.common.errors import DataError, SettingError
from semg.data import normalization
from semg.data.batches import Batches, CachedFrames, in_order
from semg.data.shards import Shard, WindowSet
from semg.data.windows import evenly_spaced
from semg.inference.online_normalization import Given

STATISTICS_WINDOWS = 128  # evenly spaced over a recording, regardless of labels; more make no difference
PIECE = 64  # windows whose tokens a CPU computes together: most of them fit into its caches
INFERENCE_BATCH = 512  # windows per forward pass where no gradient is needed
READY_BYTES = 1 << 30  # most bytes of tokens kept in memory: about 90,000 windows of the default model


@dataclass(frozen=True)
class Signal:
    """samples: (T, C) filtered microvolts of one recording; session: the normalisation of its windows."""

    samples: np.ndarray
    session: Given


def choose_device(name: str) -> torch.device:
    """`auto`: a GPU if there is one, otherwise the CPU. Raises SettingError for a device that does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(name):
        raise SettingError("device", "one that this machine has", name, hint="use {device} cpu")
    # with the index of this process's GPU: to a new thread, `cuda` means the first GPU
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


@torch.inference_mode()
def session_statistics(
    model: GPT2Classifier,
    shards: Sequence[Shard],
    transform: np.ndarray,
    device: torch.device,
    progress: Progress = iter,
) -> Tensor:
    """(n_shards, 2, F) mean and standard deviation of the tokens of each shard's session; labels are not used.

    A session's statistics are computed over all its shards in `shards`, from windows evenly spaced over the recordings.
    """
    each = zip(progress(shards), transform, strict=True)
    sums = torch.stack([token_sums(model, shard.signal, one, device) for shard, one in each])
    statistics = torch.empty(len(shards), 2, sums.shape[2], device=device)
    for places in normalization.sessions(shards).values():
        statistics[places] = model.finish_statistics(sums[places].sum(0))
    return statistics


@torch.inference_mode()
def token_sums(model: GPT2Classifier, signal: np.ndarray, transform: np.ndarray, device: torch.device) -> Tensor:
    """(T, C) filtered microvolts, at least one window, and (C, C') -> (3, F) sums over evenly spaced windows.

    `finish_statistics` turns the sums into mean and standard deviation.
    """
    window = model.config.samples
    starts = evenly_spaced(len(signal), window, STATISTICS_WINDOWS)
    sums = []
    for part in np.array_split(starts, min(4, len(starts))):
        x = np.stack([signal[at : at + window] for at in part])
        scaled = torch.from_numpy(x).to(device).float() @ torch.from_numpy(transform).to(device)
        sums.append(model.token_statistics(scaled.transpose(1, 2)))
    return reduce(torch.add, sums)


@torch.no_grad()
def cached_frames(
    model: GPT2Classifier,
    shards: Sequence[Shard],
    transform: np.ndarray,
    device: torch.device,
    progress: Progress = iter,
) -> CachedFrames:
    """The front-end's features of all frames, so that training need not compute them again for overlapping windows."""
    frontend = model.frontend
    if frontend.frames is None:
        raise ValueError("frontend: expected features of frames to compute them beforehand, found none")
    parts = []
    for shard, one in zip(progress(shards), transform, strict=True):
        signal = torch.from_numpy(np.array(shard.signal)).to(device)
        parts.append(frontend.of_recording(signal, torch.from_numpy(one).to(device)).half())
    lengths = np.array([len(part) for part in parts])
    offset = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)[:-1]])).to(device)
    return CachedFrames(
        torch.cat(parts), offset, frontend.frames.hop, frontend.frames.at.to(device), not frontend.all_cacheable
    )


@torch.inference_mode()
def ready_tokens(
    model: GPT2Classifier, batches: Batches, statistics: Tensor | None, batch_size: int = INFERENCE_BATCH
) -> Tensor | None:
    """(n_windows, T, F) normalised tokens of all windows, for callers that need them in every epoch: they do not depend
    on trained weights. None if they would take more than READY_BYTES of memory."""
    shape = (len(batches.windows), model.config.tokens, model.frontend.n_features)
    if 4 * math.prod(shape) > READY_BYTES:
        return None
    tokens = torch.empty(shape, device=batches.device)
    order = in_order(shape[0], batch_size)
    for index, batch_tokens in zip(order, _computed(model, batches, statistics, order), strict=True):
        tokens[index[0] : index[-1] + 1] = batch_tokens
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

    ready: the tokens from `ready_tokens`, if any; signals are then not read.
    """
    order = in_order(len(batches.windows), batch_size)
    tokens = _computed(model, batches, statistics, order) if ready is None else iter(ready.split(batch_size))
    parts = []
    for _ in progress(range(len(order))):
        parts.append(decided(model, next(tokens), autocast))
    return torch.cat(parts).numpy()


@torch.inference_mode()
def decided(model: GPT2Classifier, tokens: Tensor, autocast: torch.autocast | None = None) -> Tensor:
    """(B, T, F) normalised tokens -> (B, classes) float32 probabilities, on the CPU."""
    with autocast or nullcontext():
        logits = model.classify(tokens)
    return logits.float().softmax(1).cpu()


@torch.inference_mode()
def tokens_of(
    model: GPT2Classifier, batches: Batches, statistics: Tensor | None, batch_size: int = INFERENCE_BATCH
) -> Iterator[Tensor]:
    """(at most batch_size, T, F) normalised tokens of all windows in order, batch by batch."""
    yield from _computed(model, batches, statistics, in_order(len(batches.windows), batch_size))


def _computed(
    model: GPT2Classifier, batches: Batches, statistics: Tensor | None, order: Sequence[np.ndarray]
) -> Iterator[Tensor]:
    """The normalised tokens of each batch in `order`."""
    few = PIECE if batches.device.type == "cpu" else max(map(len, order), default=1)
    pieces = [[index[at : at + few] for at in range(0, len(index), few)] for index in order]
    loaded = batches.iterate([piece for group in pieces for piece in group])
    for group in pieces:
        tokens = []
        for batch in islice(loaded, len(group)):
            tokens.append(model.tokens(batch.x, None if statistics is None else statistics[batch.shard]))
        yield torch.cat(tokens)


@torch.inference_mode()
def pooled_features(
    model: GPT2Classifier,
    batches: Batches,
    statistics: Tensor | None,
    index: np.ndarray,
    autocast: torch.autocast | None = None,
    ready: Tensor | None = None,
) -> np.ndarray:
    """(len(index), d) float32: the head's input for the windows at the places `index`, in evaluation mode.

    ready: as in `probabilities`.
    """
    order = [index[places] for places in in_order(len(index), INFERENCE_BATCH)]
    tokens = _computed(model, batches, statistics, order) if ready is None else (ready[places] for places in order)
    parts = []
    for batch_tokens in tokens:
        with autocast or nullcontext():
            pooled = model.pooled(batch_tokens)
        parts.append(pooled.float().cpu())
    return torch.cat(parts).numpy()


def open_windows(shards: Sequence[Shard]) -> WindowSet:
    """The shards' windows; DataError if there are none."""
    windows = WindowSet(shards)
    if len(windows) == 0:
        some = f"{counted(len(shards), 'shard')}, such as {shards[0].path.name}"
        raise DataError(f"{shards[0].path.parent}: expected windows in {some}, found none")
    return windows


@torch.inference_mode()
def signal_probabilities(model: GPT2Classifier, signal: np.ndarray, starts: np.ndarray, session: Given) -> np.ndarray:
    """(len(starts), classes) float32 for windows of one recording, (T, C) filtered microvolts, all with the same
    normalisation."""
    tokens = signal_tokens(model, Signal(signal, session), starts, INFERENCE_BATCH)
    return torch.cat([decided(model, batch_tokens) for batch_tokens in tokens]).numpy()


@torch.inference_mode()
def signal_tokens(model: GPT2Classifier, signal: Signal, starts: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """(at most batch_size, T, F) normalised tokens of the windows that begin at `starts`, batch by batch."""
    transform = torch.from_numpy(signal.session.transform).to(model.token_mean.device)
    for index in in_order(len(starts), batch_size):
        tokens = []
        for piece in in_order(len(index), PIECE):
            cut = np.stack([signal.samples[at : at + model.config.samples] for at in starts[index[piece]]])
            x = torch.from_numpy(cut).to(transform.device).float() @ transform
            tokens.append(signal.session.normalized(model.features(x.transpose(1, 2))))
        yield torch.cat(tokens)
