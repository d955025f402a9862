"""The precision that training computes in, and in which it holds the weights that do not train."""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def autocast(precision: str, device: torch.device) -> torch.autocast | None:
    """Mixed precision as a context to compute in; nothing for float32. precision: `bf16`, `fp32`, `auto` (bf16 on
    CUDA)."""
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if bf16 else None


def hold_frozen_in_bf16(model: nn.Module) -> dict[str, Tensor]:
    """Round the linear maps of which nothing trains to bfloat16, in place; returns their weights before, by name.

    Under autocast the model computes the same bits as before: autocast rounds such weights in each pass. Norms,
    embeddings and positions stay float32, for autocast computes with these as they are.
    """
    exact: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear | Conv1D) and not any(weight.requires_grad for weight in own.values()):
            exact |= {f"{name}.{key}": weight.detach() for key, weight in own.items()}
            module.to(torch.bfloat16)
    return exact
