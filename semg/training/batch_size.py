"""How many windows a step has where the settings leave it to the run, and the learning rates that go with it.

A GPU computes a step of 128 windows in little more time than one of 16: what it waits for is to be told the next
operation. Larger batches use it better, until it is full; but they also leave fewer steps. So a batch is the largest
power of two of windows

  - whose step fits into the GPU's memory, which is measured on two small ones,
  - that leaves LEAST_STEPS steps for the whole training,
  - that is at most MOST, the largest that was tried; docs/scale.md has the scores.

Learning rates are those of REFERENCE_BATCH windows times the square root of how many times as many there are. On a CPU
a batch has REFERENCE_BATCH windows.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from model import GPT2Classifier
from semg.training.optimization import REFERENCE_BATCH
from semg.training.subsets import Subset

MOST = 2048
LEAST_STEPS = 1000  # 304 were too few: batches of 512 scored lower than those of 128 (docs/scale.md)
FILL = 0.8  # of the memory that a step may take; tokens of validation and what is augmented need some too
_PROBES = (32, 64)  # windows
_ADAMW_BYTES, _AVERAGE_BYTES = 8, 4  # of a number that trains: two means of gradients; of any, under `ema`


def choose(
    model: GPT2Classifier,
    train: Subset,
    epochs: int,
    *,
    autocast: torch.autocast | None = None,
    ema: bool = False,
    processes: int = 1,
) -> int:
    """Windows of a step, over all processes, each of which has a device like this one."""
    if train.batches.device.type != "cuda":
        return shared_out(REFERENCE_BATCH, processes)
    wanted = min(MOST, max(REFERENCE_BATCH, epochs * len(train.windows) // LEAST_STEPS))
    return shared_out(min(wanted, processes * fitting(model, train, autocast, ema=ema)), processes)


def shared_out(most: int, processes: int) -> int:
    """The largest batch up to `most` of which each process has the same power of two; at least a window for each."""
    return processes * 2 ** max(0, (most // processes).bit_length() - 1)


def fitting(model: GPT2Classifier, train: Subset, autocast: torch.autocast | None, *, ema: bool = False) -> int:
    """How many windows' step fits into the GPU's memory. What a step takes grows evenly with its windows."""
    device = train.batches.device
    _peak(model, train, autocast, _PROBES[0])  # leaves gradients and the GPU's own workspaces, which do not grow
    small, large = (_peak(model, train, autocast, windows) for windows in _PROBES)
    model.zero_grad(set_to_none=True)
    a_window = (large - small) / (_PROBES[1] - _PROBES[0])
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    averaged = sum(one.numel() for one in model.parameters()) if ema else 0
    fixed = small - _PROBES[0] * a_window + _ADAMW_BYTES * trained + _AVERAGE_BYTES * averaged
    room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return max(1, math.floor((FILL * room - fixed) / a_window))


def _peak(model: GPT2Classifier, train: Subset, autocast: torch.autocast | None, windows: int) -> int:
    """Bytes held at most while gradients of so many windows are computed; gradients stay."""
    model.train()
    batch = train.batches.load(np.resize(np.arange(len(train.windows)), windows))
    torch.cuda.reset_peak_memory_stats(batch.label.device)
    with autocast or torch.autocast("cuda", enabled=False):
        logits = model(batch.x, train.statistics_of(batch), None, batch.cached)
    F.cross_entropy(logits.float(), batch.label).backward()
    return torch.cuda.max_memory_allocated(batch.label.device)
