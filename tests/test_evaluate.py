"""evaluate.py on a trained model: what it writes, what it refuses, what it warns of."""

import json
import pickle
import re
import sys
from unittest import mock

import numpy as np
import pytest
import small_shards
import torch
from sklearn.metrics import accuracy_score, f1_score

import evaluate
from semg.common.errors import DataError, SettingError
from semg.data.gestures import restricted
from semg.data.shards import open_shard, write_shard
from semg.inference.checkpoint import open_checkpoint, write_checkpoint

KEYS = {
    *("accuracy", "balanced_accuracy", "macro_f1", "active_accuracy", "per_class", "per_subject", "confusion"),
    *("classes", "n_windows", "n_subjects", "subset", "checkpoint", "split"),
    *("mean_over_subjects", "sd_over_subjects", "ci95"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_here):
    """Shards, split and a checkpoint that has learnt something."""
    folder = tmp_path_factory.mktemp("trained")
    shards, split = small_shards.write_all(folder)
    tiny = (
        "--layers 1 --width 16 --patch 64 --frame 160 --epochs 4 --batch-size 32 --lr 0.01 --init random --device cpu"
    )
    run_here("train.py", "--shards", shards, "--split", split, "--out", folder / "run", *tiny.split())
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    """Run evaluate.py in this process on the trained model."""

    def run(out, *flags):
        checkpoint = ["--checkpoint", trained / "run" / "best_model.ckpt", "--device", "cpu", "--out", out]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, [*checkpoint, *flags])])
        assert evaluate.main() == 0
        return json.loads((out / "metrics.json").read_text())

    return run


def test_what_takes_long_is_said_before_it_begins(here, tmp_path, capsys):
    """Nothing was printed before the scores."""
    here(tmp_path / "r")
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"opening \d+ shards?", first)
    assert re.fullmatch(r"deciding on [\d,]+ windows of \d+ (person|people) \(test\)", second)


def test_results_hold_every_window_and_every_number_follows_from_them(run_script, trained, tmp_path):
    arguments = ["--checkpoint", trained / "run" / "best_model.ckpt", "--vote", 3, "--out", tmp_path / "r"]
    done = run_script("evaluate.py", *arguments)
    assert "macro-F1" in done.stdout
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "confusion_matrix.png",
        "metrics.json",
        "per_subject.csv",
        "per_subject.png",
        "predictions.npz",
    ]
    output = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert set(output) >= KEYS
    actual = np.load(tmp_path / "r" / "predictions.npz", allow_pickle=False)
    assert len(actual["label"]) == output["n_windows"] == 60
    assert actual["probabilities"].shape == (60, 4)
    np.testing.assert_allclose(actual["probabilities"].sum(1), 1, rtol=1e-5)
    assert np.array_equal(actual["probabilities"].argmax(1), actual["prediction"])
    assert set(actual["record"]) == {small_shards.name(5)}
    assert output["accuracy"] == pytest.approx(accuracy_score(actual["label"], actual["prediction"]))
    assert output["macro_f1"] == pytest.approx(f1_score(actual["label"], actual["prediction"], average="macro"))
    assert output["accuracy"] > 0.6
    assert output["per_subject"]["05"]["accuracy"] == output["accuracy"]
    assert output["vote"]["k"] == 3
    assert (tmp_path / "r" / "per_subject.csv").read_text().startswith("subject,macro_f1,accuracy")
    assert output["made"]["arguments"]["vote"] == 3


@pytest.mark.parametrize("flags", [(), ("--normalize", "online")])
def test_smoothing_is_run_over_the_whole_recording_and_changes_no_other_number(here, tmp_path, flags):
    plain, smooth = here(tmp_path / "a", *flags), here(tmp_path / "b", *flags, "--vote", 3, "--smooth", 4.1)
    assert smooth["n_windows"] == plain["n_windows"] == 60
    for key in ("confusion", "per_subject", "chance", *(("by_minute", "by_recording") if flags else ())):
        assert smooth[key] == plain[key]
    with np.load(tmp_path / "a" / "predictions.npz") as one, np.load(tmp_path / "b" / "predictions.npz") as other:
        assert set(one) == set(other)
        np.testing.assert_array_equal(one["start"], other["start"])
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-5)
    assert smooth["smoothed"]["hold_seconds"] == 4.1
    for key in ("vote", "smoothed"):
        assert smooth[key]["per_subject"]["05"]["n_windows"] == 60
        assert key not in plain


def test_the_same_again_and_with_other_batches(here, tmp_path):
    first, second = here(tmp_path / "a"), here(tmp_path / "b", "--batch-size", 7)
    for key in ("accuracy", "confusion", "ci95", "per_subject"):
        assert first[key] == second[key]
    names = ("per_subject.csv", "predictions.npz", "per_subject.png", "confusion_matrix.png")
    here(tmp_path / "c")
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "c" / n).read_bytes() for n in names)


def test_people_who_made_none_of_the_gestures_are_named(here, tmp_path, capsys):
    """Means are over the others; with --adapt their sessions are named."""
    records = [small_shards.write(tmp_path / "shards", subject) for subject in range(1, 5)]
    with mock.patch.object(small_shards, "labels", lambda *_: np.zeros(3000, np.int8)):
        records.append(small_shards.write(tmp_path / "shards", 5))
    split = small_shards.write_split(tmp_path / "split", train=records[:2], val=records[2:3], test=records[3:])
    places = ["--shards", tmp_path / "shards", "--split", split]
    here(tmp_path / "all", *places)
    assert "left out" not in capsys.readouterr().err
    scored = here(tmp_path / "some", *places, "--no-idle")
    assert "warning: nothing to score of 05: left out" in capsys.readouterr().err.splitlines()
    assert list(scored["per_subject"]) == ["04"]
    here(tmp_path / "smooth", *places, "--no-idle", "--smooth", 2)
    assert "warning: nothing to score of 05: left out" in capsys.readouterr().err.splitlines()
    here(tmp_path / "adapted", *places, "--no-idle", "--adapt", "session")
    assert capsys.readouterr().err.count("left out") == 1


def test_of_some_gestures_their_windows_alone_are_scored(here, tmp_path, capsys):
    whole, some = here(tmp_path / "all"), here(tmp_path / "some", "--classes", "flexion", "fist")
    said = capsys.readouterr().out
    assert "deciding between flexion, fist alone; windows of idle, extension are left out" in said
    assert (some["classes"], some["classes_left_out"], some["rest_classes"]) == (
        ["flexion", "fist"],
        ["idle", "extension"],
        [],
    )
    assert "classes_left_out" not in whole
    a, b = (np.load(tmp_path / name / "predictions.npz") for name in ("all", "some"))
    assert b["classes"].tolist() == ["flexion", "fist"]
    assert a["classes"].tolist() == small_shards.CLASSES
    kept = np.isin(a["label"], [1, 2])
    assert some["n_windows"] == kept.sum() == 30
    assert np.array_equal(a["start"][kept], b["start"])
    assert np.array_equal(2 - a["label"][kept], b["label"])
    chosen = a["probabilities"][kept][:, [2, 1]]
    np.testing.assert_allclose(b["probabilities"], chosen / chosen.sum(1, keepdims=True), rtol=1e-4)
    assert np.array_equal(b["prediction"], chosen.argmax(1)), "the statistics are of the whole session still"
    assert here(tmp_path / "active", "--no-idle")["classes"] == ["fist", "flexion", "extension"]


def test_all_gestures_may_be_given_in_another_order(here, tmp_path):
    whole, turned = here(tmp_path / "all"), here(tmp_path / "turned", "--classes", *reversed(small_shards.CLASSES))
    assert turned["classes"] == small_shards.CLASSES[::-1]
    assert np.array_equal(turned["confusion"], np.array(whole["confusion"])[::-1, ::-1])
    assert "classes_left_out" not in turned


def test_shards_of_these_gestures_alone_will_do(here, trained, tmp_path):
    """As `preprocess.py --no-idle` makes them: the model is restricted to what they hold."""
    shard = open_shard(trained / "shards" / small_shards.name(5))
    active = restricted(shard, ["fist", "flexion", "extension"])
    path = tmp_path / "shards" / shard.record
    write_shard(path, active.meta, np.array(shard.signal), active.windows)
    rest = {subset: [shard.record] if subset == "test" else [] for subset in ("train", "val", "test")}
    rest |= {"train": [small_shards.name(1)], "val": [small_shards.name(2)]}
    split = small_shards.write_split(tmp_path / "split", **rest)
    with pytest.raises(DataError, match="classes"):
        here(tmp_path / "r", "--shards", tmp_path / "shards", "--split", split)
    of_these = here(tmp_path / "r", "--shards", tmp_path / "shards", "--split", split, "--no-idle")
    assert of_these["confusion"] == here(tmp_path / "s", "--no-idle")["confusion"]
    with pytest.raises(DataError, match="expected windows of idle among the classes, found fist, flexion, extension"):
        here(tmp_path / "r", "--shards", tmp_path / "shards", "--split", split, "--classes", "idle", "fist")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--classes", "fist", "wave"], "classes: expected gestures of idle, fist, flexion, extension, found 'wave'"),
        (["--classes", "fist", "fist"], "classes: expected each gesture once"),
        (["--classes", "fist"], "classes: expected at least 2 gestures to be left of idle"),
    ],
)
def test_what_is_no_choice_of_gestures_is_refused(here, tmp_path, flags, told):
    with pytest.raises(SettingError, match=told):
        here(tmp_path / "r", *flags)


def test_people_who_were_trained_on_are_named_loudly(here, tmp_path, capsys):
    output = here(tmp_path, "--subset", "train")
    assert "PEOPLE OF THE TRAIN SET WERE TRAINED ON: 01, 02, 03" in capsys.readouterr().err
    assert output["trained_on_subjects_scored"] == ["01", "02", "03"]
    here(tmp_path / "test")
    assert "TRAINED ON" not in capsys.readouterr().err


def test_people_on_whom_the_model_was_chosen_are_named_where_they_are_tested(here, tmp_path, capsys):
    """Its epoch is the best one for them."""
    here(tmp_path / "val", "--subset", "val")
    assert "CHOSEN" not in capsys.readouterr().err, "that is what validation people are for"
    one, two, three, four, five = (small_shards.name(subject) for subject in range(1, 6))
    split = small_shards.write_split(tmp_path / "split", train=[one, two, three], val=[five], test=[four])
    output = here(tmp_path / "test", "--split", split)
    assert "THE MODEL WAS CHOSEN ON PEOPLE OF THE TEST SET: 04." in capsys.readouterr().err
    assert (output["trained_on_subjects_scored"], output["chosen_on_subjects_scored"]) == ([], ["04"])


def test_a_result_that_is_replaced_by_another_is_named(here, tmp_path, capsys):
    here(tmp_path / "r", "--no-idle", "--vote", 3)
    here(tmp_path / "r", "--no-idle", "--vote", 3, "--threads", 1)
    assert capsys.readouterr().err == ""
    here(tmp_path / "r", "--subset", "val")
    told = "r: replaces the result there, which was made with --subset test --no-idle --vote 3; --out keeps both"
    assert told in capsys.readouterr().err
    (tmp_path / "r" / "metrics.json").write_text("{")
    here(tmp_path / "r")
    assert capsys.readouterr().err == "", "an unreadable file is no result"


def test_the_last_line_says_in_how_many_sessions_the_model_was_adapted(here, tmp_path, capsys):
    here(tmp_path / "r", "--adapt", "session", "--quiet")
    assert "adapted without labels in 0 of 1 session (" in capsys.readouterr().out, "less than 30 s"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rate": 1000.0}, "rate 5120.0, found 1000.0"),
        ({"arguments": {**small_shards.ARGUMENTS, "low": 30.0}}, r"low 20.0, found 30.0"),
        ({"arguments": {**small_shards.ARGUMENTS, "window": 160}}, r"window 320, found 160"),
        ({"classes": [*small_shards.CLASSES[:3], "wave"]}, "classes"),
        ({"channels": [f"X{i}" for i in range(24)]}, "channels"),
    ],
)
def test_shards_made_otherwise_are_refused_by_field(here, tmp_path, changes, told):
    record = small_shards.write(tmp_path / "shards", 5, **changes)
    split = small_shards.write_split(
        tmp_path / "split", train=[small_shards.name(1)], val=[small_shards.name(2)], test=[record]
    )
    with pytest.raises(DataError, match=told):
        here(tmp_path / "out", "--shards", tmp_path / "shards", "--split", split)


def test_a_malicious_pickle_is_refused_and_not_run(run_here, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    for name, save in (("torch.ckpt", torch.save), ("plain.ckpt", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        save({"format": Evil()}, tmp_path / name)
        done = run_here("evaluate.py", "--checkpoint", tmp_path / name, "--out", tmp_path / "r", code=1)
        assert len(done.stderr.strip().splitlines()) == 1
        assert name in done.stderr
        assert not (tmp_path / "evil").exists()


def damaged(checkpoint, path, **changes):
    description, tensors = dict(checkpoint.description), dict(checkpoint.tensors)
    for name, value in changes.get("tensors", {}).items():
        tensors.pop(name) if value is None else tensors.update({name: value})
    write_checkpoint(path, description | changes.get("description", {}), tensors)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tensors": {"model.head.weight": None}}, r"head\.weight.*found none"),
        ({"tensors": {"model.extra": torch.ones(2)}}, "no place for"),
        ({"tensors": {"model.head.weight": torch.ones(3, 3)}}, r"head\.weight of shape .*found \(3, 3\)"),
        ({"tensors": {"model.head.bias": torch.full((4,), float("nan"))}}, r"NaN or infinity in model\.head\.bias"),
        ({"description": {"model": {"colour": "red"}}}, "model configuration"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(here, trained, tmp_path, changes, told):
    path = tmp_path / "wrong.ckpt"
    damaged(open_checkpoint(trained / "run" / "best_model.ckpt"), path, **changes)
    with pytest.raises(DataError, match=told):
        here(tmp_path / "r", "--checkpoint", path)


def test_damaged_files_and_other_files_are_refused(here, trained, tmp_path):
    whole = (trained / "run" / "best_model.ckpt").read_bytes()
    path = tmp_path / "damaged.ckpt"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    versions = torch.load(trained / "run" / "best_model.ckpt", weights_only=True) | {"version": 9}
    for content in (b"", b"hello", whole[:1000], whole[:-100], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"damaged\.ckpt: expected"):
            here(tmp_path / "r", "--checkpoint", path)
    torch.save(versions, path)
    with pytest.raises(DataError, match="version 2, found 9"):
        here(tmp_path / "r", "--checkpoint", path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(DataError, match="something else"):
        here(tmp_path / "r", "--checkpoint", path)
    with pytest.raises(DataError, match=r"no such file; train\.py writes one"):
        here(tmp_path / "r", "--checkpoint", tmp_path / "none.ckpt")
