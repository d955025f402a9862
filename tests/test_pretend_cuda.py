"""What must hold on a GPU, checked without one: on_pretended_cuda.py, in a process where PyTorch sees the stand-in."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.skipif(shutil.which("g++") is None, reason="the stand-in for a GPU is built by g++")
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for a GPU is built for Linux")
def test_all_paths_hold_on_a_pretended_gpu():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run([*command, "tests/on_pretended_cuda.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
