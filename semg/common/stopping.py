"""Ctrl-C and SIGTERM as requests that long work honours between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; handled like Ctrl-C, but with its own exit code."""


@dataclass
class StopRequest:
    """Whether a stop was requested, and by which signal; 0 means no."""

    signal: int = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    @property
    def exit_code(self) -> int:
        """As a shell counts it: 128 plus the signal's number."""
        return 128 + self.signal

    def error(self, message: str) -> KeyboardInterrupt:
        """The exception to raise when the work has stopped; `run` prints `message`."""
        return Terminated(message) if self.signal == signal.SIGTERM else KeyboardInterrupt(message)


@contextmanager
def stop_at_a_safe_place(*, when: bool = True) -> Iterator[StopRequest]:
    """A context in which Ctrl-C and SIGTERM only request a stop: the work checks the request between two steps, so that
    no step is left half done. A second signal stops it immediately. when: False leaves the signals as they are."""
    request = StopRequest()

    def ask(number: int, _frame: FrameType | None) -> None:
        if request:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        request.signal = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM) if when}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
