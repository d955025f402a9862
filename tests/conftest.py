"""Fixtures that several test files share."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the scripts are run from the checkout, nothing is installed
# `make test` runs a test on each core: with more threads they wait for each other, and take twice the processor time
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> None:
    """Ctrl-C does what it does in a terminal, which some tests rely on.

    A shell that starts the tests in the background lets them ignore it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def run_script() -> Callable[..., subprocess.CompletedProcess]:
    """Run a script of the checkout as a user would: `run_script("preprocess.py", "--raw", folder, code=1)`.

    Fails the test if the exit code is not `code` or a traceback is printed.
    """

    def run(script: str, *arguments: object, code: int = 0, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the fault tests counted, as one table, with -n too."""
    counts: dict[str, int] = {}
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        if report.when != "call":
            continue
        for name, value in report.user_properties:
            kind, number = (value, 1) if name == "counted" else (name, value)
            counts[kind] = counts.get(kind, 0) + int(number)
    if counts:
        terminalreporter.section("faults tried")
        for kind, number in sorted(counts.items()):
            terminalreporter.write_line(f"{number:8,}  {kind}")
