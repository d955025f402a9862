"""Adapting a trained model to one new person with the first repetitions of each gesture.

The rest of that person's windows are scored, by the adapted model and, on the very same windows, by the model as it
was. Such a result needs labels of the person scored: it is never to be mixed with zero-shot results.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model import GPT2Classifier
from semg.common.errors import DataError
from semg.data.batches import Batches, in_order
from semg.data.shards import Shard, WindowSet
from semg.training.augmentation import Augmentation, TokenAugmenter, TokenLayout

BATCH = 64


@dataclass(frozen=True)
class Fit:
    """How to adapt. tune: as in ModelConfig; `frozen` leaves the patch embedding, last LayerNorm and head."""

    tune: str = "full"
    epochs: int = 20
    lr: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(roll=0.0, mask=0.1, jitter=0.0))
    seed: int = 0


def repetition_of_subject(windows: WindowSet) -> np.ndarray:
    """(n,) how many repetitions of its gesture the person had made before each window, over all their recordings.

    Recordings count in the order in which they were made.
    """
    shards = windows.shards
    counted = np.zeros(len(windows), np.int64)
    made: dict[tuple[str, int], int] = {}
    for place in sorted(range(len(shards)), key=lambda i: (shards[i].subject, shards[i].date, shards[i].meta["time"])):
        own = np.flatnonzero(windows.shard == place)
        for label in np.unique(windows.label[own]):
            these = own[windows.label[own] == label]
            segments, index = np.unique(windows.repetition[these], return_inverse=True)
            key = (shards[place].subject, int(label))
            counted[these] = made.get(key, 0) + index
            made[key] = made.get(key, 0) + len(segments)
    return counted


def check_enough(windows: WindowSet, repetitions: int, subject: str, classes: Sequence[str]) -> np.ndarray:
    """(n,) which windows adapt the model. DataError if a gesture is missing there or nothing is left to score."""
    first = repetition_of_subject(windows) < repetitions
    for part, name in ((first, "to calibrate with"), (~first, "to score")):
        missing = set(range(len(classes))) - set(windows.label[part].tolist())
        if missing:
            raise DataError(
                f"subject {subject}: expected windows of every gesture {name}, found none of {classes[min(missing)]}; "
                f"choose fewer repetitions than --calibrate {repetitions}"
            )
    return first


def adaptable(model: GPT2Classifier, tune: str) -> GPT2Classifier:
    """A copy of the model of which `tune` trains; its outputs are the model's own."""
    if model.config.tune == "lora" or tune == model.config.tune:
        return copy.deepcopy(model)
    fresh = GPT2Classifier(replace(model.config, tune=tune))
    fresh.to(next(model.parameters()).device)
    names = dict(zip(_plain(fresh), fresh.state_dict(), strict=True))
    fresh.load_state_dict({names[name]: value for name, value in model.state_dict().items()}, strict=False)
    return fresh


def _plain(model: GPT2Classifier) -> list[str]:
    """The names of a model's tensors as they were before LoRA wrapped some of them."""
    return [name.replace(".base_layer.", ".") for name in model.state_dict()]


@torch.no_grad()
def _tokens(model: GPT2Classifier, batches: Batches, statistics: Tensor | None, index: np.ndarray) -> Tensor:
    parts = []
    for places in in_order(len(index), 256):
        batch = batches.load(index[places])
        parts.append(model.tokens(batch.x, None if statistics is None else statistics[batch.shard]))
    return torch.cat(parts)


def adapt(
    model: GPT2Classifier,
    batches: Batches,
    statistics: Tensor | None,
    index: np.ndarray,
    fit: Fit,
    layout: TokenLayout,
) -> GPT2Classifier:
    """A copy of `model` trained on the windows at the places `index`; in evaluation mode."""
    torch.manual_seed(fit.seed)
    own = adaptable(model, fit.tune).train()
    tokens = _tokens(model, batches, statistics, index)
    labels = torch.from_numpy(batches.windows.label[index]).to(tokens.device)
    generator = torch.Generator().manual_seed(fit.seed)
    change = TokenAugmenter(fit.augmentation, layout, generator)
    trained = [p for p in own.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=fit.lr, weight_decay=fit.weight_decay)
    steps = fit.epochs * -(-len(index) // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, fit.lr, total_steps=steps, pct_start=0.1)
    for _ in range(fit.epochs):
        for chosen in torch.randperm(len(index), generator=generator).split(BATCH):
            places = chosen.to(tokens.device)
            logits = own.classify(change(tokens[places]))
            loss = F.cross_entropy(logits, labels[places], label_smoothing=fit.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            rate.step()
    if not all(bool(torch.isfinite(p).all()) for p in trained):
        raise DataError(
            f"subject {batches.windows.subject[index[0]]}: expected finite weights after adapting, found NaN or "
            "infinity; give a smaller --lr"
        )
    return own.eval()


@torch.no_grad()
def decide(model: GPT2Classifier, batches: Batches, statistics: Tensor | None, index: np.ndarray) -> np.ndarray:
    """(len(index), classes) probabilities of the windows at the places `index`."""
    parts = []
    for places in in_order(len(index), 512):
        batch = batches.load(index[places])
        logits = model(batch.x, None if statistics is None else statistics[batch.shard])
        parts.append(logits.softmax(1).cpu().numpy())
    return np.concatenate(parts)


def by_subject(shards: Sequence[Shard]) -> dict[str, list[int]]:
    """Which shards (by place) are of each person."""
    found: dict[str, list[int]] = {}
    for place, shard in enumerate(shards):
        found.setdefault(shard.subject, []).append(place)
    return dict(sorted(found.items()))
