"""Reporting failures of many inputs without a thousand lines for the same reason."""

import re
from collections import Counter
from pathlib import Path

from semg.common.console import Console, counted

SHOWN = 3  # messages of one kind


class Failures:
    """Reports which inputs failed and why; of many failures with the same reason, the first few and the number of
    others.

    console: where to report; count: number of all failures.
    """

    def __init__(self, console: Console, what: str) -> None:
        """what: the name for one input, such as `recording`."""
        self.console = console
        self.count = 0
        self._what = what
        self._kinds: Counter[str] = Counter()
        self._latest: dict[str, str] = {}  # for each kind, the latest message without the name

    def failed(self, path: Path, message: str) -> None:
        """Report an input that is left out; message: which one and why."""
        kind = re.sub(r"[\d.]+", "0", message.replace(str(path), ""))
        self.count += 1
        self._kinds[kind] += 1
        self._latest[kind] = message.partition(": ")[2] or message
        if self._kinds[kind] <= SHOWN:
            self.console.error(message)

    def close(self) -> None:
        """Report how many more there were of each kind."""
        for kind, count in self._kinds.items():
            if count > SHOWN:
                self.console.error(f"{counted(count - SHOWN, f'more {self._what}')}: {self._latest[kind]}"[:200])
