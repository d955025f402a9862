"""What live.py redraws in place, on a pseudo-terminal that a small screen here stands for, and where there is none."""

import os
import re
import select
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from waiting import LONGEST

from semg.common.terminal_view import TerminalView, can_redraw

pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")  # Windows has neither

DRAW = """
import signal, sys
from semg.common.terminal_view import TerminalView
view = TerminalView()
print("before", file=sys.stderr)
for number, order in enumerate(sys.stdin):
    if order.strip() == "clear":
        view.clear()
        print("a warning", file=sys.stderr)
    else:
        view.draw([f"{number} " + "x" * 30, "second", f"third {number}"])
    print("drawn", flush=True)
"""


class Screen:
    """A terminal of some columns and rows: letters and the few orders that are used here; long lines break."""

    def __init__(self, columns, rows=24):
        self.columns, self.rows = columns, rows
        self.lines, self.row, self.column = [""], 0, 0
        self.cursor_visible = True

    def resize(self, columns):
        """As terminals do today: a line that no longer fits goes on in the next row, and the cursor goes with it."""
        below = len(self.lines) - self.row
        broken = []
        for line in self.lines:
            broken += [line[k : k + columns] for k in range(0, len(line), columns)] or [""]
        self.lines, self.columns, self.row = broken, columns, len(broken) - below

    def feed(self, text):
        for part in re.findall(r"\x1b\[\??\d*[A-Za-z]|[\r\n]|[^\x1b\r\n]", text):
            self._take(part)

    def _take(self, part):
        if part == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif part == "\r":
            self.column = 0
        elif part in ("\x1b[?25l", "\x1b[?25h"):
            self.cursor_visible = part.endswith("h")
        elif part == "\x1b[2K":
            self.lines[self.row] = ""
        elif part == "\x1b[J":
            self.lines[self.row :] = [self.lines[self.row][: self.column]]
        elif part.endswith("A"):
            top = max(0, len(self.lines) - self.rows)  # what has left the screen is out of reach
            self.row = max(top, self.row - int(part[2:-1]))
        else:
            if self.column == self.columns:
                self._take("\n")
                self.column = 0
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + part + line[self.column + 1 :]
            self.column += 1

    def text(self):
        return [line.rstrip() for line in self.lines if line.strip()]


class Terminal:
    """A process whose standard error is a pseudo-terminal, and the screen that shows it."""

    def __init__(self, command, columns, rows=24):
        self.own, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (rows, columns))
        self.screen = Screen(columns, rows)
        output = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=theirs, env=output, text=True)
        os.close(theirs)

    def resize(self, columns):
        termios.tcsetwinsize(self.own, (self.screen.rows, columns))
        self.screen.resize(columns)

    def order(self, word):
        """Give an order, wait until it is done, and show what was written."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "drawn\n"
        self.show()

    def show(self):
        while select.select([self.own], [], [], 0)[0]:
            try:
                part = os.read(self.own, 4096)
            except OSError:  # the terminal is gone with the process
                break
            if not part:
                break
            self.screen.feed(part.decode())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(LONGEST)
        os.close(self.own)


@pytest.fixture
def terminal():
    opened = []

    def start(columns, rows=24):
        opened.append(Terminal([sys.executable, "-c", DRAW], columns, rows))
        return opened[0]

    yield start
    for one in opened:
        one.close()


def panel(number, width):
    """What DRAW shows."""
    return [line[: width - 1] for line in (f"{number} " + "x" * 30, "second", f"third {number}")]


def test_lines_are_redrawn_in_place(terminal):
    shown = terminal(100)
    for number in range(3):
        shown.order("draw")
        assert shown.screen.text() == ["before", *panel(number, 100)]
    shown.order("clear")
    shown.order("draw")
    assert shown.screen.text() == ["before", "a warning", *panel(4, 100)]


def test_on_a_narrow_terminal_and_when_it_is_resized(terminal):
    shown = terminal(20)
    shown.order("draw")
    shown.order("draw")
    assert shown.screen.text() == ["before", *panel(1, 20)]
    shown.resize(60)
    shown.order("draw")
    assert shown.screen.text() == ["before", *panel(2, 60)]
    shown.resize(15)  # the terminal breaks the first line into three
    assert len(shown.screen.text()) == 6
    shown.order("draw")
    assert shown.screen.text() == ["before", *panel(3, 15)]


def test_a_low_terminal_shows_the_first_lines(terminal):
    shown = terminal(60, rows=3)
    for number in range(2):
        shown.order("draw")
        assert shown.screen.text() == ["before", *panel(number, 60)[:2]]


def test_ctrl_c_leaves_the_cursor_visible_below_the_lines(terminal):
    shown = terminal(60)
    shown.order("draw")
    shown.process.send_signal(signal.SIGINT)
    shown.process.wait(LONGEST)
    shown.show()
    assert shown.screen.cursor_visible
    assert shown.screen.text()[:4] == ["before", *panel(0, 60)]
    assert shown.screen.row >= 4


def test_the_size_is_that_of_the_terminal_drawn_on(monkeypatch):
    """Not of standard output, which may be a file."""
    own, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 31))
    monkeypatch.setenv("COLUMNS", "200")
    with os.fdopen(theirs, "w") as stream:
        TerminalView(stream).draw(["y" * 100])
        assert os.read(own, 4096).decode().count("y") == 30
    os.close(own)


def test_a_terminal_that_does_not_know_its_size_is_taken_for_80_columns():
    own, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (0, 0))
    with os.fdopen(theirs, "w") as stream:
        TerminalView(stream).draw(["y" * 100])
        assert os.read(own, 4096).decode().count("y") == 79
    os.close(own)


def test_a_file_and_a_dumb_terminal_are_not_redrawn(monkeypatch, tmp_path):
    own, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, (tmp_path / "log").open("w") as log:
        assert (can_redraw(terminal), can_redraw(log), can_redraw(None)) == (True, False, False)
        monkeypatch.setenv("TERM", "dumb")
        assert not can_redraw(terminal)
    os.close(own)
