"""Every command of README.md, run as it stands, in the order in which it stands, on small simulated recordings.

The commands run in an empty folder, with flags added that make them small; a later flag replaces an earlier one. They
run in this process, and so do the scripts that sweep.py starts: to import PyTorch thirty times would take minutes.
"""

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import loopback
import numpy as np
import pytest
from conftest import ROOT
from share_server import ShareServer
from transformers import GPT2Config, GPT2Model
from waiting import LONGEST

import simulate_putemg
import sweep
from semg.inference.checkpoint import open_checkpoint

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [block.replace("\\\n", "") for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)]  # lines joined
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.split("#")[0].strip()]
TINY = "--layers 1 --epochs 1 --batch-size 32 --device cpu"
SMALLER = {
    "preprocess.py": "--workers 1 --stride 250ms",
    "train.py": TINY,
    "sweep.py": TINY,  # behind its --, for train.py
    "baselines.py": "--classifiers lda",
    "calibrate.py": "--epochs 1",
    "live.py": f"--seconds 2 --wait {LONGEST}",
    "export.py": "--no-onnx",
}


def test_readme_has_the_commands():
    scripts = {command.split()[1] for command in COMMANDS if command.startswith("python ")}
    expected = {"download_putemg", "preprocess", "create_dataset_files", "train", "evaluate", "baselines", "compare"}
    expected |= {"import_csv", "sweep", "live", "report", "calibrate", "predict"}
    assert {f"{name}.py" for name in expected} <= scripts
    assert "make demo" in COMMANDS


def test_make_knows_its_targets():
    for command in COMMANDS:
        if command.startswith("make "):
            done = subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_the_demo_without_make_is_the_demo():
    done = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.replace("\\\n", " ").splitlines()
    result = [line.split()[1:] for line in lines if re.match(r"\S*python \w+\.py ", line)]
    page = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"without make\n.*?```bash\n(.*?)```", page, re.DOTALL)
    assert [line.split()[1:] for line in block.splitlines()] == result


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, run_here):
    """An empty folder, and a local server with the share's files: four simulated people, two recordings of one day."""
    folder = tmp_path_factory.mktemp("readme")
    run_here("simulate_putemg.py", folder / "share", "--people", 4, "--days", 1, "--seconds", 20, "--workers", 1)
    for third in (folder / "share").glob("*-repeats_short-*"):  # two are long enough to adapt to
        third.unlink()
    smaller = SMALLER["preprocess.py"].split()
    run_here("preprocess.py", "--raw", folder / "share", "--shards", folder / "shards", *smaller)
    # in place of the committed split, of all 44 people, and of what the demo leaves
    folds = folder / "splits" / "putemg-kfold5"
    kfold = ("--protocol", "kfold", "--folds", 2)
    run_here("create_dataset_files.py", "--shards", folder / "shards", "--out", folds, *kfold)
    demo = folder / "checkpoints" / "demo"
    data = ("--shards", folder / "shards", "--split", folds / "fold0")
    run_here("train.py", *data, "--out", demo, "--init", "random", "--width", 16, "--heads", 2, *TINY.split())
    for out in ("demo", "demo-adapted"):
        run_here("evaluate.py", "--checkpoint", demo / "best_model.ckpt", *data, "--out", folder / "results" / out)
    write_tables(folder / "mine")
    shape = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=3, bos_token_id=0, eos_token_id=0)
    GPT2Model(shape).save_pretrained(folder / "path" / "to" / "gpt2")
    return folder


def write_tables(folder) -> None:
    """Four people's recordings with an 8-channel device at 200 Hz: three gestures, six times each, which even a tiny
    model tells apart after an epoch, so that it may adapt to a person."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    header = ",".join(f"ch{n}" for n in range(1, 9))
    labels = np.tile(np.repeat(["rest", "fist", "flexion"], 400), 6)
    loud = 1 + 2 * np.stack([labels == "fist"] * 4 + [labels == "flexion"] * 4, axis=1)  # (T, 8)
    for person in (1, 2, 3, 4):
        signal = noise.normal(0, 50, loud.shape) * loud
        table = [",".join(f"{value:.1f}" for value in sample) for sample in signal]
        rows = [f"{row},{label}" for row, label in zip(table, labels, strict=True)]
        (folder / f"{person}.csv").write_text("\n".join([f"{header},label", *rows]) + "\n")
    (folder / "recordings.csv").write_text("file,subject\n" + "".join(f"{n}.csv,{n}\n" for n in (1, 2, 3, 4)))
    (folder / "new.csv").write_text("\n".join([header, *table]) + "\n")
    (folder / "labelled.csv").write_text((folder / "4.csv").read_text())


def adapted(command: str, url: str, recording: str) -> list[str]:
    """The command with flags that make it small, and names of what exists here."""
    script, *words = command.split()[1:]
    words = [f"share/{recording}" if word.endswith(".hdf5") else word for word in words]
    if script == "download_putemg.py":
        words += ["--base-url", url]
    if "fpt" in words:  # GPT-2 from a folder, as without a connection
        words += ["--backbone", "path/to/gpt2"]
    if script in ("train.py", "sweep.py") and "random" in words:
        words += ["--width", "16", "--heads", "2"]
    if "--replay" in words:
        return [str(ROOT / script), *words]
    return [str(ROOT / script), *words, *SMALLER.get(script, "").split()]


def test_the_demos_recording_is_one_that_the_demo_makes():
    result = {one.path.name for one in simulate_putemg.plan(simulate_putemg.arguments().parse_args(["raw"]))}
    named = set(re.findall(r"data/demo/raw/Data-HDF5/(\S+)", TEXT))
    assert named
    assert named <= result


def test_every_command_runs_in_order(workplace, run_here, monkeypatch):
    loopback.on_this_machine_alone()

    def run(script, *words):
        run_here(Path(script).name, *words, cwd=workplace)
        return ""

    monkeypatch.setattr(sweep, "run_script", lambda command, _console: run(*command[1:]))
    files = {path.name: path.read_bytes() for path in sorted((workplace / "share").glob("*.hdf5"))}
    names = "".join(f"{name.removesuffix('.hdf5')}\n" for name in files)
    with ExitStack() as stack:
        share = stack.enter_context(ShareServer())
        share.put("records.txt", names.encode())
        for name, content in files.items():
            share.put(f"Data-HDF5/{name}", content)
        for command in COMMANDS:
            if not command.startswith("python "):
                assert command.split()[0] in ("make", "source", "tensorboard"), f"untested command {command!r}"
                continue
            words = adapted(command, share.mirror, next(iter(files)))
            if "--replay" not in words:
                run(*words)
                continue
            playing = [sys.executable, *words]  # goes on beside the next command, which reads its stream
            process = stack.enter_context(subprocess.Popen(playing, cwd=workplace, stdout=subprocess.DEVNULL))
            stack.callback(process.kill)
    for result in (
        "results/gpt2/sweep.csv",
        "results/compare/compare.md",
        "results/compare-adapted/compare.md",
        "results/baselines/lda-tokens/fold0/metrics.json",
        "results/report.html",
        "results/plots/recording.png",
        "results/predictions",
        "results/live",
        "results/mine-adapted/metrics.json",
        "results/mine-calibrated-1-adapted/metrics.json",
        "exports/mine/model.safetensors",
    ):
        assert (workplace / result).exists(), result
    for result in ("results/mine-adapted", "results/mine-calibrated-1-adapted"):
        scored = json.loads((workplace / result / "metrics.json").read_text())
        assert [one["accepted"] for one in scored["adaptation"]["sessions"]] == [True], "a session too short is refused"
    person = open_checkpoint(workplace / "checkpoints" / "person.ckpt").description
    assert person["adapted"]["accepted"] and person["calibrated_on"] == ["labelled.csv"]


def test_the_lines_of_python_load_the_shipped_checkpoint():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    command = [sys.executable, "-c", code + "\nprint(len(model.classes))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "8"
