"""The network's own label-free features for classical methods: session-normalised tokens, averaged over a window.

They are made by the code that makes the network's: the same channel transform (scaled and whitened copies), the same
front-end, the same statistics of the session. So a classifier on them was given all that the network has but its
backbone and head.
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

AT_ONCE = 64  # windows


class TokenFeatures:
    """Mean tokens of the windows of some shards, with train.py's defaults. shards: whole sessions, made alike."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        config = TrainConfig(shards=Path(), split=Path(), backbone="none", init="random")
        shape = model_config(config, shards[0], None)
        self._model: GPT2Classifier = build(config, shape, None).eval()  # of which the front-end alone is used
        self._shards = list(shards)
        self._transform = normalization.transform_of(shards, config.normalization)
        self._statistics = session_statistics(self._model, self._shards, self._transform, torch.device("cpu"))
        self.layout = TokenLayout(self._model.frontend.groups, shards[0].rings, config.normalization.copies)
        # (3, C) the channels whose features each channel has when every ring turns by -1, 0 and 1 places
        self.turned = self.layout.turned.numpy()

    @torch.no_grad()
    def of(self, place: int, starts: np.ndarray, done: Callable[[int], object] = int) -> np.ndarray:
        """(n, k, C) float32: of the windows of the shard at `place` that begin at `starts` (n,)."""
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
