"""One entry in the registry of metrics is all that a new metric needs."""

import csv
import json
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import compare
import train
from semg.data.splits import Split
from semg.evaluation import metrics
from semg.evaluation.report import summary, write_results
from semg.evaluation.scored_windows import ScoredWindows
from semg.evaluation.tensorboard import Board

CLASSES = ("idle", "fist", "pinch")


def kappa(counts, _rest):
    """Cohen's kappa: agreement beyond that of two who decide independently."""
    total = counts.sum()
    expected = (counts.sum(0) * counts.sum(1)).sum() / total**2
    return float((np.trace(counts) / total - expected) / (1 - expected)) if expected < 1 else None


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    one = metrics.Metric(
        name="kappa", label="Cohen's kappa", share=False, headline=True, score=kappa, chance=lambda *_: 0.0
    )
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, one))


def predictions(seed):
    random = np.random.default_rng(seed)
    label = np.tile([0, 0, 1, 2], 60)
    subject = np.repeat([f"{n:02d}" for n in range(3, 9)], 40)
    prediction = np.where(random.random(240) < 0.7, label, random.integers(0, 3, 240))
    return {"label": label, "prediction": prediction, "subject": subject}


def write(folder, seed):
    given = predictions(seed) | {"record": np.full(240, "r"), "start": np.arange(240) * 640}
    prediction, lengths = given.pop("prediction"), {"rate": 5120.0, "window_seconds": 0.25, "stride_seconds": 0.125}
    windows = ScoredWindows(**given, **lengths, classes=CLASSES, rest_classes=["idle"])
    return write_results(folder, windows, prediction, None, extra={"subset": "test"})


def test_it_is_in_the_files_of_an_evaluation(tmp_path):
    report = write(tmp_path, 0)
    assert json.loads((tmp_path / "metrics.json").read_text()) == report
    assert 0.4 < report["kappa"] < 0.7
    assert report["chance"]["kappa"] == 0.0
    low, high = report["ci95"]["kappa"]
    assert low <= report["mean_over_subjects"]["kappa"] <= high
    with (tmp_path / "per_subject.csv").open() as file:
        rows = {row["subject"]: float(row["kappa"]) for row in csv.DictReader(file)}
    assert rows == {who: one["kappa"] for who, one in report["per_subject"].items()}
    assert f"Cohen's kappa{report['mean_over_subjects']['kappa']:>19.3f}" in summary(report)
    assert "accuracy  Cohen's kappa  " in summary(report)  # heads of columns stay apart


def test_compare_has_it_in_its_table(tmp_path, monkeypatch):
    reports = {name: write(tmp_path / name, seed) for seed, name in enumerate(("a", "b"))}
    flags = ["--metric", "kappa", "--reference", "a", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["compare.py", str(tmp_path / "a"), str(tmp_path / "b"), *flags])
    compare.main()
    table = (tmp_path / "out" / "compare.md").read_text()
    assert "| Cohen's kappa | sd |" in table
    means = {name: report["mean_over_subjects"]["kappa"] for name, report in reports.items()}
    for value in means.values():
        assert f"| {value:.3f} |" in table
    assert f"| {means['b'] - means['a']:+.3f} |" in table
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_shows_it_and_training_can_choose_by_it(tmp_path):
    board = Board(tmp_path, CLASSES, settings={}, facts={}, split=Split("hand", "custom", (), (), ()))
    given = predictions(0)
    subjects = metrics.per_subject(**given, n_classes=3)
    row = {"epoch": 1, "step": 1} | {f"val/{name}": v for name, v in metrics.mean_over_subjects(subjects).items()}
    board.epoch(row, subjects, given["label"], np.eye(3)[given["prediction"]], chosen=True)
    board.close()
    shown = EventAccumulator(str(tmp_path)).Reload()
    for tag in ("3_scores/kappa_val", "4_chosen/kappa"):
        assert shown.Scalars(tag)[0].value == pytest.approx(row["val/kappa"])
    assert train.arguments().parse_args(["--select", "kappa"]).select == "kappa"
