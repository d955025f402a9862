"""The places where a launcher's jobs run: this machine, or a Slurm cluster. Each knows how many jobs may run, what a
job gets, how submitit starts it, and how to end it."""

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

_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # environment of a job that is to see none; PyTorch on AMD's GPUs heeds it, too
_WARNING = 120  # seconds before a Slurm job's time limit in which it can save its state


@dataclass(frozen=True)
class Place:
    """Where jobs run, and what each gets.

    kind: local or slurm. parallel: jobs at once; None means, on this machine, the number of GPUs (or of cores without
    GPUs), and with Slurm all at once. cores: per job; None means its share of this machine, and 2 with Slurm. gpus: per
    job. hours, memory (GB) and partition: requested from Slurm.
    """

    kind: str
    parallel: int | None = None
    cores: int | None = None
    gpus: int = 0
    hours: float = 12.0
    memory: float | None = None
    partition: str | None = None


class ThisMachine:
    """Jobs on this machine, a few at a time. look: seconds between two checks of the jobs, at first and at most."""

    kind, look = "local", (0.2, 0.2)

    def __init__(self, place: Place) -> None:
        """SettingError for more GPUs than the machine has."""
        self._each = place.gpus
        self._gpus = gpus_here() if place.gpus else []
        if self._gpus and place.gpus > len(self._gpus):
            raise SettingError("gpus", "at most the {} of this machine", place.gpus, (len(self._gpus),))
        here = len(self._gpus) // place.gpus if self._gpus else usable_cores()
        self._parallel = place.parallel or max(1, here)
        self.cores = place.cores or max(1, usable_cores() // self._parallel)

    def free(self, busy: set[int], most: int) -> Sequence[int]:
        """Free slots of the machine for at most `most` jobs; busy: the slots of other jobs."""
        room = max(0, min(most, self._parallel - len(busy)))
        return [slot for slot in range(self._parallel) if slot not in busy][:room]

    def environment(self, slot: int) -> dict[str, str | None]:
        """How a job's environment differs from the launcher's: it sees its own GPUs only. submitit would hide all; on a
        machine without GPUs the variable stays as it is."""
        if not self._each:
            return dict(_NO_GPU)
        count = len(self._gpus)
        mine = [self._gpus[(slot * self._each + n) % count] for n in range(self._each)] if count else []
        return {"CUDA_VISIBLE_DEVICES": ",".join(mine) if mine else os.environ.get("CUDA_VISIBLE_DEVICES")}

    def executor(self, folder: Path, _name: str) -> Any:
        """submitit's executor, which keeps its files in `folder`."""
        import submitit

        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=60 * 24 * 365)  # practically no limit
        return executor

    def queued(self) -> None:
        """Numbers of the jobs that wait or run; None here, because their locks show it."""

    def ending(self, _ids: Sequence[str], folders: Sequence[Path]) -> str:
        """The command that ends jobs."""
        locks = [folder / "lock" for folder in folders]
        return " ".join(["kill", *(lock.read_text("utf-8").strip() for lock in locks if lock.is_file())])


class Slurm:
    """Jobs on a cluster, all submitted at once: Slurm itself limits how many run. Otherwise as `ThisMachine`."""

    kind, look = "slurm", (2.0, 30.0)

    def __init__(self, place: Place, console: Console) -> None:
        self._place, self._console = place, console
        self.cores = place.cores or 2

    def free(self, _busy: set[int], most: int) -> Sequence[int]:
        """See `ThisMachine`; there are no slots."""
        return [0] * most

    def environment(self, _slot: int) -> dict[str, str | None]:
        """See `ThisMachine`; Slurm sets it. From a job without GPUs it hides them only if the cluster is set up so."""
        return {} if self._place.gpus else dict(_NO_GPU)

    def executor(self, folder: Path, name: str) -> Any:
        """See `ThisMachine`."""
        import submitit

        place = self._place
        parameters: dict[str, Any] = {
            "job_name": name,
            "time": max(1, round(60 * place.hours)),
            "cpus_per_task": self.cores,
            "srun_args": ["-c", str(self.cores)],  # srun does not inherit it from the job
            # SIGTERM before the time limit, as Slurm also sends it before preempting a job
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
        """Numbers of this user's jobs in the queue, with the elements of arrays listed singly; waits while Slurm does
        not answer."""
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
    """This machine's NVIDIA GPUs, by their names in CUDA_VISIBLE_DEVICES; if that is set, only those in it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(n) for n, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
