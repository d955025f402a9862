"""What went wrong with some of many inputs, said without a thousand lines of one reason."""

import re
from collections import Counter
from pathlib import Path

from semg.common.console import Console, counted

SHOWN = 3  # of one kind


class Failures:
    """Says which inputs failed and why; of many with one reason the first few, and how many more there are.

    console: says it; count: of all that failed.
    """

    def __init__(self, console: Console, what: str) -> None:
        """what: one input is called, such as `recording`."""
        self.console = console
        self.count = 0
        self._what = what
        self._kinds: Counter[str] = Counter()
        self._latest: dict[str, str] = {}  # of each kind, what the last message said after the name

    def failed(self, path: Path, message: str) -> None:
        """Name an input that is left out; message: which and why."""
        kind = re.sub(r"[\d.]+", "0", message.replace(str(path), ""))
        self.count += 1
        self._kinds[kind] += 1
        self._latest[kind] = message.partition(": ")[2] or message
        if self._kinds[kind] <= SHOWN:
            self.console.error(message)

    def close(self) -> None:
        """Say how many more there were of each kind."""
        for kind, count in self._kinds.items():
            if count > SHOWN:
                self.console.error(f"{counted(count - SHOWN, f'more {self._what}')}: {self._latest[kind]}"[:200])
