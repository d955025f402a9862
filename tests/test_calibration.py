"""Adapting to a new person: which windows are used, what is scored, what trains, and calibrate.py as a user runs it."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import small_shards
import torch
from test_adaptation import ANYTHING

import calibrate
import train
from model import GPT2Classifier, ModelConfig
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.data.shards import WindowSet, open_shards
from semg.inference.trained_model import TrainedModel
from semg.training import calibration
from semg.training.adaptation import Adaptation
from semg.training.augmentation import Augmentation, TokenLayout
from semg.training.calibration import (
    Calibration,
    calibrated_network,
    parts_of,
    repetition_of_subject,
    trainable_copy,
)
from semg.training.optimization import OptimizerConfig

TINY = "--layers 1 --width 16 --patch 64 --frame 160 --epochs 2 --batch-size 32 --init random --device cpu --quiet"
SMALL = ModelConfig(channels=8, samples=256, patch=32, frame=128, band_edges=(0.01, 0.1), width=16, heads=2)


def test_repetitions_count_over_a_persons_recordings_in_the_order_of_recording(tmp_path):
    records = [
        small_shards.write(tmp_path, 3, day=20, repetitions=2),
        small_shards.write(tmp_path, 4, day=11, repetitions=1),
        small_shards.write(tmp_path, 3, day=11, repetitions=2),
    ]
    windows = WindowSet(open_shards(tmp_path, records))
    actual = repetition_of_subject(windows)
    for place, expected in ((0, {2, 3}), (1, {0}), (2, {0, 1})):
        assert set(actual[windows.shard == place]) == expected
    own = (windows.shard == 2) & (windows.label == 1)
    assert np.array_equal(actual[own], windows.repetition[own])


# --- training ----------------------------------------------------------------------------------------------------


def model_of(**changes) -> GPT2Classifier:
    torch.manual_seed(0)
    config = SMALL.to_dict() | {"band_edges": SMALL.band_edges} | changes
    model = GPT2Classifier(ModelConfig(**config)).eval()
    for name, weights in model.named_parameters():
        if "lora_B" in name:  # zero in a fresh model: as if it had been trained
            torch.nn.init.normal_(weights, std=0.1)
    return model


@pytest.mark.parametrize("tune", ["full", "frozen", "fpt", "lora", "last:1"])
@pytest.mark.parametrize("before", ["full", "lora"])
def test_a_copy_computes_the_same_and_trains_what_it_should(before, tune):
    model = model_of(tune=before)
    copy = trainable_copy(model, tune).eval()
    x = torch.randn(3, 8, 256)
    torch.testing.assert_close(copy(x), model(x))
    assert copy.parameter_counts() == model_of(tune=tune).parameter_counts()
    assert copy is not model


def adapted(model, recipe, seed=0):
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(40, SMALL.tokens, SMALL.channels, generator=random)
    label = torch.arange(40) % SMALL.classes
    return calibrated_network(model, tokens, label, recipe, TokenLayout(model.frontend.groups, (tuple(range(8)),)))


OPTIMIZER = ("lr", "backbone_lr", "weight_decay", "warmup", "clip")


def recipe(**changes) -> Calibration:
    optimizer = {name: changes.pop(name) for name in OPTIMIZER if name in changes}
    usual = {"repetitions": 1, "tune": "full", "epochs": 2, "batch_size": 16}
    return Calibration(optimizer=OptimizerConfig(**{"lr": 1e-3, **optimizer}), **usual | changes)


def test_the_seed_alone_decides_and_the_model_stays_as_it_was():
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, same, other = (adapted(model, recipe(seed=seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(one["head.weight"], before["head.weight"])


def test_only_matrices_decay():
    """With a decay that takes weights to zero, biases and LayerNorms keep theirs."""
    weights = adapted(model_of(), recipe(lr=1e-3, weight_decay=500.0, epochs=6)).state_dict()
    assert weights["embed.weight"].abs().max() < 0.05
    assert weights["norm.weight"].min() > 0.9
    assert weights["backbone.ln_f.weight"].min() > 0.9


def test_every_field_of_the_recipe_matters():
    model = model_of()
    usual = adapted(model, recipe())
    changes = {
        "tune": "frozen",
        "lr": 1e-2,
        "backbone_lr": 1e-2,
        "epochs": 3,
        "batch_size": 8,
        "weight_decay": 5.0,
        "warmup": 0.9,
        "clip": 1e-3,
        "label_smoothing": 0.5,
        "augmentation": Augmentation.parse(["mixup=0.5"]),
        "seed": 1,
    }
    output = recipe().to_dict()
    assert set(changes) == (set(output) | set(output["optimizer"])) - {"repetitions", "optimizer"}
    for name, value in changes.items():
        other = adapted(model, recipe(**{name: value}))
        assert not torch.equal(other.head.weight, usual.head.weight), name


def test_jitter_would_do_nothing_and_is_refused():
    with pytest.raises(ValueError, match=r"augment: expected no jitter"):
        recipe(augmentation=Augmentation.parse(["jitter=1"]))


@pytest.mark.parametrize(
    ("words", "model", "told"),
    [
        (["--tune", "lora"], {"backbone": "none"}, "--tune: expected a model whose backbone is a decoder"),
        (
            ["--tune", "full"],
            {"backbone": "attention"},
            "found one of --backbone attention, which always trains",
        ),
        (["--backbone-lr", "1e-4"], {"backbone": "none"}, "--backbone-lr: expected a backbone that trains"),
        (["--backbone-lr", "1e-4", "--tune", "frozen"], {}, "--backbone-lr: expected a backbone that trains"),
    ],
)
def test_flags_that_would_change_nothing_are_refused(words, model, told):
    network = model_of(architecture=None, **model)
    calibrate.recipe_of(calibrate.arguments().parse_args([]), network)
    with pytest.raises(UsageError, match=told):
        calibrate.recipe_of(calibrate.arguments().parse_args(words), network)


def test_a_rotation_that_was_refused_is_said(capsys):
    """evaluate.py says it; calibrate.py wrote it into metrics.json alone."""
    session = {"session": "05, 2018-05-11", "accepted": True, "turn_refused": "rotated by 1 place, but"}
    args = calibrate.arguments().parse_args(["--adapt", "session"])
    person = SimpleNamespace(sessions=[session], left_out=[])
    calibrate.adaptation_record([person], Adaptation(), args, Console())
    assert "05, 2018-05-11: rings of electrodes are rotated by 1 place, but" in capsys.readouterr().out


def test_sessions_with_nothing_to_score_are_said_and_not_counted(capsys):
    people = [SimpleNamespace(sessions=[{"session": "05/1", "accepted": True, "turn_refused": ""}], left_out=["05/2"])]
    args = calibrate.arguments().parse_args(["--adapt", "first"])
    record = calibrate.adaptation_record(people, Adaptation(), args, Console())
    said = capsys.readouterr()
    assert "adapted to 1 of 1 session" in said.out
    assert "nothing to score after the first recording of 05/2: left out" in said.err
    assert record["left_out"] == ["05/2"]


def test_advice_for_a_gesture_that_a_person_lacks_or_made_once_helps(tmp_path):
    """With one repetition, or without any, fewer repetitions are no way out."""
    (shard,) = open_shards(tmp_path, [small_shards.write(tmp_path, 5)])
    made_once = shard.windows[shard.windows["repetition"] == 0]
    lacking = shard.windows[shard.windows["label"] != 0]
    for windows, purpose in ((made_once, "to score after 1 repetition"), (lacking, "to calibrate with")):
        advice = f"found none of {shard.classes[0]}; leave this gesture out by naming the others"
        with pytest.raises(DataError, match=f"expected windows of every gesture {purpose}, {advice}"):
            parts_of(WindowSet([replace(shard, windows=windows)]), 1)


def test_augment_without_a_value_means_the_default_as_in_train():
    args = calibrate.arguments().parse_args(["--checkpoint", "a.ckpt", "--augment"])
    assert calibrate.recipe_of(args, GPT2Classifier(SMALL)).augmentation == calibration.AUGMENTATION


# --- calibrate.py ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Shards of people of whom the test person is loud on other channels, a split, and a trained model."""
    folder = tmp_path_factory.mktemp("calibration")
    shards, split = small_shards.write_all(folder)
    words = ["train.py", "--shards", shards, "--split", split, "--out", folder / "run", *TINY.split()]
    words += ["--augment", "band_rotation=0.5", "channel_dropout=0.1", "jitter=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, words)))
        train.main()
    return folder


@pytest.fixture
def calibrated(run, monkeypatch, tmp_path):
    """Run calibrate.py: `calibrated("name", *flags)` gives metrics.json and predictions.npz."""

    def go(name, *flags):
        words = ["calibrate.py", "--checkpoint", run / "run" / "best_model.ckpt", "--out", tmp_path / name]
        monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, "--device", "cpu", "--quiet", *flags]])
        assert calibrate.main() == 0
        report = json.loads((tmp_path / name / "metrics.json").read_text())
        return report, np.load(tmp_path / name / "predictions.npz", allow_pickle=False)

    return go


def test_later_repetitions_alone_are_scored_beside_the_model_as_it_was(calibrated, tmp_path):
    flags = ("--repetitions", 1, "--epochs", 15, "--lr", 0.01)
    report, predictions = calibrated("once", *flags)
    assert report["calibrate"] == 1
    assert report["n_windows"] == len(predictions["start"]) == 40
    assert predictions["start"].min() >= len(small_shards.labels(1))
    before = report["zero_shot_on_the_same_windows"]["mean_over_subjects"]["macro_f1"]
    assert report["mean_over_subjects"]["macro_f1"] > max(before, 0.8)
    calibrated("again", *flags)
    assert (tmp_path / "again" / "predictions.npz").read_bytes() == (tmp_path / "once" / "predictions.npz").read_bytes()


def test_the_people_of_a_subset_are_taken_and_those_trained_on_are_said(calibrated, capsys):
    report, _ = calibrated("val", "--subset", "val", "--epochs", 1)
    assert (list(report["per_subject"]), report["trained_on_subjects_scored"]) == (["04"], [])
    assert capsys.readouterr().err == ""
    report, _ = calibrated("train", "--subset", "train", "--epochs", 1)
    assert report["trained_on_subjects_scored"] == ["01", "02", "03"]
    assert "TRAINED ON: 01, 02, 03" in capsys.readouterr().err


def test_people_on_whom_the_model_was_chosen_are_said(calibrated, tmp_path, capsys):
    one, two, three, four, five = (small_shards.name(subject) for subject in range(1, 6))
    split = small_shards.write_split(tmp_path / "split", train=[one, two, three], val=[five], test=[four])
    report, _ = calibrated("test", "--split", split, "--epochs", 1)
    assert report["chosen_on_subjects_scored"] == ["04"]
    assert "THE MODEL WAS CHOSEN ON PEOPLE TO CALIBRATE TO: 04." in capsys.readouterr().err


def test_a_calibration_that_is_replaced_by_another_is_named(calibrated, capsys):
    calibrated("r", "--epochs", 1)
    calibrated("r", "--epochs", 1)
    assert capsys.readouterr().err == ""
    calibrated("r", "--epochs", 2)
    assert "r: replaces the result there, which was made with --epochs 1; --out keeps both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "lr", "backbone_lr"),
    [((), 1e-3, None), (("--lr", 0.01, "--backbone-lr", 0.002), 0.01, 0.002)],
)
def test_learning_rates_are_trainings_own(calibrated, flags, lr, backbone_lr):
    report, _ = calibrated("out", *flags, "--epochs", 1)
    assert report["calibration"]["optimizer"]["lr"] == lr
    assert report["calibration"]["optimizer"]["backbone_lr"] == backbone_lr


def test_the_epochs_in_help_are_those_that_run(calibrated, monkeypatch):
    kept = []

    def unchanged(model, *given):
        kept.append(given[2].epochs)
        return model

    monkeypatch.setattr(calibration, "calibrated_network", unchanged)
    calibrated("out")
    assert kept == [calibrate.arguments().get_default("epochs")] == [30]


@pytest.mark.parametrize(
    ("rings", "augment", "said"), [([], 0.5, True), (small_shards.RINGS, 0.5, False), ([], 0, False)]
)
def test_a_band_rotation_that_changes_nothing_is_said_as_in_train(
    run, tmp_path, monkeypatch, capsys, rings, augment, said
):
    records = [small_shards.write(tmp_path / "shards", subject, rings=rings) for subject in (4, 5, 6)]
    split = small_shards.write_split(tmp_path / "split", train=records[:1], val=records[1:2], test=records[2:])
    words = ["calibrate.py", "--checkpoint", run / "run" / "best_model.ckpt", "--out", tmp_path / "out"]
    words += ["--shards", tmp_path / "shards", "--split", split, "--epochs", 1, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, "--augment", f"band_rotation={augment}"]])
    assert calibrate.main() == 0
    assert ("band rotation changes nothing here" in capsys.readouterr().out) == said


def test_what_cannot_be_calibrated_is_named(calibrated):
    expected = "subject 05: expected windows of every gesture to score after 3 repetitions, found none of idle"
    with pytest.raises(DataError, match=f"{expected}; calibrate with fewer repetitions, or leave this gesture out"):
        calibrated("out", "--repetitions", 3)
    with pytest.raises(UsageError, match="tune: expected full, last:1 to last:1"):
        calibrated("out", "--tune", "last:2")


def test_train_says_where_calibration_went(monkeypatch, capsys):
    for words in (["--calibrate", "1"], ["--init-from", "x.ckpt"], ["--calibrate"]):
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        with pytest.raises(SystemExit, match="2"):
            train.main()
        assert f"{words[0]}: expected it no longer; instead: python calibrate.py" in capsys.readouterr().err


def test_all_people_are_checked_before_the_first_is_calibrated_to(tmp_path, calibrated, monkeypatch):
    """Those before the one who lacks a gesture were computed, and then lost."""
    shards = tmp_path / "shards"
    records = [small_shards.write(shards, subject) for subject in (4, 5, 6)]
    records += [small_shards.write(shards, subject, repetitions=1) for subject in (7, 8)]
    split = small_shards.write_split(tmp_path / "split", train=records[:1], val=records[1:2], test=records[2:])
    begun = []
    monkeypatch.setattr(calibration, "calibrated_network", lambda *given: begun.append(given))
    told = (
        "subject 07: .* to score after 1 repetition, found none of idle; also lacking windows: 08; leave this gesture"
    )
    with pytest.raises(DataError, match=told):
        calibrated("out", "--shards", shards, "--split", split)
    assert begun == []


def test_each_persons_first_repetitions_are_found_once(calibrated, monkeypatch):
    """They were found before the first person, to check all, and again for each."""
    people, count = [], calibration.repetition_of_subject

    def counting(windows):
        people.append(windows.shards[0].subject)
        return count(windows)

    monkeypatch.setattr(calibration, "repetition_of_subject", counting)
    calibrated("out", "--subset", "train", "--epochs", 1)
    assert people == ["01", "02", "03"]


# --- adapted after calibration -----------------------------------------------------------------------------------


@pytest.fixture
def two_sessions(run):
    """Recordings of a new person on two days, two on the first; each gesture is made three times in each."""
    records = [small_shards.write(run / "shards", 7, *at) for at in (("repeats_long", 11), ("repeats_short", 11))]
    records.append(small_shards.write(run / "shards", 7, "repeats_long", 20))
    return open_shards(run / "shards", records)


def decisions(run, shards, mode, how=ANYTHING):
    model = TrainedModel.open(run / "run" / "best_model.ckpt", "cpu")
    parts = parts_of(WindowSet(shards), 1, mode)
    return calibration.calibrate_subject(model, shards, parts, recipe(), adaptation=how)


def test_adapting_needs_no_label_beyond_those_calibrated_with(run, two_sessions):
    """With the labels of all scored windows permuted, every decision is the same."""
    rng = np.random.default_rng(1)

    def shuffled(shard):
        windows, later = shard.windows.copy(), shard.windows["repetition"] > 0
        windows["label"][later] = rng.permutation(windows["label"][later])
        return replace(shard, windows=windows)

    one = two_sessions[:1]
    as_it_is = decisions(run, one, "session")
    parts = parts_of(WindowSet(one), 1, "session")
    model = TrainedModel.open(run / "run" / "best_model.ckpt", "cpu")
    permuted = calibration.calibrate_subject(model, [shuffled(one[0])], parts, recipe(), adaptation=ANYTHING)
    assert np.array_equal(as_it_is.after, permuted.after)
    assert not np.array_equal(as_it_is.after, as_it_is.calibrated)
    assert not np.array_equal(as_it_is.calibrated, as_it_is.before)


def test_each_session_is_adapted_to_by_itself_from_the_calibrated_model(run, two_sessions):
    alone = decisions(run, two_sessions, "session", None)
    both = decisions(run, two_sessions, "session")
    assert alone.sessions == []
    assert np.array_equal(alone.after, alone.calibrated)
    assert np.array_equal(both.calibrated, alone.calibrated)
    assert [(one["session"], one["accepted"]) for one in both.sessions] == [
        ("07/2018-05-11", True),
        ("07/2018-05-20", True),
    ]
    assert len(both.after) == both.scored.sum() == len(both.before)


def test_the_model_as_it_was_decides_as_it_does_in_evaluate(run, two_sessions):
    """Calibration reads the windows that evaluate.py does, each normalised by its session."""
    result = decisions(run, two_sessions, "none", None)
    model = TrainedModel.open(run / "run" / "best_model.ckpt", "cpu")
    whole = model.score(two_sessions).probabilities
    assert 0 < result.scored.sum() < len(whole)
    np.testing.assert_allclose(result.before, whole[result.scored], atol=1e-4)


def test_first_adapts_to_a_sessions_first_recording_and_scores_the_later_ones(run, two_sessions):
    heard, real = [], calibration.adapt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "adapt", lambda *given: (heard.append(len(given[1])), real(*given))[1])
        result = decisions(run, two_sessions, "first")
    windows = WindowSet(two_sessions)
    assert set(windows.shard[result.scored]) == {1}, "the second day has one recording"
    assert heard == [1], "of which nothing is scored"
    assert [one["session"] for one in result.sessions] == ["07/2018-05-11"]
    assert result.left_out == ["07/2018-05-20"]
    with pytest.raises(DataError, match="to score after 1 repetition and a session's first recording, found none"):
        parts_of(WindowSet(two_sessions[2:]), 1, "first")


def test_rings_are_not_turned_in_a_session_whose_labels_were_learnt(run, two_sessions, monkeypatch):
    turned, real = [], calibration.adapt
    monkeypatch.setattr(calibration, "adapt", lambda *given: (turned.append(len(given[3])), real(*given))[1])
    decisions(run, two_sessions, "session")
    assert turned == [0, len(small_shards.RINGS)]


def test_adapted_scores_stand_above_the_calibrated_ones(calibrated, monkeypatch):
    monkeypatch.setattr(calibrate, "Adaptation", lambda **given: replace(ANYTHING, **given))
    plain, _ = calibrated("calibrated", "--epochs", 3)
    report, _ = calibrated("adapted", "--epochs", 3, "--adapt", "session")
    assert report["calibrated_on_the_same_windows"]["per_subject"] == {
        who: {key: one[key] for key in report["calibrated_on_the_same_windows"]["per_subject"][who]}
        for who, one in plain["per_subject"].items()
    }
    assert "calibrated_on_the_same_windows" not in plain
    assert report["zero_shot_on_the_same_windows"] == plain["zero_shot_on_the_same_windows"]
    assert report["adaptation"]["mode"] == "session"
    assert [one["accepted"] for one in report["adaptation"]["sessions"]] == [True]


def test_a_session_too_short_to_adapt_to_keeps_the_calibrated_model(run, monkeypatch, tmp_path, capsys):
    words = ["calibrate.py", "--checkpoint", run / "run" / "best_model.ckpt", "--epochs", 1, "--adapt", "session"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, "--out", tmp_path / "out", "--device", "cpu"]])
    assert calibrate.main() == 0
    said = capsys.readouterr().out
    assert "05/2018-05-11: the calibrated model was not adapted: " in said
    assert "adapted to 0 of 1 session" in said
    assert "and adapted in 0 of 1 session (" in said.splitlines()[-1]
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (
        report["mean_over_subjects"]["macro_f1"]
        == report["calibrated_on_the_same_windows"]["mean_over_subjects"]["macro_f1"]
    )
