"""Work that training need not wait for, such as writing checkpoints: one piece after the other, in a thread."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Background:
    """A thread that does what it is given, in order. What goes wrong there is raised here, by the next call.

    As a context it ends when all is done. After an error nothing more is done of what was given before it was raised.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._pending: deque[Future[Any]] = deque()

    def do(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Do this after all that was given before."""
        self.check()
        self._pending.append(self._pool.submit(self._unless_failed, work, *arguments))

    def _unless_failed(self, work: Callable[..., Any], *arguments: Any) -> None:
        if not any(one.done() and one.exception() for one in list(self._pending)):
            work(*arguments)

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        while self._pending and self._pending[0].done():
            self._take()

    def finish(self) -> None:
        """Wait until all is done."""
        while self._pending:
            self._take()

    def _take(self) -> None:
        """Wait for the oldest piece. Whatever it raises, nothing is left behind it."""
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
        """Wait until all is done; another error on its way is not hidden by one of this work's."""
        if error is None:
            self.finish()
            return
        while self._pending:
            self._pending.popleft().exception()
