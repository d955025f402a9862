"""The training task of calibration and of adaptation without labels: fit given targets for windows whose tokens are
known."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model import GPT2Classifier
from semg.training.augmentation import Augmentation, TokenLayout, draw


class TokenTask:
    """A `loop.Task` on the tokens of some windows, augmented.

    target: (n, K) fractions of the classes; the caller may replace it between epochs.
    """

    def __init__(
        self,
        module: GPT2Classifier,
        tokens: Tensor,
        target: Tensor,
        layout: TokenLayout,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: tuple[int, ...],
        every: int = 1,
        label_smoothing: float = 0.0,
    ) -> None:
        """tokens: (n, T, F) normalised. every: each epoch uses one in `every` windows, drawn at random for that
        epoch."""
        self.module, self.target = module, target
        self._tokens, self._layout, self._augmentation = tokens, layout, augmentation
        self._batch_size, self._seed, self._label_smoothing = batch_size, seed, label_smoothing
        self._count = -(-len(tokens) // every)
        self.steps_per_epoch = -(-self._count // batch_size)

    def batches(self, epoch: int, first: int) -> Iterator[Tensor]:
        """The places of each step's windows, in an order that differs from epoch to epoch."""
        order = np.random.default_rng((*self._seed, epoch)).permutation(len(self._tokens))[: self._count]
        places = torch.from_numpy(order).to(self._tokens.device)
        yield from places.split(self._batch_size)[first:]

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy of augmented windows with their targets."""
        shape = (len(batch), self._tokens.shape[1])
        change = draw(self._augmentation, self._layout, shape, generator, batch.device)
        logits = self.module.classify(change(self._tokens[batch])).float()
        return F.cross_entropy(logits, change.targets(self.target[batch]), label_smoothing=self._label_smoothing)
