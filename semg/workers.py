"""Processes that share a script's work, leave Ctrl-C to the script, and end with it whatever ends it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from typing import TypeVar

J = TypeVar("J")
R = TypeVar("R")


@contextmanager
def submitted(work: Callable[[J], R], jobs: list[J], workers: int) -> Iterator[dict[Future[R], J]]:
    """Futures of `work` on each job, done by at most `workers` processes; what has not begun at the end never does."""
    with (
        ProcessPoolExecutor(
            min(workers, len(jobs)), mp_context=get_context("spawn"), initializer=_end_with_parent
        ) as pool,
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
    """Hold Ctrl-C back; processes started meanwhile never get it.

    A terminal sends it to them too, and each would print a traceback over the script's one line.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else the first process would start it, and it lets signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """In a worker: end at once when the main process is killed, which drops the lock; a new run may follow."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
