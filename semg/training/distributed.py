"""Several processes that train one model, as torchrun starts them: who they are and what they tell each other."""

import os
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from semg.common.errors import DataError, SettingError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those that train together; `World()` is one that trains alone."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def check_shares(self, batch_size: int) -> None:
        """SettingError if the processes cannot share a batch of so many windows evenly."""
        if batch_size % self.size:
            raise SettingError("batch_size", "a multiple of the {} processes", batch_size, (self.size,))

    def share(self, index: np.ndarray) -> np.ndarray:
        """This process's share of a batch: every size-th of its places (B,)."""
        return index[self.rank :: self.size]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes of some numbers (n,)."""
        if self.size > 1:
            distributed.all_reduce(values)
            values = values / self.size
        return values

    def sum(self, counts: Tensor) -> Tensor:
        """The sum over processes of a tensor, which every process gets."""
        if self.size > 1:
            distributed.all_reduce(counts)
        return counts

    def least(self, value: int, device: torch.device) -> int:
        """The least of what the processes have in `value`. device: of this process."""
        if self.size == 1:
            return value
        held = torch.tensor(value, device=device)
        distributed.all_reduce(held, distributed.ReduceOp.MIN)
        return int(held)

    def from_main(self, value: T) -> T:
        """What the main process has in `value`."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def parallel(self, module: nn.Module, *, unused: bool = False) -> nn.Module:
        """`module`, whose gradients become the mean over processes; unused: some parameters may get no gradient."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return module
        # buffers are the front-end's constants; gradients as views of what is sent: no copy of them each step
        return nn.parallel.DistributedDataParallel(
            module, find_unused_parameters=unused, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def leave(self) -> None:
        """Say goodbye to the other processes."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def join_world(batch_size: int, device: str) -> World:
    """Join the processes that torchrun started, if it did. SettingError if they can't share a batch evenly.

    batch_size: windows of a step, over all processes; 0 where it is chosen later. device: `auto`, `cpu`, `cuda` or
    `mps`.
    """
    if "RANK" not in os.environ:
        return World()
    if os.environ.get("WORLD_SIZE") == "1" and "MASTER_ADDR" not in os.environ:
        return World()  # some containers say so of any process
    rank, size, local = (_from_launcher(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    _check_meeting_place(rank, size)
    world = World(rank, size)
    world.check_shares(batch_size)
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    return world


_BY_TORCHRUN = "start several processes by torchrun, or unset RANK"


def _from_launcher(name: str) -> int:
    """One of the numbers that torchrun gives each process. DataError where RANK stands alone."""
    value = os.environ.get(name, "")
    if not value.isdecimal():
        actual = value or "none"
        raise DataError(
            f"{name}: expected a number in the environment beside RANK, as torchrun sets it, found {actual}",
            _BY_TORCHRUN,
        )
    return int(value)


def _check_meeting_place(rank: int, size: int) -> None:
    """DataError for a rank that none of the processes has, or where it is not said how they find each other."""
    if rank >= size:
        raise DataError(f"RANK: expected less than WORLD_SIZE, {size}, found {rank}", _BY_TORCHRUN)
    if not os.environ.get("MASTER_ADDR"):
        expected = "expected a host in the environment beside RANK, as torchrun sets it"
        raise DataError(f"MASTER_ADDR: {expected}, found none", _BY_TORCHRUN)
    if not 0 < _from_launcher("MASTER_PORT") < 65536:
        raise DataError(f"MASTER_PORT: expected 1 to 65535, found {os.environ['MASTER_PORT']}", _BY_TORCHRUN)
