"""Many runs of scripts at once: on this machine, or on a Slurm cluster.

A job is a script's own command line. submitit starts it: on this machine a few at a time, each with its share of the
cores and GPUs, or as arrays of Slurm jobs. Each job has its own folder under the launcher's, where
semg/common/launched_job.py runs it; jobs.json in the launcher's folder records which ones were started and under which
number.

Jobs do not need their launcher: they continue when it is stopped or killed. The next launcher with the same folder
takes over the jobs that are running or have ended in the meantime, and starts nothing twice: a job holds a lock while
it lives, and a job that starts late, after the next launcher has given it up, finds that its ticket is no longer valid,
and does nothing.

submitit writes the function to call into a pickle, which its own process reads on the other side. Here this is only
submitit's CommandFunction and a list of words, in a folder that belongs to the user alone. Everything else that a job
needs is in job.json, its outcome is in outcome.json, and this module reads no pickle.
"""

import os
import re
import signal
import stat
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semg.common.console import Console, counted
from semg.common.errors import DataError
from semg.common.files import folder_lock, read_json, text_checksum, write_json
from semg.common.launch_places import Place, Slurm, ThisMachine
from semg.common.launched_job import Spec, outcome_of, take_lock
from semg.common.process_pool import CORES

_JOBS = ".jobs"  # the launcher's folder, within the folder that its jobs write to
_WRITES_FOR = "SEMG_WRITES_FOR"  # environment variable of a job: its launcher's folder
_ROOT = Path(__file__).resolve().parent.parent.parent  # from where `python -m semg...` finds the package
_LAST_LINES = 3  # lines of the log, or of the errors in it, that are shown for a failed job
_ERRORS_WITHIN = 20  # last lines of a log that are searched; earlier ones may belong to an earlier start


@dataclass(frozen=True)
class Job:
    """A script's command line. name: for messages; unique.

    begun: a file that exists once the script has left a state from which it can continue; then the words `again` are
    appended to the command. own_threads: the script itself decides how many threads compute, given its cores.
    """

    name: str
    command: tuple[str, ...]
    begun: Path | None = None
    again: tuple[str, ...] = ()
    own_threads: bool = False


@dataclass
class _Start:
    """One start of a job. id: of a process, or Slurm's. slot: its share of this machine."""

    job: Job
    folder: Path
    ticket: str
    id: str = ""
    slot: int = 0
    handle: Any = field(default=None, repr=False)  # submitit's handle, if this launcher has started it
    missed: int = 0  # consecutive checks at which it neither lived nor had an outcome


class Launcher:
    """The jobs that write to a folder: a new launcher for the same folder takes over its jobs."""

    def __init__(self, folder: Path, place: Place, console: Console) -> None:
        self._folder, self._console = (folder / _JOBS).resolve(), console
        self._starts = self._folder / "submitit"  # where submitit keeps its own files
        self._place = Slurm(place, console) if place.kind == "slurm" else ThisMachine(place)
        self._executor: Any = None

    def run(self, jobs: Sequence[Job], what: str) -> Iterator[tuple[Job, str]]:
        """Run all jobs; yields each when it has ended, with its error message, "" for success.

        what: such as "train", for progress. Ctrl-C and SIGTERM leave running jobs alone, and the message says how to
        return to them. DataError if a running job has another command line.
        """
        if not jobs:
            return
        self._open_folder()
        with folder_lock(self._folder):
            yield from self._run(list(jobs), what)

    def _run(self, jobs: list[Job], what: str) -> Iterator[tuple[Job, str]]:
        under_way = self._earlier(jobs)
        waiting = [job for job in jobs if job.name not in {start.job.name for start in under_way}]
        if under_way:
            self._console.say(f"{what}: {counted(len(under_way), 'job')} of an earlier start taken up")
        self._write(under_way)
        pause, longest = self._place.look
        try:
            with self._console.progress(total=len(jobs), unit="job", desc=what) as bar:
                while waiting or under_way:
                    self._start_some(waiting, under_way)
                    pause = min(longest, 1.3 * pause)
                    for start, wrong in self._ended(under_way):
                        yield start.job, wrong
                        self._forget(start, under_way)
                        bar.update()
                        pause = self._place.look[0]
                    bar.update(0)
                    if under_way:
                        time.sleep(pause)
        except KeyboardInterrupt as stop:
            raise type(stop)(self._farewell(under_way, waiting)) from None

    # --- what is there -------------------------------------------------------------------------------------------

    def _open_folder(self) -> None:
        """Make the folder, accessible to its owner only: submitit's process executes what the files in it say."""
        if "%" in str(self._folder):
            raise DataError(f"{self._folder}: expected a folder without %, which Slurm and submitit replace")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = self._folder.stat()
        if about.st_uid != os.getuid():
            raise DataError(f"{self._folder}: expected a folder of your own for jobs, found another user's")
        if stat.S_IMODE(about.st_mode) & 0o077:
            self._folder.chmod(0o700)

    def _earlier(self, jobs: Sequence[Job]) -> list[_Start]:
        """Starts by an earlier launcher that are still running, or whose end has not been reported."""
        path = self._folder / "jobs.json"
        known = read_json(path, "jobs as a launcher writes them")["jobs"] if path.is_file() else {}
        starts, queued = [], self._place.queued() if known else None
        for job in jobs:
            entry = known.get(job.name)
            if entry is None or entry["kind"] != self._place.kind:
                continue
            start = _Start(job, self._folder_of(job), entry["ticket"], entry["id"], entry["slot"])
            same = (start.folder / "job.json").is_file() and Spec.read(start.folder).command == list(job.command)
            if same and (outcome_of(start.folder, start.ticket) or self._lives(start, queued)):
                starts.append(start)
            elif not same and self._lives(start, queued):
                raise DataError(
                    f"{start.folder}: expected no job under way there but this command's, found one of another command "
                    f"({self._place.ending([start.id], [start.folder])} ends it); wait for its end or end it"
                )
        return starts

    def _folder_of(self, job: Job) -> Path:
        plain = re.sub(r"[^A-Za-z0-9.+]+", "-", job.name).strip("-.")[:60]
        return self._folder / f"{plain}-{text_checksum(job.name)[:8]}"

    def _write(self, under_way: Sequence[_Start]) -> None:
        entries = {
            start.job.name: {"id": start.id, "kind": self._place.kind, "ticket": start.ticket, "slot": start.slot}
            for start in under_way
        }
        write_json(self._folder / "jobs.json", {"jobs": entries})

    def _forget(self, start: _Start, under_way: list[_Start]) -> None:
        """Drop a job whose end has been reported; its log stays."""
        under_way.remove(start)
        self._write(under_way)
        for name in ("outcome.json", "job.json"):
            (start.folder / name).unlink(missing_ok=True)

    # --- starting ------------------------------------------------------------------------------------------------

    def _start_some(self, waiting: list[Job], under_way: list[_Start]) -> None:
        """Start as many jobs as there is room for; Slurm accepts all and limits the number itself."""
        ready: list[_Start] = []
        for slot in self._place.free({start.slot for start in under_way}, len(waiting)):
            start = self._prepared(waiting.pop(0), slot)
            (ready if not start.id else under_way).append(start)
        if ready:
            self._submit(ready, under_way)

    def _prepared(self, job: Job, slot: int) -> _Start:
        """Write job.json for a new start; if the job turns out to be alive, take it over instead."""
        folder = self._folder_of(job)
        folder.mkdir(exist_ok=True)
        lock = take_lock(folder, wait=False)
        if lock is None:
            return _Start(job, folder, Spec.read(folder).ticket, id="unknown", slot=slot)
        with lock:
            start = _Start(job, folder, uuid.uuid4().hex, slot=slot)
            Spec(
                ticket=start.ticket,
                name=job.name,
                command=list(job.command),
                folder=str(Path.cwd()),
                begun=str(job.begun) if job.begun else None,
                again=list(job.again),
                environment=self._environment(job, slot),
            ).write(folder)
        return start

    def _environment(self, job: Job, slot: int) -> dict[str, str | None]:
        """How a job's environment differs from the launcher's: its share of cores and GPUs."""
        cores = str(self._place.cores)
        changed = {CORES: cores, _WRITES_FOR: str(self._folder)} | self._place.environment(slot)
        if not job.own_threads and "OMP_NUM_THREADS" not in os.environ:
            changed["OMP_NUM_THREADS"] = cores
        return changed

    def _submit(self, ready: Sequence[_Start], under_way: list[_Start]) -> None:
        """Submit starts through submitit; Slurm gets several of them as an array."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import CommandFunction

        calls = [
            CommandFunction(
                [sys.executable, "-m", "semg.common.launched_job", str(start.folder), start.ticket],
                verbose=False,
                cwd=_ROOT,
            )
            for start in ready
        ]
        try:
            with _apart():
                name = self._folder.parent.name or "semg"
                self._executor = self._executor or self._place.executor(self._starts, name)
                handles = self._executor.submit_array(calls)
        except (FailedJobError, FailedSubmissionError) as error:
            reason = " ".join(str(error).split()) or "nothing"
            raise DataError(f"sbatch: expected it to take {counted(len(ready), 'job')}, it said: {reason}") from None
        for start, handle in zip(ready, handles, strict=True):
            start.handle, start.id = handle, handle.job_id
            under_way.append(start)
        self._write(under_way)

    # --- watching ------------------------------------------------------------------------------------------------

    def _ended(self, under_way: Sequence[_Start]) -> Iterator[tuple[_Start, str]]:
        """Starts that have ended, with their error messages."""
        queued = self._place.queued()
        for start in list(under_way):
            lives = self._lives(start, queued)  # checked first: a job that ends between the two checks has its outcome
            outcome = outcome_of(start.folder, start.ticket)
            if outcome is not None:
                code = outcome["exit_code"]
                how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                yield start, "" if code == 0 else self._how_ended(start, how)
            elif not lives:
                start.missed += 1
                if start.missed > 1:  # files may appear late on drives shared between machines
                    yield start, self._how_ended(start, "ended without an outcome: killed or cancelled")
            else:
                start.missed = 0

    def _lives(self, start: _Start, queued: set[str] | None) -> bool:
        """Whether a start waits or runs. queued: from the place."""
        if queued is not None and start.id != "unknown":
            return start.id in queued
        if start.handle is not None and not start.handle.done():
            return True
        lock = take_lock(start.folder, wait=False) if start.folder.is_dir() else None
        if lock is not None:
            lock.close()
        return start.folder.is_dir() and lock is None

    def _how_ended(self, start: _Start, how: str) -> str:
        """An error message: the script's own or its last lines, and where its log is."""
        log = start.folder / "log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        if not lines:  # the script was never started
            logs = sorted(self._starts.glob(f"{start.id}_*_log.err")) if start.id else []
            log = logs[0] if logs else log
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if logs else []
        lines = [line.strip() for line in lines if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines[-_ERRORS_WITHIN:] if line.startswith("error: ")]
        last = " | ".join((errors or lines)[-_LAST_LINES:]) or "nothing"
        return f"{how}, it said last: {last}; log: {log}"

    # --- leaving -------------------------------------------------------------------------------------------------

    def _farewell(self, under_way: Sequence[_Start], waiting: Sequence[Job]) -> str:
        """The message after Ctrl-C."""
        text = "nothing is under way"
        if under_way:
            text = f"{counted(len(under_way), 'job goes', 'jobs go')} on without this script"
        if waiting:
            text += f", {len(waiting)} not started yet"
        text += "; the same command takes them up"
        ending = self._place.ending([start.id for start in under_way], [start.folder for start in under_way])
        return f"{text}, and {ending} ends them" if under_way else text


@contextmanager
def _apart() -> Iterator[None]:
    """Processes started in this context ignore Ctrl-C and the end of the terminal, and keep neither terminal nor pipe
    open."""
    number = {signal.SIGINT, signal.SIGHUP}
    before = {one: signal.signal(one, signal.SIG_IGN) for one in number}
    saved_streams = {stream: os.dup(stream) for stream in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in saved_streams:
            os.dup2(nowhere, stream)
        yield
    finally:
        for stream, saved in saved_streams.items():
            os.dup2(saved, stream)
            os.close(saved)
        os.close(nowhere)
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` for writing, as `folder_lock` does; DataError also while jobs are running that write there.

    For such a job itself, this does nothing: no two jobs write the same files, and their launcher ensures that none
    runs twice.
    """
    jobs = (folder / _JOBS).resolve()
    if os.environ.get(_WRITES_FOR) == str(jobs):
        yield
        return
    with folder_lock(folder):
        for path in jobs.glob("*/lock"):
            lock = take_lock(path.parent, wait=False)
            if lock is None:
                raise DataError(
                    f"{folder}: expected nobody who writes there, found jobs under way; the command that launched them "
                    f"takes them up, kill {path.read_text('utf-8')} ends the first"
                )
            lock.close()
        yield
