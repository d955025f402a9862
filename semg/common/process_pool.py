"""Processes that share a script's work, leave Ctrl-C to the script, and end with it whatever ends it."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from typing import TypeVar

J = TypeVar("J")
R = TypeVar("R")
# A forked worker has the script's imports at once, a spawned one makes them anew: a second of processor time each.
# Elsewhere than on Linux, system libraries don't survive a fork.
START = "fork" if sys.platform == "linux" else "spawn"


@contextmanager
def submitted(work: Callable[[J], R], jobs: list[J], workers: int) -> Iterator[dict[Future[R], J]]:
    """Futures of `work` on each job, done by at most `workers` processes; what has not begun at the end never does.

    For scripts that have no threads of their own and no PyTorch in them: workers may be forks of them.
    """
    with (
        ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context(START), initializer=_begin) as pool,
        _cancelled(pool),
    ):
        with _held_back():
            futures = {pool.submit(work, job): job for job in jobs}
        yield futures


@contextmanager
def _cancelled(pool: ProcessPoolExecutor) -> Iterator[None]:
    try:
        yield
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _held_back() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back; processes started meanwhile never get the first, and the second once they began.

    A terminal sends Ctrl-C to them too, and each would print a traceback over the script's one line; so would one that
    got SIGTERM while it still had the script's handler.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else the first process would start it, and it lets signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """In a worker: end at once on SIGTERM, and when the main process is killed, which drops the lock; a new run may
    follow."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
