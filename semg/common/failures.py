"""Failures of many inputs, and warnings about many, without a thousand lines for the same reason."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from semg.common.console import Console, counted

SHOWN = 3  # messages, or names, of one kind


class Repeated:
    """Reports messages about many inputs at once: of those with the same words the first few, and at the end how many
    others there were.

    count: number of all messages.
    """

    def __init__(self, report: Callable[[str], None], what: str) -> None:
        """report: reports a message. what: the name for one input, such as `recording`."""
        self.count = 0
        self._report, self._what = report, what
        self._kinds: Counter[str] = Counter()
        self._latest: dict[str, str] = {}  # for each kind, the latest message without the name

    def add(self, name: object, message: str) -> None:
        """Take a message about the input called `name`, with which it begins."""
        kind = _kind(message.replace(str(name), ""))
        self.count += 1
        self._kinds[kind] += 1
        self._latest[kind] = message.partition(": ")[2] or message
        if self._kinds[kind] <= SHOWN:
            self._report(message)

    def close(self) -> None:
        """Report how many more there were of each kind since the last call."""
        for kind, count in self._kinds.items():
            if count > SHOWN:
                self._report(f"{counted(count - SHOWN, f'more {self._what}')}: {self._latest[kind]}"[:200])
        self._kinds.clear()


class Failures(Repeated):
    """Reports which inputs failed and why, see `Repeated`.

    console: where to report.
    """

    def __init__(self, console: Console, what: str) -> None:
        """what: the name for one input, such as `recording`."""
        super().__init__(console.error, what)
        self.console = console
        self._failed: set[Path] = set()

    def failed(self, path: Path, message: str) -> None:
        """Report an input that is left out, unless it has been reported before; message: which one and why."""
        if path not in self._failed:
            self._failed.add(path)
            self.add(path, message)


class Warnings:
    """Reports warnings about many inputs, when it is known how many there are of each kind: one line for each kind.

    all: every warning so far, a line each.
    """

    def __init__(self, console: Console, what: str, where_all: str) -> None:
        """what: as for `Failures`. where_all: says where the names are that a line leaves out."""
        self.all: list[str] = []
        self._console, self._what, self._where_all = console, what, where_all
        self._untold: dict[str, list[tuple[str, str]]] = {}  # kind -> name and words of each

    def add(self, name: object, words: str) -> None:
        """Take a warning about the input called `name`."""
        self.all.append(f"{name}: {words}")
        self._untold.setdefault(_kind(words), []).append((str(name), words))

    def tell(self) -> None:
        """Report the warnings that were added since the last call: the first of each kind, and of which others."""
        for same in self._untold.values():
            (name, words), *others = same
            self._console.warn(f"{name}: {words}{self._beside(words, others)}")
        self._untold = {}

    def _beside(self, words: str, others: Sequence[tuple[str, str]]) -> str:
        """Which other inputs the warning is about; empty if there are none."""
        if not others:
            return ""
        how = "the same" if all(own == words for _, own in others) else "with other numbers"
        names = ", ".join(name for name, _ in others[:SHOWN])
        more = f", ...; {self._where_all}" if len(others) > SHOWN else ""
        return f" ({how} in {counted(len(others), f'more {self._what}')}: {names}{more})"


def _kind(words: str) -> str:
    """What messages have in common that differ in their numbers, or in how many numbers they list."""
    plain = re.sub(r"[\d.]+", "0", words)
    single = re.sub(r"(\S+)(?:, \1)+\b", r"\1", plain)
    return re.sub(r"\b0 (\w+)s\b", r"0 \1", single)  # 1 gap, 2 gaps
