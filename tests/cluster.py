"""Run a sweep and a preprocessing on a real Slurm, on this one machine, and compare with the runs without --launch.

  python tests/cluster.py                # as root, after `apt-get install slurm-wlm munge`; some minutes

It sets up munge and Slurm in a temporary folder, on ports that are free, and ends them at the end by their numbers;
nothing of the system's own is touched. Of the sweep's jobs one is killed (SIGKILL) and the others lose their machine to
a job of higher priority once they have begun. Expected: the killed one is named and the exit code is 1; the same
command again ends with 0; all weights and tables are, to the last bit, those of the sweep that ran one by one.
"""

import csv
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from semg.inference.checkpoint import open_checkpoint  # noqa: E402

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
TINY = "--init random --layers 1 --width 32 --heads 2 --patch 64 --frame 320 --batch-size 16 --epochs 12 --device cpu"
SLURM = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=work Nodes={host} Default=YES MaxTime=60 PriorityTier=1 GraceTime=60 State=UP
PartitionName=urgent Nodes={host} MaxTime=60 PriorityTier=9 State=UP
"""


def until(state: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Wait for a state."""
    end = time.monotonic() + seconds
    while not state():
        if time.monotonic() > end:
            raise SystemExit(f"error: {what}: expected within {seconds:g} s, found it not")
        time.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def daemon(log: Path, *words: object) -> Iterator[None]:
    """A program that runs in here until the end."""
    with log.open("ab") as out:
        process = subprocess.Popen([str(word) for word in words], stdout=out, stderr=out, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A Slurm of one node with four places for jobs, known to programs that are started in here by SLURM_CONF."""
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        raise SystemExit(f"error: {missing[0]}: expected it here, found none; apt-get install slurm-wlm munge")
    if os.getuid() != 0:
        raise SystemExit("error: expected to run as root, as which Slurm's daemons start jobs, found another user")
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o711)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(SLURM.format(host=host, folder=folder, controller=free_port(), node=free_port()))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    os.environ["SLURM_CONF"] = str(conf)
    munge = {"key-file": key, "socket": folder / "munge/socket", "pid-file": folder / "munge/pid"}
    munge |= {"log-file": folder / "munge/log", "seed-file": folder / "munge/seed"}
    with ExitStack() as stack:
        words = [f"--{name}={path}" for name, path in munge.items()]
        stack.enter_context(daemon(folder / "munged.out", "munged", "--force", "--foreground", *words))
        until((folder / "munge/socket").exists, "munged's socket")
        stack.enter_context(daemon(folder / "slurmctld.out", "slurmctld", "-D", "-f", conf))
        stack.enter_context(daemon(folder / "slurmd.out", "slurmd", "-D", "-N", host, "-f", conf))
        until(lambda: "idle" in output_of("sinfo", "-h", "-o", "%T"), "a node that is idle", 60)
        yield
        output_of("scancel", "-u", "root")
        until(lambda: not output_of("squeue", "-h"), "an empty queue")


def output_of(*words: object) -> str:
    """What a program prints."""
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False).stdout.strip()


def script(name: str, *words: object, code: int = 0) -> str:
    """Run one of the project's scripts to its end; returns what it says."""
    command = [sys.executable, str(ROOT / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != code:
        raise SystemExit(f"error: {name}: expected exit code {code}, found {done.returncode}: {done.stderr}")
    return done.stdout + done.stderr


def content(folder: Path) -> dict[str, bytes]:
    """The files in a folder, those of its jobs left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".jobs" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def weights(folder: Path) -> dict[str, bytes]:
    """All tensors of a sweep's models."""
    models = sorted(folder.rglob("best_model.ckpt"))
    opened = {str(path.relative_to(folder)): open_checkpoint(path).tensors for path in models}
    return {f"{path} {name}": one.numpy().tobytes() for path, own in opened.items() for name, one in own.items()}


def table(folder: Path) -> list[dict[str, str]]:
    """The sweep's rows."""
    with (folder / "sweep.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expect(holds: bool, what: str) -> None:
    """Say that it holds; end with an error if it does not."""
    if not holds:
        raise SystemExit(f"error: expected {what}, found otherwise")
    print(f"ok: {what}", flush=True)


def preprocessing(folder: Path) -> None:
    """Shards by Slurm against shards one by one."""
    script("simulate_putemg.py", folder / "raw", "--people", 4, "--days", 1, "--seconds", 20, "--workers", 1)
    script("preprocess.py", "--raw", folder / "raw", "--shards", folder / "shards", "--workers", 1)
    many = ("--launch", "slurm", "--partition", "work", "--hours", 0.5, "--cores", 1)
    script("preprocess.py", "--raw", folder / "raw", "--shards", folder / "shards-slurm", *many)
    expect(content(folder / "shards-slurm") == content(folder / "shards"), "shards by Slurm to be the same bytes")


def begun(runs: Path) -> list[Path]:
    """Runs that have trained an epoch and not ended."""
    logs = sorted(runs.rglob("metrics.jsonl"))
    return [log.parent for log in logs if (log.parent / "last.ckpt").exists() and log.stat().st_size]


def kill_script(runs: Path, run: Path) -> None:
    """SIGKILL to the script that trains `run`: the child of the process whose number the job's lock holds."""
    setting = run.parent.name
    (lock,) = runs.glob(f".jobs/train-{setting}-*/lock")
    children = Path(f"/proc/{lock.read_text()}/task/{lock.read_text()}/children").read_text().split()
    os.kill(int(children[0]), 9)


def sweeping(folder: Path) -> None:
    """A sweep by Slurm with mishaps against the same one by one."""
    script("create_dataset_files.py", "--shards", folder / "shards", "--out", folder / "split", "--test", 0.34)

    def words(name: str, *more: object) -> list[object]:
        own = ["--out", folder / f"{name}/out", "--checkpoints", folder / f"{name}/runs", *more]
        common = ["--shards", folder / "shards", "--split", folder / "split", "--grid", "lr=1e-2,1e-3,1e-4"]
        return [*common, *own, "--", *TINY.split()]

    script("sweep.py", *words("serial"))
    runs = folder / "slurm/runs"
    many = words("slurm", "--launch", "slurm", "--partition", "work", "--hours", 0.5, "--cores", 1, "--gpus", 0)
    command = [sys.executable, str(ROOT / "sweep.py"), *map(str, many)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: begun(runs) or first.poll() is not None, "a run under way")
    killed = begun(runs)[0]
    kill_script(runs, killed)
    until(lambda: set(begun(runs)) - {killed} or first.poll() is not None, "another run under way")
    urgent = folder / "urgent.sh"
    urgent.write_text("#!/bin/bash\ntrue\n")
    print(output_of("sbatch", "-p", "urgent", "-c", 4, "-o", "/dev/null", urgent), flush=True)
    said, _ = first.communicate()
    expect(first.returncode == 1, f"exit code 1 after a job was killed ({said.splitlines()[-1]})")
    expect(f"{killed.parent.name} seed0: killed by signal 9" in said, "the killed run to be named")
    logs = [path.read_text() for path in runs.glob(".jobs/train-*/log")]
    expect(any(log.count("\nsteps ") > 1 for log in logs), "a job to have begun again when its machine was taken")
    print(f"jobs that saved before: {sum('the state of training is in' in log for log in logs)}", flush=True)
    script("sweep.py", *many)
    expect(weights(runs) == weights(folder / "serial/runs"), "weights by Slurm to be the same bits")
    expect(table(folder / "slurm/out") == table(folder / "serial/out"), "the same table")


def main() -> None:
    """Run the script."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="semg-cluster-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # munge wants to be reached by all
        slurm = folder / "slurm-daemons"
        slurm.mkdir()
        with cluster(slurm):
            preprocessing(folder)
            sweeping(folder)
    print("on Slurm as without it: shards, weights and tables are the same to the last bit")


if __name__ == "__main__":
    main()
