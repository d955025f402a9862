"""What is known of a session before any of it has been heard, from the training people or an earlier recording."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semg.data.normalization import moment_of, sessions
from semg.data.shards import Shard

_MOMENT, _STATISTICS = "prior.moment", "prior.statistics"


@dataclass(frozen=True)
class Prior:
    """moment: (C, C) float64 mean products of filtered microvolts; statistics: (2, F) of tokens under session
    normalisation, mean and standard deviation."""

    moment: np.ndarray
    statistics: Tensor

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
        return cls(correlation * usual[:, None] * usual, pooled)

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint keeps it."""
        return {_MOMENT: torch.from_numpy(self.moment), _STATISTICS: self.statistics}

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
        whole = moment.double().numpy()
        with np.errstate(invalid="ignore", over="ignore"):
            power = np.diag(whole)
            possible = np.isfinite(power).all() and (power >= 0).all()
            limit = np.sqrt(np.maximum(power, 0))
            possible = possible and (np.abs(whole) <= 1.001 * limit[:, None] * limit + 1e-9).all()
        if not possible or not statistics.isfinite().all() or (statistics[1] < 0).any():
            raise ValueError("expected the moments and statistics of signals as prior, found numbers that none have")
        return cls(whole, statistics.float())
