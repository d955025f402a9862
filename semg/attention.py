"""Attention of transformers' decoders where all that a token reads is what came before it in its window.

It has a name for which transformers makes no mask. Under `sdpa` it looks at positions for several texts in one row, for
which a GPU has to be waited for in each pass, and if compiled it always makes a mask, which rules flash attention out.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

CAUSAL = "semg_causal"
# Triton comes with PyTorch for GPUs, but not on every system.
_TRITON = bool(torch.version.cuda or torch.version.hip) and importlib.util.find_spec("triton") is not None


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """transformers' own, causal; in training on a GPU by kernels made for short windows, where they are to be had."""
    if not (_TRITON and module.training and query.is_cuda and attention_mask is None):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    from semg import window_attention

    groups = getattr(module, "num_key_value_groups", 1)
    key, value = (repeat_kv(one, groups) for one in (key, value))
    if not window_attention.takes(query, key, value):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (one.to(torch.get_autocast_dtype(query.device.type)) for one in (query, key, value))
    scale = how.get("scaling") or query.shape[-1] ** -0.5
    return window_attention.attend(query, key, value, scale, how.get("dropout", 0.0)), None


AttentionInterface.register(CAUSAL, _attend)
