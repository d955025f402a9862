"""Next-patch prediction: what a causal backbone can learn from signals without looking at a label.

Windows are drawn from anywhere in the training recordings, gesture or not. From what it has read up to a patch, the
model predicts the normalised token of the first later patch that shares no sample with any patch read so far, as a
language model predicts the next word. The prediction's linear head is thrown away; patch embedding and backbone go
into training. The people validated and tested on have no part in it.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import GPT2Classifier
from semg.common.errors import SettingError
from semg.data.batches import Batches
from semg.data.shards import WindowSet
from semg.training.augmentation import Augmentation, TokenLayout, draw
from semg.training.optimization import adamw, optimizer_tensors, reseed, restore_optimizer, schedule, seed_of


class NextPatch(nn.Module):
    """The model with a head that predicts tokens; its forward pass gives the loss."""

    def __init__(self, model: GPT2Classifier) -> None:
        """Raises SettingError for a model that can't predict: one without a backbone, or with windows of one frame."""
        super().__init__()
        config = model.config
        if model.backbone is None:
            raise SettingError("backbone", "one that reads patches in order, for {pretrain}", config.backbone)
        read, predicted = predictable(*model.frontend.spans())
        if not len(read):
            span = "frame" if model.frontend.frames else "patch"
            expected = "at most half a window, {}, for {pretrain} predicts the next that does not overlap"
            raise SettingError(span, expected, getattr(config, span), (config.samples / 2,))
        self.model = model
        self.head = nn.Linear(config.width, model.frontend.n_features)
        self.read: Tensor
        self.predicted: Tensor
        self.register_buffer("read", read, persistent=False)
        self.register_buffer("predicted", predicted, persistent=False)

    def forward(
        self,
        x: Tensor,
        statistics: Tensor | None,
        change: Callable[[Tensor], Tensor],
        cached: Tensor | None = None,
    ) -> Tensor:
        """As GPT2Classifier's, but gives the mean squared error; 1 is that of predicting the session's mean.

        change: turns all tokens (B, T, F) of a window alike, such as turned rings: what is read and what is predicted.
        """
        tokens = change(self.model.tokens(x, statistics, cached))
        hidden = self.model.hidden(tokens)  # (B, T, d)
        return F.mse_loss(self.head(hidden[:, self.read]).float(), tokens[:, self.predicted])


def predictable(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the tokens after which one can be predicted, and of the token to predict there.

    first, last: (T,) samples, rising: token t is made of those from first[t] on and before last[t].
    """
    target = torch.searchsorted(first.contiguous(), last.contiguous())
    read = torch.nonzero(target < len(first)).flatten()
    return read, target[read]


@dataclass(frozen=True)
class Segments:
    """Where windows may begin in the recordings of a WindowSet: anywhere, whatever the label.

    hop: windows begin on multiples of it.
    """

    windows: WindowSet
    hop: int = 1

    @property
    def steps(self) -> int:
        """Windows that cover all recordings once, end to end."""
        return sum(len(shard.signal) // self.windows.window for shard in self.windows.shards)

    def draw(self, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(count,) places of windows in the recordings to read, for `Batches.load`, and (count,) first samples.

        Each sample of all recordings is as likely as any other.
        """
        lengths = np.array([len(shard.signal) for shard in self.windows.shards])
        any_window = np.unique(self.windows.shard, return_index=True)[1]  # of each recording
        shard = random.choice(len(lengths), count, p=lengths / lengths.sum())
        places = (lengths[shard] - self.windows.window) // self.hop + 1
        return any_window[shard], random.integers(0, places) * self.hop


@dataclass
class PretrainingProgress:
    """How far pretraining is."""

    step: int = 0  # steps done
    loss_sum: float = 0.0  # over the steps of the epoch that is under way
    losses: list[float] = field(default_factory=list)  # mean of each epoch that is done


class Pretraining:
    """Epochs of next-patch prediction. Everything random in a step follows from the seed and the step."""

    def __init__(
        self,
        model: GPT2Classifier,
        batches: Batches,
        statistics: Tensor | None,
        layout: TokenLayout,
        args: argparse.Namespace,
        *,
        lr: float,
        rotation: float,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        """batches, statistics: of the training recordings. args: train.py's flags.

        rotation: probability of turned rings.
        rank, size: of this process among those that train together. Raises SettingError as NextPatch does.
        """
        torch.manual_seed(seed_of(args.seed, 4))
        device = batches.device
        self.module = NextPatch(model).to(device)
        self.optimizer = adamw(self.module, lr, args.weight_decay)
        self.state = PretrainingProgress()
        self._batches, self._statistics, self._layout = batches, statistics, layout
        self._args, self._lr, self._how = (
            args,
            lr,
            Augmentation(band_rotation=rotation, channel_dropout=0.0, jitter=0.0),
        )
        self._rank, self._size = rank, size
        self._places = Segments(batches.windows, batches.cached.hop if batches.cached else 1)
        self.steps_per_epoch = max(1, self._places.steps // args.batch_size)
        # what classifies, the last LayerNorm and the head, has no part in this loss
        parallel = nn.parallel.DistributedDataParallel
        self._forward = parallel(self.module, find_unused_parameters=True) if size > 1 else self.module

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return len(self.state.losses) >= self._args.pretrain

    def epoch(
        self,
        autocast: AbstractContextManager[None] | None,
        agreed: Callable[[Tensor], list[float]],
        check: Callable[[float, float], None],
        progress: Callable[[Iterable[int]], Iterable[int]],
        stop_asked: Callable[[], bool],
    ) -> None:
        """Do an epoch, or the rest of one.

        agreed: mean over the processes; check: raises for a loss and gradient norm that can't be; stop_asked: looked
        at after each step.
        """
        self.module.train()
        state = self.state
        for _ in progress(range(state.step - len(state.losses) * self.steps_per_epoch, self.steps_per_epoch)):
            loss, norm = agreed(self._step(autocast))
            check(loss, norm)
            self.optimizer.step()
            state.step += 1
            state.loss_sum += loss
            if stop_asked():
                break
        if state.step == (len(state.losses) + 1) * self.steps_per_epoch:
            state.losses.append(state.loss_sum / self.steps_per_epoch)
            state.loss_sum = 0.0

    def _step(self, autocast: AbstractContextManager[None] | None) -> Tensor:
        """(2,) loss and gradient norm of a step, with the gradients in place."""
        args, step = self._args, self.state.step
        reseed(self._batches.device, seed_of(args.seed, 5, step, self._rank))
        generator = torch.Generator().manual_seed(seed_of(args.seed, 6, step, self._rank))
        share = schedule(step, self.steps_per_epoch * args.pretrain, args.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr * share
        index, start = self._places.draw(args.batch_size, np.random.default_rng((args.seed, 7, step)))
        batch = self._batches.load(index[self._rank :: self._size], start[self._rank :: self._size])
        statistics = None if self._statistics is None else self._statistics[batch.shard]
        shape = (len(batch.label), self.module.model.config.tokens)
        change = draw(self._how, self._layout, shape, generator, batch.label.device)
        with autocast or nullcontext():
            loss = self._forward(batch.x, statistics, change, batch.cached)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), args.clip)
        return torch.stack([loss.detach(), norm.detach()])

    def tensors(self) -> dict[str, Tensor]:
        """What resuming needs beside the model and `state`."""
        head = {f"pretraining.head.{name}": value for name, value in self.module.head.state_dict().items()}
        return head | optimizer_tensors(self.optimizer, "pretraining.optimizer.")

    def restore(self, state: PretrainingProgress, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a `state` and the `tensors` of its moment, named without `pretraining.`."""
        self.state = state
        head = {k.removeprefix("head."): v for k, v in tensors.items() if k.startswith("head.")}
        if not head:  # pretraining was over
            return
        self.module.head.load_state_dict(head)
        moments = {k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")}
        restore_optimizer(self.optimizer, moments)
