"""Scores of a model that is adapted to each session separately, and of the unadapted model on the same windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semg.common.console import Progress, counted
from semg.common.errors import DataError
from semg.data import normalization
from semg.data.batches import Batches
from semg.data.shards import Shard
from semg.inference.batch import INFERENCE_BATCH, Signal, decided, open_windows, tokens_of
from semg.inference.online_normalization import Given
from semg.inference.trained_model import Scores, TrainedModel
from semg.training.adaptation import Adaptation, adapt

MODES = ("session", "first")


@dataclass(frozen=True)
class AdaptedScores:
    """adapted, unadapted: (n, K) of the same windows, as in `Scores`. sessions: the outcome for each session, as JSON
    types; left_out: sessions with nothing to score: no labelled window, or with the mode `first` none after the first
    recording."""

    adapted: Scores
    unadapted: np.ndarray
    sessions: list[dict[str, Any]]
    left_out: list[str]

    @property
    def accepted(self) -> int:
        """Number of sessions to which the model was adapted; for the others the unadapted model is used."""
        return sum(one["accepted"] for one in self.sessions)


def sessions_adapted(sessions: list[dict[str, Any]] | dict[str, list[dict[str, Any]]]) -> str:
    """`2 of 3 sessions`, as metrics.json tells of them: those that were adapted to as a whole, or of each the attempts
    in its course."""
    attempts = sessions.values() if isinstance(sessions, dict) else [[one] for one in sessions]
    reached = sum(any(one["accepted"] for one in tries) for tries in attempts)
    return f"{reached} of {counted(len(sessions), 'session')}"


def session_signals(
    model: TrainedModel,
    shards: Sequence[Shard],
    transforms: np.ndarray,
    statistics: Tensor | None,
    heard: Sequence[int],
) -> list[Signal]:
    """The recordings of a session to adapt to: those at the places `heard` among the shards, in order.

    transforms, statistics: of all the shards, as the model gives them.
    """
    return [
        Signal(
            shards[place].signal,
            Given(model.network, transforms[place], None if statistics is None else statistics[place], model.device),
        )
        for place in heard
    ]


def score_adapted(
    model: TrainedModel,
    shards: Sequence[Shard],
    mode: str,
    how: Adaptation,
    *,
    batch_size: int = INFERENCE_BATCH,
    autocast: torch.autocast | None = None,
    progress: Progress = iter,
) -> AdaptedScores:
    """Adapt to each session without labels, and decide on its labelled windows.

    mode: `session` adapts to all of a session's recordings and scores all of them; `first` adapts to its first
    recording and scores the later ones. In both, windows are normalised by the whole session, like those of the
    unadapted model. progress: wraps the sessions. DataError if no session has anything to score.
    """
    scored: list[Shard] = []
    before, after, sessions, left_out = [], [], [], []
    for name, places in progress(list(normalization.sessions(shards).items())):
        own = [shards[place] for place in places]
        later = own if mode == "session" else own[1:]
        if not any(len(shard.windows) for shard in later):
            left_out.append(name)
            continue
        transforms = model.transforms(own)
        statistics = model.statistics(own, transforms)
        heard = range(len(own) if mode == "session" else 1)
        adapted = adapt(model, session_signals(model, own, transforms, statistics, heard), how, own[0].rings)
        first = len(own) - len(later)
        batches = Batches(open_windows(later), transforms[first:], model.device, workers=0)
        for tokens in tokens_of(model.network, batches, None if statistics is None else statistics[first:], batch_size):
            before.append(decided(model.network, tokens, autocast).numpy())
            after.append(decided(adapted.model.network, tokens, autocast).numpy())
        scored += later
        sessions.append({"session": name, "subject": own[0].subject, **adapted.to_dict()})
    if not scored:
        where, among = "after a session's first recording" if mode == "first" else "in a session", len(left_out)
        raise DataError(f"expected labelled windows to score {where}, found none in {counted(among, 'session')}")
    result = Scores(open_windows(scored), np.concatenate(after))
    return AdaptedScores(result, np.concatenate(before), sessions, left_out)
