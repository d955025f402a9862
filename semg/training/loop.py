"""The loop that all training here shares: classification, next-patch prediction, calibration.

What is learnt is a `Task`: the batches of an epoch, and the loss of one batch. `fit` does the rest, an epoch at a time,
and the caller does between epochs what it likes:

    optimizer = Optimizer(task.module, OptimizerConfig(lr=1e-3), steps=epochs * task.steps_per_epoch)
    for epoch in fit(task, optimizer, epochs=epochs, seed=0):
        print(epoch.number, epoch.loss, validation_score(task.module))

Everything random in a step follows from the seed and the step's number, so a run that is stopped and goes on from its
`LoopState`, weights and optimiser is the run that was not stopped, to the last bit.
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

# No healthy run comes near these: gradients are of order 1, and the first loss is about log(classes).
EXPLODED_LOSS = 100.0  # times the first step's loss
EXPLODED_NORM = 1e6  # of the gradient, before it is clipped
DEAD_NORM, DEAD_LOSS, DEAD_STEPS = 1e-8, 0.01, 20  # no gradient while there is a loss, so many steps in a row


class DivergedError(DataError):
    """Training can't recover; the message says at which step and what was found there, not which flag to change."""


class Task(Protocol[B]):
    """What is learnt."""

    @property
    def module(self) -> nn.Module:
        """What trains; put into training mode at each epoch's start."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, at least one."""

    def batches(self, epoch: int, first: int) -> Iterable[B]:
        """The batches of an epoch (from 0) from its step `first` on: a function of the seed and `epoch` alone."""

    def loss(self, batch: B, generator: torch.Generator) -> Tensor:
        """() the loss of a batch. Draws from `generator`, on the CPU, and from torch's own (dropout), nothing else."""


@dataclass
class LoopState:
    """How far training is; with the weights and the optimiser's state, all that going on needs."""

    epoch: int = 0  # epochs done
    in_epoch: int = 0  # steps done in the epoch that is under way
    loss_sum: float = 0.0  # over those steps
    norm_sum: float = 0.0  # likewise
    first_loss: float = 0.0  # of the first step of all
    dead_steps: int = 0  # in a row without a gradient


@dataclass(frozen=True)
class Epoch:
    """An epoch that is done: its number, from 1; means of loss and gradient norm over its steps; steps a second."""

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
    """Train until `epochs` are done, and give control back after each.

    state: where to begin, moved along. autocast: the precision to compute losses in. average: follows the weights.
    world: the processes that train together. progress, name: shows each epoch's steps, as `name 1/8`.
    stop: looked at after each step; training then ends at once, and `state` says where.
    Raises DivergedError for a loss or gradient that can't be, before it moves a weight; on a GPU up to a step later.
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
            # on the CPU: the same draws whatever the device
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
    """Looks at the loss and gradient norm of each step, and counts it in the state.

    A GPU's numbers come to the host while the GPU goes on, and are looked at in the step behind: else the GPU would
    wait until the host has seen them and prepared the next batch.
    """

    def __init__(self, state: LoopState, world: World) -> None:
        self._state, self._world = state, world
        self._due: tuple[int, Tensor, torch.cuda.Event | None] | None = None  # step, both numbers, when they are there

    def note(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Take a step's. DivergedError for what those that are there say."""
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
        """Look at what was not looked at yet."""
        if self._due is None:
            return
        (step, numbers, on_the_way), self._due = self._due, None
        if on_the_way is not None:
            on_the_way.synchronize()
        _count(self._state, step, *numbers.tolist())


def _count(state: LoopState, step: int, loss: float, norm: float) -> None:
    """Note a step down. DivergedError if the run is lost: no finite numbers, an explosion, or no gradient at all."""
    state.first_loss = state.first_loss or loss
    exploded = loss > EXPLODED_LOSS * max(1.0, state.first_loss) or norm > EXPLODED_NORM
    state.dead_steps = state.dead_steps + 1 if norm < DEAD_NORM and loss > DEAD_LOSS else 0
    actual = f"found loss {loss:g} and gradient norm {norm:g}"
    if state.dead_steps >= DEAD_STEPS:
        raise DivergedError(f"step {step}: expected a loss that still moves, {actual} for {DEAD_STEPS} steps")
    if exploded or not (math.isfinite(loss) and math.isfinite(norm)):
        raise DivergedError(f"step {step}: expected a finite loss and gradient, {actual}")
    state.loss_sum += loss
    state.norm_sum += norm
    state.in_epoch += 1


def _finished(state: LoopState, steps: int, rate: float) -> Epoch:
    """The epoch that `state` has come to the end of; `state` then stands at the next one's beginning."""
    state.epoch += 1
    epoch = Epoch(state.epoch, state.loss_sum / steps, state.norm_sum / steps, rate)
    state.in_epoch, state.loss_sum, state.norm_sum = 0, 0.0, 0.0
    return epoch
