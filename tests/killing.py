"""Scripts run in processes that are cheap to start, to be killed at chosen moments.

A server process imports the scripts once and forks itself for each run, so a run costs what the script does and not
what importing PyTorch does. Everything from the flags to the exit code is the script's own.
"""

import fcntl
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import chdir, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from conftest import ROOT

SCRIPTS = ("preprocess", "create_dataset_files", "train", "evaluate", "baselines", "predict", "import_csv")
SCRIPTS += ("calibrate", "simulate_putemg", "export")
# imported late by the scripts, here once for all of them
LATE = ("matplotlib.pyplot", "tensorboardX", "semg.attention", "transformers.models.gpt2.modeling_gpt2")
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


PLACES = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))


def _context() -> Any:
    """The server keeps the environment and the folder that it is started with, whichever test does that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing", *SCRIPTS, *LATE])
    with chdir(ROOT), mock.patch.dict(os.environ, {"PYTHONPATH": PLACES, "HF_HUB_OFFLINE": "1"}):
        forkserver.ensure_running()
    return context


def start(
    script: str,
    arguments: list[object],
    *,
    die_at: int = 0,
    folder: Path | None = None,
    hold: "Hold | None" = None,
    errors: Path | None = None,
    environment: dict[str, str] | None = None,
) -> BaseProcess:
    """Run a script; `die_at`: it kills itself just before it changes something under `folder` for that time.

    hold: where it waits for a signal, so that it cannot be over before that comes.
    errors: where its standard error goes; it then leads a process group of its own, as a shell's jobs do.
    environment: added to its own.
    """
    words = [f"{script}.py", *map(str, arguments)]
    process = _context().Process(
        target=_run, args=(script, words, die_at, str(folder), hold, errors, environment or {})
    )
    process.start()
    return process


@dataclass(frozen=True)
class Hold:
    """Once `begun` is there, the script changes nothing more under `folder` until `release` is called.

    workers: how many of its workers shall wait there, instead of the script's own process.
    """

    begun: Path
    folder: Path
    workers: int = 0

    def release(self) -> None:
        """Let workers go on; a signal that ends the script's own process needs no such leave."""
        self._released.touch()

    def reached(self) -> bool:
        """Whether the work has begun, and the workers wait."""
        return self.begun.exists() and len(list(self._notes.glob("worker*"))) >= self.workers

    @property
    def _notes(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-held")

    @property
    def _released(self) -> Path:
        return self._notes / "released"

    def install(self) -> None:
        """In the script's process, whose workers inherit it."""
        self._notes.mkdir(exist_ok=True)
        script, waiting = os.getpid(), False

        def look(event: str, arguments: tuple) -> None:
            nonlocal waiting
            if waiting or not _changes(event, arguments, str(self.folder)) or not self.begun.exists():
                return
            is_worker = os.getpid() != script
            if is_worker != bool(self.workers):
                return
            waiting = True
            if is_worker:
                (self._notes / f"worker{os.getpid()}").touch()
            while not self._released.exists():
                time.sleep(0.002)

        sys.addaudithook(look)


def _run(
    script: str,
    words: list[str],
    die_at: int,
    folder: str,
    hold: Hold | None,
    errors: Path | None,
    environment: dict[str, str],
) -> None:
    """In the forked process."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)
    if errors is not None:
        os.setsid()
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = words
    os.environ |= environment
    os.environ["GIT_DIR"] = os.devnull  # outputs name the commit, which somebody may make meanwhile
    if die_at:
        _before_change(die_at, folder, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if hold:
        hold.install()
    from semg.common import cli

    cli.run(__import__(script).main)


def _before_change(number: int, folder: str, act: Callable[[], None]) -> None:
    changes = 0

    def look(event: str, arguments: tuple) -> None:
        nonlocal changes
        if _changes(event, arguments, folder):
            changes += 1
            if changes == number:
                act()

    sys.addaudithook(look)


def _changes(event: str, arguments: tuple, folder: str) -> bool:
    """Whether an audited event is about to change something under `folder`."""
    if event not in CHANGES or not isinstance(arguments[0], (str, os.PathLike)):
        return False
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return False
    path = os.fspath(arguments[0])
    return path.startswith(f"{folder}/") or (event != "open" and not path.startswith("/"))  # rmtree says names alone


def finished(process: BaseProcess, seconds: float = 120) -> int:
    """Wait for the end; the exit code, negative for a signal."""
    process.join(seconds)
    assert process.exitcode is not None, f"still running after {seconds} s"
    return process.exitcode


def until_free(lock: Path, seconds: float = 120) -> None:
    """Wait until nobody holds a lock, whose file stays: a killed script's workers do until they see that it is gone."""
    end = time.monotonic() + seconds
    while lock.exists():
        with suppress(BlockingIOError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        assert time.monotonic() < end, f"{lock}: held for {seconds} s by what a killed script left running"
        time.sleep(0.01)


def until(condition: Callable[[], bool], process: BaseProcess, seconds: float = 120) -> None:
    """Wait until `condition` holds or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.exitcode is None:
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
