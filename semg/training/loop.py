"""The loop that all training here shares: classification, next-patch prediction, calibration.

A `Task` says what is learnt: the batches of an epoch, and the loss of one batch. `fit` does the rest, one epoch at a
time, and the caller does what it likes between epochs:

    optimizer = Optimizer(task.module, OptimizerConfig(lr=1e-3), steps=epochs * task.steps_per_epoch)
    for epoch in fit(task, optimizer, epochs=epochs, seed=0):
        print(epoch.number, epoch.loss, validation_score(task.module))

All randomness in a step depends only on the seed and the step's number. A run that is stopped and resumed from its
`LoopState`, weights and optimiser is therefore identical, to the last bit, to one that was not stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from semg.common.console import Progress
from semg.common.errors import DataError
from semg.training.distributed import World
from semg.training.optimization import Optimizer, Stream, WeightAverage, reseed, seed_of

B = TypeVar("B")

# A healthy run stays far from these limits: gradients are of order 1, and the first loss is about log(classes).
EXPLODED_LOSS = 100.0  # times the first step's loss
EXPLODED_NORM = 1e6  # of the gradient, before clipping
DEAD_NORM, DEAD_LOSS, DEAD_STEPS = 1e-8, 0.01, 20  # no gradient in spite of a loss, for this many steps in a row


class DivergedError(DataError):
    """Training cannot recover. The message says at which step and what was found there, but not which flag to
    change."""


class Task(Protocol[B]):
    """What is to be learnt."""

    @property
    def module(self) -> nn.Module:
        """The module that is trained; it is put into training mode at the start of each epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch, at least one."""

    def batches(self, epoch: int, first: int) -> Iterable[B]:
        """The batches of an epoch (from 0) from its step `first` on; they depend only on the seed and `epoch`."""

    def loss(self, batch: B, generator: torch.Generator) -> Tensor:
        """() the loss of a batch. Draws random numbers only from `generator`, on the CPU, and from torch's own
        (dropout)."""


@dataclass
class LoopState:
    """How far training has come; together with the weights and the optimiser's state, everything needed to resume."""

    epoch: int = 0  # epochs done
    in_epoch: int = 0  # steps done in the current epoch
    loss_sum: float = 0.0  # over those steps
    norm_sum: float = 0.0  # over those steps
    first_loss: float = 0.0  # of the very first step
    dead_steps: int = 0  # consecutive steps without a gradient


@dataclass(frozen=True)
class Epoch:
    """A finished epoch: its number, from 1; means of loss and gradient norm over its steps; steps per second."""

    number: int
    loss: float
    norm: float
    steps_per_second: float


def fit(
    task: Task[B],
    optimizer: Optimizer,
    *,
    epochs: int,
    seed: int,
    state: LoopState | None = None,
    stream: Stream = Stream.TRAINING,
    autocast: torch.autocast | None = None,
    average: WeightAverage | None = None,
    world: World | None = None,
    progress: Progress = lambda items, **_: items,
    name: str = "epoch",
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Epoch]:
    """Train until `epochs` are done, and yield after each.

    state: where to begin; it is updated. autocast: the precision in which losses are computed. average: a moving
    average of the weights, updated in each step. world: the processes that train together. progress, name: show each
    epoch's steps, as `name 1/8`. stop: checked after each step; if it is true, training ends at once, and `state` says
    where.
    Raises DivergedError for an impossible loss or gradient, before any weight is changed by it; on a GPU up to one step
    later.
    """
    state, world = state or LoopState(), world or World()
    watch, device = _Watch(state, world), next(task.module.parameters()).device
    while state.epoch < epochs and not stop():
        first, began = state.in_epoch, time.perf_counter()
        task.module.train()
        bar = progress(
            task.batches(state.epoch, first),
            total=task.steps_per_epoch - first,
            unit="step",
            desc=f"{name} {state.epoch + 1}/{epochs}",
            leave=False,
        )
        for place, batch in enumerate(bar, first):
            step = state.epoch * task.steps_per_epoch + place
            reseed(device, seed_of(seed, stream, step, world.rank))
            # on the CPU, so that the draws are the same on every device
            generator = torch.Generator().manual_seed(seed_of(seed, stream + 1, step, world.rank))
            with autocast or nullcontext():
                loss = task.loss(batch, generator)
            norm = optimizer.backward(loss)
            watch.note(step, loss, norm)
            optimizer.step(step)
            if average is not None:
                average.follow(step)
            if stop():
                watch.finish()
                return
        watch.finish()
        yield _finished(state, task.steps_per_epoch, (state.in_epoch - first) / (time.perf_counter() - began))


class _Watch:
    """Checks the loss and gradient norm of each step, and adds them to the state.

    On a GPU the numbers are copied to the host asynchronously and checked one step later. Otherwise the GPU would wait
    until the host has read them and prepared the next batch.
    """

    def __init__(self, state: LoopState, world: World) -> None:
        self._state, self._world = state, world
        # step, both numbers, the event after which they can be read
        self._due: tuple[int, Tensor, torch.cuda.Event | None] | None = None

    def note(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Take the numbers of a step. DivergedError if the numbers that have arrived show a lost run."""
        numbers = self._world.mean(torch.stack([loss.detach(), norm.detach()]))
        on_the_way = None
        if numbers.device.type == "cuda":
            numbers, on_the_way = numbers.to("cpu", non_blocking=True), torch.cuda.Event()
            on_the_way.record()
            self.finish()
        self._due = step, numbers, on_the_way
        if on_the_way is None:
            self.finish()

    def finish(self) -> None:
        """Check the numbers that are still to be checked."""
        if self._due is None:
            return
        (step, numbers, on_the_way), self._due = self._due, None
        if on_the_way is not None:
            on_the_way.synchronize()
        _count(self._state, step, *numbers.tolist())


def _count(state: LoopState, step: int, loss: float, norm: float) -> None:
    """Add a step to the state. DivergedError if the run is lost: numbers that are not finite, an explosion, or no
    gradient at all."""
    state.first_loss = state.first_loss or loss
    most_loss = EXPLODED_LOSS * max(1.0, state.first_loss)
    state.dead_steps = state.dead_steps + 1 if norm < DEAD_NORM and loss > DEAD_LOSS else 0
    actual = f"found loss {loss:g} and gradient norm {norm:g}"
    if state.dead_steps >= DEAD_STEPS:
        raise DivergedError(f"step {step}: expected a loss that still moves, {actual} for {DEAD_STEPS} steps")
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise DivergedError(f"step {step}: expected a finite loss and gradient, {actual}")
    if loss > most_loss or norm > EXPLODED_NORM:
        limits = f"a loss of at most {most_loss:g} and a gradient norm of at most {EXPLODED_NORM:g}"
        raise DivergedError(f"step {step}: expected {limits}, {actual}")
    state.loss_sum += loss
    state.norm_sum += norm
    state.in_epoch += 1


def _finished(state: LoopState, steps: int, rate: float) -> Epoch:
    """The epoch that has just ended; `state` is moved to the beginning of the next."""
    state.epoch += 1
    epoch = Epoch(state.epoch, state.loss_sum / steps, state.norm_sum / steps, rate)
    state.in_epoch, state.loss_sum, state.norm_sum = 0, 0.0, 0.0
    return epoch
