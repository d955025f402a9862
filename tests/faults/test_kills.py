"""Killed anywhere, the same command ends with the same bytes, and nothing temporary stays behind.

Two kinds of kills: at random moments after a run has begun to write (seeded; reproducible as far as a clock is), and
just before each change that a script makes in its output folder, one after another: there every state is met in which
a kill can leave the names of files. `pytest -m slow` has many of the first kind and all of the second.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import recordings
import small_shards
from conftest import ROOT
from downloading import tree
from killing import Hold, finished, start, until, until_free
from waiting import beside, wait_for

from semg.common.errors import DataError
from semg.common.files import folder_lock
from semg.data.shards import open_shard
from semg.inference.checkpoint import open_checkpoint

TINY = "--layers 1 --width 16 --patch 64 --frame 160 --epochs 2 --batch-size 40 --device cpu --init random --ema 0.9"


@dataclass
class Work:
    """A command whose folder `out` is to be the same however often it is killed."""

    script: str
    arguments: Callable[[Path], list[object]]
    content: Callable[[Path], object] = tree  # of its folder: what has to be the same
    lock: Callable[[Path], Path] = lambda out: out / ".lock"
    resumes: bool = False
    right: object = None
    seconds: float = 0.0  # from the lock to the end
    folder: Path = field(default_factory=Path)

    def begin(self, out: Path, **settings: object):
        arguments = self.arguments(out)
        if self.resumes and (out / "last.ckpt").exists():
            arguments = [*arguments, "--resume"]
        return start(self.script, arguments, **settings)

    def finish(self, out: Path) -> None:
        assert finished(self.begin(out)) == 0
        assert self.content(out) == self.right
        left = [p for p in self.lock(out).parent.rglob("*") if p.name.endswith((".tmp", ".lock"))]
        assert left == []

    def undisturbed(self, folder: Path) -> "Work":
        """Run it once in peace, to know what is right and how long it takes."""
        self.folder = folder
        out = folder / "right" / "out"
        process = self.begin(out)
        until(lambda: self.lock(out).exists(), process)
        began = time.monotonic()
        assert finished(process) == 0
        self.seconds = time.monotonic() - began
        self.right = self.content(out)
        return self

    def killed_at_random(self, number: int, times: int) -> int:
        """Kill the command at `times` random moments, then let it end; if it ended before, begin it elsewhere anew."""
        draw = random.Random(f"{self.script}/{number}")
        hit, ended = 0, 0
        out = self.folder / f"random{number}" / "out"
        while hit < times:
            process = self.begin(out)
            until(lambda: self.lock(out).exists(), process)  # noqa: B023  called at once
            process.join(draw.random() * self.seconds)
            process.kill()
            if finished(process) == -9:
                hit += 1
                until_free(self.lock(out))
                continue
            ended += 1
            assert ended < 40 * times, "hardly ever hit"
            self.finish(out)
            out = self.folder / f"random{number}-{ended}" / "out"
        self.finish(out)
        return hit

    def killed_before_change(self, number: int, out: Path) -> bool:
        """Kill it just before its `number`-th change, then let it end. False if it makes fewer changes."""
        if finished(self.begin(out, die_at=number, folder=self.lock(out).parent)) == 0:
            return False
        self.finish(out)
        return True


def trained(out: Path) -> dict[str, object]:
    """Weights and metrics of a run; not how fast it was."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    output: dict[str, object] = {"rows": [{k: v for k, v in row.items() if not k.startswith("speed")} for row in rows]}
    for name in ("best_model.ckpt", "last.ckpt"):
        tensors = open_checkpoint(out / name).tensors
        output[name] = {key: (value.dtype, value.numpy().tobytes()) for key, value in sorted(tensors.items())}
    return output


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recordings, shards and a split."""
    folder = tmp_path_factory.mktemp("inputs")
    raw = folder / "raw"
    raw.mkdir()
    for subject in (3, 4, 5):
        table = recordings.frame(subject, samples=4 * recordings.RATE)
        table["TRAJ_GT"] = np.repeat([0.0, 1.0, 9.0, 2.0], recordings.RATE)
        recordings.write(raw, table, recordings.record_name(subject))
    shards, split = small_shards.write_all(folder)
    return {"raw": raw, "shards": shards, "split": split}


@pytest.fixture(scope="module")
def works(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Work]]:
    """`works("train")`: the work of that name, after one run in peace."""
    raw, data = ["--raw", inputs["raw"]], ["--shards", inputs["shards"]]
    train = [*data, "--split", inputs["split"], *TINY.split()]
    result = {
        "preprocess, 1 worker": Work("preprocess", lambda out: [*raw, "--shards", out, "--workers", 1]),
        "preprocess, 2 workers": Work("preprocess", lambda out: [*raw, "--shards", out, "--workers", 2]),
        "preprocess --overwrite": Work(
            "preprocess", lambda out: [*raw, "--shards", out, "--workers", 1, "--overwrite"]
        ),
        "create_dataset_files": Work(
            "create_dataset_files",
            lambda out: [*data, "--out", out, "--protocol", "kfold", "--folds", 5],
            lock=lambda out: out.parent / ".lock",
        ),
        "train": Work("train", lambda out: [*train, "--out", out], content=trained, resumes=True),
        "evaluate": Work("evaluate", lambda out: [*evaluation, "--out", out], content=results),
    }
    for work in result.values():
        work.folder = Path()

    def ready(name: str) -> Work:
        work = result[name]
        if work.folder == Path():
            work.undisturbed(tmp_path_factory.mktemp(work.script))
        return work

    evaluation: list[object] = ["--device", "cpu", *data, "--split", inputs["split"], "--checkpoint"]
    checkpoint = tmp_path_factory.mktemp("model") / "run"
    evaluation.append(checkpoint / "best_model.ckpt")

    def with_model(name: str) -> Work:
        if name == "evaluate" and not checkpoint.exists():
            assert finished(start("train", [*train, "--epochs", 1, "--out", checkpoint])) == 0
        return ready(name)

    yield with_model


def results(out: Path) -> dict[str, object]:
    """Results but for the name of the folder that metrics.json says they were written to."""
    actual: dict[str, object] = dict(tree(out))
    metrics = json.loads((out / "metrics.json").read_text())
    del metrics["made"]["arguments"]["out"]
    return actual | {"metrics.json": metrics}


ALL = ("preprocess, 1 worker", "preprocess, 2 workers", "create_dataset_files", "train", "evaluate")
MANY = {  # kills; with the downloader's forty at least, in test_server.py, more than a hundred
    "preprocess, 1 worker": 14,
    "preprocess, 2 workers": 14,
    "create_dataset_files": 8,
    "train": 20,
    "evaluate": 14,
}


@pytest.mark.parametrize("name", ALL)
def test_killed_at_a_random_moment_it_ends_the_same(works, record_property, name: str) -> None:
    record_property("kills at random moments", works(name).killed_at_random(0, times=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_killed_at_many_random_moments_it_ends_the_same(works, record_property, name: str) -> None:
    hit = sum(works(name).killed_at_random(number, times=2) for number in range(1, 1 + MANY[name] // 2))
    record_property("kills at random moments", hit)
    assert hit == MANY[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preprocess, 1 worker", "create_dataset_files", "train", "evaluate"])
def test_killed_before_each_change_it_ends_the_same(works, record_property, tmp_path: Path, name: str) -> None:
    work, number = works(name), 1
    while work.killed_before_change(number, tmp_path / str(number) / "out"):
        number += 1
    record_property("kills just before a change", number - 1)
    assert number > 5


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[] if n in (9, 10) else pytest.mark.slow) for n in range(1, 40)]
)
def test_an_overwrite_killed_before_each_change_loses_no_shard(
    works, record_property, tmp_path: Path, inputs: dict[str, Path], number: int
) -> None:
    """Whichever shard is there, old or new, is whole; the command without --overwrite makes all good, or says why."""
    work = works("preprocess --overwrite")
    out = tmp_path / "out"
    assert finished(work.begin(out)) == 0
    if finished(work.begin(out, die_at=number, folder=out)) == 0:
        return
    record_property("kills just before a change", 1)
    for path in inputs["raw"].iterdir():
        if (out / path.stem).exists():
            open_shard(out / path.stem, verify=True)
    assert finished(start("preprocess", ["--raw", inputs["raw"], "--shards", out, "--workers", 1])) == 0
    assert tree(out) == work.right


def test_the_best_model_opens_at_every_moment(works, tmp_path: Path) -> None:
    """Once best_model.ckpt is there, it is whole, while training goes on and is killed and goes on."""
    works("train")
    work, out, over = works("train"), tmp_path / "run", threading.Event()
    opened = 0

    def look() -> None:
        nonlocal opened
        while not over.wait(0.001):
            if opened or (out / "best_model.ckpt").exists():
                open_checkpoint(out / "best_model.ckpt")
                opened += 1

    with beside(look):
        try:
            process = work.begin(out)
            until((out / "best_model.ckpt").exists, process)
            process.join(0.3 * work.seconds)
            process.kill()
            finished(process)
            work.finish(out)
        finally:
            over.set()
    assert opened > 2


def stoppable(inputs: dict[str, Path], folder: Path, model: Path) -> dict[str, tuple[list[object], Path]]:
    """Each long script's flags but for where it writes, and what is there once its work has begun."""
    places: list[object] = ["--shards", inputs["shards"], "--split", inputs["split"]]
    train = [*places, *TINY.split()]
    out, lock = folder / "out", folder / "out" / ".lock"
    tables, listed = [folder / f"{number}.npy" for number in range(3)], folder / "list.csv"
    raw: list[object] = ["--raw", inputs["raw"], "--shards", out]
    adapt = ["--checkpoint", model, "--epochs", 200]
    return {
        "preprocess": ([*raw, "--workers", 1], lock),
        "preprocess --workers 2": ([*raw, "--workers", 2], lock),
        "create_dataset_files": (["--shards", inputs["shards"], "--out", out, "--protocol", "loso"], folder / ".lock"),
        "train": ([*train, "--epochs", 500, "--out", out], out / "last.ckpt"),
        "train --pretrain": ([*train, "--pretrain", 500, "--out", out], out / "last.ckpt"),
        "calibrate": ([*places, *adapt, "--out", out], lock),
        "evaluate": (["--checkpoint", model, *places, "--out", out], lock),
        "evaluate --normalize": (["--checkpoint", model, *places, "--out", out, "--normalize", "online"], lock),
        "baselines": ([*places, "--out", out], lock),
        "export": (["--checkpoint", model, "--out", out], lock),
        "predict": (["--rate", 5120, "--checkpoint", model, "--out", out, *tables], out / "0.csv"),
        "import_csv": ([listed, "--rate", 2000, "--transition-margin", 0, "--shards", out], lock),
        "simulate_putemg": ([out, "--seconds", 20, "--workers", 1], lock),
        "simulate_putemg --workers 2": ([out, "--seconds", 20, "--workers", 2], lock),
    }


STOPPABLE = ("preprocess", "preprocess --workers 2", "create_dataset_files", "train", "train --pretrain")
STOPPABLE += ("calibrate", "evaluate", "evaluate --normalize", "baselines", "predict", "import_csv")
STOPPABLE += ("simulate_putemg", "simulate_putemg --workers 2", "export")


@pytest.fixture(scope="module")
def model(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--shards", inputs["shards"], "--split", inputs["split"], *TINY.split(), "--epochs", 1, "--out", out]
    assert finished(start("train", flags)) == 0
    return out / "best_model.ckpt"


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        pytest.param(name, number, code, id=f"{name}-{number.name}", marks=[] if name in quick else pytest.mark.slow)
        for number, code, quick in (
            (signal.SIGINT, 130, ("preprocess --workers 2", "create_dataset_files", "calibrate", "predict")),
            (signal.SIGTERM, 143, ("preprocess", "train --pretrain", "evaluate", "baselines", "import_csv")),
        )
        for name in STOPPABLE
    ],
)
def test_a_signal_ends_it_with_its_code_and_one_line(
    inputs: dict[str, Path], model: Path, tmp_path: Path, record_property, name: str, number: int, code: int
) -> None:
    """To the whole process group, as a terminal sends Ctrl-C: workers must not add tracebacks of their own."""
    flags, begun = stoppable(inputs, tmp_path, model)[name]
    if name == "predict":
        samples = np.random.default_rng(0).normal(0, 30, (100_000, 24)).astype(np.float32)
        for place in range(3):
            np.save(tmp_path / f"{place}.npy", samples)
    if name == "import_csv":
        for place in range(2):
            (tmp_path / f"{place}.csv").write_text(
                f"a,b,label\n{place},2,fist\n" + "1,2,fist\n" * 2000 + "-3,1,idle\n" * 2000
            )
        (tmp_path / "list.csv").write_text("file,subject,date,task\n0.csv,7,2024-03-01,\n1.csv,7,2024-03-01,\n")
    hold = Hold(begun, tmp_path, workers=2 if "--workers 2" in name else 0)
    process = start(name.split()[0], flags, hold=hold, errors=tmp_path / "errors")
    until(hold.reached, process)
    os.killpg(process.pid, number)
    hold.release()
    ended, output = finished(process), (tmp_path / "errors").read_text()
    lines = [line for line in output.splitlines() if line]
    assert (ended, len(lines), output.lstrip()[:9]) == (code, 1, "stopped: "), output
    assert not list(tmp_path.rglob("*.tmp"))
    record_property("signals to stop", 1)


@pytest.mark.skipif(not list(Path("/proc/self/task").glob("*/children")), reason="children are found in /proc")
def test_workers_end_with_a_killed_preprocess(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Otherwise they would go on writing, without a lock, into what the next run writes."""
    command = [sys.executable, ROOT / "preprocess.py", "--raw", inputs["raw"], "--shards", tmp_path / "s"]
    process = subprocess.Popen([*map(str, command), "--workers", "2"], stdout=-3, stderr=-3)
    children: set[int] = set()
    while len(children) < 3 and process.poll() is None:  # two and the resource tracker
        with suppress(OSError):  # a thread that ended meanwhile
            for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
                children |= set(map(int, task.read_text().split()))
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert len(children) >= 2
    wait_for(lambda: not any(map(alive, children)), "the workers' end")


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_lock_whose_file_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run before removes its lock file on its way out: who had opened that one must open it anew."""
    from filelock import FileLock

    acquire, calls = FileLock.acquire, []

    def late(lock: FileLock, **settings: object):
        taken = acquire(lock, **settings)
        calls.append(1)
        if len(calls) == 1:
            os.unlink(lock.lock_file)  # noqa: PTH108
        return taken

    monkeypatch.setattr(FileLock, "acquire", late)
    with folder_lock(tmp_path):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(DataError, match="another run is writing there"), folder_lock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []
