"""Causal attention for short windows on a GPU, with one kernel each for the forward and the backward pass (Triton).

Attention kernels are made for texts: they work on tiles of 64 tokens and more, and a window has about ten. Here a tile
is a window's tokens, padded to 16, so that queries, keys and values are read exactly once. The backward pass computes
the attention weights again, with the same random numbers for dropout.

Import this module only if Triton is available; PyTorch for CUDA includes it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_TOKENS = 64  # in a window; for more tokens, use other kernels
WIDTHS = (16, 32, 64, 128)  # supported widths of a head


@triton.jit
def _tile(pointer, window, head, per_window, per_head, per_token, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """(ROWS, WIDTH) addresses of the numbers of one window and head."""
    first = pointer + window * per_window + head * per_head
    return first + tl.arange(0, ROWS)[:, None] * per_token + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _shares(query, key, place, seed, scale, dropout, tokens, ROWS: tl.constexpr, DROPS: tl.constexpr):
    """(ROWS, ROWS) each: the attention weights, and the factors by which dropout multiplies them."""
    reader, other = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None, :]
    interest = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    interest = tl.where((other <= reader) & (other < tokens), interest, float("-inf"))
    share = tl.exp(interest - tl.max(interest, 1)[:, None])
    share = share / tl.sum(share, 1)[:, None]
    kept = tl.full((ROWS, ROWS), 1.0, tl.float32)
    if DROPS:
        chance = tl.rand(tl.load(seed), (place * ROWS + reader) * ROWS + other)
        kept = tl.where(chance >= dropout, 1 / (1 - dropout), 0.0)
    return share, kept


@triton.jit
def _forwards(
    q, k, v, out, seed, scale, dropout, tokens, heads,
    q0, q1, q2, k0, k1, k2, v0, v1, v2, o0, o1, o2,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    window, head = (place // heads).to(tl.int64), place % heads
    there = tl.arange(0, ROWS)[:, None] < tokens
    query = tl.load(_tile(q, window, head, q0, q1, q2, ROWS, WIDTH), there, 0.0)
    key = tl.load(_tile(k, window, head, k0, k1, k2, ROWS, WIDTH), there, 0.0)
    value = tl.load(_tile(v, window, head, v0, v1, v2, ROWS, WIDTH), there, 0.0)
    share, kept = _shares(query, key, place, seed, scale, dropout, tokens, ROWS, DROPS)
    mixed = tl.dot((share * kept).to(value.dtype), value, input_precision="ieee")
    tl.store(_tile(out, window, head, o0, o1, o2, ROWS, WIDTH), mixed.to(value.dtype), there)


@triton.jit
def _backwards(
    q, k, v, grad, of_q, of_k, of_v, seed, scale, dropout, tokens, heads,
    q0, q1, q2, k0, k1, k2, v0, v1, v2, g0, g1, g2, d0, d1, d2,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    window, head = (place // heads).to(tl.int64), place % heads
    there = tl.arange(0, ROWS)[:, None] < tokens
    query = tl.load(_tile(q, window, head, q0, q1, q2, ROWS, WIDTH), there, 0.0)
    key = tl.load(_tile(k, window, head, k0, k1, k2, ROWS, WIDTH), there, 0.0)
    value = tl.load(_tile(v, window, head, v0, v1, v2, ROWS, WIDTH), there, 0.0)
    given = tl.load(_tile(grad, window, head, g0, g1, g2, ROWS, WIDTH), there, 0.0)
    share, kept = _shares(query, key, place, seed, scale, dropout, tokens, ROWS, DROPS)
    of_value = tl.dot(tl.trans((share * kept).to(value.dtype)), given, input_precision="ieee")
    of_share = tl.dot(given, tl.trans(value), input_precision="ieee") * kept
    of_interest = share * (of_share - tl.sum(of_share * share, 1)[:, None]) * scale
    of_interest = of_interest.to(query.dtype)
    of_query = tl.dot(of_interest, key, input_precision="ieee")
    of_key = tl.dot(tl.trans(of_interest), query, input_precision="ieee")
    tl.store(_tile(of_q, window, head, d0, d1, d2, ROWS, WIDTH), of_query.to(query.dtype), there)
    tl.store(_tile(of_k, window, head, d0, d1, d2, ROWS, WIDTH), of_key.to(query.dtype), there)
    tl.store(_tile(of_v, window, head, d0, d1, d2, ROWS, WIDTH), of_value.to(query.dtype), there)


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `attend` supports these tensors, (B, h, T, d) each: self-attention of short windows with a supported head
    width."""
    same = query.shape == key.shape == value.shape
    return same and 1 < query.shape[2] <= MOST_TOKENS and query.shape[3] in WIDTHS


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """(B, h, T, d) each -> (B, T, h, d): for each token, the mean of the values up to its own, weighted by softmax(q k
    scale).

    dropout: probability with which an attention weight is set to 0.
    """
    seed = torch.randint(1 << 31, (1,), device=query.device) if dropout else query.new_empty(0, dtype=torch.int64)
    return _attention(query, key, value, seed, scale, dropout, _rows(query.shape[2]))


def _rows(tokens: int) -> int:
    """Rows of a tile: the next power of two. It is found by comparisons, not computed, so that compiled code is
    specialised for such lengths only."""
    if tokens <= 16:
        return 16
    return 32 if tokens <= 32 else MOST_TOKENS


def _flat(x: Tensor) -> Tensor:
    """`x` with the numbers of a head contiguous in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _launch(
    kernel: Any, tensors: Sequence[Tensor], others: tuple[Tensor, float, float], strided: Sequence[Tensor], rows: int
) -> None:
    """One program for each window and head. others: seed, scale, dropout. strided: the tensors whose strides the kernel
    takes."""
    windows, heads, tokens, width = tensors[0].shape
    strides = [step for one in strided for step in one.stride()[:3]]
    sizes = {"ROWS": rows, "WIDTH": width, "DROPS": others[2] > 0, "num_warps": 1 if rows == 16 else 4}
    program = torch.library.wrap_triton(kernel) if isinstance(kernel, triton.JITFunction) else kernel
    program[(windows * heads,)](*tensors, *others, tokens, heads, *strides, **sizes)


@torch.library.triton_op("semg::window_attention", mutates_args=())
def _attention(
    query: Tensor, key: Tensor, value: Tensor, seed: Tensor, scale: float, dropout: float, rows: int
) -> Tensor:
    query, key, value = _flat(query), _flat(key), _flat(value)
    windows, heads, tokens, width = query.shape
    out = query.new_empty(windows, tokens, heads, width)
    own = (query, key, value, out)
    _launch(_forwards, own, (seed, scale, dropout), (query, key, value, out.transpose(1, 2)), rows)
    return out


@torch.library.triton_op("semg::window_attention_backward", mutates_args=())
def _gradients(
    given: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seed: Tensor,
    scale: float,
    dropout: float,
    rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    given, query, key, value = _flat(given).transpose(1, 2), _flat(query), _flat(key), _flat(value)
    windows, heads, tokens, width = query.shape
    of_query, of_key, of_value = (query.new_empty(windows, tokens, heads, width) for _ in range(3))
    own = (query, key, value, given, of_query, of_key, of_value)
    _launch(_backwards, own, (seed, scale, dropout), (query, key, value, given, of_query.transpose(1, 2)), rows)
    return of_query, of_key, of_value


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.scale, ctx.dropout, ctx.rows = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _gradients(given, *ctx.saved_tensors, ctx.scale, ctx.dropout, ctx.rows)
    return (*(one.transpose(1, 2) for one in gradients), None, None, None, None)


_attention.register_autograd(_backward, setup_context=_keep)
