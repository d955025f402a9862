"""Several processes that train one model together, as torchrun starts them: their identities and their
communication."""

import os
from dataclasses import dataclass
from importlib import import_module
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from semg.common.console import counted
from semg.common.errors import DataError, SettingError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those that train together; `World()` is a process that trains alone."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def check_shares(self, batch_size: int) -> None:
        """SettingError if the processes cannot share a batch of `batch_size` windows evenly."""
        if batch_size % self.size:
            raise SettingError("batch_size", "a multiple of the {} processes", batch_size, (self.size,))

    def share(self, index: np.ndarray) -> np.ndarray:
        """This process's share of a batch: every size-th element of `index` (B,)."""
        return index[self.rank :: self.size]

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` (n,) over processes."""
        if self.size > 1:
            distributed.all_reduce(values)
            values = values / self.size
        return values

    def sum(self, counts: Tensor) -> Tensor:
        """The sum of a tensor over processes; every process gets it."""
        if self.size > 1:
            distributed.all_reduce(counts)
        return counts

    def least(self, value: int, device: torch.device) -> int:
        """The smallest `value` among the processes. device: of this process."""
        if self.size == 1:
            return value
        held = torch.tensor(value, device=device)
        distributed.all_reduce(held, distributed.ReduceOp.MIN)
        return int(held)

    def from_main(self, value: T) -> T:
        """The `value` of the main process."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def parallel(self, module: nn.Module, *, unused: bool = False) -> nn.Module:
        """`module`, with gradients averaged over processes. unused: some parameters may get no gradient."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return module
        # buffers are constants of the front-end; gradients are views of the communication buffers, which saves a copy
        return nn.parallel.DistributedDataParallel(
            module, find_unused_parameters=unused, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def leave(self) -> None:
        """Leave the group of processes."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def join_world(batch_size: int, device: str) -> World:
    """Join the processes that torchrun started, if any. SettingError if they cannot share a batch evenly, DataError if
    a process has no GPU of its own.

    batch_size: windows per step, over all processes; 0 if it is chosen later. device: `auto`, `cpu`, `cuda` or `mps`.
    """
    if "RANK" not in os.environ:
        return World()
    if os.environ.get("WORLD_SIZE") == "1" and "MASTER_ADDR" not in os.environ:
        return World()  # some containers set these variables for every process
    rank, size, local = (_from_launcher(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    _check_meeting_place(rank, size)
    world = World(rank, size)
    world.check_shares(batch_size)
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _check_gpu(local, torch.cuda.device_count())
        torch.cuda.set_device(local)
    # DistributedDataParallel imports this module, whose default arguments keep the group that they find for good; so
    # Gloo's threads outlived `leave`, and one that still held a tensor could abort the process at its end
    import_module("torch.distributed.nn.functional")
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    return world


_BY_TORCHRUN = "start several processes by torchrun, or unset RANK"


def _from_launcher(name: str) -> int:
    """One of the numbers that torchrun sets for each process. DataError if only RANK is set."""
    value = os.environ.get(name, "")
    if not value.isdecimal():
        actual = value or "none"
        raise DataError(
            f"{name}: expected a number in the environment beside RANK, as torchrun sets it, found {actual}",
            _BY_TORCHRUN,
        )
    return int(value)


def _check_gpu(local: int, gpus: int) -> None:
    """DataError unless one of the machine's GPUs is left for the process with this local rank."""
    if local >= gpus:
        raise DataError(
            f"LOCAL_RANK: expected less than {gpus}, the number of GPUs here, found {local}",
            f"start at most {counted(gpus, 'process', 'processes')} per machine, or all of them with {{device}} cpu",
        )


def _check_meeting_place(rank: int, size: int) -> None:
    """DataError for a rank out of range, or if the address at which the processes meet is not set."""
    if rank >= size:
        raise DataError(f"RANK: expected less than WORLD_SIZE, {size}, found {rank}", _BY_TORCHRUN)
    if not os.environ.get("MASTER_ADDR"):
        expected = "expected a host in the environment beside RANK, as torchrun sets it"
        raise DataError(f"MASTER_ADDR: {expected}, found none", _BY_TORCHRUN)
    if not 0 < _from_launcher("MASTER_PORT") < 65536:
        raise DataError(f"MASTER_PORT: expected 1 to 65535, found {os.environ['MASTER_PORT']}", _BY_TORCHRUN)
