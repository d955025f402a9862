"""Everything that updates weights, for all training here: optimiser, learning-rate schedule, weight averaging,
seeds."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor, nn

REFERENCE_BATCH = 128  # windows per step for which the default learning rate was tuned
# trained parameters: fewer than one block of GPT-2 small has, more than a small random GPT-2 has
LARGE_BACKBONE = 5_000_000


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of AdamW and its learning rate.

    lr: the peak learning rate. backbone_lr: that of the backbone's weights; None means by their number (`backbone_lr`).
    weight_decay: of matrices; biases, normalisation layers and positions have none. warmup: fraction of the steps in
    which the rate rises; it then falls to 0 as half a cosine. clip: the norm to which gradients are clipped.
    """

    lr: float
    backbone_lr: float | None = None
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 1.0


class Optimizer:
    """AdamW over the trainable parameters of a module, with a learning-rate schedule over a number of steps.

    A step is `optimizer.backward(loss)`, then `optimizer.step(i)` for i = 0, 1, ..., steps - 1.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig, steps: int) -> None:
        self.config, self.steps = config, steps
        self._names, self.adamw = adamw(module, config)
        self._peaks = [group["lr"] for group in self.adamw.param_groups]
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def lr(self, step: int) -> float:
        """The learning rate of a step for all weights outside the backbone."""
        return self.config.lr * schedule(step, self.steps, self.config.warmup)

    @property
    def backbone_lr(self) -> float:
        """The peak learning rate of the backbone's weights; that of all other weights if none of them is trained."""
        peaks = (
            peak for group, peak in zip(self.adamw.param_groups, self._peaks, strict=True) for _ in group["params"]
        )
        of_backbone = (peak for name, peak in zip(self._names, peaks, strict=True) if _in_backbone(name))
        return next(of_backbone, self.config.lr)

    def backward(self, loss: Tensor) -> Tensor:
        """Compute the loss's gradients and clip them; returns their norm before clipping."""
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        return nn.utils.clip_grad_norm_(self._trained, self.config.clip)

    def step(self, step: int) -> None:
        """Update the weights by the gradients."""
        share = schedule(step, self.steps, self.config.warmup)
        for group, peak in zip(self.adamw.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        self.adamw.step()

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The optimiser's state as named tensors, for a checkpoint."""
        return {
            f"{prefix}{self._names[place]}.{key}": torch.as_tensor(value)
            for place, values in self.adamw.state_dict()["state"].items()
            for key, value in values.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`, from names without the prefix. ValueError for the state of another module."""
        state = self.adamw.state_dict()
        state["state"] = {}
        for name, value in tensors.items():
            parameter, _, key = name.rpartition(".")
            state["state"].setdefault(self._names.index(parameter), {})[key] = value
        self.adamw.load_state_dict(state)


def adamw(module: nn.Module, config: OptimizerConfig) -> tuple[list[str], torch.optim.AdamW]:
    """AdamW over the trainable parameters of a module, and the names of these parameters in its order.

    Matrices have weight decay, as in the training of GPT-2 and nanoGPT; biases, normalisation layers and learned
    positions have none. The backbone, i.e. the weights under the name `backbone`, has a learning rate of its own.
    """
    positions = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    trained = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    for_backbone = config.backbone_lr or backbone_lr(
        config.lr, sum(w.numel() for name, w in trained if _in_backbone(name))
    )
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, weight in trained:
        decays = weight.dim() >= 2 and id(weight) not in positions and not name.endswith("positions")
        kind = (for_backbone if _in_backbone(name) else config.lr, config.weight_decay if decays else 0.0)
        groups.setdefault(kind, []).append((name, weight))
    parameter_groups = [
        {"params": [weight for _, weight in group], "lr": lr, "weight_decay": decay}
        for (lr, decay), group in groups.items()
    ]
    fused = trained[0][1].device.type in ("cuda", "cpu")
    names = [name for group in groups.values() for name, _ in group]
    return names, torch.optim.AdamW(parameter_groups, lr=config.lr, betas=(0.9, 0.98), fused=fused)


def _in_backbone(name: str) -> bool:
    return "backbone" in name.split(".")


def backbone_lr(lr: float, trained: int) -> float:
    """The peak learning rate of a backbone with `trained` trainable parameters: large ones need small steps.

    It does not depend on where the weights come from, so that random and pretrained weights are treated alike.
    """
    return lr if trained < LARGE_BACKBONE else lr / 10


def rate_factor(batch_size: int) -> float:
    """The factor by which learning rates for REFERENCE_BATCH windows are multiplied for `batch_size` windows.

    The square root keeps the noise of AdamW's steps the same: Malladi et al., "On the SDEs and scaling rules for
    adaptive gradient algorithms", NeurIPS 2022.
    """
    return math.sqrt(batch_size / REFERENCE_BATCH)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Fraction of the peak learning rate at a step: a linear rise, then half a cosine down to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class WeightAverage:
    """An exponential moving average (EMA) of a module's weights, with a shorter memory in the first steps.

    Weights that are not trained are kept as they are.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self.weights: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Start again from the current weights."""
        current = self._module.state_dict()
        self.weights = {name: value.clone() for name, value in current.items()}
        frozen = {name for name, weight in self._module.named_parameters() if not weight.requires_grad}
        # pairs (average, weight) of floating point, and of other types; the weights share the module's memory
        pairs = [(self.weights[name], value) for name, value in current.items() if name not in frozen]
        self._moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Continue from a stored average. KeyError or RuntimeError for that of another module."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Update the average with the current weights."""
        decay = min(self._decay, (1 + step) / (10 + step))
        if self._moving:  # a single kernel for all tensors
            averages, values = map(list, zip(*self._moving, strict=True))
            torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in self._copied:
            average.copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the module has the average as its weights; it gets its own weights back afterwards."""
        before = {name: value.clone() for name, value in self._module.state_dict().items()}
        self._module.load_state_dict(self.weights)
        try:
            yield
        finally:
            self._module.load_state_dict(before)


# --- randomness --------------------------------------------------------------------------------------------------


class Stream(IntEnum):
    """The purposes for which random numbers are drawn from a run's seed; each has its own stream, so that none affects
    another."""

    ORDER = 1  # order of the windows in an epoch
    TRAINING = 2  # dropout in a step; the next number, 3, is its augmentation
    PRETRAINING_HEAD = 4  # initial weights of the head
    PRETRAINING = 5  # as TRAINING, with 6 for augmentation
    PRETRAINING_WINDOWS = 7  # positions of the windows


def seed_of(*numbers: int) -> int:
    """A single seed of 63 bits from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def reseed(device: torch.device, seed: int) -> None:
    """Like `torch.manual_seed`, but only for this device and the CPU. On every call, the original records the call
    stack for each kind of device that the machine does not have."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    if device.type == "mps":
        torch.mps.manual_seed(seed)
