"""Processes that share a script's work, leave Ctrl-C to the script, and end with it, however it ends."""

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

CORES = "SEMG_CORES"  # environment variable: the cores that a launcher assigns to this process
J = TypeVar("J")
R = TypeVar("R")
# A forked worker has the script's imports at once; a spawned one repeats them, which takes a second of processor time.
# On systems other than Linux, system libraries do not survive a fork.
START = "fork" if sys.platform == "linux" else "spawn"


def as_ready(
    work: Callable[[J], R], jobs: list[J], workers: int, killed: Callable[[J], R], warn: Callable[[str], None]
) -> Iterator[R]:
    """The results of `work` for all jobs, each as soon as it is ready: from this process, or from at most `workers`
    others.

    For scripts without threads of their own and without PyTorch, because workers may be forks of them. Jobs that have
    not begun when the caller stops are cancelled. killed: gives the result, or raises, for a job whose process was
    killed. warn: called if no process can be started; the jobs are then done here, one after another.
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
    """`count` processes at work on the jobs; None, with no process left, if a system limit prevents one of them, or its
    thread, from starting."""
    others = set(active_children())
    pool = ProcessPoolExecutor(count, mp_context=get_context(START), initializer=_begin)
    try:
        with _held_back():
            return pool, {pool.submit(work, job): job for job in jobs}
    except (OSError, RuntimeError) as error:  # EAGAIN from fork; "can't start new thread"
        for child in set(active_children()) - others:  # they wait for work that never comes, and Python waits for them
            child.kill()
            child.join()
        reason = getattr(error, "strerror", None) or str(error)
        warn(f"expected to start {count} worker processes, found: {reason}; one recording after another instead")
    return None


@contextmanager
def _held_back() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM. Processes started here never receive the first, and the second only once they have
    begun.

    A terminal sends Ctrl-C to them, too, and each would print a traceback in addition to the script's one line; so
    would one that received SIGTERM while it still had the script's handler.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # otherwise the first process would start it, which unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """In a worker: end immediately on SIGTERM, and when the main process is killed, because a new run may then
    follow."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    with suppress(RuntimeError):  # with a limit on threads, work continues without this watch
        threading.Thread(target=watch, daemon=True).start()


# --- number of cores ----------------------------------------------------------------------------------------------


def usable_cores(root: Path = Path("/")) -> int:
    """The number of cores that this process may use: by its CPU affinity, the time limit of its container or job, and
    its assigned share.

    root: where /proc and /sys are. On a shared machine, more threads or processes than this would wait for each other.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(CORES, "")
    return max(1, int(min(bound, _share_of_time(root), int(share) if share.isdecimal() else bound)))


def threads_in_environment() -> int:
    """The number of threads in OMP_NUM_THREADS; 0 if it is not set."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdecimal() else 0


def _share_of_time(root: Path) -> float:
    """Seconds of processor time per second that this process's control groups (Linux), and those above them, allow."""
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
        for group in (below, *below.parents):  # inside a container, the groups above its own are not visible
            share = min(share, _quota(mount / group))
    return share


def _quota(group: Path) -> float:
    """What a single control group allows."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text(encoding="utf-8") for name in files).split()
            if float(quota) > 0:  # -1 or the word max: no limit
                return float(quota) / float(period)
        except (OSError, ValueError):
            continue
    return float("inf")
