"""A prediction of how long a training step takes on a GPU, from the operations it needs and the GPU's data sheet.

`count` runs two small steps of train.py on the CPU, in the requested precision, and counts the operations. A step has
the same operations for any batch size, and the bytes and FLOPs of each operation are linear in the batch size, so two
steps determine them. `predict` turns the counts into time:

  launch     the host launches one kernel after another, `Card.launch` seconds each; a CUDA graph is one launch
  memory     each kernel moves its inputs and outputs at the card's bandwidth
  compute    each matrix product runs at the card's rate

A kernel takes the longer of memory and compute, and at least `LEAST`. A step takes the longer of the sum of its kernels
and the sum of its launches. With --compile, everything between two matrix products becomes one kernel, which moves as
much as the largest of the merged ones. A real step takes longer, because no kernel reaches the rates of a data sheet.
benchmarks/gpu.py measures steps on a real GPU (docs/scale.md).
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, wraps
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from operations import Counter, Operation
from torch import Tensor
from torch.utils import _foreach_utils
from training_step import a_run, noise

from semg import attention
from semg.training import augmentation, classification
from semg.training.trainer import Trainer

COMPONENTS = ("data", "front-end", "forward", "backward", "optimiser")
COMPILED = ("forward", "backward")  # by --compile
COUNTED = (8, 16)  # windows of the steps that are counted; powers of two, as are the batches of `Work`
SECONDS = 30  # of each recording that they are read from
LEAST = 2e-6  # seconds of the smallest kernel, an estimate
GRAPH = 20e-6  # seconds to launch a CUDA graph, an estimate


@dataclass(frozen=True)
class Card:
    """bf16, fp32: dense matrix rates, FLOP/s; bandwidth: of its memory, bytes/s; launch: seconds of the host for a
    kernel that PyTorch launches, an estimate: no data sheet has it, and hosts differ by a factor of two."""

    name: str
    bf16: float
    fp32: float
    bandwidth: float
    launch: float = 6e-6

    def rate(self, amp: str) -> float:
        """FLOP/s in a precision of train.py's --amp."""
        return self.bf16 if amp == "bf16" else self.fp32


CARDS = {
    # NVIDIA H100 data sheet, SXM: 1,979 TFLOP/s bf16 with sparsity, half of it without; 67 TFLOP/s fp32; 3.35 TB/s
    "h100": Card("NVIDIA H100 SXM", 989e12, 67e12, 3.35e12),
    # NVIDIA A100 data sheet, 80 GB SXM: 312 TFLOP/s bf16; 19.5 TFLOP/s fp32; 2,039 GB/s
    "a100": Card("NVIDIA A100 SXM 80 GB", 312e12, 19.5e12, 2.039e12),
    # NVIDIA Ada architecture whitepaper, RTX 4090: 165.2 TFLOP/s bf16 with sums in fp32; 82.6 TFLOP/s fp32; 1,008 GB/s
    "rtx4090": Card("NVIDIA RTX 4090", 165.2e12, 82.6e12, 1.008e12),
}


@dataclass(frozen=True)
class Work:
    """A training step's. batch: windows; tune, amp, compile: as train.py's flags."""

    layers: int
    width: int
    heads: int
    tune: str = "full"
    batch: int = 128
    amp: str = "bf16"
    compile: str = ""

    @property
    def model(self) -> list[str]:
        """train.py's flags for it, without batch and --compile."""
        sizes = ["--layers", self.layers, "--width", self.width, "--heads", self.heads]
        return [*map(str, sizes), "--tune", self.tune, "--amp", self.amp]

    @property
    def words(self) -> list[str]:
        """train.py's flags for it."""
        compiled = ["--compile", self.compile] if self.compile else []
        return [*self.model, "--batch-size", str(self.batch), *compiled]

    def __str__(self) -> str:
        name = "GPT-2 small" if (self.layers, self.width) == (12, 768) else f"{self.layers} x {self.width}"
        compiled = f", --compile {self.compile.removeprefix('default')}".rstrip() if self.compile else ""
        return f"{name}, {self.tune}, {self.amp}, batch {self.batch:,}{compiled}"


@dataclass(frozen=True)
class Cost:
    """Of a component or of a step. launches: kernels; bytes that they move; FLOPs; seconds: to launch them
    (`launch`), and of those that the memory (`memory`) or the matrix rate (`compute`) limits."""

    launches: int = 0
    bytes: int = 0
    flops: int = 0
    launch: float = 0.0
    memory: float = 0.0
    compute: float = 0.0

    @property
    def seconds(self) -> float:
        """The host launches while the GPU computes."""
        return max(self.launch, self.memory + self.compute)

    @property
    def bound(self) -> str:
        """What most of the time is for: `launch`, `memory` or `compute`."""
        if self.launch > self.memory + self.compute:
            return "launch"
        return "memory" if self.memory > self.compute else "compute"

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


# --- counting -----------------------------------------------------------------------------------------------------

Counts = dict[str, list[Operation]]


def counts(work: Work) -> Counts:
    """The operations of a step, by component."""
    few, more = _counted(" ".join(work.model))
    return {
        name: [_at(work.batch, *pair) for pair in zip(few.get(name, []), more.get(name, []), strict=True)]
        for name in COMPONENTS
    }


def _at(batch: int, few: Operation, more: Operation) -> Operation:
    """An operation at a batch, from what it was at both of COUNTED."""
    if few.name != more.name or few.launches != more.launches:
        raise ValueError(f"{few.name}: expected in both steps that are counted, found {more.name} in the second")

    def line(small: int, large: int) -> int:
        slope, rest = divmod(large - small, COUNTED[1] - COUNTED[0])
        return small + slope * (batch - COUNTED[0]) + rest * (batch - COUNTED[0]) // (COUNTED[1] - COUNTED[0])

    return replace(few, bytes=line(few.bytes, more.bytes), flops=line(few.flops, more.flops))


@cache
def _counted(model: str) -> tuple[Counts, Counts]:
    """The operations of a step of each of COUNTED windows; the first step, which makes AdamW's means, is another."""
    with tempfile.TemporaryDirectory() as name:
        words = ["--batch-size", str(COUNTED[0]), *model.split()]
        run = a_run(noise(Path(name), SECONDS), Path(name) / "run", words)
        run.model.train()
        _, few, more = (_step(run, size) for size in (COUNTED[0], *COUNTED))
    return few, more


def _step(run: Trainer, size: int) -> Counts:
    """Count a step of `semg.training.loop.fit`."""
    index = np.arange(size)
    batches, hop = run.data.train.batches, run.data.train.batches.cached.hop  # type: ignore[union-attr]
    start = batches.windows.start[index] // hop * hop
    with Counter(None) as counter, _as_on_a_gpu(run, counter):
        with counter.component("data"):
            batch = batches.load(index, start)
        with run.autocast or nullcontext(), counter.component("forward"):
            loss = run.task.loss(batch, torch.Generator())
        with counter.component("backward"):
            norm = run.optimizer.backward(loss)
        with counter.component("optimiser"):
            torch.stack([loss.detach(), norm.detach()])
            counter.note(Operation("copy", 2 * 8, 0))  # of both to the host
            run.optimizer.step(0)
            if run.average is not None:
                run.average.follow(0)
    return counter.operations


@contextmanager
def _as_on_a_gpu(run: Trainer, counter: Counter) -> Iterator[None]:
    """Let a step on the CPU count as on a GPU: what the host draws is none of the GPU's operations, but its copy there
    is; and functions choose the kernels that they would choose there.
    """

    def within(component: str | None, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with counter.component(component):
                return function(*args, **kwargs)

        return inside

    def copied(values: Tensor, device: torch.device) -> Tensor:
        with counter.component("data"):
            counter.note(Operation("copy", 2 * values.numel() * values.element_size(), 0))
        return values.to(device)

    def one_hot(label: Tensor, classes: int) -> Tensor:  # F.one_hot looks at the labels, on a CPU alone
        return torch.zeros(len(label), classes, dtype=label.dtype).scatter_(1, label[:, None], 1).float()

    patches = [
        (classification, "draw", within(None, classification.draw)),
        (classification, "one_hot", one_hot),
        (augmentation, "to_device", copied),
        (augmentation.TokenChange, "__call__", within("front-end", augmentation.TokenChange.__call__)),
        (run.model, "tokens", within("front-end", run.model.tokens)),
        (torch.nn.utils, "clip_grad_norm_", within("optimiser", torch.nn.utils.clip_grad_norm_)),
        (_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: ["cpu", "cuda"]),
        (attention, "faster_side_by_side", lambda model, _: model.training),
        (attention, "sdpa_kernel", lambda _: nullcontext()),
        (F, "scaled_dot_product_attention", _without_dropout(F.scaled_dot_product_attention)),
        (F, "dropout", _dropout),
    ]
    with ExitStack() as stack:
        for owner, name, function in patches:
            stack.enter_context(mock.patch.object(owner, name, function))
        yield


def _without_dropout(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Attention as one kernel, which on a GPU drops out by itself, and on a CPU cannot."""
    return lambda *args, **how: attend(*args, **how | {"dropout_p": 0.0})


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: ARG001
    """As one kernel, which is what a GPU has for it."""
    return torch.native_dropout(x, p, training)[0] if training and p else x


# --- time ---------------------------------------------------------------------------------------------------------


def predict(work: Work, card: Card) -> dict[str, Cost]:
    """What each component costs on a card, and under `step` all of them."""
    costs = {}
    for name, operations in counts(work).items():
        own = fused(operations) if work.compile and name in COMPILED else operations
        costs[name] = cost(own, card, work.amp, graph=work.compile == "graphs" and name in COMPILED)
    return costs | {"step": sum(costs.values(), Cost())}


def fused(operations: Sequence[Operation]) -> list[Operation]:
    """Operations between matrix products as one kernel each."""
    result: list[Operation] = []
    for one in operations:
        if one.flops or not result or result[-1].flops:
            result.append(one if one.flops else replace(one, name="fused"))
        else:
            result[-1] = replace(result[-1], bytes=max(result[-1].bytes, one.bytes))
    return result


def cost(operations: Sequence[Operation], card: Card, amp: str, *, graph: bool = False) -> Cost:
    """Of operations on a card, in a precision of train.py's --amp. graph: launched as one CUDA graph."""
    launches = sum(one.launches for one in operations)
    launch = GRAPH if graph else card.launch * launches
    seconds = {"memory": 0.0, "compute": 0.0}
    for one in operations:
        moving, computing = one.bytes / card.bandwidth, one.flops / card.rate(amp)
        seconds["compute" if computing > moving else "memory"] += max(moving, computing, LEAST * one.launches)
    moved, flops = sum(one.bytes for one in operations), sum(one.flops for one in operations)
    return Cost(launches, moved, flops, launch, **seconds)
