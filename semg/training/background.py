"""A thread for work that training need not wait for, such as writing checkpoints; jobs are done one after another."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Background:
    """A thread that does the jobs it is given, in order. An error in a job is raised by the next call here.

    Used as a context manager, it ends when all jobs are done. After an error, the jobs that were already waiting are
    skipped.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._pending: deque[Future[Any]] = deque()

    def do(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Do this job after all earlier ones."""
        self.check()
        self._pending.append(self._pool.submit(self._unless_failed, work, *arguments))

    def _unless_failed(self, work: Callable[..., Any], *arguments: Any) -> None:
        if not any(one.done() and one.exception() for one in list(self._pending)):
            work(*arguments)

    def check(self) -> None:
        """Raise the error of an earlier job, if there was one."""
        while self._pending and self._pending[0].done():
            self._take()

    def finish(self) -> None:
        """Wait until all jobs are done."""
        while self._pending:
            self._take()

    def _take(self) -> None:
        """Wait for the oldest job. If it raises, no other job is left waiting."""
        one = self._pending[0]
        try:
            one.result()
        except Exception:
            for other in self._pending:
                other.cancel()
            self._pending.clear()
            raise
        self._pending.popleft()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait until all jobs are done; an error of a job does not hide one that is already being raised."""
        if error is None:
            self.finish()
            return
        while self._pending:
            self._pending.popleft().exception()
