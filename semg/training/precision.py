"""The precision in which training computes, and in which it holds weights that are not trained."""

import torch
from torch import Tensor, nn


def autocast(precision: str, device: torch.device) -> torch.autocast | None:
    """A context that computes in mixed precision; for float32 it does nothing. precision: `bf16`, `fp32`, or `auto`
    (bf16 on CUDA)."""
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if bf16 else None


def hold_frozen_in_bf16(model: nn.Module) -> dict[str, Tensor]:
    """Round the linear maps without any trainable weight to bfloat16, in place; returns their original weights by name.

    Under autocast the model computes the same bits as before, because autocast rounds these weights in each pass
    anyway. Normalisation layers, embeddings and positions stay float32, because autocast uses them in float32.
    """
    from transformers.pytorch_utils import Conv1D  # slow to import

    exact: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear | Conv1D) and not any(weight.requires_grad for weight in own.values()):
            exact |= {f"{name}.{key}": weight.detach() for key, weight in own.items()}
            module.to(torch.bfloat16)
    return exact
