"""A few lines on a terminal that are redrawn in place."""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from semg.common.console import visible

_UP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[{}A", "\x1b[2K", "\x1b[J"


def can_redraw(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal that moves its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


class TerminalView:
    """Lines that take the place of those drawn before."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """stream: where to draw; standard error unless told otherwise."""
        self._stream = stream or sys.stderr
        self._drawn = 0  # lines on the screen

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, each cut to the terminal's width."""
        width = shutil.get_terminal_size().columns
        text = "".join(f"{_CLEAR_LINE}{visible(line)[: width - 1]}\n" for line in lines)
        self._stream.write(self._begin() + text)
        self._stream.flush()
        self._drawn = len(lines)

    def clear(self) -> None:
        """Take the lines away, so that something else can be printed."""
        self._stream.write(self._begin())
        self._stream.flush()
        self._drawn = 0

    def _begin(self) -> str:
        return (_UP.format(self._drawn) + "\r" + _CLEAR_BELOW) if self._drawn else ""


def bar(share: float, width: int, encoding: str | None = None) -> str:
    """A bar of `width` characters that is filled by `share`, 0 to 1."""
    full, empty = "█░" if (encoding or sys.stderr.encoding or "").lower().startswith("utf") else "#."
    filled = round(min(1.0, max(0.0, share)) * width)
    return full * filled + empty * (width - filled)
