"""Cores that a process may use, and threads that train.py computes with."""

from semg.common.interrupts import mend_thread_settings

import importlib
import json
import os
import socket
import subprocess
import sys

import pytest
from conftest import ROOT
from test_train import RANDOM, data, here  # noqa: F401  fixtures
from waiting import LONGEST

from model import GPT2Classifier, ModelConfig
from semg.common import process_pool
from semg.common.errors import DataError
from semg.common.process_pool import usable_cores
from semg.training import threads
from semg.training.distributed import World, join_world

BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(process_pool.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def machine(root, cgroup, **files):
    """/proc and /sys of a machine, as far as they are read; files: path under /sys/fs/cgroup -> text."""
    for path, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_without_control_groups_it_is_the_cores_that_the_process_is_bound_to(tmp_path):
    assert usable_cores(tmp_path) == BOUND
    assert 1 <= usable_cores() <= BOUND


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n", "job/cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/not/there\n", {"cpu.max": "1600000 100000\n"}, 16),
        ("0::/job\n", {"job/cpu.max": "max 100000\n"}, 64),
        (
            "4:memory:/x\n3:cpu,cpuacct:/job\n",
            {"cpu/job/cpu.cfs_quota_us": "800000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("nonsense\n", {"cpu.max": "nonsense\n"}, 64),
    ],
)
@pytest.mark.usefixtures("many_cores")
def test_what_a_job_or_container_gets_of_the_cores_time_counts(tmp_path, cgroup, files, cores):
    assert usable_cores(machine(tmp_path, cgroup, **files)) == cores


@pytest.mark.parametrize(
    ("value", "expected"),
    [("4,2", "4"), ("3", "3"), (" 2 ", "2"), ("abc", None), ("0", None), ("-1", None), ("", None)],
)
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS"])
def test_threads_in_the_environment_end_no_script(monkeypatch, capsys, name, value, expected):
    monkeypatch.setenv(name, value)
    mend_thread_settings()
    assert os.environ.get(name) == expected
    warning = f"warning: {name}: expected a number of threads, found {value!r}: left out\n"
    assert capsys.readouterr().err == (warning if value and expected is None else "")


@pytest.mark.parametrize("value", ["4,2", "abc"])
def test_every_script_mends_the_environment_before_it_imports_what_reads_it(value):
    for script in sorted(path.name for path in ROOT.glob("*.py") if path.name not in ("model.py", "hatch_build.py")):
        first = next(line for line in (ROOT / script).read_text().splitlines() if line.startswith(("import", "from")))
        assert first.startswith("import semg.common.interrupts"), script
    code = "import semg.common.interrupts, pandas, sklearn.svm; print('ready')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": value},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "ready\n"), done.stderr


def test_a_small_model_has_one_thread_and_a_large_one_what_there_is(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 16)
    small = GPT2Classifier(ModelConfig())
    assert threads.careful_threads(small, batch_size=128) == 1
    assert threads.careful_threads(small, batch_size=128_000) == 16
    assert threads.careful_threads(GPT2Classifier(ModelConfig(layers=2, width=768, heads=12)), batch_size=128) == 16
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.careful_threads(small, batch_size=128_000) == 3


def test_train_py_says_and_keeps_how_many_threads_it_computes_with(here, tmp_path):  # noqa: F811
    import torch

    before = torch.get_num_threads()
    try:
        here(tmp_path, *RANDOM, "--epochs", 1, "--augment", "none", "--threads", 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert json.loads((tmp_path / "config.json").read_text())["derived"]["threads"] == 2


@pytest.fixture
def threads_as_before():
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_as_before")
def test_what_is_asked_for_comes_before_what_is_careful(monkeypatch):
    import torch

    model = GPT2Classifier(ModelConfig())
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 3)
    assert threads.use_threads(2, model, 128) == torch.get_num_threads() == 2
    assert threads.use_threads(None, model, 128) == 1
    assert threads.use_threads(None, model, 128_000) == 3
    assert threads.use_threads(None) == 1, "networks of others"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.use_threads(None) == 2


COMPUTING = sorted(path.stem for path in ROOT.glob("*.py") if '"--device", choices' in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", [*COMPUTING, "train", "baselines", "export"])
def test_every_script_that_computes_lets_the_threads_be_chosen(script):
    parser = importlib.import_module(script).arguments()
    assert parser.get_default("threads") is None, "careful, unless it is given"
    assert {"--threads"} == {name for action in parser._actions for name in action.option_strings if "thread" in name}


@pytest.mark.usefixtures("threads_as_before")
def test_predict_py_computes_with_the_threads_it_is_given(tmp_path, monkeypatch):
    import numpy as np
    import torch

    import predict

    np.save(tmp_path / "new.npy", np.random.default_rng(0).normal(0, 50, (2560, 24)))
    words = [tmp_path / "new.npy", "--rate", 5120, "--out", tmp_path, "--device", "cpu", "--quiet"]
    for given, expected in ((["--threads", 2], 2), ([], 1)):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, [*words, *given])])
        assert predict.main() == 0
        assert torch.get_num_threads() == expected


LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"WORLD_SIZE": "", "LOCAL_RANK": ""}, "WORLD_SIZE: expected a number .*, found none"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK: expected a number .*, found none"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK: expected a number .*, found x"),
        ({"RANK": "2"}, "RANK: expected less than WORLD_SIZE, 2, found 2"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR: expected a host .*, found none"),
        ({"MASTER_PORT": ""}, "MASTER_PORT: expected a number .*, found none"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT: expected 1 to 65535, found 99999"),
    ],
)
def test_a_rank_without_what_torchrun_sets_beside_it_is_told_in_a_line(monkeypatch, changed, told):
    """Left in the environment by another launcher."""
    for name, value in (LAUNCHED | changed).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=f"{told}; start several processes by torchrun, or unset RANK"):
        join_world(128, "cpu")


def test_a_process_without_a_gpu_of_its_own_is_told_in_a_line(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (LAUNCHED | {"RANK": "1", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    expected = "LOCAL_RANK: expected less than 1, the number of GPUs here, found 1; start at most 1 process per machine"
    with pytest.raises(DataError, match=expected):
        join_world(128, "auto")


def test_a_container_that_says_one_of_one_is_no_launcher(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join_world(128, "cpu") == World()


_LEFT = """
from pathlib import Path
from torch import nn
from semg.training.distributed import join_world
world = join_world(1, "cpu")
module = world.parallel(nn.Linear(2, 2))
names = [[path.read_text() for path in Path("/proc/self/task").glob("*/comm")]]
del module
world.leave()
names.append([path.read_text() for path in Path("/proc/self/task").glob("*/comm")])
print(*(sum("gloo" in name for name in some) for some in names))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's threads by name in files")
def test_the_threads_that_processes_talk_through_end_with_their_group():
    """One that still held a tensor while Python ended aborted a process whose training was done."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, **LAUNCHED, "WORLD_SIZE": "1", "MASTER_PORT": port}
    done = subprocess.run(
        [sys.executable, "-c", _LEFT], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST
    )
    assert done.returncode == 0, done.stderr
    during, after = map(int, done.stdout.split())
    assert during > 0 and after == 0


@pytest.mark.parametrize("script", ["preprocess", "simulate_putemg"])
def test_as_many_workers_as_the_job_has_cores(monkeypatch, script):
    module = importlib.import_module(script)
    monkeypatch.setattr(module, "usable_cores", lambda: 3)
    assert module.arguments().get_default("workers") == 3
