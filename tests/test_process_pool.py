"""Workers that cannot be started: nothing hangs, nothing is left running, and the scripts go on without them."""

import subprocess
import sys

import pytest
import recordings
from conftest import ROOT

from semg.data.shards import list_records

NO_THIRD_FORK = """
import errno, os, sys
count, fork = 0, os.fork
def limited():
    global count
    count += 1
    if count == 3:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = limited
"""
NO_THREAD = """
import sys, threading
start = threading.Thread.start
def limited(self):
    if "ExecutorManager" in type(self).__name__:
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = limited
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux alone")


@pytest.mark.parametrize(
    ("script", "limit"),
    [
        pytest.param("preprocess", NO_THIRD_FORK, id="preprocess-processes"),
        pytest.param("preprocess", NO_THREAD, id="preprocess-threads"),
        pytest.param("simulate_putemg", NO_THIRD_FORK, id="simulate_putemg-processes"),
    ],
)
def test_a_limit_on_processes_slows_a_script_and_stops_nothing(tmp_path, script, limit):
    raw = tmp_path / "raw"
    raw.mkdir()
    if script == "preprocess":
        for subject in range(1, 5):
            recordings.write(raw, recordings.frame(subject, samples=6000), recordings.record_name(subject))
        flags = ["--raw", raw, "--shards", tmp_path / "s", "--transition-margin", 0]
    else:
        flags = [raw, "--people", 1, "--days", 1, "--seconds", 20]
    code = f"{limit}\nsys.path.insert(0, {str(ROOT)!r})\nimport {script}\nfrom semg.common import cli"
    code += f"\ncli.run({script}.main)"
    command = [sys.executable, "-c", code, *map(str, flags), "--workers", "4"]
    # a process left running would keep the pipes open, and this call waiting
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "expected to start" in done.stderr
    assert "Traceback" not in done.stderr
    if script == "preprocess":
        assert len(list_records(tmp_path / "s")) == 4
    else:
        assert len(list(raw.glob("*.hdf5"))) == 3
