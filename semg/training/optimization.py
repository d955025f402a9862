"""How weights are moved, the same in all training here: optimiser, learning rate over time, mean of weights, seeds."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate.

    lr: the highest learning rate. weight_decay: of matrices, not of biases or norms. warmup: share of the steps in
    which the rate rises; it then falls to 0 as half a cosine. clip: largest gradient norm.
    """

    lr: float
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 1.0


class Optimizer:
    """AdamW over the trainable parameters of a module, with its learning rate scheduled over a number of steps.

    A step is `optimizer.backward(loss)`, then `optimizer.step(i)` for i = 0, 1, ..., steps - 1.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig, steps: int) -> None:
        self.config, self.steps = config, steps
        self.adamw = adamw(module, config.lr, config.weight_decay)
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        return self.config.lr * schedule(step, self.steps, self.config.warmup)

    def backward(self, loss: Tensor) -> Tensor:
        """Put the loss's gradients in place, clipped; returns their norm before that."""
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        return nn.utils.clip_grad_norm_(self._trained, self.config.clip)

    def step(self, step: int) -> None:
        """Move the weights by the gradients that are in place."""
        for group in self.adamw.param_groups:
            group["lr"] = self.lr(step)
        self.adamw.step()

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Its state as named tensors, for a checkpoint."""
        return {
            f"{prefix}{place}.{key}": torch.as_tensor(value)
            for place, values in self.adamw.state_dict()["state"].items()
            for key, value in values.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`, from names without the prefix. ValueError, KeyError, ... for another module's."""
        state = self.adamw.state_dict()
        state["state"] = {}
        for name, value in tensors.items():
            place, key = name.split(".")
            state["state"].setdefault(int(place), {})[key] = value
        self.adamw.load_state_dict(state)


def adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices alone, as GPT-2's and nanoGPT's training does."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = trained[0].device.type in ("cuda", "cpu")
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=fused)


def default_learning_rate(tune: str, *, pretrained: bool) -> float:
    """The highest learning rate that suits what trains: pretrained blocks want small steps. tune: as in ModelConfig."""
    return 1e-4 if pretrained and (tune == "full" or tune.startswith("last:")) else 1e-3


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step: a straight rise, then half a cosine down to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def autocast(precision: str, device: torch.device) -> torch.autocast | None:
    """Mixed precision as a context to compute in; nothing for float32. precision: `bf16`, `fp32`, `auto` (bf16 on
    CUDA)."""
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if bf16 else None


class WeightAverage:
    """An exponential moving average of a module's weights (EMA), in which early steps count less."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self.weights: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Begin anew, from the weights as they are now."""
        self.weights = {name: value.clone() for name, value in self._module.state_dict().items()}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from an average that was kept. KeyError, RuntimeError for another module's."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average a step towards the weights."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._module.state_dict().items():
            average = self.weights[name]
            average.lerp_(value, 1 - decay) if average.is_floating_point() else average.copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the average for its weights meanwhile, and its own again afterwards."""
        own = {name: value.clone() for name, value in self._module.state_dict().items()}
        self._module.load_state_dict(self.weights)
        try:
            yield
        finally:
            self._module.load_state_dict(own)


# --- randomness --------------------------------------------------------------------------------------------------


class Stream(IntEnum):
    """What is drawn from a run's seed: each draw has a stream of its own, so that none shifts another's."""

    ORDER = 1  # of the windows in an epoch
    TRAINING = 2  # a step's dropout; the stream behind it: its augmentation
    PRETRAINING_HEAD = 4  # first weights
    PRETRAINING = 5  # as TRAINING
    PRETRAINING_WINDOWS = 7  # where they lie


def seed_of(*numbers: int) -> int:
    """One seed of 63 bits from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def reseed(device: torch.device, seed: int) -> None:
    """What `torch.manual_seed` does, for this device and the CPU alone: every step, that notes down the call stack
    for each kind of device that the machine has not.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    if device.type == "mps":
        torch.mps.manual_seed(seed)
