"""Messages to a user at a terminal, or one JSON object to a program; progress on terminals and in logs."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Generic, Protocol, TextIO, TypeVar, overload

from tqdm import tqdm

T = TypeVar("T")
# Iterates over items and shows progress; callers may add tqdm's settings, such as total and unit.
Progress = Callable[..., Iterable[Any]]

LONGEST_LINE = 2000  # most characters of an error message
SHOWN = 8  # names of a list in a message
MINUTE = 60.0  # seconds between lines of progress without a terminal
_COLOURS = {"error": 31, "warning": 33}  # red and yellow, as terminals number them


class Bar(Protocol[T]):
    """The result of `Console.progress`: a loop over items, or a counter that the caller advances."""

    def __iter__(self) -> Iterator[T]: ...

    def __enter__(self) -> "Bar[T]": ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, n: float = 1) -> Any:
        """Advance by `n`."""

    def close(self) -> Any:
        """End the progress display."""


class Console:
    """Messages to a user, or with `as_json` one object for a program. Progress goes to standard error.

    A stage of work announces itself in one line; long work uses `progress`: a bar on a terminal, otherwise a line per
    minute with the time left. quiet: only warnings, errors and the last line. clock: seconds.
    """

    def __init__(
        self, *, quiet: bool = False, as_json: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.quiet = quiet or as_json
        self._json = as_json
        self._clock = clock
        self._spoke = clock()  # when it last wrote something

    def say(self, text: str = "") -> None:
        """Print a line for the user."""
        if not self.quiet:
            self._spoke = self._clock()
            _write(text, sys.stdout)

    def warn(self, text: str) -> None:
        """Print a warning, also when quiet; the script continues."""
        _write(one_line(text), sys.stderr, f"{marked('warning')} ")

    def error(self, text: str) -> None:
        """Report an error in one input; the run continues with the others."""
        _write(one_line(text), sys.stderr, f"{marked('error')} ")

    @overload
    def progress(self, items: None = None, **settings: Any) -> Bar[None]: ...

    @overload
    def progress(self, items: Iterable[T], **settings: Any) -> Bar[T]: ...

    def progress(self, items: Any = None, **settings: Any) -> Bar[Any]:
        """Show progress through `items`, or progress that the caller advances with `update`; nothing when quiet.

        settings: tqdm's total, unit, desc, initial, leave, unit_scale and unit_divisor.
        """
        if watched():
            return tqdm(items, disable=self.quiet, file=sys.stderr, **settings)
        return _Lines(items, self._now_and_then, self._clock, **settings)

    def _now_and_then(self, line: Callable[[], str]) -> None:
        """Write a line if nothing has been written for a minute."""
        now = self._clock()
        if now - self._spoke >= MINUTE and not self.quiet:
            self._spoke = now
            _write(line(), sys.stderr)

    def finish(self, text: str, **facts: Any) -> None:
        """Print the last line: what was written and what to run next; with `as_json`, the same as an object."""
        line = json.dumps({"message": text, **facts}, allow_nan=False) if self._json else visible(text)
        print(line, flush=True)


class _Lines(Generic[T]):
    """Progress for a log: on every update a line is offered, and one per minute is written."""

    def __init__(
        self,
        items: Iterable[T] | None,
        offer: Callable[[Callable[[], str]], None],
        clock: Callable[[], float],
        *,
        total: float | None = None,
        unit: str = "it",
        desc: str = "",
        initial: float = 0,
        unit_scale: bool = False,
        **_: Any,
    ) -> None:
        self._items, self._offer, self._clock = items, offer, clock
        self._total = len(items) if total is None and isinstance(items, Sized) else total
        self._unit, self._desc, self._scaled = unit, desc, unit_scale
        self._first = self._done = initial
        self._begun = clock()

    def __iter__(self) -> Iterator[T]:
        for item in self._items or ():
            yield item
            self.update()

    def __enter__(self) -> "_Lines[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, n: float = 1) -> None:
        """Advance by `n`."""
        self._done += n
        self._offer(self._line)

    def close(self) -> None:
        """End the progress display."""

    def _line(self) -> str:
        passed, moved = self._clock() - self._begun, self._done - self._first
        say = tqdm.format_sizeof if self._scaled else "{:,}".format
        text = f"{self._desc}: " if self._desc else ""
        text += f"{say(self._done)} of {say(self._total)}" if self._total else say(self._done)
        text += self._unit if self._scaled else f" {self._unit}s"
        text += f" in {tqdm.format_interval(passed)}"
        if self._total and moved > 0:
            text += f", {tqdm.format_interval((self._total - self._done) * passed / moved)} left"
        return text


def watched() -> bool:
    """Whether standard error is a terminal, where a user may be watching."""
    return sys.stderr is not None and sys.stderr.isatty()


def _write(text: str, stream: TextIO | None, mark: str = "") -> None:
    if stream is not None:
        tqdm.write(mark + visible(text), file=stream)
        stream.flush()


def marked(kind: str) -> str:
    """The word that a message begins with; in colour on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    if not watched() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return f"{kind}:"
    return f"\x1b[{_COLOURS[kind]}m{kind}:\x1b[0m"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 recording`, `1,200 recordings`; many: the plural, if it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def next_command(script: str, *words: object) -> str:
    """What to run next: a script with its `words`, quoted for this system's shell, because file names may contain
    blanks."""
    join = subprocess.list2cmdline if sys.platform == "win32" else shlex.join
    return "next: " + join(["python", script, *map(str, words)])


def listed(names: Iterable[object], most: int = SHOWN) -> str:
    """`a, b, c and 5 more`."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def in_runs(names: Iterable[str], most: int = 16) -> str:
    """`a, b, c`. Of more than `most` names, those that only count on are put together: `EMG_1 to EMG_32, ref`."""
    texts = list(names)
    runs: list[list[str]] = []
    for text in texts:
        if len(texts) > most and runs and text == _counted_on(runs[-1][-1]):
            runs[-1].append(text)
        else:
            runs.append([text])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _counted_on(name: str) -> str:
    """The name with the next number at its end; empty if it ends in no number."""
    match = re.fullmatch(r"(.*?)([0-9]{1,9})", name)
    return f"{match[1]}{int(match[2]) + 1:0{len(match[2])}}" if match else ""


def one_line(text: str) -> str:
    """`text` without line breaks or control characters, and shortened, so that an error stays one readable line even if
    it quotes a damaged file."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 400]} [...] {line[-393:]}"


def visible(text: str) -> str:
    """`text` with control characters, except line breaks and tabs, written out: names of files and texts from files
    could otherwise move the cursor, change colours or send commands to the terminal."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def printable(text: str) -> str:
    """`text` with all control characters written out, for a name that must stay on its line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", text)
