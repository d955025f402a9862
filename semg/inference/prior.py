"""What is known of a session before any of it has been heard, from the training people or an earlier recording."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semg.data.normalization import moment_of, sessions
from semg.data.shards import Shard
from semg.data.windows import evenly_spaced

_MOMENT, _STATISTICS, _HALF = "prior.moment", "prior.statistics", "prior.half"
USUAL_HALF = 50.0  # windows; of checkpoints that do not say it, and of a single training session
HALVES = 12.5 * 2.0 ** np.arange(9)  # windows; the candidates
SEEN = 64  # windows of a recording, evenly spaced, from which a half is chosen
MOMENTS = 25  # times of a session, evenly spaced in their logarithms, at which guesses are compared


@dataclass(frozen=True)
class Prior:
    """moment: (C, C) float64 mean products of filtered microvolts; statistics: (2, F) of tokens under session
    normalisation, mean and standard deviation. half: windows of signal after which the prior and what has been heard
    are equally good guesses of a session's powers."""

    moment: np.ndarray
    statistics: Tensor
    half: float = USUAL_HALF

    @classmethod
    def of(cls, shards: Sequence[Shard], statistics: Tensor) -> "Prior":
        """Of training sessions, each counting the same; statistics: (n_shards, 2, F) of each shard's session.

        The moment has the mean correlations and the mean logarithms of power: people's loudness differs by factors.
        """
        places = sessions(shards).values()
        moments = np.stack([moment_of([shards[place] for place in group]) for group in places])
        mean, std = statistics[[group[0] for group in places]].double().unbind(1)
        pooled = torch.stack([mean.mean(0), std.square().mean(0).sqrt()]).float().cpu()
        power = np.maximum(np.diagonal(moments, axis1=1, axis2=2), 1e-12)  # (sessions, C)
        root = np.sqrt(power)
        correlation = (moments / root[:, :, None] / root[:, None, :]).mean(0)
        usual = np.exp(np.log(root).mean(0))
        return cls(correlation * usual[:, None] * usual, pooled, best_half(shards))

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint keeps it."""
        half = torch.tensor([self.half], dtype=torch.float64)
        return {_MOMENT: torch.from_numpy(self.moment), _STATISTICS: self.statistics, _HALF: half}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], channels: int, features: int) -> "Prior | None":
        """What a checkpoint keeps; None where there is none, as in older ones.

        Raises ValueError for another shape, and for what no signals have: a moment has no power below 0, and no product
        larger than its channels' power allows.
        """
        moment, statistics = tensors.get(_MOMENT), tensors.get(_STATISTICS)
        if moment is None or statistics is None:
            return None
        if moment.shape != (channels, channels) or statistics.shape != (2, features):
            shapes = f"{tuple(moment.shape)} and {tuple(statistics.shape)}"
            raise ValueError(f"expected a prior of {channels} channels and {features} features, found {shapes}")
        half = tensors.get(_HALF, torch.tensor([USUAL_HALF]))
        if half.shape != (1,) or not 1 <= half.item() <= 1e6:
            raise ValueError(
                f"expected a prior that counts for 1 to 1,000,000 windows, found {half.flatten().tolist()}"
            )
        whole = moment.double().numpy()
        with np.errstate(invalid="ignore", over="ignore"):
            power = np.diag(whole)
            possible = np.isfinite(power).all() and (power >= 0).all()
            limit = np.sqrt(np.maximum(power, 0))
            possible = possible and (np.abs(whole) <= 1.001 * limit[:, None] * limit + 1e-9).all()
        if not possible or not statistics.isfinite().all() or (statistics[1] < 0).any():
            raise ValueError("expected the moments and statistics of signals as prior, found numbers that none have")
        return cls(whole, statistics.float(), float(half.item()))


def share_of(half: float | np.ndarray, windows: float | np.ndarray) -> Any:
    """A prior's share after so many windows have been heard: 1 at first, 1/2 after `half`, then soon nothing."""
    return half**2 / (half**2 + windows**2)


def best_half(shards: Sequence[Shard]) -> float:
    """The half, of HALVES, with which training sessions' powers would have been guessed best as they went on.

    Where people are as loud as one another while gestures come one after another for minutes, what was heard of a
    session says little of the whole for long; where people differ much, the prior says little. Each session is guessed
    from the others' mean and from its own signal so far; errors are those of logarithms of power, over channels, times
    and sessions. USUAL_HALF for fewer than two sessions.
    """
    courses = [_course(shards, own) for own in sessions(shards).values()]
    if len(courses) < 2:
        return USUAL_HALF
    whole = np.stack([log_power[-1] for _, log_power in courses])  # (sessions, C)
    errors = np.zeros(len(HALVES))
    for place, (windows, log_power) in enumerate(courses):
        others = np.delete(whole, place, 0).mean(0)
        times = np.unique(np.geomspace(1, len(windows), MOMENTS).astype(int)) - 1
        share = share_of(HALVES[:, None], windows[times])[..., None]  # (halves, times, 1)
        guess = share * others + (1 - share) * log_power[times]
        errors += np.square(guess - whole[place]).mean((1, 2))
    return float(HALVES[errors.argmin()])


def _course(shards: Sequence[Shard], places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) windows of a session heard by some times, (n, C) logarithms of the channels' power until then."""
    heard, powers, before = [], [], 0
    for place in places:
        signal, window = shards[place].signal, shards[place].window
        starts = evenly_spaced(len(signal), window, SEEN)
        powers += [np.square(signal[at : at + window].astype(np.float64)).mean(0) for at in starts]
        heard.append((before + starts + window) / window)
        before += len(signal)
    mean = np.cumsum(powers, 0) / np.arange(1, len(powers) + 1)[:, None]
    return np.concatenate(heard), np.log(np.maximum(mean, 1e-12))
