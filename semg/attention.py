"""Attention of transformers' decoders where all that a token reads is what came before it in its window.

It has a name for which transformers makes no mask. Under `sdpa` it looks at positions for several texts in one row, for
which a GPU has to be waited for in each pass, and if compiled it always makes a mask, which rules flash attention out.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

CAUSAL = "semg_causal"
# A GPU's attention reads tiles of 64 tokens, and a window has about ten: in training on a GPU, windows lie side by side
# in rows of up to so many tokens.
ROW = 64


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


AttentionInterface.register(CAUSAL, _attend)
