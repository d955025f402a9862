"""What is known about a session before its first sample, from the training people or an earlier recording."""

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
USUAL_HALF = 50.0  # windows; for checkpoints without a value, and for a single training session
HALVES = 12.5 * 2.0 ** np.arange(9)  # candidates, in windows
SEEN = 64  # windows per recording, evenly spaced, used for choosing the half
MOMENTS = 25  # times in a session, evenly spaced on a logarithmic scale, at which estimates are compared


@dataclass(frozen=True)
class Prior:
    """moment: (C, C) float64 mean products of filtered microvolts; statistics: (2, F) mean and standard deviation of
    tokens under session normalisation. half: number of windows of signal after which the prior and the signal so far
    are equally good estimates of a session's powers."""

    moment: np.ndarray
    statistics: Tensor
    half: float = USUAL_HALF

    @classmethod
    def of(cls, shards: Sequence[Shard], statistics: Tensor) -> "Prior":
        """From training sessions, each with equal weight; statistics: (n_shards, 2, F) of each shard's session.

        The moment combines the mean correlations and the mean log powers, because people's signal amplitudes differ by
        factors.
        """
        places = sessions(shards).values()
        moments = np.stack([moment_of([shards[place] for place in group]) for group in places])
        mean, std = statistics[[group[0] for group in places]].cpu().double().unbind(1)
        pooled = torch.stack([mean.mean(0), std.square().mean(0).sqrt()]).float()
        power = np.maximum(np.diagonal(moments, axis1=1, axis2=2), 1e-12)  # (sessions, C)
        root = np.sqrt(power)
        correlation = (moments / root[:, :, None] / root[:, None, :]).mean(0)
        usual = np.exp(np.log(root).mean(0))
        return cls(correlation * usual[:, None] * usual, pooled, best_half(shards))

    def tensors(self) -> dict[str, Tensor]:
        """As tensors for a checkpoint."""
        half = torch.tensor([self.half], dtype=torch.float64)
        return {_MOMENT: torch.from_numpy(self.moment), _STATISTICS: self.statistics, _HALF: half}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], channels: int, features: int) -> "Prior | None":
        """From a checkpoint's tensors; None if it has none, as in older checkpoints.

        Raises ValueError for other shapes, and for values that no signal can have: a moment has no negative power, and
        no product larger than the powers of its two channels allow.
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
    """The prior's weight after this many windows: 1 at first, 1/2 after `half` windows, then soon almost 0."""
    return half**2 / (half**2 + windows**2)


def best_half(shards: Sequence[Shard]) -> float:
    """The half, among HALVES, with which the powers of the training sessions are estimated best in the course of each
    session.

    If people have similar amplitudes and each gesture lasts for minutes, the signal so far tells little about the whole
    session for a long time; if people differ a lot, the prior tells little. Each session is estimated from the mean of
    the others and from its own signal so far; errors are those of log powers, averaged over channels, times and
    sessions. USUAL_HALF for fewer than two sessions.
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
    """(n,) number of windows of a session received by some times, and (n, C) the channels' log power up to these
    times."""
    heard, powers, before = [], [], 0
    for place in places:
        signal, window = shards[place].signal, shards[place].window
        starts = evenly_spaced(len(signal), window, SEEN)
        powers += [np.square(signal[at : at + window].astype(np.float64)).mean(0) for at in starts]
        heard.append((before + starts + window) / window)
        before += len(signal)
    mean = np.cumsum(powers, 0) / np.arange(1, len(powers) + 1)[:, None]
    return np.concatenate(heard), np.log(np.maximum(mean, 1e-12))
