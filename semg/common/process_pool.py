"""Processes that share a script's work, leave Ctrl-C to the script, and end with it whatever ends it."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from pathlib import Path
from typing import TypeVar

CORES = "SEMG_CORES"  # environment: the cores that are this process's, from whoever runs others beside it
J = TypeVar("J")
R = TypeVar("R")
# A forked worker has the script's imports at once, a spawned one makes them anew: a second of processor time each.
# Elsewhere than on Linux, system libraries don't survive a fork.
START = "fork" if sys.platform == "linux" else "spawn"


def as_ready(
    work: Callable[[J], R], jobs: list[J], workers: int, killed: Callable[[J], R], warn: Callable[[str], None]
) -> Iterator[R]:
    """What `work` makes of each job, as it is ready: in this process, or in at most `workers` others.

    For scripts that have no threads of their own and no PyTorch in them: workers may be forks of them. What has not
    begun at the end never does. killed: what to give, or raise, for a job whose process was killed. warn: told where no
    process can begin; the jobs are then done here, one after another.
    """
    count = min(workers, len(jobs))
    started = _started(work, jobs, count, warn) if count > 1 else None
    if started is None:
        yield from map(work, jobs)
        return
    pool, futures = started
    try:
        for future in as_completed(futures):
            try:
                result = future.result()
            except BrokenProcessPool:
                result = killed(futures[future])
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _started(
    work: Callable[[J], R], jobs: list[J], count: int, warn: Callable[[str], None]
) -> tuple[ProcessPoolExecutor, dict[Future[R], J]] | None:
    """So many processes at work on the jobs; None, and none of them, where a limit of the system keeps one, or its
    thread, from starting."""
    others = set(active_children())
    pool = ProcessPoolExecutor(count, mp_context=get_context(START), initializer=_begin)
    try:
        with _held_back():
            return pool, {pool.submit(work, job): job for job in jobs}
    except (OSError, RuntimeError) as error:  # EAGAIN from fork; "can't start new thread"
        for child in set(active_children()) - others:  # they wait for work which will never come, and Python for them
            child.kill()
            child.join()
        reason = getattr(error, "strerror", None) or str(error)
        warn(f"expected to start {count} worker processes, found: {reason}; one recording after another instead")
    return None


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

    with suppress(RuntimeError):  # a limit on threads: the work goes on without the watch
        threading.Thread(target=watch, daemon=True).start()


# --- how many ------------------------------------------------------------------------------------------------------


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: those it is bound to, what its container or job gets of their time, its share.

    root: where /proc and /sys lie. On a share of a machine, more threads or processes than this wait for each other.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(CORES, "")
    return max(1, int(min(bound, _share_of_time(root), int(share) if share.isdecimal() else bound)))


def _share_of_time(root: Path) -> float:
    """Seconds of processor time a second that this process's control groups (Linux), and those above them, allow."""
    share = float("inf")
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return share
    for line in lines:  # "0::/a/b" of version 2, "3:cpu,cpuacct:/a/b" of version 1
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        below = Path(name.lstrip("/"))
        for group in (below, *below.parents):  # in a container, the names above its own are not there
            share = min(share, _quota(mount / group))
    return share


def _quota(group: Path) -> float:
    """What one control group allows."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text(encoding="utf-8") for name in files).split()
            if float(quota) > 0:  # -1 and, as a word, max: no limit
                return float(quota) / float(period)
        except (OSError, ValueError):
            continue
    return float("inf")
