"""The data of the training and validation people, ready for use: windows, batches, statistics, cached features."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.common.console import Console, Progress, counted
from semg.data import normalization
from semg.data.batches import Batch, Batches
from semg.data.shards import Shard, WindowSet, check_alike, open_shards
from semg.data.splits import Split, read_split
from semg.inference.batch import cached_frames, open_windows, session_statistics
from semg.training.config import TrainConfig


@dataclass(frozen=True)
class Shards:
    """The opened shards of a split's training and validation subsets; recordings of the test people are not touched."""

    split: Split
    train: list[Shard]
    val: list[Shard]


@dataclass(frozen=True)
class Subset:
    """One subset of the split. transform: (n_shards, C, C') normalisation of its channels; statistics: (n_shards, 2, F)
    token statistics of each shard's session, or None if the model's own are used."""

    shards: list[Shard]
    windows: WindowSet
    batches: Batches
    transform: np.ndarray
    statistics: Tensor | None

    def statistics_of(self, batch: Batch) -> Tensor | None:
        """(B, 2, F) token statistics of each window's session."""
        return None if self.statistics is None else self.statistics[batch.shard]

    def facts(self) -> dict[str, int | bool]:
        """Numbers of people, recordings and windows, and whether any recording was simulated."""
        subjects = len({shard.subject for shard in self.shards})
        counts = {"subjects": subjects, "recordings": len(self.shards), "windows": len(self.windows)}
        return {**counts, "simulated": self.windows.simulated}


@dataclass(frozen=True)
class Subsets:
    """train_gain: (C,) the channels' scaling under `normalize` train; stored with the model."""

    train: Subset
    val: Subset
    train_gain: np.ndarray


def open_split(config: TrainConfig, console: Console, *, verify: bool) -> Shards:
    """Open the shards of the training and validation people. verify: also check their files' checksums."""
    split = read_split(config.split, config.shards)
    console.say(f"opening {counted(len(split.train) + len(split.val), 'shard')}")
    bar = partial(console.progress, desc="opened", unit="shard", leave=False)
    train, val = (open_shards(config.shards, names, verify=verify, progress=bar) for names in (split.train, split.val))
    check_alike([train[0], val[0]])
    return Shards(split, train, val)


def prepare(
    config: TrainConfig, shards: Shards, model: GPT2Classifier, device: torch.device, workers: int, console: Console
) -> Subsets:
    """Normalise both subsets and prepare them for `model` on `device`. workers: threads that prefetch windows.

    Under `normalize train`, the mean and standard deviation of the training tokens become part of the model.
    """
    gain = normalization.gain_of(shards.train)
    bar = partial(console.progress, desc="statistics", unit="recording", leave=False)
    console.say("statistics of the sessions' tokens" if config.normalize == "session" else "reading windows")
    train, val = (_subset(config, some, model, gain, device, workers, bar) for some in (shards.train, shards.val))
    if config.precompute and can_precompute(config, model):
        console.say(f"features of {counted(len(shards.train), 'recording')}, once for all epochs")
        shown = partial(bar, desc="features")
        train.batches.cached = cached_frames(model, train.shards, train.transform, device, shown)
    if config.normalize == "train":
        console.say("statistics of the training data's tokens")
        mean, std = session_statistics(model, train.shards, train.transform, device, bar).unbind(1)  # (n_shards, F)
        model.token_mean.copy_(mean.mean(0))
        model.token_std.copy_((std.square() + (mean - mean.mean(0)).square()).mean(0).sqrt())
    return Subsets(train, val, gain)


def can_precompute(config: TrainConfig, model: GPT2Classifier) -> bool:
    """Whether features of frames can be computed once for all epochs: windows then start on multiples of the frames'
    hop, which must not be much shorter than a patch."""
    frames = model.frontend.frames
    return config.augment.jitter == 1 and frames is not None and 4 * frames.hop >= model.config.patch


def _subset(
    config: TrainConfig,
    shards: list[Shard],
    model: GPT2Classifier,
    gain: np.ndarray,
    device: torch.device,
    workers: int,
    progress: Progress,
) -> Subset:
    windows = open_windows(shards)
    transform = normalization.transform_of(shards, config.normalization, gain)
    statistics = None  # the model's own are used
    if config.normalize == "session":
        statistics = session_statistics(model, shards, transform, device, progress)
    return Subset(shards, windows, Batches(windows, transform, device, workers), transform, statistics)
