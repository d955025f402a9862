"""Many jobs at once: shared out, named when they die, left alone by Ctrl-C, taken up again, and never started twice."""

import os
import re
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from waiting import wait_for

from semg.common import launch_places, launched_job, launching
from semg.common.console import Console
from semg.common.errors import DataError, SettingError
from semg.common.files import read_json
from semg.common.launching import Job, Launcher, Place

LOCAL = Place("local", parallel=2)
# A job that says who it is and what it got, then waits until the file `go` is there.
WAITS = """
import os, sys, time
from pathlib import Path
name, rest = sys.argv[1], sys.argv[2:]
got = os.environ.get("CUDA_VISIBLE_DEVICES") or "none", os.environ.get("SEMG_CORES")
with Path(f"{name}.began").open("a") as file:
    print(os.getpid(), *got, *rest, file=file, flush=True)
print("waiting", flush=True)
while not Path("go").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that jobs run in; what is left of them at the end is told to go."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    (tmp_path / "go").touch()


def job(code, *words, name="job", **more):
    return Job(name, (sys.executable, "-c", code, *words), **more)


def waiting(name, **more):
    return job(WAITS, name, name=name, **more)


def launcher(here, place=LOCAL):
    return Launcher(here, place, Console(quiet=True))


def began(here, name):
    """What each start of a job wrote: number of the process, GPUs, cores, further words."""
    path = here / f"{name}.began"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def stop_when(monkeypatch, state, how=KeyboardInterrupt):
    """Let a launcher be stopped as soon as `state()`, which is asked whenever it waits, holds."""
    sleep = time.sleep

    def sleep_or_stop(seconds):
        if state():
            raise how
        sleep(min(seconds, 0.02))

    monkeypatch.setattr(launching.time, "sleep", sleep_or_stop)


def test_jobs_run_at_once_each_with_a_gpu_and_its_share_of_the_cores(here, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(launch_places, "usable_cores", lambda: 6)
    both = WAITS.replace('Path("go").exists()', 'all(Path(f"{n}.began").exists() for n in "ab")')  # neither ends alone
    jobs = [job(both, name, name=name) for name in "ab"]
    ended = dict(launcher(here, Place("local", parallel=2, gpus=1)).run(jobs, "work"))
    assert [ended[one] for one in jobs] == ["", ""]
    assert sorted(began(here, name)[0][1:] for name in "ab") == [["4", "3"], ["7", "3"]]
    assert stat.S_IMODE((here / ".jobs").stat().st_mode) == 0o700


@pytest.mark.parametrize("visible", ["4,7", None])
def test_jobs_without_gpus_see_none(here, monkeypatch, visible):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    blind = job("import os, sys; sys.exit(os.environ.get('CUDA_VISIBLE_DEVICES') != '')")
    assert dict(launcher(here, Place("local", gpus=0)).run([blind], "work")) == {blind: ""}


def test_no_more_than_parallel_run_at_once(here):
    alone = """
import os, sys, time
os.mkdir("busy")  # fails where another job is at work
time.sleep(0.05)
os.rmdir("busy")
"""
    jobs = [job(alone, name=name) for name in "abc"]
    assert [wrong for _, wrong in launcher(here, Place("local", parallel=1)).run(jobs, "work")] == ["", "", ""]


def test_a_job_that_fails_is_named_with_its_log_and_last_words_and_others_are_done(here):
    refuses = job(
        "import sys; print('error: expected a shard, found none', file=sys.stderr); sys.exit(1)", name="refuses"
    )
    killed = job("import os; print('step 3', flush=True); os.kill(os.getpid(), 9)", name="killed")
    fine = job("print('done')", name="fine")
    ended = {one.name: wrong for one, wrong in launcher(here).run([refuses, killed, fine], "work")}
    assert re.fullmatch(r"exit code 1, it said last: expected a shard, found none; log: \S+/log", ended["refuses"])
    assert re.fullmatch(r"killed by signal 9, it said last: step 3; log: \S+/log", ended["killed"])
    assert Path(ended["killed"].rpartition("log: ")[2]).read_text() == "step 3\n"
    assert ended["fine"] == ""
    (wrong,) = [wrong for _, wrong in launcher(here).run([job("print('now')", name="refuses")], "work")]
    assert wrong == ""  # what failed is started anew


def test_ctrl_c_leaves_jobs_and_the_next_launcher_takes_them_up(here, monkeypatch):
    jobs = [waiting(name) for name in "abc"]
    with monkeypatch.context() as patch:
        stop_when(patch, lambda: began(here, "a") and began(here, "b"))
        with pytest.raises(
            KeyboardInterrupt, match=r"2 jobs go on without this script, 1 not started yet; .*kill \d+ \d+"
        ):
            list(launcher(here).run(jobs, "work"))
    for name in "ab":
        os.kill(int(began(here, name)[0][0]), 0)  # lives
    (here / "go").touch()
    ended = {one.name: wrong for one, wrong in launcher(here).run(jobs, "work")}
    assert ended == {"a": "", "b": "", "c": ""}
    assert [len(began(here, name)) for name in "abc"] == [1, 1, 1]


def test_what_ended_while_nobody_looked_is_told_and_not_done_again(here, monkeypatch):
    one = waiting("a")
    with monkeypatch.context() as patch:
        stop_when(patch, lambda: began(here, "a"))
        with pytest.raises(KeyboardInterrupt):
            list(launcher(here).run([one], "work"))
    (here / "go").touch()
    wait_for(lambda: list((here / ".jobs").glob("*/outcome.json")), "the job's outcome")
    assert list(launcher(here).run([one], "work")) == [(one, "")]
    assert len(began(here, "a")) == 1
    assert list(launcher(here).run([one], "work")) == [(one, "")]  # told once; whoever asks again wants it again
    assert len(began(here, "a")) == 2


def test_a_job_that_was_killed_goes_on_from_its_traces(here, monkeypatch):
    one = waiting("a", begun=here / "a.began", again=("--resume",))
    with monkeypatch.context() as patch:
        stop_when(patch, lambda: began(here, "a"))
        with pytest.raises(KeyboardInterrupt):
            list(launcher(here).run([one], "work"))
    os.kill(int(began(here, "a")[0][0]), signal.SIGKILL)
    wait_for(lambda: list((here / ".jobs").glob("*/outcome.json")), "the job's outcome")
    ((_, wrong),) = launcher(here).run([one], "work")
    assert wrong.startswith("killed by signal 9, it said last: waiting")
    (here / "go").touch()
    assert [wrong for _, wrong in launcher(here).run([one], "work")] == [""]
    assert [start[3:] for start in began(here, "a")] == [[], ["--resume"]]


def test_a_job_under_way_of_another_command_is_refused(here, monkeypatch):
    with monkeypatch.context() as patch:
        stop_when(patch, lambda: began(here, "a"))
        with pytest.raises(KeyboardInterrupt):
            list(launcher(here).run([waiting("a")], "work"))
    with pytest.raises(DataError, match=r"expected no job under way .* \(kill \d+ ends it\)"):
        list(launcher(here).run([job("pass", name="a")], "work"))


def test_jobs_whose_list_was_lost_are_found_by_their_locks(here, monkeypatch):
    with monkeypatch.context() as patch:
        stop_when(patch, lambda: began(here, "a"))
        with pytest.raises(KeyboardInterrupt):
            list(launcher(here).run([waiting("a")], "work"))
    (here / ".jobs" / "jobs.json").unlink()
    stop_when(monkeypatch, (here / "go").touch)  # it ends when it was found, no sooner: no list says how
    assert [wrong for _, wrong in launcher(here).run([waiting("a")], "work")] == [""]
    assert len(began(here, "a")) == 1


def test_nobody_else_writes_while_jobs_are_under_way(here, monkeypatch):
    with monkeypatch.context() as patch:
        stop_when(patch, lambda: began(here, "a"))
        with pytest.raises(KeyboardInterrupt):
            list(launcher(here).run([waiting("a")], "work"))
    with (
        pytest.raises(DataError, match=r"found jobs under way; .*, kill \d+ ends the first"),
        launching.sole_writer(here),
    ):
        pytest.fail("it got the folder")
    monkeypatch.setenv("SEMG_WRITES_FOR", str(here / ".jobs"))
    with launching.sole_writer(here):  # as a job of that launcher
        pass
    monkeypatch.delenv("SEMG_WRITES_FOR")
    (here / "go").touch()
    assert [wrong for _, wrong in launcher(here).run([waiting("a")], "work")] == [""]
    with launching.sole_writer(here), pytest.raises(DataError, match="another run"), launching.sole_writer(here):
        pytest.fail("it got the folder")


def spec(folder, ticket="1", code="raise SystemExit(7)", **more):
    folder.mkdir(exist_ok=True)
    launched_job.Spec(ticket, "job", [sys.executable, "-c", code], str(folder), **more).write(folder)


def test_a_start_that_was_given_up_does_nothing(here):
    spec(here / "one", "new")
    assert launched_job.run(here / "one", "old") == 0
    assert not (here / "one" / "log").exists()
    assert launched_job.run(here / "one", "new") == 7
    assert read_json(here / "one" / "outcome.json", "outcome") == {"ticket": "new", "exit_code": 7}
    (here / "one" / "log").unlink()
    assert launched_job.run(here / "one", "new") == 0  # Slurm may start a job again that has ended
    assert not (here / "one" / "log").exists()


@pytest.fixture
def slurm(here, monkeypatch):
    """Stand-ins for Slurm's programs, which write down what they are asked; `slurm(name, code)` makes one."""
    (here / "bin").mkdir()
    monkeypatch.setenv("PATH", str(here / "bin"), prepend=os.pathsep)

    def make(name, code):
        path = here / "bin" / name
        path.write_text(f"#!/bin/sh\necho {name} $* >> {here}/asked\n{code}\n")
        path.chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("state", "restarts", "queued", "outcome"),
    [
        ("RUNNING", 0, True, False),  # its time is over, or another job will get the machine
        ("COMPLETING", 0, False, False),  # Slurm ends it itself, to run it again or because it was cancelled
        ("RUNNING", launched_job.MOST_RESTARTS, False, True),
    ],
)
def test_a_job_that_slurm_stops_is_queued_again(here, slurm, monkeypatch, state, restarts, queued, outcome):
    slurm("scontrol", f'[ "$1" = requeue ] || echo "JobId=12 JobState={state} Reason=None"')
    for name, value in {"ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3", "RESTART_COUNT": restarts}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    saves = """
import os, signal, sys, time
def save(*_):
    open("saved", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.SIGTERM)
while True:
    time.sleep(0.01)
"""
    spec(here / "one", code=saves)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert launched_job.run(here / "one", "1") == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (here / "one" / "saved").exists()
    asked = (here / "asked").read_text() if (here / "asked").exists() else ""
    assert ("scontrol requeue 12_3" in asked) is queued
    assert (here / "one" / "outcome.json").exists() is outcome


def test_what_sbatch_refuses_is_told_in_one_line(here, slurm):
    slurm("srun", "")
    slurm("squeue", "")
    slurm("sbatch", "echo 'sbatch: error: invalid partition specified: moon' >&2; exit 1")
    with pytest.raises(DataError, match=r"expected it to take 2 jobs, it said: .*invalid partition specified: moon"):
        list(launcher(here, Place("slurm", partition="moon")).run([waiting("a"), waiting("b")], "work"))


def test_slurm_gets_an_array_of_jobs_with_what_was_asked_for(here, slurm):
    slurm("srun", "")
    slurm("squeue", "")  # both jobs are gone at once
    slurm("sbatch", f"cp $1 {here}/script; echo Submitted batch job 12")
    place = Place("slurm", parallel=1, cores=3, gpus=2, hours=1.5, memory=0.5, partition="short")
    ended = dict(launcher(here, place).run([waiting("a"), waiting("b")], "work"))
    assert all(wrong.startswith("ended without an outcome: killed or cancelled") for wrong in ended.values())
    script = (here / "script").read_text().splitlines()
    asked = {"array=0-1%1", "cpus-per-task=3", "gpus-per-node=2", "time=90", "mem=512M", "partition=short", "requeue"}
    assert {f"#SBATCH --{one}" for one in [*asked, "signal=TERM@120"]} <= set(script)


@pytest.mark.parametrize(("gpus", "visible"), [(0, ""), (1, "4,7")])
def test_a_slurm_job_without_gpus_sees_none_of_its_machines(here, slurm, monkeypatch, gpus, visible):
    """A cluster that does not keep jobs from devices shows them all GPUs of their machine."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")  # of the machine, for sbatch below starts the job here
    node = f"""
import json, subprocess, sys
from pathlib import Path
for path in Path({str(here)!r}).glob(".jobs/*/job.json"):
    words = ["-m", "semg.common.launched_job", path.parent, json.loads(path.read_text())["ticket"]]
    subprocess.run([sys.executable, *map(str, words)], cwd={str(ROOT)!r}, check=False)
"""
    (here / "node.py").write_text(node)
    slurm("srun", "")
    slurm("squeue", "")
    slurm("sbatch", f"{sys.executable} {here}/node.py && echo Submitted batch job 12")
    sees = job(f"import os, sys; sys.exit(os.environ.get('CUDA_VISIBLE_DEVICES') != {visible!r})")
    assert dict(launcher(here, Place("slurm", gpus=gpus)).run([sees], "work")) == {sees: ""}


def test_more_gpus_than_there_are_is_refused(here, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(SettingError, match="at most the 1 of this machine"):
        launcher(here, Place("local", gpus=2))
