"""One job of a launcher, on the machine where it runs: start a script's command line, and record how it ended.

A launcher (semg/common/launching.py) writes job.json into a separate folder for each job and has this module run there,
on this machine or on another one that Slurm picked. Everything it does is determined by that file:

  job.json      ticket, command line, working folder, environment; see `Spec`
  lock          held as long as any process of the job lives: this one, or the script if this one was killed; contains
                the number of this process
  log           what the script prints, errors included; a job that runs again appends to it
  outcome.json  ticket and exit code, when the script has ended by itself

The script has its own session, so that Ctrl-C at the launcher's terminal does not reach it. Slurm sends SIGTERM before
it takes a job's machine away or when its time limit is near: the signal is passed on to the script, which saves its
state, and the job is put back into Slurm's queue. When it runs again, it finds its saved state and continues (`begun`,
`again`).
"""

import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from semg.common.files import read_json, write_json

MOST_RESTARTS = 100  # most restarts of one job by Slurm; a job that cannot finish in its time would otherwise never end


@dataclass(frozen=True)
class Spec:
    """The definition of a job: the contents of job.json.

    ticket: distinguishes one start of a job from another. begun: a file that exists once the script has left a state
    from which it can continue; then the words `again` are appended to the command line. environment: changes to it;
    None removes a variable.
    """

    ticket: str
    name: str
    command: list[str]
    folder: str
    begun: str | None = None
    again: list[str] = field(default_factory=list)
    environment: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Spec":
        """The job.json in `folder`. DataError."""
        return cls(**read_json(folder / "job.json", "a job as a launcher writes it"))

    def write(self, folder: Path) -> None:
        """Write job.json into `folder`."""
        write_json(folder / "job.json", asdict(self))

    def words(self) -> list[str]:
        """The command line at present: for a first start, or for continuing."""
        return [*self.command, *(self.again if self.begun and Path(self.folder, self.begun).is_file() else [])]


def take_lock(folder: Path, *, wait: bool) -> IO[bytes] | None:
    """The lock of the job in `folder`, held until the file is closed; None if another process has it and `wait` is
    false."""
    import fcntl  # not available on Windows

    file = (folder / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    return file


def outcome_of(folder: Path, ticket: str) -> dict[str, Any] | None:
    """How the start with that ticket ended; None if that is not known yet."""
    if not (folder / "outcome.json").is_file():
        return None
    outcome = read_json(folder / "outcome.json", "how a job ended")
    return outcome if outcome.get("ticket") == ticket else None


def run(folder: Path, ticket: str) -> int:
    """Run the job in `folder` to its end; returns the script's exit code. Does nothing if `ticket` is out of date."""
    stops: list[int] = []
    script: subprocess.Popen[bytes] | None = None

    def stop(number: int, _frame: FrameType | None) -> None:
        stops.append(number)
        if script is not None:
            script.terminate()

    signal.signal(signal.SIGTERM, stop)
    lock = take_lock(folder, wait=True)
    if lock is None or not (folder / "job.json").is_file():
        return 0  # a later start has done the job
    spec = Spec.read(folder)
    if spec.ticket != ticket or outcome_of(folder, ticket):
        return 0  # another launcher has started the job again
    lock.truncate(0)
    lock.write(b"%d" % os.getpid())
    lock.flush()
    with lock, (folder / "log").open("ab") as log:
        script = subprocess.Popen(
            spec.words(),
            cwd=spec.folder,
            env={name: value for name, value in (os.environ | spec.environment).items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
        if stops:  # SIGTERM came before the script was started
            script.terminate()
        code = script.wait()
        if not (stops and code and runs_again()):
            write_json(folder / "outcome.json", {"ticket": ticket, "exit_code": code})
    return code if code >= 0 else 128 - code


def runs_again() -> bool:
    """After SIGTERM: whether Slurm has this job in its queue again, or has been told to put it there.

    A job that still counts as running got the signal because its time limit is near, or because another job will get
    its machine soon. Slurm is ending the others itself: to run them again, or because somebody cancelled them.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")
    if job is None or int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= MOST_RESTARTS:
        return False
    answer = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True, check=False)
    if answer.returncode == 0 and "JobState=RUNNING" not in answer.stdout:
        return True
    return subprocess.run(["scontrol", "requeue", job], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2]))
