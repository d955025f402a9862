"""The files every evaluation writes: what is in them, that they belong together, that they repeat."""

import csv
import json
from dataclasses import fields

import numpy as np
import pytest

from semg.evaluation import report
from semg.evaluation.report import summary, write_results
from semg.evaluation.scored_windows import ScoredWindows

CLASSES = ("idle", "fist", "flexion")


def predictions(seed: int = 0) -> dict:
    """Two people of 30 windows each; about every fourth prediction is wrong."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, 60)
    prediction = np.where(rng.random(60) < 0.25, (label + 1) % 3, label)
    return {
        "label": label,
        "prediction": prediction,
        "probabilities": np.eye(3, dtype=np.float32)[prediction],
        "subject": np.repeat(["03", "11"], 30),
        "record": np.repeat([f"emg_gestures-{s}-sequential-2018-05-11-10-00-00-000" for s in ("03", "11")], 30),
        "start": np.tile(np.arange(30) * 640, 2),
        "classes": CLASSES,
        "rest_classes": ("idle",),
        "rate": 5120.0,
        "window_seconds": 0.25,
        "stride_seconds": 0.125,
        "simulated": False,
        "data": {"rate": 5120.0, "unit": "uV", "arguments": {"window": 1280}, "checksums": {"a": "1" * 64}},
    }


def write(folder, **changes):
    given = {**predictions(), "extra": {"subset": "test", "checkpoint": "x.ckpt"}, **changes}
    windows = ScoredWindows(**{one.name: given.pop(one.name) for one in fields(ScoredWindows)})
    return write_results(folder, windows, **given)


def test_what_the_files_hold(tmp_path):
    given = predictions()
    returned = write(tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics == returned
    assert (metrics["subset"], metrics["checkpoint"], metrics["n_windows"]) == ("test", "x.ckpt", 60)
    assert metrics["data"] == given["data"]
    assert metrics["accuracy"] == pytest.approx(np.mean(given["label"] == given["prediction"]))
    with np.load(tmp_path / "run" / "predictions.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"classes", "subject", "record", "start", "label", "prediction", "probabilities"}
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], given[name])
    with (tmp_path / "run" / "per_subject.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["subject"] for row in rows] == ["03", "11"]
    assert float(rows[1]["macro_f1"]) == metrics["per_subject"]["11"]["macro_f1"]
    assert "vote" not in metrics


def test_the_same_predictions_give_the_same_bytes_and_others_do_not(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 5
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    write(tmp_path / "b", **predictions(seed=1))
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "b" / name).read_bytes(), name


def test_a_run_killed_half_way_leaves_no_metrics_of_another(tmp_path, monkeypatch):
    write(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, **predictions(seed=1))
    assert not (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "fold0").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "fold0").is_dir()


def test_predictions_without_probabilities(tmp_path):
    write(tmp_path, probabilities=None)
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert set(arrays) == {"classes", "subject", "record", "start", "label", "prediction"}


def test_summary_tells_the_numbers(tmp_path):
    report = write(tmp_path, vote=5)
    output = summary(report)
    for key in ("macro_f1", "accuracy"):
        assert f"{100 * report['mean_over_subjects'][key]:.1f}" in output
    assert "60 windows of 2 people (test)" in output
    assert "majority over the last 5 windows, 250 ms later" in output
    for name in (*CLASSES, "03", "11"):
        assert f"\n{name} " in output
    voted = report["vote"]["mean_over_subjects"]["macro_f1"]
    assert f"{100 * voted:.1f}" in output.partition("majority")[2]


def test_summary_of_one_window(tmp_path):
    one = {name: value[:1] for name, value in predictions().items() if isinstance(value, np.ndarray)}
    assert summary(write(tmp_path, **one)).startswith("1 window of 1 person (test)")


def test_summary_of_one_person_and_of_a_class_never_seen(tmp_path):
    given = predictions()
    one = {name: value[:30] for name, value in given.items() if isinstance(value, np.ndarray)}
    one["label"], one["prediction"] = one["label"] % 2, one["prediction"] % 2
    output = summary(write(tmp_path, **one))
    assert "under 5 people" in output
    flexion = next(line for line in output.splitlines() if line.startswith("flexion"))
    assert flexion.split() == ["flexion", "-", "-", "-", "0"]


def test_summary_keeps_columns_below_their_heads_whatever_the_names(tmp_path):
    people, classes = (
        ("a name of as many letters as a name may have", "11"),
        ("idle", "wrist flexion, hand closed", "x"),
    )
    output = summary(write(tmp_path, subject=np.repeat(people, 30), classes=classes))
    for heads, names in (("class ", classes), ("person ", people)):
        (head,) = [line for line in output.splitlines() if line.startswith(heads)]
        rows = [line for line in output.splitlines() if line.startswith(tuple(f"{name}  " for name in names))]
        assert len(rows) == len(names)
        assert {len(row) for row in rows} == {len(head)}


def test_a_metric_that_nobody_has_has_no_interval_for_that_reason(tmp_path):
    """Of windows of rest alone there is no accuracy without rest, however many people there are."""
    nothing = np.zeros(60, int)
    people = np.repeat([f"{n:02d}" for n in range(6)], 10)
    output = summary(write(tmp_path, label=nothing, prediction=nothing, subject=people))
    (line,) = [line for line in output.splitlines() if line.startswith("accuracy without rest")]
    assert line.split()[3:] == ["-"] * 5
