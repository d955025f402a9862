"""sweep.py: every run of the grid, picked by validation alone, stopped and gone on, told in tables."""

import csv
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_shards
import torch
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from waiting import LONGEST, wait_for

import sweep
from semg.common.errors import DataError, UsageError
from semg.common.files import folder_lock, read_json, write_json
from semg.data.inputs import Inputs, shards_of
from semg.data.splits import SUBSETS, read_split
from semg.flags import grid, training
from semg.inference.checkpoint import write_checkpoint

TINY = "--layers 1 --width 16 --patch 64 --frame 160 --batch-size 32 --device cpu --init random".split()  # noqa: SIM905
GOOD, BAD = "lr-1e-2", "lr-1e-9"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of five people; `split`, one split of them; `folds`, fold0 and fold1, which test people 05 and 01."""
    folder = tmp_path_factory.mktemp("data")
    small_shards.write_all(folder)
    people = [small_shards.name(subject) for subject in range(1, 6)]
    for fold, parts in enumerate([([1, 2], [0, 3], [4]), ([1, 2], [3, 4], [0])]):
        lists = {part: [people[i] for i in places] for part, places in zip(SUBSETS, parts, strict=True)}
        small_shards.write_split(folder / "folds" / f"fold{fold}", **lists)
    return folder


def flags(data, where, *more, split="folds"):
    folders = ["--shards", data / "shards", "--split", data / split, "--out", where / "out"]
    return [str(word) for word in [*folders, "--checkpoints", where / "runs", *more]]


class FakeScripts:
    """In place of train.py, evaluate.py and calibrate.py: writes what they would, with scores that the test names.

    val, test: (setting's name, fold, seed) -> {person: macro-F1}. fails: such keys whose training fails.
    """

    def __init__(self, val, test, fails=()):
        self.val, self.test, self.fails, self.called = val, test, fails, []

    def __call__(self, command, _console):
        script, words = Path(command[1]).name, command[2:]
        value = dict(zip(words[::2], words[1::2], strict=False))
        scoring = script in ("evaluate.py", "calibrate.py")
        folder = sweep.Path(value["--checkpoint"]).parent if scoring else sweep.Path(value["--out"])
        key = (folder.parts[-3], folder.parts[-2], int(folder.parts[-1].removeprefix("seed")))
        self.called.append((script, key, "--resume" in words))
        if scoring:
            mode, repetitions = value.get("--adapt", "none"), int(value.get("--repetitions", 0))
            digest = hashlib.sha256((folder / "best_model.ckpt").read_bytes()).hexdigest()
            split, inputs = inputs_of(value)
            output = {"subset": value["--subset"], "checkpoint_sha256": digest, "split_sha256": split.checksum}
            output["data"] = {"arguments": {}, "checksums": inputs.scored}
            if mode != "none":
                sessions = [{"session": "a", "accepted": True}, {"session": "b", "accepted": key[1] == "fold0"}]
                output["adaptation"] = {"mode": mode, "sessions": sessions}
            if repetitions:
                output["calibrate"] = repetitions
            more = 0.1 * (mode != "none") + 0.1 * repetitions
            scores = {person: f1 + more for person, f1 in self.test(*key).items()}
            write_json(sweep.Path(value["--out"]) / "metrics.json", output | {"per_subject": people(scores)})
            return ""
        _, settings = training.checked(words)
        split, inputs = inputs_of(value)
        derived = {"shards_sha256": inputs.shards}
        write_json(folder / "config.json", {"arguments": settings, "derived": derived})
        (folder / "last.ckpt").touch()
        if key in self.fails:
            return "step 7: expected a finite loss"
        scores = people(self.val(*key))
        mean = float(np.mean([one["macro_f1"] for one in scores.values()]))
        output = {"epoch": 1, "validation": {"val/macro_f1": mean}, "validation_per_subject": scores}
        output |= {"split": {"checksum": split.checksum}, **derived}
        write_checkpoint(folder / "best_model.ckpt", output, {"key": torch.tensor(list(map(ord, str(key))))})
        return ""

    def count(self, script):
        return [key for name, key, _ in self.called if name == script]


def inputs_of(flag_values):
    """The split that a script is given, and what data it finds."""
    split, shards = Path(flag_values["--split"]), Path(flag_values["--shards"])
    read = read_split(split, shards)
    return read, Inputs.of(read, shards_of([read], shards))


def people(scores):
    return {person: {"macro_f1": f1, "accuracy": f1 - 0.1, "n_windows": 60} for person, f1 in scores.items()}


@pytest.fixture
def run(monkeypatch):
    """Run sweep.py here with scripts in place of its own: `run(scripts, *flags)` gives the exit code."""

    def started(scripts, *words):
        monkeypatch.setattr(sys, "argv", ["sweep.py", *words])
        monkeypatch.setattr(sweep, "run_script", scripts)
        return sweep.main()

    return started


def table(where):
    with (where / "out" / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def hyperparameters(folder):
    """Learning rate -> scores, as TensorBoard's HPARAMS page finds them."""
    shown = {}
    for run in filter(Path.is_dir, folder.iterdir()):
        events = EventAccumulator(str(run)).Reload()
        held = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        given = plugin_data_pb2.HParamsPluginData.FromString(held).session_start_info.hparams
        shown[given["lr"].number_value] = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    return shown


@pytest.fixture
def here(run_here):
    """In place of `sweep.run_script`: the same scripts, run in this process, which has imported PyTorch."""

    def started(command, _console):
        run_here(Path(command[1]).name, *command[2:])
        return ""

    return started


def once_each(first, others, starts):
    """Scripts of which each is started by `first` once, by `others` from then on; `starts` lists all."""

    def started(command, console):
        starts.append(script := Path(command[1]).name)
        return (first if starts.count(script) == 1 else others)(command, console)

    return started


def test_a_sweep_trains_picks_and_evaluates_only_the_pick(run, here, data, tmp_path, capsys):
    """The first run of train.py and that of evaluate.py are processes, as are all of the launched sweep at the end."""
    words = flags(data, tmp_path, "--grid", "lr=1e-9,1e-2", split="split")
    passed = ["--", *TINY, "--augment", "none", "--epochs"]  # no pilots
    starts = []
    assert run(once_each(sweep.run_script, here, starts), *words, *passed, "2") == 0
    assert starts == ["train.py", "train.py", "evaluate.py"]
    output = capsys.readouterr().out
    assert "picked lr-1e-2: validation macro-F1" in output.splitlines()[-1]
    assert "epoch   2" in output
    assert output.splitlines()[-1].endswith(f"; next: python compare.py {tmp_path / 'out'}")
    assert "next: python evaluate.py" not in output
    best, other = table(tmp_path)
    assert (best["setting"], best["lr"], best["picked"], best["runs"]) == (GOOD, "1e-2", "yes", "1")
    assert (other["setting"], other["picked"], other["test_macro_f1"]) == (BAD, "", "")
    folder = tmp_path / "runs" / GOOD / "seed0"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert float(best["val_macro_f1"]) == pytest.approx(max(row["val/macro_f1"] for row in rows))
    metrics = read_json(tmp_path / "out" / GOOD / "seed0" / "metrics.json", "metrics")
    assert float(best["test_macro_f1"]) == pytest.approx(metrics["mean_over_subjects"]["macro_f1"])
    assert metrics["subset"] == "test"
    assert not (tmp_path / "out" / BAD).exists()
    assert not (folder / "last.ckpt").exists()
    shown = hyperparameters(tmp_path / "out" / "hparams")
    assert set(shown) == {1e-9, 1e-2}
    assert shown[1e-2]["val/macro_f1"] == pytest.approx(float(best["val_macro_f1"]), rel=1e-5)
    assert shown[1e-2]["test/macro_f1"] == pytest.approx(float(best["test_macro_f1"]), rel=1e-5)
    assert [name for name in shown[1e-9] if name.startswith("test/")] == []
    assert read_json(tmp_path / "out" / "sweep.json", "a sweep")["made"]["arguments"]["train"][:2] == ["--layers", "1"]
    before = (tmp_path / "out" / "sweep.md").read_bytes()

    def nothing(*_):
        raise AssertionError("a whole run was started again")

    assert run(nothing, *words, *passed, "2") == 0
    assert (tmp_path / "out" / "sweep.md").read_bytes() == before
    with pytest.raises(DataError, match="expected a run with epochs 3, found 2"):
        run(nothing, *words, *passed, "3")
    launched = flags(data, tmp_path / "launched", *words[words.index("--grid") :], split="split")
    assert run(nothing, *launched, "--launch", "local", "--parallel", "2", *passed, "2") == 0
    assert table(tmp_path / "launched") == table(tmp_path)
    assert hyperparameters(tmp_path / "launched" / "out" / "hparams") == shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_run_under_way_and_the_same_command_goes_on(run, here, data, tmp_path, number, code):
    words = [*flags(data, tmp_path, "--evaluate", "none", split="split"), "--", *TINY, "--epochs", "12"]
    words += ["--augment", "none"]  # no pilots
    command = [sys.executable, str(ROOT / "sweep.py"), *words]
    log = tmp_path / "runs" / "default" / "seed0" / "metrics.jsonl"
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    try:
        wait_for(lambda: log.exists() or process.poll() is not None, "the first epoch")
        process.send_signal(number)
        _, output = process.communicate(timeout=LONGEST)
    finally:
        process.kill()
    assert process.returncode == code, output
    assert "same command" in output
    assert "Traceback" not in output
    with folder_lock(log.parent):  # nobody writes there any more
        early = log.read_text().splitlines()
    assert 1 <= len(early) < 12
    assert run(here, *words) == 0
    late = log.read_text().splitlines()
    assert late[: len(early)] == early  # with the very speeds that were measured then: not trained again
    assert len(late) == 12


# person 04 validates both folds, 01 and 05 one each; the better setting on validation is the worse one on test
VAL = {
    ("lr-1e-2", "fold0"): {"01": 0.5, "04": 0.7},
    ("lr-1e-2", "fold1"): {"04": 0.9, "05": 0.6},
    ("lr-1e-3", "fold0"): {"01": 0.6, "04": 0.8},
    ("lr-1e-3", "fold1"): {"04": 0.4, "05": 0.3},
}
TEST = {"fold0": "05", "fold1": "01"}


def val(setting, fold, seed):
    return {person: f1 + 0.02 * seed for person, f1 in VAL[setting, fold].items()}


def test(setting, fold, seed):
    return {TEST[fold]: 0.4 + 0.2 * (fold == "fold1") + 0.3 * (setting == "lr-1e-3") - 0.1 * seed}


test.__test__ = False  # scores, not a test
GRID = ("--grid", "lr=1e-3,1e-2", "--seeds", "0", "1")


def val_of_one(*_):
    return {"01": 0.5}


def test_of_one(*_):
    return {"05": 0.4}


test_of_one.__test__ = False


def test_people_are_pooled_over_folds_and_seeds_and_validation_alone_decides(run, data, tmp_path):
    scripts = FakeScripts(val, test)
    assert run(scripts, *flags(data, tmp_path, *GRID)) == 0
    assert len(scripts.count("train.py")) == 8
    assert sorted(scripts.count("evaluate.py")) == [(GOOD, f"fold{f}", s) for f in (0, 1) for s in (0, 1)]
    best, other = table(tmp_path)
    assert (best["setting"], best["picked"], best["runs"], other["picked"]) == (GOOD, "yes", "4", "")
    persons = [0.5 + 0.01, (0.7 + 0.9) / 2 + 0.01, 0.6 + 0.01]  # 01, 04, 05 over seeds 0 and 1
    assert int(best["val_subjects"]) == 3
    assert float(best["val_macro_f1"]) == pytest.approx(np.mean(persons))
    assert float(best["val_macro_f1_sd"]) == pytest.approx(np.std(persons, ddof=1))
    assert float(best["val_macro_f1_sd_seeds"]) == pytest.approx(0.02 / np.sqrt(2))
    assert float(best["val_accuracy"]) == pytest.approx(np.mean(persons) - 0.1)
    assert float(best["test_macro_f1"]) == pytest.approx((0.35 + 0.55) / 2)
    assert float(best["test_macro_f1_sd"]) == pytest.approx(np.std([0.35, 0.55], ddof=1))
    assert float(best["test_macro_f1_sd_seeds"]) == pytest.approx(0.1 / np.sqrt(2))
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "2 of the people who helped to pick the setting" in text
    assert "nothing may be chosen by those columns" not in text
    again = FakeScripts(val, test)
    assert run(again, *flags(data, tmp_path, *GRID, "--evaluate", "all")) == 0
    assert [key[0] for key in again.count("evaluate.py")] == ["lr-1e-3"] * 4
    assert again.count("train.py") == []
    assert [row["setting"] for row in table(tmp_path)] == ["lr-1e-2", "lr-1e-3"]  # the test results do not sort
    assert "nothing may be chosen by those columns" in (tmp_path / "out" / "sweep.md").read_text()


def test_each_fold_can_pick_on_its_own_validation_people(run, data, tmp_path):
    scripts = FakeScripts(val, test)
    assert run(scripts, *flags(data, tmp_path, *GRID, "--pick", "fold")) == 0
    evaluated = {(key[0], key[1]) for key in scripts.count("evaluate.py")}
    assert evaluated == {("lr-1e-3", "fold0"), ("lr-1e-2", "fold1")}
    rows = {row["setting"]: row for row in table(tmp_path)}
    pick = rows["picked in each fold"]
    assert (rows["lr-1e-3"]["picked"], rows["lr-1e-2"]["picked"], pick["picked"]) == ("fold0", "fold1", "yes")
    assert float(pick["test_macro_f1"]) == pytest.approx((0.65 + 0.55) / 2)
    assert rows["lr-1e-3"]["test_macro_f1"] == ""
    assert "helped to pick" not in (tmp_path / "out" / "sweep.md").read_text()


@pytest.mark.parametrize("mode", ["session", "first"])
def test_the_pick_is_scored_adapted_too(run, data, tmp_path, mode, capsys):
    words = flags(data, tmp_path, *GRID)
    assert run(FakeScripts(val, test), *words) == 0
    assert "adapted" not in (tmp_path / "out" / "sweep.md").read_text()
    scripts = FakeScripts(val, test)
    assert run(scripts, *words, "--adapt", mode) == 0
    assert scripts.called == [("evaluate.py", (GOOD, f"fold{f}", s), False) for f in (0, 1) for s in (0, 1)]
    said = capsys.readouterr().out.splitlines()[-1]
    best, other = table(tmp_path)
    assert float(best["adapted_macro_f1"]) == pytest.approx(float(best["test_macro_f1"]) + 0.1)
    assert f"adapted test macro-F1 {float(best['adapted_macro_f1']):.4f} (2 people)" in said
    assert other["adapted_macro_f1"] == ""
    assert (tmp_path / "out" / f"{GOOD}-adapted-{mode}" / "fold1" / "seed0" / "metrics.json").is_file()
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "adapted test macro-F1" in text.splitlines()[0]
    assert f"adapted: to each session without labels (evaluate.py --adapt {mode})" in text
    assert ("after each session's first" in text) == (mode == "first")
    assert "the model was kept as it was in 2 of 8 sessions (2 different ones, in several runs), see their" in text
    shown = hyperparameters(tmp_path / "out" / "hparams")
    assert shown[1e-2]["adapted/macro_f1"] == pytest.approx(float(best["adapted_macro_f1"]), rel=1e-5)
    again = FakeScripts(val, test)
    assert run(again, *words, "--adapt", mode) == 0
    assert again.called == []


def test_adapted_scores_of_another_kind_are_scored_again(run, data, tmp_path):
    words = flags(data, tmp_path, "--grid", "lr=1e-2", "--adapt", "session", split="split")
    run(FakeScripts(val_of_one, test_of_one), *words)
    (one,) = (tmp_path / "out").glob("*-adapted-session/seed0/metrics.json")
    for changed in ({"mode": "session"}, {"mode": "session", "sessions": None}):  # of its sessions it says nothing
        write_json(one, read_json(one, "metrics") | {"adaptation": changed})
        assert run(FakeScripts(val_of_one, test_of_one), *words) == 0
        assert "kept as it was" not in (tmp_path / "out" / "sweep.md").read_text()
    for changed in ({"mode": "first"}, None, 3):
        write_json(one, read_json(one, "metrics") | {"adaptation": changed})
        again = FakeScripts(val_of_one, test_of_one)
        assert run(again, *words) == 0
        assert len(again.count("evaluate.py")) == 1
        assert read_json(one, "metrics")["adaptation"]["mode"] == "session"


@pytest.mark.parametrize("mode", ["none", "session", "first"])
def test_the_pick_is_scored_calibrated_too(run, data, tmp_path, mode, capsys):
    words = [*flags(data, tmp_path, *GRID), "--adapt", mode]
    assert run(FakeScripts(val, test), *words) == 0
    scripts = FakeScripts(val, test)
    assert run(scripts, *words, "--repetitions", "1") == 0
    assert scripts.called == [("calibrate.py", (GOOD, f"fold{f}", s), False) for f in (0, 1) for s in (0, 1)]
    said = capsys.readouterr().out.splitlines()[-1]
    best, other = table(tmp_path)
    gain = 0.1 if mode == "none" else 0.2
    assert float(best["calibrated_macro_f1"]) == pytest.approx(float(best["test_macro_f1"]) + gain)
    assert f"calibrated test macro-F1 {float(best['calibrated_macro_f1']):.4f} (2 people)" in said
    assert other["calibrated_macro_f1"] == ""
    name = f"{GOOD}-calibrated-1" + ("" if mode == "none" else f"-adapted-{mode}")
    assert (tmp_path / "out" / name / "fold1" / "seed0" / "metrics.json").is_file()
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "calibrated test macro-F1" in text.splitlines()[0]
    how = "" if mode == "none" else f" --adapt {mode}"
    where = "the later windows" + (" of the recordings after each session's first" if mode == "first" else "")
    assert re.search(rf"\(calibrate.py --repetitions 1{how}\); scored on {where}[;.]", text)
    assert text.count("kept as it was in 2 of 8 sessions") == (0 if mode == "none" else 2)
    shown = hyperparameters(tmp_path / "out" / "hparams")
    assert shown[1e-2]["calibrated/macro_f1"] == pytest.approx(float(best["calibrated_macro_f1"]), rel=1e-5)
    again = FakeScripts(val, test)
    assert run(again, *words, "--repetitions", "1") == 0
    assert again.called == []
    assert run(again, *words, "--repetitions", "2") == 0
    assert len(again.count("calibrate.py")) == len(again.called) == 4


def test_scores_calibrated_otherwise_are_scored_again(run, data, tmp_path):
    words = flags(data, tmp_path, "--grid", "lr=1e-2", "--repetitions", "1", split="split")
    run(FakeScripts(val_of_one, test_of_one), *words)
    (one,) = (tmp_path / "out").glob("*-calibrated-1/seed0/metrics.json")
    for changed in ({"calibrate": 2}, {"calibrate": 0}, {"adaptation": {"mode": "session"}}):
        write_json(one, read_json(one, "metrics") | changed)
        again = FakeScripts(val_of_one, test_of_one)
        assert run(again, *words) == 0
        assert again.called == [("calibrate.py", again.called[0][1], False)]
        assert read_json(one, "metrics")["calibrate"] == 1


def test_adapting_and_calibrating_need_runs_that_are_scored(run, data, tmp_path):
    for flag, value in (("--adapt", "session"), ("--repetitions", "1")):
        expected = f"{flag} {value}: expected --evaluate picked or all beside it, found none"
        with pytest.raises(UsageError, match=expected):
            run(FakeScripts(val, test), *flags(data, tmp_path, "--evaluate", "none", flag, value))


def test_a_run_that_fails_is_named_the_others_are_done_and_it_is_tried_again(run, data, tmp_path, capsys):
    failing = (GOOD, "fold1", 0)
    scripts = FakeScripts(val, test, fails=[failing])
    assert run(scripts, *flags(data, tmp_path, *GRID)) == 1
    output = capsys.readouterr()
    assert "error: lr-1e-2 fold1 seed0: step 7: expected a finite loss" in output.err
    assert output.out.splitlines()[-1].endswith("; runs that failed: 1; the same command tries them again")
    rows = {row["setting"]: row for row in table(tmp_path)}
    assert (rows["lr-1e-3"]["picked"], rows[GOOD]["picked"], rows[GOOD]["runs"]) == ("yes", "", "3")
    assert rows[GOOD]["val_macro_f1"] == ""
    runs = read_json(tmp_path / "out" / "sweep.json", "a sweep")["runs"]
    assert [one["failure"] for one in runs if not one["trained"]] == ["step 7: expected a finite loss"]
    again = FakeScripts(val, test)
    assert run(again, *flags(data, tmp_path, *GRID)) == 0
    assert [(key, resumed) for name, key, resumed in again.called if name == "train.py"] == [(failing, True)]
    assert table(tmp_path)[0]["picked"] == "yes"
    assert table(tmp_path)[0]["setting"] == GOOD


def test_a_model_that_changed_is_evaluated_again(run, data, tmp_path):
    words = flags(data, tmp_path, "--grid", "lr=1e-2")
    run(FakeScripts(val, test), *words)
    folder = tmp_path / "runs" / GOOD / "fold0" / "seed0"
    write_checkpoint(folder / "best_model.ckpt", {"other": 1}, {})
    again = FakeScripts(val, test)
    run(again, *words)
    assert again.called == [("evaluate.py", (GOOD, "fold0", 0), False)]


def test_runs_of_another_split_are_not_taken_for_this_one(run, data, tmp_path):
    people = [small_shards.name(subject) for subject in range(1, 6)]
    split = small_shards.write_split(tmp_path / "split", train=people[:2], val=people[2:3], test=people[3:])
    words = ["--shards", str(data / "shards"), "--split", str(split), "--evaluate", "none"]
    words += ["--out", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "runs")]
    scripts = FakeScripts(lambda *_: {"03": 0.5}, test)
    assert run(scripts, *words) == 0
    small_shards.write_split(split, train=people[1:2], val=people[2:3], test=people[3:])
    with pytest.raises(
        DataError,
        match=r"seed0: expected a run of .*split as it is now, found one of other data .*; choose another --out",
    ):
        run(scripts, *words)
    assert len(scripts.called) == 1


EVERYBODY = range(1, 6)


@pytest.fixture
def own_data(data, tmp_path):
    """The data, to be changed; and `remake(*people, **changes)`, which makes their shards anew."""
    shutil.copytree(data, tmp_path / "data")

    def remake(*people, **changes):
        for person in people:
            small_shards.write(tmp_path / "data" / "shards", person, **changes)

    return tmp_path / "data", remake


def fake(**more):
    """Scripts of a sweep with one run."""
    return FakeScripts(lambda *_: {"04": 0.5}, lambda *_: {"05": 0.5}, **more)


def before_each(scripts, name, do):
    """The same scripts; `do` is called before each start of the script of that name."""

    def called(command, console):
        if Path(command[1]).name == name:
            do()
        return scripts(command, console)

    return called


def test_shards_made_anew_while_a_sweep_trains_end_it_before_the_next_run(run, own_data, tmp_path):
    """The table would have mixed runs of different data, without a word."""
    data, remake = own_data
    scripts = FakeScripts(val, test)

    def remade_after(command, console):
        output = scripts(command, console)
        remake(*EVERYBODY, repetitions=2)
        return output

    told = r"expected the lists and shards with which this sweep began, found others, .*; choose another --out"
    with pytest.raises(DataError, match=told):
        run(remade_after, *flags(data, tmp_path, *GRID))
    assert len(scripts.called) == 1
    assert not (tmp_path / "out" / "sweep.csv").exists()
    with pytest.raises(DataError, match=r"seed0: expected a run of .*shards as it is now, found one of other data"):
        run(scripts, *flags(data, tmp_path, *GRID))
    assert len(scripts.called) == 1


def test_a_run_of_other_shards_than_the_sweeps_is_in_no_table(run, own_data, tmp_path, capsys):
    """They were made anew between the sweep's look and the run's own, as a job that waits in a queue may find them."""
    data, remake = own_data
    scripts = before_each(fake(), "train.py", lambda: remake(*EVERYBODY, repetitions=2))
    assert run(scripts, *flags(data, tmp_path, split="folds/fold0")) == 1
    assert "found one of other data of that name; choose another --out and --checkpoints" in capsys.readouterr().err
    (row,) = table(tmp_path)
    assert (row["runs"], row["picked"], row["val_macro_f1"]) == ("0", "", "")


def test_a_run_under_way_goes_on_with_its_own_shards_alone(run, own_data, tmp_path):
    data, remake = own_data
    words = flags(data, tmp_path, split="folds/fold0")
    assert run(fake(fails=[("runs", "default", 0)]), *words) == 1
    remake(*EVERYBODY, repetitions=2)
    with pytest.raises(DataError, match=r"seed0: expected a run of .*shards as it is now, found one of other data"):
        run(None, *words)
    remake(*EVERYBODY, commit="of another version")  # otherwise as they were
    scripts = fake()
    assert run(scripts, *words) == 0
    assert [(name, resumed) for name, _, resumed in scripts.called] == [("train.py", True), ("evaluate.py", False)]


def test_a_model_is_scored_on_the_shards_that_are_there(run, own_data, tmp_path, capsys):
    data, remake = own_data
    words = flags(data, tmp_path, split="folds/fold0")
    assert run(fake(), *words) == 0
    remake(5, repetitions=2)  # who is tested
    scripts = fake()
    assert run(scripts, *words) == 0
    assert [name for name, *_ in scripts.called] == ["evaluate.py"]
    remake(5, repetitions=1)
    assert run(before_each(scripts, "evaluate.py", lambda: remake(5)), *words) == 1
    assert "when the sweep began, found others; run the same command again" in capsys.readouterr().err
    (row,) = table(tmp_path)
    assert (row["picked"], row["test_macro_f1"]) == ("yes", "")


def test_the_grid_is_every_combination_and_names_depend_on_the_setting_alone():
    seed = grid.read_grid(grid.PRESETS["seed"])
    assert len({setting.name for setting in seed}) == 12
    assert {tuple(setting.flags) for setting in seed} == {
        ("--lr", lr, "--tune", f"last:{n}") for lr in ("1e-5", "5e-5", "1e-4") for n in (3, 6, 9, 12)
    }
    one, other = (grid.read_grid(words)[-1] for words in (["lr=1,2", "tune=fpt,last:3"], ["tune=last:3", "lr=2"]))
    assert one == other
    assert one.name == "lr-2_tune-last-3"
    many = grid.read_grid(
        [
            "augment=none,band_rotation=0.5 channel_dropout=0.1,band_rotation 0.5 channel_dropout 0.1",
            "batch_size=default,64",
        ]
    )
    assert len({setting.name for setting in many}) == 6
    assert all(setting.name.replace("-", "").replace("_", "").replace(".", "").isalnum() for setting in many)
    assert ["--augment", "band_rotation=0.5", "channel_dropout=0.1", "--batch-size", "64"] in [
        setting.flags for setting in many
    ]
    assert ["--augment", "none"] in [setting.flags for setting in many]
    long = grid.read_grid([f"backbone=/{'a' * 300}/1,/{'a' * 300}/2"])
    assert len({setting.name for setting in long}) == 2
    assert all(len(setting.name) <= 100 for setting in long)


@pytest.mark.parametrize(
    ("grid", "passed", "told"),
    [
        ("colour=red", "", "train.py: .*--colour"),
        ("lr=fast", "", "--lr: expected a number"),
        ("lr=-1", "", "--lr: expected a number above 0"),
        ("augment=colour=3", "", "train.py: augment: expected none, or NAME=VALUE"),
        ("balance=some", "", "--balance: invalid choice"),
        ("lr", "", "expected FLAG=VALUE"),
        ("lr=1e-3,", "", "expected FLAG=VALUE"),
        ("lr=1e-3,1e-3", "", "each value once"),
        ("seed=1,2", "", "found seed; see --seeds"),
        ("lr=1e-3", "--lr 1e-2", "--lr: expected it in the grid or after --"),
        ("lr=1e-3", "--epoch 2", "found --epoch"),
        ("lr=1e-3", "--out elsewhere", "found --out"),
        ("lr=1e-3", "--resume", "found --resume"),
        ("compile=on", "", "--compile: invalid choice"),
    ],
)
def test_what_train_py_would_refuse_is_refused_before_the_first_run(run, data, tmp_path, grid, passed, told):
    with pytest.raises(UsageError, match=told):
        run(None, *flags(data, tmp_path, "--grid", grid), "--", *passed.split())
    assert not (tmp_path / "runs").exists()


def test_wrong_folders_are_refused_in_one_line(run, data, tmp_path):
    with pytest.raises(DataError, match="expected a split's folder, found none"):
        run(None, *flags(data, tmp_path, split="nothing"))
    with pytest.raises(UsageError, match="expected two folders"):
        run(None, *flags(data, tmp_path, "--checkpoints", str(tmp_path / "out")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=small_shards.name(1)):
        run(None, "--shards", str(tmp_path / "empty"), "--split", str(data / "split"))


def test_train_settings_are_what_train_py_writes_itself(data):
    words = ["--shards", str(data / "shards"), "--split", str(data / "split"), *TINY]
    args, settings = training.checked(words)
    assert settings == json.loads(json.dumps(training.config_of(args).to_dict()))
    assert settings["layers"] == 1
    assert "device" not in settings


def test_a_model_that_does_not_say_what_a_sweep_keeps_of_it_is_named():
    """As the example checkpoint, which was made before models named their shards."""
    run = SimpleNamespace(folder=ROOT / "checkpoints")
    with pytest.raises(DataError, match=r"best_model\.ckpt: .*, found one without shards_sha256; choose another --out"):
        sweep.keep_scores(run, None)


def test_jobs_launched_here_score_the_pick_as_a_sweep_without_them_does(run, here, data, tmp_path):
    """The scores of all three kinds, each once; a session of some seconds is too short to adapt to.

    The plain ones are there already: jobs make those in the first test.
    """
    words = flags(data, tmp_path, split="split")
    passed = ["--", *TINY, "--epochs", "1", "--augment", "none"]
    assert run(here, *words, *passed) == 0
    words += ["--adapt", "session", "--repetitions", "1"]
    launched = [*words, "--launch", "local", "--parallel", "2"]
    assert run(None, *launched, *passed) == 0
    of_jobs = table(tmp_path)
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "the model was kept as it was in 1 of 1 session" in text
    names = ("default", "default-adapted-session", "default-calibrated-1-adapted-session")
    results = [tmp_path / "out" / name / "seed0" for name in names]
    made = [read_json(one / "metrics.json", "metrics") for one in results]
    assert [one.get("adaptation", {}).get("mode") for one in made] == [None, "session", "session"]
    assert [one.get("calibrate") for one in made] == [None, None, 1]
    kinds = ("test", "adapted", "calibrated")
    assert [float(of_jobs[0][f"{kind}_macro_f1"]) for kind in kinds] == pytest.approx(
        [one["mean_over_subjects"]["macro_f1"] for one in made]
    )
    kept = [(one / "metrics.json").read_bytes() for one in results]
    assert run(None, *launched, *passed) == 0  # nothing is started again
    assert [(one / "metrics.json").read_bytes() for one in results] == kept
    assert run(None, *words, *passed) == 0  # nor by a sweep that launches nothing
    assert table(tmp_path) == of_jobs
