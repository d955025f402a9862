"""Matrices that bring recordings to a common scale, without using labels.

Each channel is divided by its root mean square (`method`), taken over
  `session`  the session: one person, one day, all its recordings that are given;
  `train`    all training recordings; stored in the checkpoint;
  `none`     microvolts are left as they are.

With `session`, the channels can also be whitened (`whitening`), i.e. decorrelated by the inverse square root of the
session's correlation matrix, with `ridge` added to its diagonal. This removes the mixing of signals between
neighbouring electrodes by skin and sleeve, which differs from person to person. The root is the symmetric one, so each
whitened channel still belongs to its electrode, and rings of electrodes remain rings. `replace`: only the whitened
channels; `append`: the scaled channels followed by the whitened ones, so that the model has twice as many. Source: He
and Wu 2020, "Transfer learning for brain-computer interfaces: a Euclidean space data alignment approach", who align
trials of EEG in this way.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from semg.common.errors import SettingError
from semg.data.shards import Shard

METHODS = ("session", "train", "none")
WHITENING = ("none", "append", "replace")
RIDGE = 0.1
SMALLEST_RMS = 1e-2  # uV; a dead channel stays flat instead of becoming amplified rounding errors


@dataclass(frozen=True)
class ChannelNormalization:
    """How recordings are brought to a common scale; see the module. Raises SettingError for impossible values."""

    method: str = "session"
    whitening: str = "none"
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        """Check the values against each other."""
        if self.method not in METHODS:
            raise SettingError("normalize", f"one of {', '.join(METHODS)}", self.method)
        if self.whitening not in WHITENING:
            raise SettingError("whitening", f"one of {', '.join(WHITENING)}", self.whitening)
        if self.whitening != "none" and self.method != "session":
            raise SettingError("whitening", f"none where {{normalize}} is {self.method}", self.whitening)
        if not (isinstance(self.ridge, int | float) and 0 < self.ridge <= 10):
            raise SettingError("ridge", "a number above 0 and at most 10", self.ridge)

    @property
    def copies(self) -> int:
        """How many times each electrode is among the model's channels."""
        return 2 if self.whitening == "append" else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints."""
        return asdict(self)


def gain_of(shards: Sequence[Shard]) -> np.ndarray:
    """(C,) float32: the reciprocal of each channel's root mean square over all samples of the shards."""
    return gains_from(np.diag(moment_of(shards)))


def moment_of(shards: Sequence[Shard]) -> np.ndarray:
    """(C, C) float64: mean products of the channels over all samples of the shards, uV^2."""
    samples = np.array([shard.meta["n_samples"] for shard in shards], np.float64)
    return np.average(np.stack([shard.second_moment for shard in shards]), axis=0, weights=samples)


def gains_from(power: np.ndarray) -> np.ndarray:
    """(C,) mean squares, uV^2 -> (C,) float32 reciprocals of their roots."""
    return (1 / np.maximum(np.sqrt(power), SMALLEST_RMS)).astype(np.float32)


def transform_from(moment: np.ndarray, channel_normalization: ChannelNormalization) -> np.ndarray:
    """(C, C) mean products of a session's channels, uV^2 -> (C, C * copies) float32 by which samples are multiplied."""
    gain = gains_from(np.diag(moment)).astype(np.float64)
    scaled = np.diag(gain)
    if channel_normalization.whitening == "none":
        return scaled.astype(np.float32)
    correlation = moment * gain[:, None] * gain
    values, vectors = np.linalg.eigh(correlation)
    root = (vectors / np.sqrt(np.maximum(values, 0) + channel_normalization.ridge)) @ vectors.T
    whitened = scaled @ root
    parts = [whitened] if channel_normalization.whitening == "replace" else [scaled, whitened]
    return np.concatenate(parts, axis=1).astype(np.float32)


def sessions(shards: Sequence[Shard]) -> dict[str, list[int]]:
    """The places of the shards of each session, in the order of recording."""
    places_of: dict[str, list[int]] = {}
    for place in sorted(range(len(shards)), key=lambda i: (shards[i].session, shards[i].order)):
        places_of.setdefault(shards[place].session, []).append(place)
    return places_of


def transform_of(
    shards: Sequence[Shard], channel_normalization: ChannelNormalization, train_gain: np.ndarray | None = None
) -> np.ndarray:
    """(n_shards, C, C * copies) float32: the matrix by which each shard's samples (time, C) are multiplied.

    train_gain: (C,), needed for the method `train`: `gain_of` the training shards.
    """
    channels = len(shards[0].channels)
    if channel_normalization.method == "session":
        transform = np.empty((len(shards), channels, channels * channel_normalization.copies), np.float32)
        for places in sessions(shards).values():
            transform[places] = transform_from(moment_of([shards[place] for place in places]), channel_normalization)
        return transform
    fixed = fixed_transform(channel_normalization, channels, train_gain)
    return np.broadcast_to(fixed, (len(shards), channels, channels)).copy()


def fixed_transform(
    channel_normalization: ChannelNormalization, channels: int, train_gain: np.ndarray | None
) -> np.ndarray:
    """(C, C) float32: the transform of the methods `train` and `none`, which do not depend on the session."""
    if channel_normalization.method != "train":
        return np.eye(channels, dtype=np.float32)
    if train_gain is None:
        raise ValueError("train_gain: expected the training shards' gain for the method train")
    return np.diag(train_gain).astype(np.float32)
