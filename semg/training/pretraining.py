"""Next-patch prediction: self-supervised training of a causal backbone, without labels.

Windows are drawn from anywhere in the training recordings, inside or outside gestures. From the patches read so far,
the model predicts the normalised token of the first later patch that shares no sample with them, as a language model
predicts the next word. The linear prediction head is discarded; patch embedding and backbone are the starting point of
training. Recordings of validation and test people are not used.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import GPT2Classifier
from semg.common.errors import SettingError
from semg.data.batches import Batch
from semg.data.shards import WindowSet
from semg.training.augmentation import Augmentation, TokenLayout, draw
from semg.training.band_rotation import STRENGTHS
from semg.training.config import TrainConfig
from semg.training.distributed import World
from semg.training.optimization import Stream, seed_of
from semg.training.subsets import Subset


class NextPatch(nn.Module):
    """The model with a head that predicts tokens; its forward pass gives the loss."""

    def __init__(self, model: GPT2Classifier) -> None:
        """Raises SettingError for a model that cannot predict: one without a backbone, or with windows of a single
        frame."""
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
        self, x: Tensor, statistics: Tensor | None, change: Callable[[Tensor], Tensor], cached: Tensor | None = None
    ) -> Tensor:
        """Like the forward pass of GPT2Classifier, but returns the mean squared error; predicting the session's mean
        gives 1.

        change: a function that changes all tokens (B, T, F) of a window alike, such as a rotation of rings: input and
        target.
        """
        tokens = change(self.model.tokens(x, statistics, cached))
        hidden = self.model.hidden(tokens)  # (B, T, d)
        return F.mse_loss(self.head(hidden[:, self.read]).float(), tokens[:, self.predicted])


def predictable(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the tokens after which a token can be predicted, and of the token to predict there.

    first, last: (T,) rising sample numbers: token t is computed from the samples first[t] <= sample < last[t].
    """
    target = torch.searchsorted(first.contiguous(), last.contiguous())
    read = torch.nonzero(target < len(first)).flatten()
    return read, target[read]


class Segments:
    """The places where windows may begin in the recordings of a WindowSet: anywhere, whatever the label.

    Recordings without a labelled window are left out. count: number of windows that cover the others once, end to end.
    """

    def __init__(self, windows: WindowSet, hop: int = 1) -> None:
        """hop: windows begin on multiples of this many samples."""
        self._window, self._hop = windows.window, hop
        # each recording, and the place of one of its windows; finding them takes 15 ms for all of putEMG
        recordings, self._any_window = np.unique(windows.shard, return_index=True)
        self._lengths = np.array([len(windows.shards[place].signal) for place in recordings])
        self.count = int((self._lengths // windows.window).sum())

    def draw(self, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(count,) places of windows in the recordings to read, for `Batches.load`, and (count,) first samples.

        Recordings are drawn in proportion to their lengths; within one, all places where a window fits are equally
        likely.
        """
        lengths = self._lengths
        shard = random.choice(len(lengths), count, p=lengths / lengths.sum())
        places = (lengths[shard] - self._window) // self._hop + 1
        return self._any_window[shard], random.integers(0, places) * self._hop


class NextPatchTask:
    """A `loop.Task`: next-patch prediction on windows from anywhere in the training recordings, with band rotation as
    in training.

    The parts that classify, the last LayerNorm and the head, do not take part in its loss.
    """

    def __init__(
        self, model: GPT2Classifier, train: Subset, layout: TokenLayout, config: TrainConfig, world: World
    ) -> None:
        """Raises SettingError as NextPatch does."""
        torch.manual_seed(seed_of(config.seed, Stream.PRETRAINING_HEAD))
        self.module = NextPatch(model).to(train.batches.device)
        self._train, self._layout, self._world = train, layout, world
        self._seed, self._batch_size = config.seed, config.batch_size
        rotation = config.augment.band_rotation
        rotation = STRENGTHS[0] if rotation is None else rotation  # the value that `auto` will get is not known yet
        self._how = Augmentation(band_rotation=rotation, channel_dropout=0.0, jitter=0.0)
        self._segments = Segments(train.windows, train.batches.cached.hop if train.batches.cached else 1)
        self.steps_per_epoch = max(1, self._segments.count // config.batch_size)
        self._forward = world.parallel(self.module, unused=True)

    def batches(self, epoch: int, first: int) -> Iterable[Batch]:
        """The epoch's batches from its step `first` on. Their labels are not those of the windows that are read."""
        begin, end = epoch * self.steps_per_epoch + first, (epoch + 1) * self.steps_per_epoch
        streams = (np.random.default_rng((self._seed, Stream.PRETRAINING_WINDOWS, step)) for step in range(begin, end))
        drawn = [self._segments.draw(self._batch_size, random) for random in streams]
        share = self._world.share
        return self._train.batches.iterate([share(index) for index, _ in drawn], [share(start) for _, start in drawn])

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """() mean squared error of the predicted tokens; 1 is that of predicting the session's mean."""
        shape = (len(batch.label), self.module.model.config.tokens)
        change = draw(self._how, self._layout, shape, generator, batch.label.device)
        return self._forward(batch.x, self._train.statistics_of(batch), change, batch.cached)
