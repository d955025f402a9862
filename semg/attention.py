"""Attention of transformers' decoders where all that a token reads is what came before it in its window.

It has a name for which transformers makes no mask. Under `sdpa` it looks at positions for several texts in one row, for
which a GPU has to be waited for in each pass, and if compiled it always makes a mask, which rules flash attention out.
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
# A GPU's attention reads tiles of 64 tokens, and a window has about ten: in training on a GPU, windows lie side by side
# in rows of up to so many tokens.
ROW = 64
# Triton comes with PyTorch for GPUs, but not on every system.
if _TRITON := bool(torch.version.cuda or torch.version.hip) and importlib.util.find_spec("triton") is not None:
    from semg import window_attention


def use_kernel(model: PreTrainedModel) -> None:
    """Let the decoder train by a kernel for short windows, where Triton is there for it.

    It costs more to launch than PyTorch's: it pays where CUDA graphs launch it.
    """
    if _TRITON and model.config._attn_implementation == CAUSAL:
        model.config._attn_implementation = BY_KERNEL


def faster_side_by_side(model: PreTrainedModel, embedded: Tensor) -> bool:
    """Whether `side_by_side` computes what the model would in less time; else it is to be called as it is."""
    return model.training and embedded.device.type == "cuda" and model.config._attn_implementation == CAUSAL


def side_by_side(model: PreTrainedModel, embedded: Tensor, row: int = ROW) -> Tensor:
    """(B, T, d) embeddings -> (B, T, d), what the last norm gives, computed with several windows in a row of tokens.

    Each window reads itself alone, whatever lies beside it. row: tokens.
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
    """As many as there is room for, the same in each row."""
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
    """transformers' own, causal. among: (1, 1, T, T), what is added to a token's interest in another, instead."""
    if among is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    # else PyTorch takes cuDNN's, which was the slowest but for flash attention (docs/scale.md)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        return sdpa_attention_forward(module, query, key, value, among.to(query.dtype), **how)


def _attend_by_kernel(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """The same by semg/window_attention.py in training, for windows that it takes."""
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
