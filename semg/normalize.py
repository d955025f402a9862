"""Channel gains that bring recordings to one scale, without looking at any label.

`session`: each channel by its own root mean square over the session (one person, one day, all its recordings given).
`train`: each channel by its root mean square over all training recordings; travels with the checkpoint.
`none`: microvolts as they are.
"""

from collections.abc import Sequence

import numpy as np

from semg.shards import Shard

METHODS = ("session", "train", "none")
SMALLEST_RMS = 1e-2  # uV; a dead channel stays flat instead of becoming amplified rounding


def gain_of(shards: Sequence[Shard]) -> np.ndarray:
    """(C,) float32: one over each channel's root mean square over all the shards' samples."""
    samples = np.array([shard.meta["n_samples"] for shard in shards], np.float64)
    power = np.stack([np.diag(shard.second_moment) for shard in shards])  # (shards, C)
    rms = np.sqrt(np.average(power, axis=0, weights=samples))
    return (1 / np.maximum(rms, SMALLEST_RMS)).astype(np.float32)


def sessions(shards: Sequence[Shard]) -> dict[str, list[int]]:
    """Which shards (by place) belong to each session, in the order of recording."""
    found: dict[str, list[int]] = {}
    for place in sorted(range(len(shards)), key=lambda i: (shards[i].session, shards[i].meta["time"])):
        found.setdefault(shards[place].session, []).append(place)
    return found


def channel_gains(shards: Sequence[Shard], method: str, train_gain: np.ndarray | None = None) -> np.ndarray:
    """(n_shards, C) float32 factors for each shard's channels.

    train_gain: (C,), needed for the method `train`: `gain_of` the training shards.
    """
    shape = (len(shards), len(shards[0].channels))
    if method == "none":
        return np.ones(shape, np.float32)
    if method == "train":
        if train_gain is None:
            raise ValueError("train_gain: expected the training shards' gain for the method train")
        return np.broadcast_to(train_gain, shape).astype(np.float32)
    gains = np.empty(shape, np.float32)
    for places in sessions(shards).values():
        gains[places] = gain_of([shards[place] for place in places])
    return gains
