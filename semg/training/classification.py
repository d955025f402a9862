"""What a training run learns, to classify the windows of the training people, and how it is scored on the validation
people."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model import GPT2Classifier
from semg.data.batches import Batch
from semg.data.shards import WindowSet
from semg.evaluation import metrics
from semg.inference.batch import INFERENCE_BATCH, pooled_features, probabilities, ready_tokens
from semg.training.augmentation import TokenLayout, draw, one_hot
from semg.training.config import TrainConfig
from semg.training.distributed import World
from semg.training.optimization import Stream
from semg.training.subsets import Subset


class Classification:
    """A `loop.Task`: classify the windows of the training subset, augmented.

    augment: the augmentation; that of the settings, until a run to which they leave the band rotation sets another.
    windows_per_step: over all processes; fewer than the batch size if there are no more windows.
    """

    def __init__(
        self, model: GPT2Classifier, train: Subset, layout: TokenLayout, config: TrainConfig, world: World
    ) -> None:
        self.module = model
        self.classes = model.config.classes
        self.steps_per_epoch = max(1, len(train.windows) // config.batch_size)
        self.windows_per_step = min(len(train.windows), config.batch_size)
        self._train, self._layout, self._config, self._world = train, layout, config, world
        self.augment = config.augment
        self._forward = world.parallel(model)
        device = train.batches.device
        self._class_weights = class_weights(train.windows, self.classes).to(device)
        # (K, K) counts by label and decision, for this process's windows since the last `take_confusion`
        self.confusion = torch.zeros(self.classes, self.classes, dtype=torch.int64, device=device)

    def order(self, epoch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """This process's windows in each step, and the first sample of each; depends only on the seed and `epoch`."""
        config, windows, batches = self._config, self._train.windows, self._train.batches
        random = np.random.default_rng((config.seed, Stream.ORDER, epoch))
        if config.balance == "sampler":
            weights = self._class_weights.cpu().numpy()[windows.label]
            order = random.choice(len(windows), len(windows), p=weights / weights.sum())
        else:
            order = random.permutation(len(windows))
        starts = windows.jittered(order, self.augment.jitter, random, batches.cached.hop if batches.cached else 1)
        size = config.batch_size
        cuts = [slice(step * size, (step + 1) * size) for step in range(self.steps_per_epoch)]
        return [self._world.share(order[cut]) for cut in cuts], [self._world.share(starts[cut]) for cut in cuts]

    def batches(self, epoch: int, first: int) -> Iterable[Batch]:
        """The epoch's batches from its step `first` on."""
        order, starts = self.order(epoch)
        return self._train.batches.iterate(order[first:], starts[first:])

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """() cross-entropy of an augmented batch; also counts the decisions."""
        config = self._config
        shape = (len(batch.label), self.module.config.tokens)
        change = draw(self.augment, self._layout, shape, generator, batch.label.device)
        target = change.targets(one_hot(batch.label, self.classes))
        logits = self._forward(batch.x, self._train.statistics_of(batch), change, batch.cached)
        pairs = batch.label * self.classes + logits.detach().argmax(1)
        self.confusion.view(-1).scatter_add_(0, pairs, torch.ones_like(pairs))  # bincount would wait for the GPU
        if config.balance != "loss":
            return F.cross_entropy(logits.float(), target, label_smoothing=config.label_smoothing)
        # each window is weighted, not each class of its target: smoothing gives a little of the target to every class,
        # and large weights of rare ones would make it more than the window's own
        smoothing = config.label_smoothing
        losses = F.cross_entropy(logits.float(), target, label_smoothing=smoothing, reduction="none")
        return (losses * (target @ self._class_weights)).mean()

    def take_confusion(self) -> np.ndarray:
        """(K, K) counts over all processes since the last call."""
        counts = self._world.sum(self.confusion).cpu().numpy()
        self.confusion = torch.zeros_like(self.confusion)
        return counts


def class_weights(windows: WindowSet, classes: int) -> Tensor:
    """(classes,) inverse class frequencies, with mean 1 over the windows."""
    counts = np.bincount(windows.label, minlength=classes)
    present = max(1, int(np.count_nonzero(counts)))
    weights = np.where(counts > 0, len(windows) / np.maximum(counts, 1) / present, 0.0)
    return torch.from_numpy(weights.astype(np.float32))


# --- validation --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Validation:
    """scores: metrics by name, as means over people, so that each person counts the same, and the loss, a mean over
    windows; per_subject: subject -> metrics; probabilities: (n, K)."""

    scores: dict[str, float | None]
    per_subject: dict[str, Any]
    probabilities: np.ndarray


class Validator:
    """Scores a model on the validation people."""

    def __init__(self, model: GPT2Classifier, val: Subset, autocast: torch.autocast | None) -> None:
        self._model, self._val, self._autocast = model, val, autocast
        # tokens do not depend on trained weights: computed once, if they fit into memory
        self._ready: Tensor | None = None

    def validate(self) -> Validation:
        """Score the model in its current state; leaves it in evaluation mode."""
        self._model.eval()
        val = self._val
        if self._ready is None:
            self._ready = ready_tokens(self._model, val.batches, val.statistics)
            if self._ready is not None:
                val.batches.release()
        decided = probabilities(
            self._model, val.batches, val.statistics, INFERENCE_BATCH, self._autocast, ready=self._ready
        )
        label, subject = val.windows.label, val.windows.subject
        per_subject = metrics.per_subject(label, decided.argmax(1), subject, decided.shape[1], val.windows.rest)
        means = metrics.mean_over_subjects(per_subject)
        scores = {"loss": log_loss(decided, label)} | {one.name: means[one.name] for one in metrics.METRICS}
        return Validation(scores, per_subject, decided)

    def features(self, index: np.ndarray) -> np.ndarray:
        """(len(index), d) the head's input for the windows at these places."""
        val = self._val
        return pooled_features(self._model, val.batches, val.statistics, index, self._autocast, ready=self._ready)


def log_loss(decided: np.ndarray, label: np.ndarray) -> float:
    """Mean negative log probability of the true class. decided: (n, K) probabilities; label: (n,)."""
    return float(-np.log(np.maximum(decided[np.arange(len(label)), label], 1e-12)).mean())
