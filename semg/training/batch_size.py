"""Choosing the batch size, if the settings leave it open, and the learning rates that go with it.

A GPU computes a step of 128 windows in little more time than one of 16, because most of the time it waits for the next
operation to be launched. Larger batches use it better, until it is full, but they also leave fewer steps. Therefore a
batch is the largest power of two of windows

  - whose step fits into the GPU's memory, as estimated from two small steps,
  - that leaves LEAST_STEPS steps for the whole training, or has REFERENCE_BATCH windows,
  - that is at most MOST, the largest that was tried; docs/scale.md has the scores.

Learning rates are multiplied by the square root of the ratio to REFERENCE_BATCH windows. On a CPU, a batch has
REFERENCE_BATCH windows. If several processes train together, the power of two is each process's share.
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
FILL = 0.8  # of the memory may be taken by a step; validation tokens and augmentation need some, too
_PROBES = (32, 64)  # windows of the steps that are measured
_ADAMW_BYTES, _AVERAGE_BYTES = 8, 4  # per trained parameter: two means of gradients; per parameter, with `ema`


def choose(
    model: GPT2Classifier,
    train: Subset,
    epochs: int,
    *,
    autocast: torch.autocast | None = None,
    ema: bool = False,
    processes: int = 1,
) -> int:
    """Windows per step, over all processes, each of which has a device like this one."""
    if train.batches.device.type != "cuda":
        return shared_out(REFERENCE_BATCH, processes)
    wanted = min(MOST, max(REFERENCE_BATCH, epochs * len(train.windows) // LEAST_STEPS))
    return shared_out(min(wanted, processes * fitting(model, train, autocast, ema=ema)), processes)


def shared_out(most: int, processes: int) -> int:
    """The largest batch of at most `most` windows in which each process has the same power of two; at least one window
    each."""
    return processes * 2 ** max(0, (most // processes).bit_length() - 1)


def fitting(model: GPT2Classifier, train: Subset, autocast: torch.autocast | None, *, ema: bool = False) -> int:
    """How many windows per step fit into the GPU's memory. Memory is assumed to grow linearly with the number of
    windows."""
    device = train.batches.device
    _peak(model, train, autocast, _PROBES[0])  # allocates gradients and the GPU's workspaces, which do not grow
    small, large = (_peak(model, train, autocast, windows) for windows in _PROBES)
    model.zero_grad(set_to_none=True)
    a_window = (large - small) / (_PROBES[1] - _PROBES[0])
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    averaged = sum(one.numel() for one in model.parameters()) if ema else 0
    fixed = small - _PROBES[0] * a_window + _ADAMW_BYTES * trained + _AVERAGE_BYTES * averaged
    room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return max(1, math.floor((FILL * room - fixed) / a_window))


def _peak(model: GPT2Classifier, train: Subset, autocast: torch.autocast | None, windows: int) -> int:
    """Peak memory, bytes, while gradients of `windows` windows are computed; the gradients stay."""
    model.train()
    batch = train.batches.load(np.resize(np.arange(len(train.windows)), windows))
    torch.cuda.reset_peak_memory_stats(batch.label.device)
    with autocast or torch.autocast("cuda", enabled=False):
        logits = model(batch.x, train.statistics_of(batch), None, batch.cached)
    F.cross_entropy(logits.float(), batch.label).backward()
    return torch.cuda.max_memory_allocated(batch.label.device)
