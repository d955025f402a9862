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
    """Lines that replace those drawn before. The cursor stays visible, below them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """stream: where to draw; standard error by default."""
        self._stream = stream or sys.stderr
        self._drawn: list[int] = []  # characters in each line on the screen

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, each cut to the terminal's width; if the terminal has too few rows, the first ones."""
        width, height = self._size()
        shown = [visible(line)[: width - 1] for line in lines[: height - 1]]
        self._stream.write(self._begin(width, height) + "".join(f"{_CLEAR_LINE}{line}\n" for line in shown))
        self._stream.flush()
        self._drawn = [len(line) for line in shown]

    def clear(self) -> None:
        """Remove the lines, so that something else can be printed."""
        self._stream.write(self._begin(*self._size()))
        self._stream.flush()
        self._drawn = []

    def _size(self) -> tuple[int, int]:
        """Columns and rows of the terminal that is drawn on, which may differ from that of standard output."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):  # not a terminal, or not a file at all
            size = shutil.get_terminal_size()
        columns, lines = size.columns or 80, size.lines or 24  # a terminal that does not know its size reports 0
        return max(2, columns), max(2, lines)

    def _begin(self, width: int, height: int) -> str:
        """The control sequence back to the first line; if the window has become narrower, the terminal has wrapped long
        lines."""
        rows = sum(max(1, -(-letters // width)) for letters in self._drawn)
        return (_UP.format(min(rows, height - 1)) + "\r" + _CLEAR_BELOW) if rows else ""


def bar(share: float, width: int, encoding: str | None = None) -> str:
    """A bar of `width` characters that is filled to the fraction `share`, 0 to 1."""
    full, empty = "█░" if (encoding or sys.stderr.encoding or "").lower().startswith("utf") else "#."
    filled = round(min(1.0, max(0.0, share)) * width)
    return full * filled + empty * (width - filled)
