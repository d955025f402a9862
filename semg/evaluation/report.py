"""The files that every evaluation writes, whatever made the predictions.

FOLDER/predictions.npz   record, start, label, prediction and, if there are any, probabilities of each window; classes,
                         the names for labels and predictions and for the columns of the probabilities
FOLDER/per_subject.csv   one row per person
FOLDER/confusion_matrix.png, FOLDER/per_subject.png
FOLDER/metrics.json      written last: if it exists, the others are complete and belong to it
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.console import counted
from semg.common.errors import DataError
from semg.common.files import atomic_path, read_json, write_json, write_text
from semg.data.windows import UNLABELLED
from semg.evaluation import metrics, score_figures
from semg.evaluation.metrics import Metric, report
from semg.evaluation.scored_windows import ScoredWindows
from semg.evaluation.table_text import csv_text

_OF_THE_MACHINE = ("out", "batch_size", "device", "threads", "workers")  # flags that change no more than last digits


def write_results(
    folder: Path,
    windows: ScoredWindows,
    prediction: np.ndarray,
    probabilities: np.ndarray | None,
    *,
    extra: Mapping[str, Any],
    vote: int = 1,
    hold: float = 0.0,
) -> dict[str, Any]:
    """Score predictions and write the five files into `folder`; returns the contents of metrics.json.

    prediction: (n,) indices into the classes; probabilities: (n, classes) or None. extra: what to state in addition to
    the metrics (subset, checkpoint, split, how made). vote, hold: also score decisions smoothed over time, as in
    `metrics.report`. Windows with the label UNLABELLED are used for smoothing only, and are not in any file.
    """
    scored = report(windows, prediction, probabilities, vote=vote, hold=hold)
    content = {**scored, "simulated": windows.simulated, "data": dict(windows.data), **extra}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    _write_predictions(folder / "predictions.npz", windows, prediction, probabilities)
    subjects, by_chance, ends = scored["per_subject"], scored["chance_over_subjects"], scored["ci95"]
    rows = [["subject", *next(iter(subjects.values()))], *([who, *one.values()] for who, one in subjects.items())]
    write_text(folder / "per_subject.csv", csv_text(rows))  # values as fractions; empty if undefined
    confusion, mark = np.array(scored["confusion"]), score_figures.SIMULATED if windows.simulated else ""
    title = score_figures.CONFUSION + mark
    score_figures.confusion_matrix(folder / "confusion_matrix.png", confusion, windows.classes, title)
    title = score_figures.SUBJECTS + mark
    score_figures.per_subject(folder / "per_subject.png", subjects, by_chance, ends, title)
    write_json(folder / "metrics.json", content)
    return content


def replaced(folder: Path, made: Mapping[str, Any]) -> str:
    """A warning if a result in `folder` was made otherwise than the one that will take its place; empty: it was not.

    made: from `how_made`. An unreadable result counts as none.
    """
    try:
        before = read_json(folder / "metrics.json", "metrics")["made"]
        script, old, new = before["script"], before["arguments"], made["arguments"]
        flags = " ".join(_flag(name, old[name]) for name, value in new.items() if _other(name, old, value))
    except (DataError, LookupError, TypeError):
        return ""
    how = f"by {script}" if script != made["script"] else f"with {flags}" if flags else ""
    return f"{folder}: replaces the result there, which was made {how}" if how else ""


def _other(name: str, old: Mapping[str, Any], value: Any) -> bool:
    return name not in _OF_THE_MACHINE and name in old and old[name] != value


def _flag(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if value in (None, False):
        return f"no {flag}"
    words = value if isinstance(value, list) else [] if value is True else [value]
    return " ".join([flag, *(repr(word) if " " in str(word) else str(word) for word in words)])


def _write_predictions(
    path: Path, windows: ScoredWindows, prediction: np.ndarray, probabilities: np.ndarray | None
) -> None:
    columns = {name: getattr(windows, name) for name in ("subject", "record", "start", "label")}
    columns["prediction"] = prediction
    if probabilities is not None:
        columns["probabilities"] = np.asarray(probabilities, np.float32)
    known = windows.label != UNLABELLED
    columns = {name: values[known] for name, values in columns.items()} | {"classes": np.array(windows.classes)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **columns)


def summary(scored: dict[str, Any]) -> str:
    """The contents of metrics.json as text for the terminal; fractions in percent."""
    counts = f"{counted(scored['n_windows'], 'window')} of {counted(scored['n_subjects'], 'person', 'people')}"
    simulated = ", SIMULATED recordings" if scored.get("simulated") else ""
    lines = [f"{counts} ({scored.get('subset', '')}), in %{simulated}"]
    if left_out := scored.get("classes_left_out"):
        names = ", ".join(scored["classes"])
        lines.append(f"deciding between {names} alone; windows of {', '.join(left_out)} are left out")
    by_chance = scored["chance_over_subjects"]
    lines += ["", *_over_subjects(scored, by_chance)]
    if "vote" in scored:
        vote = scored["vote"]
        lines += ["", f"majority over the last {vote['k']} windows, {vote['added_delay_ms']:g} ms later:"]
        lines += _over_subjects(vote, by_chance)
    if "smoothed" in scored:
        smoothed = scored["smoothed"]
        lines += ["", f"smoothed by what came before, gestures lasting {smoothed['hold_seconds']:g} s on average:"]
        lines += _over_subjects(smoothed, by_chance)
    wide = max(22, *(len(name) + 2 for part in ("per_class", "per_subject") for name in scored[part]))
    lines += ["", f"{'class':<{wide}}{'precision':>10}{'recall':>10}{'F1':>10}{'windows':>10}"]
    for name, one in scored["per_class"].items():
        cells = "".join(f"{_percent(one[key]):>10}" for key in ("precision", "recall", "f1"))
        lines.append(f"{name:<{wide}}{cells}{one['support']:>10}")
    lines += ["", f"{'person':<{wide}}{_headline_heads()}{'windows':>20}"]
    for name, one in scored["per_subject"].items():
        lines.append(f"{name:<{wide}}{_headline_cells(one)}{one['n_windows']:>20}")
    return "\n".join(lines)


def over_time_in_words(scored: dict[str, Any]) -> str:
    """Online scores by minute and by recording of the session, as text; means over people, in percent."""
    lines = []
    for key, what in (("by_minute", "minute of the session"), ("by_recording", "recording of the session")):
        lines += ["", f"{what:<26}{_headline_heads()}{'windows':>10}{'people':>8}"]
        for name, one in scored[key].items():
            lines.append(f"{name:<26}{_headline_cells(one)}{one['n_windows']:>10}{one['n_subjects']:>8}")
    return "\n".join(lines[1:])


def _width(metric: Metric) -> int:
    """Width of a column under the metric's label."""
    return max(10, len(metric.label) + 2)


def _headline_heads() -> str:
    return "".join(f"{one.label:>{_width(one)}}" for one in metrics.headlines())


def _headline_cells(scores: dict[str, Any]) -> str:
    return "".join(f"{one.text(scores[one.name]):>{_width(one)}}" for one in metrics.headlines())


def _over_subjects(scored: dict[str, Any], chance: dict[str, float | None]) -> list[str]:
    """Each metric's mean over people, standard deviation, interval, chance level, and value over all windows."""
    lines = [f"{'':<22}{'mean':>10}{'sd':>10}{'95 % interval':>20}{'by chance':>11}{'all windows':>13}"]
    for metric in metrics.METRICS:
        mean, sd, ends = (scored[part][metric.name] for part in ("mean_over_subjects", "sd_over_subjects", "ci95"))
        interval = "-" if mean is None else metric.ends(ends)
        cells = f"{metric.text(mean):>10}{metric.text(sd):>10}{interval:>20}"
        cells += f"{metric.text(chance[metric.name]):>11}{metric.text(scored[metric.name]):>13}"
        lines.append(f"{metric.label:<22}{cells}")
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
