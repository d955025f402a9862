"""Scoring as a live device would decide: each session is normalised by its signal so far.

Normalisation by the whole session uses minutes of signal that come after a window. Here, the recordings of a session
are processed in the order in which they were made. At every stride, the online normalisation learns from the latest
window, and each labelled window is decided with what is known at its end.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.common.console import Progress
from semg.data.normalization import sessions
from semg.data.shards import WindowSet
from semg.inference.online_normalization import OnlineNormalization
from semg.inference.streaming import Adapting


@torch.inference_mode()
def online_probabilities(
    model: GPT2Classifier,
    begin: Callable[[], OnlineNormalization],
    windows: WindowSet,
    stride: int,
    batch_size: int,
    autocast: torch.autocast | None = None,
    progress: Progress = iter,
    adaptation: Callable[[str], Adapting] | None = None,
) -> np.ndarray:
    """(n_windows, classes) float32 for all windows in order. The model should be in evaluation mode.

    begin: makes the normalisation for a new session; adaptation: makes the adaptation of its network, given the
    session's name. stride: samples between two updates. progress: wraps the sessions.
    """
    probabilities = np.empty((len(windows), model.config.classes), np.float32)
    held: list[tuple[int, Tensor, Tensor]] = []

    def decide(network: GPT2Classifier) -> None:
        if not held:
            return
        places, x, statistics = zip(*held, strict=True)
        with autocast or nullcontext():
            logits = network(torch.cat(x), torch.cat(statistics))
        probabilities[list(places)] = logits.float().softmax(1).cpu().numpy()
        held.clear()

    network = model
    for name, shards in progress(list(sessions(windows.shards).items())):
        online, adapting = begin(), None if adaptation is None else adaptation(name)
        for shard in shards:
            for place, x in _windows_as_heard(online, adapting, windows, shard, stride):
                now = model if adapting is None else adapting.network
                if now is not network or len(held) == batch_size:
                    decide(network)
                network = now
                held.append((place, x, online.statistics()))
    decide(network)
    return probabilities


def _windows_as_heard(
    online: OnlineNormalization, adapting: Adapting | None, windows: WindowSet, shard: int, stride: int
) -> Iterator[tuple[int, Tensor]]:
    """Place and scaled (1, C', N) of each window of a recording, yielded when `online` has received the signal up to
    its end."""
    places = np.flatnonzero(windows.shard == shard)
    places = places[np.argsort(windows.start[places], kind="stable")]
    signal, length = windows.shards[shard].signal, windows.window
    seen = next_place = 0
    if adapting is not None:
        adapting.begin_recording()
    for end in range(length, len(signal) + 1, stride):
        online.see(signal[seen:end])
        if adapting is not None:
            adapting.see(signal[seen:end])
        seen = end
        # copied: a memory-mapped file is read-only, which torch does not accept
        heard = np.array(signal[end - length : end])
        online.normalized(online.features(heard))
        while next_place < len(places) and windows.start[places[next_place]] + length < end + stride:
            place = int(places[next_place])
            start = windows.start[place]
            yield place, online.scaled(np.array(signal[start : start + length]))
            next_place += 1
        online.prepare()
        if adapting is not None:
            adapting.prepare(online)


def seconds_since_start(windows: WindowSet) -> np.ndarray:
    """(n_windows,) seconds of the session's signal, over all its recordings in `windows`, up to each window's end."""
    before = np.zeros(len(windows.shards))
    for in_session in sessions(windows.shards).values():
        lengths = [windows.shards[place].meta["n_samples"] for place in in_session]
        before[in_session] = np.cumsum([0, *lengths[:-1]])
    return (before[windows.shard] + windows.start + windows.window) / windows.shards[0].rate


def place_in_session(windows: WindowSet) -> np.ndarray:
    """(n_windows,) the number, counted from 1, of each window's recording within its session."""
    place = np.zeros(len(windows.shards), np.int64)
    for in_session in sessions(windows.shards).values():
        place[in_session] = np.arange(1, len(in_session) + 1)
    return place[windows.shard]
