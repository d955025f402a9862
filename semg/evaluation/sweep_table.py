"""The results of a sweep, setting by setting: numbers over people, and the tables that show them.

The unit is a person, as in comparison.py: a person's runs (folds, seeds) are averaged before anything else.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semg.evaluation import metrics
from semg.evaluation.comparison import pool, read_evaluations
from semg.evaluation.metrics import headlines
from semg.evaluation.table_text import csv_text, markdown_rows, markdown_text

PICKED_BY = metrics.leading()  # on the validation people
# field of a row -> words
SUBSETS = {"val": "validation", "test": "test", "adapted": "adapted test", "calibrated": "calibrated test"}


@dataclass(frozen=True)
class Row:
    """One row of the table.

    values: flag of train.py -> its value; done, expected: numbers of trained runs; picked: `yes`, or the folds for
    which it was picked, "" if none; val, test, adapted, calibrated: the result of `over_subjects` for its runs, None if
    some are missing; adapted, calibrated: of the test people, to whose sessions the model was adapted, or to whose
    first repetitions it was calibrated.
    """

    name: str
    values: Mapping[str, str]
    done: int
    expected: int
    picked: str
    val: Mapping[str, Any] | None
    test: Mapping[str, Any] | None
    adapted: Mapping[str, Any] | None = None
    calibrated: Mapping[str, Any] | None = None

    @property
    def scores(self) -> list[Mapping[str, Any] | None]:
        """Those of each of SUBSETS."""
        return [getattr(self, subset) for subset in SUBSETS]


def over_subjects(files: Mapping[int, Sequence[Path]]) -> dict[str, Any]:
    """Numbers over people, for runs whose scores are in `files`: seed -> one file per fold.

    For each metric: its mean over people (under its name), its standard deviation over people (`..._sd`; None for a
    single person), and the standard deviation of the mean over seeds (`..._sd_seeds`; None for one seed). `subjects`:
    number of people.
    """
    numbers: dict[str, Any] = {}
    names = [metric.name for metric in headlines()]
    read = {seed: [read_evaluations(path, names) for path in paths] for seed, paths in files.items()}
    for name in names:
        by_seed = [pool(str(seed), [one[name] for one in evaluations]) for seed, evaluations in read.items()]
        values = pool("all seeds", [one for method in by_seed for one in method.evaluations]).values
        numbers["subjects"] = len(values)
        numbers[name] = float(values.mean())
        numbers[f"{name}_sd"] = standard_deviation(values)
        numbers[f"{name}_sd_seeds"] = standard_deviation([method.values.mean() for method in by_seed])
    return numbers


def standard_deviation(values: Sequence[float] | np.ndarray) -> float | None:
    """Standard deviation of a sample; None for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def by_validation(rows: Sequence[Row]) -> list[Row]:
    """Sorted by validation score, best first; rows without one last."""
    return sorted(rows, key=lambda row: -PICKED_BY.rank(row.val[PICKED_BY.name]) if row.val else math.inf)


# --- for a reader ----------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The table in percent, with an explanation below."""
    flags = list(dict.fromkeys(flag for row in rows for flag in row.values))
    subsets = [subset for subset in SUBSETS if any(getattr(row, subset) for row in rows)]
    seeds = any(scores and scores[f"{PICKED_BY.name}_sd_seeds"] is not None for row in rows for scores in row.scores)
    head = ["picked", *(flags or ["setting"]), "runs"]
    for subset in subsets:
        head += [f"{SUBSETS[subset]} people", *_metric_heads(SUBSETS[subset], seeds)]
    lines = [head]
    for row in rows:
        named = [row.values.get(flag, "") for flag in flags] if row.values else [row.name, *[""] * (len(flags) - 1)]
        line = [row.picked, *named, f"{row.done}/{row.expected}"]
        lines.append(line + [cell for subset in subsets for cell in _cells(getattr(row, subset), seeds)])
    below = "Mean and standard deviation (sd) over people, each the mean of that person's runs"
    below += "; sd over seeds: of the mean over people." if seeds else "."
    return "\n".join([*markdown_rows(lines), "", below, *(f"\nNote: {markdown_text(note)}." for note in notes)]) + "\n"


def _metric_heads(subset: str, seeds: bool) -> list[str]:
    more = ["sd over seeds"] if seeds else []
    return [head for metric in headlines() for head in (f"{subset} {metric.head}", "sd", *more)]


def _cells(scores: Mapping[str, Any] | None, seeds: bool) -> list[str]:
    endings = ["", "_sd", "_sd_seeds"] if seeds else ["", "_sd"]
    if scores is None:
        return [""] * (1 + len(headlines()) * len(endings))
    values = [(metric, scores[f"{metric.name}{ending}"]) for metric in headlines() for ending in endings]
    return [str(scores["subjects"]), *("" if value is None else metric.text(value) for metric, value in values)]


# --- for a program ---------------------------------------------------------------------------------------------


def csv_table(rows: Sequence[Row]) -> str:
    """The same as fractions with all digits; cells without a value are empty."""
    flags = list(dict.fromkeys(flag for row in rows for flag in row.values))
    keys = ["subjects", *(f"{metric.name}{ending}" for metric in headlines() for ending in ("", "_sd", "_sd_seeds"))]
    head = ["setting", *flags, "picked", "runs", "runs_expected", *(f"{p}_{key}" for p in SUBSETS for key in keys)]
    table: list[list[object]] = [list(head)]
    for row in rows:
        values = [(scores or {}).get(key) for scores in row.scores for key in keys]
        cells = ["" if value is None else value for value in values]
        table.append([row.name, *(row.values.get(f, "") for f in flags), row.picked, row.done, row.expected, *cells])
    return csv_text(table)
