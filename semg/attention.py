"""Attention for transformers' decoders in which each token attends to all earlier tokens of its window.

It is registered under its own name, for which transformers makes no mask. Under the name `sdpa`, transformers checks in
each pass whether positions belong to several texts in one row, which makes the host wait for the GPU; and when compiled
it always makes a mask, which rules out flash attention.
"""

import importlib.util
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

CAUSAL, BY_KERNEL = "semg_causal", "semg_causal_by_kernel"
# A GPU's attention works on tiles of 64 tokens, and a window has about ten. In training on a GPU, windows are therefore
# placed side by side in rows of up to this many tokens.
ROW = 64
# Triton comes with PyTorch for GPUs, but not on every system.
if _TRITON := bool(torch.version.cuda or torch.version.hip) and importlib.util.find_spec("triton") is not None:
    from semg import window_attention


def use_kernel(model: PreTrainedModel) -> None:
    """Use a kernel for short windows in training, if Triton is available.

    Its launch costs more than that of PyTorch's attention, so it pays off only if CUDA graphs launch it.
    """
    if _TRITON and model.config._attn_implementation == CAUSAL:
        model.config._attn_implementation = BY_KERNEL


def faster_side_by_side(model: PreTrainedModel, embedded: Tensor) -> bool:
    """Whether `side_by_side` computes the model's output in less time; otherwise the model is to be called directly."""
    return model.training and embedded.device.type == "cuda" and model.config._attn_implementation == CAUSAL


def side_by_side(model: PreTrainedModel, embedded: Tensor, row: int = ROW) -> Tensor:
    """(B, T, d) embeddings -> (B, T, d) output of the last norm, computed with several windows in a row of tokens.

    Each window attends to itself only. row: largest number of tokens in a row.
    """
    windows, tokens, width = embedded.shape
    count = _windows_in_a_row(windows, tokens, row)
    if count == 1:
        return model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    place = torch.arange(count * tokens, device=embedded.device)
    owner = place // tokens
    seen = (owner[:, None] == owner) & (place[:, None] >= place)
    mask = torch.zeros(seen.shape, dtype=embedded.dtype, device=embedded.device).masked_fill(~seen, -math.inf)
    rows = embedded.reshape(windows // count, count * tokens, width)
    hidden = model(inputs_embeds=rows, position_ids=(place % tokens)[None], use_cache=False, among=mask[None, None])
    return hidden.last_hidden_state.view(windows, tokens, width)


def _windows_in_a_row(windows: int, tokens: int, row: int) -> int:
    """The largest number of windows that fit into a row, the same for each row."""
    return max(count for count in range(1, max(1, row // tokens) + 1) if windows % count == 0)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    among: Tensor | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """transformers' own attention, causal. among: (1, 1, T, T), added to the attention scores instead of a causal
    mask."""
    if among is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    # otherwise PyTorch uses cuDNN, which was the slowest except for flash attention (docs/scale.md)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return sdpa_attention_forward(module, query, key, value, among.to(query.dtype), **how)


def _attend_by_kernel(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """The same, by semg/window_attention.py in training, for windows that it supports."""
    groups = getattr(module, "num_key_value_groups", 1)
    each = query, repeat_kv(key, groups), repeat_kv(value, groups)
    if not (module.training and window_attention.takes(*each)):
        return _attend(module, query, key, value, attention_mask, **how)
    kind = query.dtype
    if torch.is_autocast_enabled(query.device.type):
        kind = torch.get_autocast_dtype(query.device.type)
    query, key, value = (one.to(kind) for one in each)
    scale = how.get("scaling") or query.shape[-1] ** -0.5
    return window_attention.attend(query, key, value, scale, how.get("dropout", 0.0)), None


AttentionInterface.register(CAUSAL, _attend)
AttentionInterface.register(BY_KERNEL, _attend_by_kernel)
