"""Where a launcher's jobs run: on this machine, or on a cluster by Slurm. Each knows how many there may be, what a job
gets, how submitit starts it, and how to end it."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semg.common.console import Console
from semg.common.errors import SettingError
from semg.common.process_pool import usable_cores

_WARNING = 120  # seconds before a Slurm job's time is over in which it may save what it has


@dataclass(frozen=True)
class Place:
    """Where jobs run, and what each gets.

    kind: local or slurm. parallel: jobs at once, None for as many as this machine has GPUs, or cores where it has none,
    and for all at once by Slurm. cores: of each, None for its share of this machine, and for 2 by Slurm. gpus: of each.
    hours, memory (GB) and partition: what Slurm is asked for.
    """

    kind: str
    parallel: int | None = None
    cores: int | None = None
    gpus: int = 0
    hours: float = 12.0
    memory: float | None = None
    partition: str | None = None


class ThisMachine:
    """Jobs here, a few at a time. look: seconds from one look at the jobs to the next, at first and at most."""

    kind, look = "local", (0.2, 0.2)

    def __init__(self, place: Place) -> None:
        """SettingError for more GPUs than there are."""
        self._each = place.gpus
        self._gpus = gpus_here() if place.gpus else []
        if self._gpus and place.gpus > len(self._gpus):
            raise SettingError("gpus", "at most the {} of this machine", place.gpus, (len(self._gpus),))
        here = len(self._gpus) // place.gpus if self._gpus else usable_cores()
        self._parallel = place.parallel or max(1, here)
        self.cores = place.cores or max(1, usable_cores() // self._parallel)

    def free(self, busy: set[int], most: int) -> Sequence[int]:
        """Shares of the machine for at most so many jobs; busy: those that others have."""
        room = max(0, min(most, self._parallel - len(busy)))
        return [slot for slot in range(self._parallel) if slot not in busy][:room]

    def environment(self, slot: int) -> dict[str, str | None]:
        """What a job's environment has otherwise than the launcher's: submitit hides GPUs that it isn't told of."""
        count = len(self._gpus)
        mine = [self._gpus[(slot * self._each + n) % count] for n in range(self._each)] if count else []
        return {"CUDA_VISIBLE_DEVICES": ",".join(mine) if mine else os.environ.get("CUDA_VISIBLE_DEVICES")}

    def executor(self, folder: Path, _name: str) -> Any:
        """submitit's, which keeps its files in `folder`."""
        import submitit

        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=60 * 24 * 365)  # as good as never
        return executor

    def queued(self) -> None:
        """Numbers of the jobs that wait or run: here their locks say it."""

    def ending(self, _ids: Sequence[str], folders: Sequence[Path]) -> str:
        """The command that ends jobs."""
        locks = [folder / "lock" for folder in folders]
        return " ".join(["kill", *(lock.read_text("utf-8").strip() for lock in locks if lock.is_file())])


class Slurm:
    """Jobs on a cluster, all handed over at once: Slurm keeps to the number itself. Otherwise as `ThisMachine`."""

    kind, look = "slurm", (2.0, 30.0)

    def __init__(self, place: Place, console: Console) -> None:
        self._place, self._console = place, console
        self.cores = place.cores or 2

    def free(self, _busy: set[int], most: int) -> Sequence[int]:
        """See `ThisMachine`; there are no shares."""
        return [0] * most

    def environment(self, _slot: int) -> dict[str, str | None]:
        """See `ThisMachine`; Slurm sets it."""
        return {}

    def executor(self, folder: Path, name: str) -> Any:
        """See `ThisMachine`."""
        import submitit

        place = self._place
        parameters: dict[str, Any] = {
            "job_name": name,
            "time": max(1, round(60 * place.hours)),
            "cpus_per_task": self.cores,
            "srun_args": ["-c", str(self.cores)],  # srun does not take it over from the job
            # SIGTERM before the time is over, as Slurm sends it before another job gets the machine
            "additional_parameters": {"signal": f"TERM@{_WARNING}", "requeue": True},
            "array_parallelism": place.parallel or 256,
        }
        parameters |= {"partition": place.partition} if place.partition else {}
        parameters |= {"gpus_per_node": place.gpus} if place.gpus else {}
        parameters |= {"mem": f"{round(1024 * place.memory)}M"} if place.memory else {}
        executor = submitit.SlurmExecutor(folder)
        executor.update_parameters(**parameters)
        return executor

    def queued(self) -> set[str]:
        """Numbers of this user's jobs in the queue, arrays one by one; waits while Slurm does not answer."""
        warned = False
        while True:
            words = ["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return set(done.stdout.split())
            if not warned:
                self._console.warn(f"squeue: expected the queue, found: {done.stderr}; asking until it answers")
            warned = True
            time.sleep(self.look[1])

    def ending(self, ids: Sequence[str], _folders: Sequence[Path]) -> str:
        """See `ThisMachine`."""
        numbers = (one.partition("_")[0] for one in ids if one != "unknown")
        return " ".join(["scancel", *dict.fromkeys(numbers)])


def gpus_here() -> list[str]:
    """This machine's NVIDIA GPUs, as CUDA_VISIBLE_DEVICES names them; only those in it where it is set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(n) for n, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
