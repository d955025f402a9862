"""The files that every evaluation writes, whatever made the predictions.

FOLDER/predictions.npz   record, start, label, prediction and, where there are some, probabilities of each window
FOLDER/per_subject.csv   one row a person
FOLDER/confusion_matrix.png, FOLDER/per_subject.png
FOLDER/metrics.json      written last: where it is, the others are whole and belong to it
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.console import counted
from semg.common.files import atomic_path, write_json, write_text
from semg.evaluation import score_figures
from semg.evaluation.metrics import report


def write_results(
    folder: Path,
    *,
    label: np.ndarray,
    prediction: np.ndarray,
    probabilities: np.ndarray | None,
    subject: np.ndarray,
    record: np.ndarray,
    start: np.ndarray,
    classes: Sequence[str],
    extra: dict[str, Any],
    rate: float,
    window_seconds: float,
    stride_seconds: float,
    simulated: bool,
    vote: int = 1,
) -> dict[str, Any]:
    """Score predictions and write the five files into `folder`; returns what metrics.json holds.

    label, prediction: (n,) indices into classes; probabilities: (n, classes) or None; subject, record, start: (n,)
    whose window, of which recording, from which sample on; rate: Hz. extra: what to say beside the metrics (subset,
    checkpoint, split, how made). simulated: whether some recording was; the pictures then say so too. vote: above 1,
    the majority over the last `vote` windows is scored beside.
    """
    metrics = report(
        label,
        prediction,
        subject,
        record,
        start,
        classes,
        vote=vote,
        rate=rate,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
    )
    whole = {**metrics, "simulated": simulated, **extra}
    mark = " (SIMULATED)" if simulated else ""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    arrays = {"record": record, "start": start, "label": label, "prediction": prediction}
    if probabilities is not None:
        arrays["probabilities"] = np.asarray(probabilities, np.float32)
    with atomic_path(folder / "predictions.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    write_text(folder / "per_subject.csv", per_subject_csv(metrics["per_subject"]))
    confusion, subjects = np.array(metrics["confusion"]), metrics["per_subject"]
    score_figures.confusion_matrix(folder / "confusion_matrix.png", confusion, classes, score_figures.CONFUSION + mark)
    score_figures.per_subject(
        folder / "per_subject.png", subjects, len(classes), metrics["ci95"], score_figures.SUBJECTS + mark
    )
    write_json(folder / "metrics.json", whole)
    return whole


def per_subject_csv(subjects: dict[str, dict[str, Any]]) -> str:
    """One row a person: subject and that person's metrics, as fractions."""
    keys = list(next(iter(subjects.values())))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["subject", *keys])
    table.writerows([subject, *(one[key] for key in keys)] for subject, one in subjects.items())
    return text.getvalue()


SUMMARY_KEYS = {"macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}


def summary(metrics: dict[str, Any]) -> str:
    """What metrics.json says, for a person to read in the terminal; percentages."""
    told = f"{metrics['n_windows']} windows of {counted(metrics['n_subjects'], 'person', 'people')}"
    simulated = ", SIMULATED recordings" if metrics.get("simulated") else ""
    lines = [f"{told} ({metrics.get('subset', '')}), in %{simulated}"]
    lines += ["", *_over_subjects(metrics)]
    if "vote" in metrics:
        vote = metrics["vote"]
        lines += ["", f"majority over the last {vote['k']} windows, {vote['added_delay_ms']:g} ms later:"]
        lines += _over_subjects(vote)
    lines += ["", f"{'class':<18}{'precision':>10}{'recall':>10}{'F1':>10}{'windows':>10}"]
    for name, one in metrics["per_class"].items():
        cells = "".join(f"{_percent(one[key]):>10}" for key in ("precision", "recall", "f1"))
        lines.append(f"{name:<18}{cells}{one['support']:>10}")
    lines += ["", f"{'person':<18}{'macro-F1':>10}{'accuracy':>10}{'windows':>20}"]
    for name, one in metrics["per_subject"].items():
        lines.append(f"{name:<18}{_percent(one['macro_f1']):>10}{_percent(one['accuracy']):>10}{one['n_windows']:>20}")
    return "\n".join(lines)


def _over_subjects(metrics: dict[str, Any]) -> list[str]:
    """Each metric's mean over people, standard deviation and interval, and its value over all windows."""
    lines = [f"{'':<18}{'mean':>10}{'sd':>10}{'95 % interval':>20}{'all windows':>13}"]
    for key, name in SUMMARY_KEYS.items():
        mean, sd, ends = (metrics[part][key] for part in ("mean_over_subjects", "sd_over_subjects", "ci95"))
        interval = f"{_percent(ends[0])} to {_percent(ends[1])}" if ends else "one person"
        lines.append(f"{name:<18}{_percent(mean):>10}{_percent(sd):>10}{interval:>20}{_percent(metrics[key]):>13}")
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
