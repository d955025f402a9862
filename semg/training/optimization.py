"""How weights are moved, in training and in pretraining: optimiser, learning rate over time, seeds of single steps."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def adamw(module: nn.Module, lr: float, weight_decay: float, device: torch.device) -> torch.optim.AdamW:
    """AdamW that decays matrices alone, as GPT-2's and nanoGPT's training does."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=device.type in ("cuda", "cpu"))


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step: a straight rise, then half a cosine down to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


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


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimiser's state as named tensors, for a checkpoint."""
    return {
        f"{prefix}{place}.{key}": torch.as_tensor(value)
        for place, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, from names without the prefix."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    for name, value in tensors.items():
        place, key = name.split(".")
        whole["state"].setdefault(int(place), {})[key] = value
    optimizer.load_state_dict(whole)
