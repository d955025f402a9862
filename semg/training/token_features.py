"""The network's own label-free features for classical methods: session-normalised tokens, averaged over a window.

They are computed by the network's own code: the same channel transform (scaled and whitened copies), the same
front-end, the same statistics of the session. A classifier trained on them thus gets everything that the network has
except its backbone and head.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from model import GPT2Classifier
from semg.data import normalization
from semg.data.shards import Shard
from semg.inference.batch import session_statistics
from semg.training.augmentation import TokenLayout
from semg.training.config import TrainConfig
from semg.training.network import build, model_config

AT_ONCE = 64  # windows computed together


class TokenFeatures:
    """Mean tokens of the windows of some shards, with train.py's defaults. shards: whole sessions, all made with the
    same arguments."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        config = TrainConfig(shards=Path(), split=Path(), backbone="none", init="random")
        shape = model_config(config, shards[0], None)
        self._model: GPT2Classifier = build(config, shape, None).eval()  # only its front-end is used
        self._shards = list(shards)
        self._transform = normalization.transform_of(shards, config.normalization)
        self._statistics = session_statistics(self._model, self._shards, self._transform, torch.device("cpu"))
        self.layout = TokenLayout(self._model.frontend.groups, shards[0].rings, config.normalization.copies)
        # (3, C) for each channel, the channel whose features it gets when every ring is rotated by -1, 0 and 1 places
        self.turned = self.layout.turned.numpy()

    @torch.no_grad()
    def of(self, place: int, starts: np.ndarray, done: Callable[[int], object] = int) -> np.ndarray:
        """(n, k, C) float32: features of the windows that begin at the samples `starts` (n,) of the shard at
        `place`."""
        shard, transform = self._shards[place], torch.from_numpy(self._transform[place])
        (group,) = self.layout.groups
        rows = []
        for at in range(0, len(starts), AT_ONCE):
            few = starts[at : at + AT_ONCE]
            x = torch.from_numpy(np.stack([shard.signal[a : a + shard.window] for a in few])).float() @ transform
            tokens = self._model.tokens(x.transpose(1, 2), self._statistics[place][None])
            rows.append(group.of(tokens).mean(1).transpose(1, 2).numpy())
            done(len(few))
        return np.concatenate(rows)
