"""How many CPU threads PyTorch uses."""

import torch

from model import GPT2Classifier
from semg.common.process_pool import threads_in_environment, usable_cores

# Cost of a step, in multiplications and additions. Below it, more threads gain little even on an idle machine, and on a
# busy one they wait for each other after each of many short operations: two threads took 5 to 10 times as long as one.
SMALL_STEP = 1e10


def careful_threads(model: GPT2Classifier, batch_size: int) -> int:
    """One thread if a step is short, otherwise all cores that this process may use; OMP_NUM_THREADS overrides both.

    The number depends only on the settings and the machine, not on how busy it is: another number of threads sums in
    another order, which can change the last digits of a result.
    """
    if n_threads := threads_in_environment():
        return n_threads
    parameters = model.parameter_counts()["total"]
    forwards_and_backwards = 6  # multiplication and addition per parameter: once forwards, twice backwards
    work = forwards_and_backwards * parameters * model.config.tokens * batch_size
    return 1 if work < SMALL_STEP else usable_cores()


def use_threads(threads: int | None, model: GPT2Classifier | None = None, batch_size: int = 1) -> int:
    """Use this many threads from now on, or `careful_threads` if `threads` is None; returns the number.

    model: None for networks of other packages, which are small: one thread, unless OMP_NUM_THREADS says otherwise.
    """
    careful = careful_threads(model, batch_size) if model else threads_in_environment() or 1
    torch.set_num_threads(threads or careful)
    return torch.get_num_threads()
