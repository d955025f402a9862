"""What the operations of PyTorch cost a GPU: kernels launched, bytes moved, multiplications and additions.

`Counter` counts what runs inside it, on any device: also on `meta`, where nothing is computed and no memory is taken,
so that any batch of any model can be counted on any machine.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that launch nothing: they look at memory in another way, or take some.
FREE = frozenset(
    [
        "_reshape_alias",
        "_unsafe_view",
        "alias",
        "as_strided",
        "chunk",
        "detach",
        "diagonal",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "lift_fresh",
        "is_pinned",
        "new_empty",
        "new_empty_strided",
        "permute",
        "prim_device",
        "select",
        "set_",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "sym_size",
        "t",
        "transpose",
        "unbind",
        "unfold",
        "unsqueeze",
        "view",
    ]
)
# Operations that read as much of their first tensor as they write, not all of it.
_PICKING = frozenset(["embedding", "gather", "index", "index_select"])
_ATTENTION = "_scaled_dot_product_flash_attention"
ATTENTION_FLOPS = {_ATTENTION: 4, f"{_ATTENTION}_backward": 10}  # a pair of tokens and number of a head


@dataclass(frozen=True)
class Operation:
    """One kernel. name: of the operation, as PyTorch calls it."""

    name: str
    bytes: int
    flops: int


def name_of(function: Any) -> str:
    """`aten::add.Tensor` -> `add`."""
    return function.name().split("::")[1].split(".")[0]


def operation(name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Operation | None:
    """What an operation costs; None for one that launches nothing. inputs, outputs: its tensors and other arguments."""
    if name in FREE:
        return None
    read = [x for x in inputs if isinstance(x, Tensor)]
    written = [x for x in outputs if isinstance(x, Tensor)]
    moved = sum(map(_bytes, written))
    moved += moved if name in _PICKING else sum(map(_bytes, read))
    return Operation(name, moved, _flops(name, read))


def _bytes(x: Tensor) -> int:
    """Of memory behind a tensor: what is expanded lies there once."""
    numbers = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        numbers *= size if stride else 1
    return numbers * x.element_size()


def _flops(name: str, read: Sequence[Tensor]) -> int:
    if name in ATTENTION_FLOPS:
        q = next(x for x in read if x.dim() == 4)
        return ATTENTION_FLOPS[name] * q.shape[0] * q.shape[1] * q.shape[2] ** 2 * q.shape[3]
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        left, right = read[-2:]
        return 2 * left.numel() * right.shape[-1]
    return 0


class Counter(TorchDispatchMode):
    """Notes down each operation that runs inside it, under the component that is being counted."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: dict[str, list[Operation]] = {}
        self._component = "other"

    @contextmanager
    def component(self, name: str) -> Iterator[None]:
        """What runs meanwhile is this component's."""
        before, self._component = self._component, name
        try:
            yield
        finally:
            self._component = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and note it down."""
        result = func(*args, **(kwargs or {}))
        one = operation(name_of(func), tree_leaves((args, kwargs)), tree_leaves(result))
        if one is not None:
            self.operations.setdefault(self._component, []).append(one)
        return result


def totals(operations: Sequence[Operation]) -> tuple[int, int, int]:
    """Kernels, bytes and FLOPs of them all."""
    return len(operations), sum(one.bytes for one in operations), sum(one.flops for one in operations)
