"""Scoring as a live device would decide: each session normalised by what had been heard of it until then.

Whole-session normalisation looks at minutes of signal that come after a window. Here the session's recordings are gone
through in the order in which they were made; every stride the online normalisation (streaming.py) learns from the
last window, and each labelled window is decided by what is known when it ends.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.data.normalization import sessions
from semg.data.shards import WindowSet
from semg.inference.batch import Progress
from semg.inference.streaming import Normalization, OnlineNormalization


@torch.inference_mode()
def online_probabilities(
    model: GPT2Classifier,
    begin: Callable[[], Normalization],
    windows: WindowSet,
    stride: int,
    batch_size: int,
    autocast: torch.autocast | None = None,
    progress: Progress = iter,
) -> np.ndarray:
    """(n_windows, classes) float32 for all windows in order. The model should be in evaluation mode.

    begin: gives the normalisation of a session that begins. stride: samples from one look at the stream to the next.
    progress: goes over the sessions.
    """
    found = np.empty((len(windows), model.config.classes), np.float32)
    held: list[tuple[int, Tensor, Tensor]] = []

    def decide() -> None:
        places, x, statistics = zip(*held, strict=True)
        with autocast or nullcontext():
            logits = model(torch.cat(x), torch.cat(statistics))
        found[list(places)] = logits.float().softmax(1).cpu().numpy()
        held.clear()

    for shards in progress(list(sessions(windows.shards).values())):
        online = begin()
        assert isinstance(online, OnlineNormalization)  # noqa: S101  for the type checker
        for shard in shards:
            for place, x in _heard(online, windows, shard, stride):
                held.append((place, x, online.statistics()))
                if len(held) == batch_size:
                    decide()
    if held:
        decide()
    return found


def _heard(online: OnlineNormalization, windows: WindowSet, shard: int, stride: int) -> Iterator[tuple[int, Tensor]]:
    """Place and scaled (1, C', N) of each window of a recording, given out when `online` has heard up to its end."""
    own = np.flatnonzero(windows.shard == shard)
    own = own[np.argsort(windows.start[own], kind="stable")]
    signal, length = windows.shards[shard].signal, windows.window
    seen = next_own = 0
    for end in range(length, len(signal) + 1, stride):
        online.see(signal[seen:end])
        seen = end
        heard = np.array(signal[end - length : end])  # copied: a mapped file can't be written to, as torch expects
        online.normalized(online.features(heard))
        while next_own < len(own) and windows.start[own[next_own]] + length < end + stride:
            place = int(own[next_own])
            start = windows.start[place]
            yield place, online.scaled(np.array(signal[start : start + length]))
            next_own += 1
        online.prepare()
