"""How many threads PyTorch computes with on a CPU."""

import os

import torch

from model import GPT2Classifier
from semg.common.process_pool import usable_cores

# Of a step, in multiplications and additions. Below it, threads gain little even on a machine that is idle, and on a
# busy one they wait for each other after each of many short operations: two threads took 5 to 10 times as long as one.
SMALL_STEP = 1e10


def careful_threads(model: GPT2Classifier, batch_size: int) -> int:
    """One for a step that is soon done, else the cores that this process may use; OMP_NUM_THREADS overrules both.

    It follows from the settings and the machine alone, not from how busy that is: another number of threads sums in
    another order, and the last digits of a result can depend on it.
    """
    if n_threads := _in_environment():
        return n_threads
    parameters = model.parameter_counts()["total"]
    forwards_and_backwards = 6  # a parameter's multiplication and addition: once forwards, twice backwards
    work = forwards_and_backwards * parameters * model.config.tokens * batch_size
    return 1 if work < SMALL_STEP else usable_cores()


def use_threads(threads: int | None, model: GPT2Classifier | None = None, batch_size: int = 1) -> int:
    """Compute with so many threads from now on, or with `careful_threads` where they are None; returns how many.

    model: None for networks of others, which are small: one thread, unless OMP_NUM_THREADS says otherwise.
    """
    careful = careful_threads(model, batch_size) if model else _in_environment() or 1
    torch.set_num_threads(threads or careful)
    return torch.get_num_threads()


def _in_environment() -> int:
    """What OMP_NUM_THREADS says; 0 where it says nothing."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdecimal() else 0
