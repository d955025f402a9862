"""Fixtures that several test files share."""

import contextlib
import gc
import importlib
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the scripts are run from the checkout, nothing is installed
# `make test` runs a test on each core: with more threads they wait for each other, and take twice the processor time
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a test of two threads does not let one wait at full speed
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each script that a test starts compiles the project anew
os.environ |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")  # the tests' own servers
# Hypothesis's own: the same examples each time, however slow the machine is. New ones are what `make fuzz` looks for.
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What the test files import stays until the end: Python need not go through its million objects in search of
    garbage, neither now nor during the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test draws the same random numbers whichever tests its process had before."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def the_disk_is_not_waited_for() -> Iterator[None]:
    """No power is cut here, and in tests of many small files waiting for the disk is half the time."""
    with mock.patch.object(os, "fsync", lambda _: None):
        yield


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """What a test leaves is not the next one's: environment, folder, sys.argv, what signals do, PyTorch's threads.

    Ctrl-C does what it does in a terminal, which some tests rely on; a shell that starts the tests in the background
    lets them ignore it.
    """
    environment, folder, words = dict(os.environ), Path.cwd(), sys.argv
    names = [name for name in ("SIGTERM", "SIGHUP", "SIGALRM") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for name in {*environment, *os.environ} - {"PYTEST_CURRENT_TEST"}:
        if name not in environment:
            del os.environ[name]
        elif os.environ.get(name) != environment[name]:
            os.environ[name] = environment[name]
    os.chdir(folder)
    sys.argv = words
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if threads is not None and sys.modules["torch"].get_num_threads() != threads:
        sys.modules["torch"].set_num_threads(threads)


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


@pytest.fixture(scope="session")
def run_here() -> Callable[..., subprocess.CompletedProcess]:
    """As `run_script`, in this process: the same from flags to exit code, without the seconds that importing takes."""

    def run(script: str, *arguments: object, code: int = 0, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        from semg.common import cli

        command, out, err = [script, *map(str, arguments)], io.StringIO(), io.StringIO()
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        latest = cli.Parser.latest  # of a script that runs this one
        try:
            with (
                contextlib.chdir(cwd),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                mock.patch.object(sys, "argv", command),
                mock.patch.object(sys, "unraisablehook", sys.unraisablehook),  # a stopped script sets its own
                pytest.raises(SystemExit) as end,
            ):
                cli.run(importlib.import_module(Path(script).stem).main)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            cli.Parser.latest = latest
        done = subprocess.CompletedProcess(command, int(end.value.code or 0), out.getvalue(), err.getvalue())
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
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


@pytest.fixture
def study(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> object:
    """A small study in CSV, and import_csv.py to run on it, see csv_study.py."""
    from csv_study import Study  # few tests need pandas

    return Study(tmp_path, capsys, monkeypatch)
