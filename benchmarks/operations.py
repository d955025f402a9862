"""What PyTorch operations cost a GPU: kernels launched, bytes moved, multiplications and additions.

`Counter` counts the operations that run inside it, on any device. Views and memory allocation launch nothing; PyTorch's
own schemas say which operations make views. FLOPs are those that PyTorch's FlopCounterMode counts. The bytes of an
operation are the sizes in memory of its inputs and outputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
# They take memory, or ask the host for something. So do all that are not of `aten`: `prim::device`, a profiler's marks.
_FREE = frozenset(
    ["_unsafe_view", "empty", "empty_like", "empty_strided", "is_pinned", "new_empty", "new_empty_strided", "set_"]
)
# They read as much of their first tensor as they write, not all of it.
_PICKING = frozenset(["embedding", "gather", "index", "index_select"])
# Flash attention under the name that it has on a CPU.
_ON_CUDA = {
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: aten._scaled_dot_product_flash_attention_backward,
}
# Operations on lists of tensors, by one kernel as long as the list fits into its arguments: a chunk's numbers, chunks,
# and tensors by how many lists there are. Source: PyTorch's ATen/native/cuda/MultiTensorApply.cuh, for CUDA 13.
_CHUNK, _CHUNKS, _TENSORS = 65_536, 2240, (770, 448, 336, 252, 210)


@dataclass(frozen=True)
class Operation:
    """One operation. name: as PyTorch calls it. launches: how many kernels it takes."""

    name: str
    bytes: int
    flops: int
    launches: int = 1


def name_of(function: Any) -> str:
    """`aten::add.Tensor` -> `add`."""
    return function.name().split("::")[1].split(".")[0]


def operation(function: Any, args: Any, kwargs: dict[str, Any], result: Any) -> Operation | None:
    """What an operation cost; None for one that launches nothing. result: what it gave."""
    name = name_of(function)
    if function.namespace != "aten" or function.is_view or name in _FREE:
        return None
    read = _tensors((args, kwargs))
    written = sum(map(_bytes, _tensors(result) or _changed(function, args)))
    picked = min(written, _bytes(read[0])) - _bytes(read[0]) if name in _PICKING else 0
    moved = sum(map(_bytes, read)) + picked + written
    return Operation(name, moved, _flops(function, args, kwargs, result), _launches(name, args))


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _bytes(x: Tensor) -> int:
    """Of memory behind a tensor: what is expanded lies there once."""
    numbers = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        numbers *= size if stride else 1
    return numbers * x.element_size()


def _changed(function: Any, args: Any) -> list[Tensor]:
    """The tensors that an operation without a result writes into, by its schema, as fused optimisers do."""
    changed = [
        value
        for argument, value in zip(function._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return _tensors(changed)


def _flops(function: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    packet = function.overloadpacket
    formula = flop_registry.get(_ON_CUDA.get(packet, packet))
    return int(formula(*args, **kwargs, out_val=result)) if formula else 0


def _launches(name: str, args: Any) -> int:
    """One kernel, but of long lists of tensors as many as their arguments need."""
    if not name.startswith(("_foreach_", "_fused_")):
        return 1
    lists = [value for value in args if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor)]
    first = lists[0]
    chunks = sum(-(-x.numel() // _CHUNK) for x in first)
    return max(-(-chunks // _CHUNKS), -(-len(first) // _TENSORS[min(len(lists), len(_TENSORS)) - 1]))


class Counter(TorchDispatchMode):
    """Notes down each operation that runs inside it, under the component that is being counted.

    component: what that is; None: nothing is noted down.
    """

    def __init__(self, component: str | None = "other") -> None:
        super().__init__()
        self.operations: dict[str, list[Operation]] = {}
        self._component = component

    @contextmanager
    def component(self, name: str | None) -> Iterator[None]:
        """What runs meanwhile is this component's."""
        before, self._component = self._component, name
        try:
            yield
        finally:
            self._component = before

    def note(self, one: Operation | None) -> None:
        """Note an operation down."""
        if one is not None and self._component is not None:
            self.operations.setdefault(self._component, []).append(one)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and note it down."""
        result = func(*args, **(kwargs or {}))
        self.note(operation(func, args, kwargs or {}, result))
        return result
