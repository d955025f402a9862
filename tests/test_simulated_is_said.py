"""Whatever is made of simulated recordings says so, from the shard to the last table and picture; real ones are not."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import recordings
import small_shards

import calibrate
import compare
import evaluate
import export
import plot
import preprocess
import sweep
import train
from semg.data.shards import open_shard
from semg.evaluation import score_figures, signal_figures

TINY = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 1 --batch-size 40 --device cpu".split()  # noqa: SIM905


@pytest.fixture
def here(monkeypatch, capsys):
    """Run a script's `main` in this process: `here(train, *words)` gives its standard output."""

    def run(script, *words):
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
        assert not script.main()
        return capsys.readouterr().out

    return run


@pytest.fixture(params=[True, False], ids=["simulated", "real"])
def made(request, tmp_path, here):
    """The folder in which a model was trained, whether on simulated recordings, and what train.py said."""
    records = [small_shards.write(tmp_path / "shards", n, simulated=request.param) for n in range(1, 6)]
    small_shards.write_split(tmp_path / "split", train=records[:3], val=records[3:4], test=records[4:])
    data = "--shards", tmp_path / "shards", "--split", tmp_path / "split"
    return tmp_path, request.param, here(train, *data, "--out", tmp_path / "run", *TINY)


def titles(monkeypatch, module, name):
    """All words given to a picture from now on."""
    words = []
    draw = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **more: (words.extend(map(str, args)), draw(*args, **more))[1])
    return words


def test_all_that_comes_of_a_shard_says_so(made, here, run_here, monkeypatch):
    folder, simulated, said = made
    data = "--shards", folder / "shards", "--split", folder / "split"
    best = folder / "run" / "best_model.ckpt"
    drawn = titles(monkeypatch, score_figures, "confusion_matrix"), titles(monkeypatch, score_figures, "per_subject")
    output = {"train": said}
    output["evaluate"] = here(evaluate, "--checkpoint", best, *data, "--device", "cpu", "--out", folder / "scores")
    adapt = "--checkpoint", best, "--epochs", 1, "--device", "cpu"
    output["calibrate"] = here(calibrate, *adapt, *data, "--out", folder / "adapted")
    output["compare"] = here(compare, folder / "scores", "--out", folder / "table")
    here(export, "--checkpoint", best, "--out", folder / "exported", "--no-onnx")
    output["export"] = (folder / "exported" / "README.md").read_text()
    flags = "--out", folder / "sweep", "--checkpoints", folder / "runs", "--evaluate", "none", "--seeds", 0

    def train_here(command, _console):
        run_here(Path(command[1]).name, *command[2:])
        return ""

    monkeypatch.setattr(sweep, "run_script", train_here)  # of what that passes on, nothing is sweep.py's word
    output["sweep"] = here(sweep, *data, *flags, "--", *TINY)
    output["confusion.png"], output["per_subject.png"] = map(" ".join, drawn)
    output["curves.png"] = _title(here, monkeypatch, score_figures, "learning_curves", "curves", folder / "run")
    output["calibration.png"] = _title(
        here, monkeypatch, score_figures, "calibration", "calibration", folder / "adapted"
    )
    output["classes.png"] = _title(
        here, monkeypatch, signal_figures, "class_counts", "classes", folder / "split", "--shards", folder / "shards"
    )
    wrong = [name for name, text in output.items() if ("SIMULATED" in text) != simulated]
    assert wrong == []
    for name in ("scores", "adapted"):
        assert json.loads((folder / name / "metrics.json").read_text())["simulated"] is simulated


def _title(here, monkeypatch, module, function, picture, *words):
    drawn = titles(monkeypatch, module, function)
    here(plot, picture, *words, "--out", Path(words[0]).parent / f"{picture}.png")
    return " ".join(drawn)


@pytest.mark.parametrize("simulated", [True, False])
def test_a_shard_is_marked_by_what_lies_beside_its_recording(tmp_path, here, simulated):
    (tmp_path / "raw").mkdir()
    source = recordings.write(tmp_path / "raw", recordings.frame(3, samples=12_000), recordings.record_name(3))
    if simulated:
        (source.parent / "simulated.json").write_text("{}")
    here(preprocess, "--raw", source.parent, "--shards", tmp_path / "shards")
    shard = open_shard(tmp_path / "shards" / source.stem)
    assert shard.simulated is simulated
    shutil.move(source, tmp_path / source.name)  # the shard knows it by itself
    assert open_shard(shard.path).simulated is simulated
