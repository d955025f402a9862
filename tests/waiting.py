"""Tests wait for a state, never for a time: until it holds, or with an error that says what did not come."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

LONGEST = 200  # seconds: no test takes so long where nothing is wrong, beside other programs too
T = TypeVar("T")


def wait_for(state: Callable[[], T], what: str, seconds: float = LONGEST) -> T:
    """The first true value that `state` gives; AssertionError where none comes."""
    end = time.monotonic() + seconds
    while not (value := state()):
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)
    return value


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """`work` in a thread beside the block, which has to end by itself; what went wrong there is raised here."""
    wrong: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(LONGEST)
        if wrong:
            raise wrong[0]
    assert not thread.is_alive()
