"""Batches of windows as scaled tensors, from the CPU or resident on a GPU."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from semg.data.shards import WindowSet

RESIDENT_SHARE = 0.5  # fraction of the GPU's free memory that the signals may fill
# Windows of one shard. More would not fit into the caches; with fewer, the prefetching thread and the computing thread
# switch so often that prefetching costs time.
TRANSFORMED_AT_ONCE = 4


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor copied to `device`. Copies to a GPU are made from pinned memory, and the host does not wait for
    them."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.contiguous().pin_memory().to(device, non_blocking=True)  # the result of `expand` cannot be pinned


@dataclass(frozen=True)
class Batch:
    """x (B, C, N) float32 scaled; label (B,); shard (B,) places of the windows' shards; all on one device.

    cached: (B, T, F) cached features, if there are any; otherwise None.
    """

    x: Tensor
    label: Tensor
    shard: Tensor
    cached: Tensor | None = None


@dataclass(frozen=True)
class CachedFrames:
    """The front-end's features of all frames of whole recordings, computed once: (n, F) float16, all shards one after
    another.

    offset: (n_shards,) the first frame of each shard; hop: samples between frames; at: (T,) the frames of a window's
    tokens, counted from the window's start. needs_signal: whether the model also reads the windows themselves.
    """

    frames: Tensor
    offset: Tensor
    hop: int
    at: Tensor
    needs_signal: bool

    def tokens(self, shard: Tensor, start: Tensor) -> Tensor:
        """(B,) shards and (B,) first samples, multiples of the hop -> (B, T, F) float32."""
        first = self.offset[shard] + start // self.hop
        places = first[:, None] + self.at
        # takes a third of the time of indexing
        return self.frames.index_select(0, places.flatten()).float().unflatten(0, places.shape)


class Batches:
    """Windows of a WindowSet as batches on `device`.

    On a GPU, all signals are kept in its memory as float16 if they fit, from the first window that is read, and windows
    are gathered there, so a step copies nothing from the host. Otherwise windows are prefetched from the memory-mapped
    shards by `workers` threads. If the model needs cached features only, signals are not read.
    """

    def __init__(self, windows: WindowSet, transform: np.ndarray, device: torch.device, workers: int = 1) -> None:
        """transform: (n_shards, C, C') the matrices by which the shards' samples are multiplied, see
        semg.data.normalization."""
        self.windows = windows
        self._transform = torch.from_numpy(transform).to(device)
        # with its index: to a prefetching thread, `cuda` would mean the first GPU, not this process's
        self.device = self._transform.device
        # most matrices are diagonal: then a factor for each channel suffices, in less time
        diagonal = transform.shape[1] == transform.shape[2] and not np.any(transform * (1 - np.eye(transform.shape[1])))
        self._gains = self._transform.diagonal(dim1=1, dim2=2) if diagonal else None
        self._labels = torch.from_numpy(windows.label).to(device)
        self._shards = torch.from_numpy(windows.shard).to(device)
        self._workers = workers
        self.cached: CachedFrames | None = None
        self._lock = threading.Lock()
        self._signals: tuple[Tensor, Tensor] | None = None

    @cached_property
    def _fits(self) -> bool:
        """Whether the GPU has room for all signals."""
        if self.device.type != "cuda":
            return False
        samples = sum(len(shard.signal) for shard in self.windows.shards)
        free, _ = torch.cuda.mem_get_info(self.device)
        return 2 * samples * self.windows.n_channels <= RESIDENT_SHARE * free

    @property
    def _reads_signals(self) -> bool:
        return self.cached is None or self.cached.needs_signal

    @property
    def resident(self) -> bool:
        """Whether signals are read, and from the GPU's memory."""
        return self._reads_signals and self._fits

    def _resident_signals(self) -> tuple[Tensor, Tensor]:
        """All signals one after another on the device (time, C), and where each shard begins; copied on first use."""
        with self._lock:
            if self._signals is None:
                lengths = np.array([len(shard.signal) for shard in self.windows.shards])
                shape = (int(lengths.sum()), self.windows.n_channels)
                signal = torch.empty(shape, dtype=torch.float16, device=self.device)
                offset = np.concatenate([[0], np.cumsum(lengths)[:-1]])
                for shard, at, length in zip(self.windows.shards, offset, lengths, strict=True):
                    signal[at : at + length] = torch.from_numpy(np.array(shard.signal)).to(self.device)
                self._signals = signal, torch.from_numpy(offset).to(self.device)
            return self._signals

    def release(self) -> None:
        """Free the GPU memory of the signals until a window is read again."""
        self._signals = None

    def load(self, index: np.ndarray, start: np.ndarray | None = None) -> Batch:
        """The windows at the places `index` (B,), read from `start` (B,) instead of their own starts if given."""
        places = to_device(torch.from_numpy(index), self.device)
        starts = self.windows.start[index] if start is None else start
        if self._on_device:
            return self._load_there(places, to_device(torch.from_numpy(starts), self.device))
        shard = self._shards[places]
        cached = None
        if self.cached is not None:
            cached = self.cached.tokens(shard, to_device(torch.from_numpy(starts), self.device))
        x = to_device(torch.from_numpy(self.windows.gather(index, start)), self.device)
        return self._batch(x, places, shard, cached)

    @property
    def _on_device(self) -> bool:
        """Whether everything a batch needs is on the device."""
        return self.resident or not self._reads_signals

    def _load_there(self, places: Tensor, start: Tensor) -> Batch:
        """(B,) places of windows and (B,) first samples, on the device -> their batch, from data on the device."""
        shard = self._shards[places]
        cached = None if self.cached is None else self.cached.tokens(shard, start)
        if not self._reads_signals:
            nothing = torch.empty(len(places), 0, 0, device=self.device)
            return Batch(nothing, self._labels[places], shard, cached)
        signal, offset = self._resident_signals()
        steps = torch.arange(self.windows.window, device=self.device)
        x = signal[(offset[shard] + start)[:, None] + steps]  # (B, N, C)
        return self._batch(x, places, shard, cached)

    def _batch(self, x: Tensor, places: Tensor, shard: Tensor, cached: Tensor | None) -> Batch:
        """x: (B, N, C) float16 microvolts; this is the order in memory, viewed as (B, C, N)."""
        return Batch(self._scaled(x, shard).transpose(1, 2), self._labels[places], shard, cached)

    def _scaled(self, x: Tensor, shard: Tensor) -> Tensor:
        """(B, N, C) float16 microvolts -> (B, N, C') float32."""
        if self._gains is not None:
            return x.float().mul_(self._gains[shard][:, None, :])
        if x.device.type == "cpu":
            return self._transformed(x, shard)
        return torch.bmm(x.float(), self._transform[shard])

    def _transformed(self, x: Tensor, shard: Tensor) -> Tensor:
        """The same on a CPU, a few windows at a time, which fit into its caches: half the time of a single batched
        product."""
        owners = shard.tolist()
        transformed = torch.empty(len(x), self.windows.window, self._transform.shape[2], device=x.device)
        for few in runs(owners, TRANSFORMED_AT_ONCE):
            torch.mm(
                x[few].float().flatten(0, 1), self._transform[owners[few.start]], out=transformed[few].flatten(0, 1)
            )
        return transformed

    def iterate(self, order: Sequence[np.ndarray], starts: Sequence[np.ndarray] | None = None) -> Iterator[Batch]:
        """One batch for each array of places in `order`, prefetched if reading takes time."""
        windows_due = zip(order, starts if starts is not None else [None] * len(order), strict=True)
        if self._on_device and self.device.type == "cuda":
            yield from self._iterate_there(order, starts)
            return
        # data in memory are available faster than through another thread
        if self._on_device or self._workers == 0 or len(order) < 2:
            for index, start in windows_due:
                yield self.load(index, start)
            return
        with ThreadPoolExecutor(self._workers, initializer=_use, initargs=(self.device,)) as pool:
            ahead = []
            for index, start in windows_due:
                ahead.append(pool.submit(self.load, index, start))
                if len(ahead) > self._workers:
                    yield ahead.pop(0).result()
            for future in ahead:
                yield future.result()

    def _iterate_there(self, order: Sequence[np.ndarray], starts: Sequence[np.ndarray] | None) -> Iterator[Batch]:
        """The same if all data are on the GPU: places and starts are copied there once, not batch by batch."""
        if not order:
            return
        places = np.concatenate(order)
        begin = self.windows.start[places] if starts is None else np.concatenate(starts)
        sizes = [len(index) for index in order]
        each = (to_device(torch.from_numpy(values), self.device).split(sizes) for values in (places, begin))
        for own, start in zip(*each, strict=True):
            yield self._load_there(own, start)


def _use(device: torch.device) -> None:
    """Let a new thread compute on this process's GPU; by default it would use the first one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def in_order(count: int, batch_size: int) -> list[np.ndarray]:
    """Places 0..count-1 in consecutive batches."""
    return [np.arange(at, min(at + batch_size, count)) for at in range(0, count, batch_size)]


def runs(values: Sequence[int], most: int) -> Iterator[slice]:
    """Consecutive slices of equal neighbours, each of at most `most` elements."""
    first = 0
    for at in range(1, len(values) + 1):
        if at == len(values) or values[at] != values[first] or at - first == most:
            yield slice(first, at)
            first = at
