"""Results of baselines: which ones to make, which ones exist, and how one is written.

baselines.py and deep_baselines.py share this module. A result consists of the files that evaluate.py writes; in
addition, metrics.json states under `baseline` everything that its numbers depend on. A run that is continued therefore
knows what is left to do, and refuses to mix in a result that was made in another way.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.console import Console, counted, next_command
from semg.common.errors import DataError
from semg.common.files import read_json
from semg.data import gestures
from semg.data.shards import WindowSet, data_checksum, difference, open_shards
from semg.data.splits import Split, met_before
from semg.evaluation import metrics
from semg.evaluation.scored_windows import ScoredWindows

OUTPUT_FILES = ("per_subject.csv", "predictions.npz", "confusion_matrix.png", "per_subject.png")


@dataclass(frozen=True)
class Baseline:
    """One result: a method on one split, and everything that its numbers depend on.

    fold: the split's name in a folder of folds; empty for a single split.
    """

    method: str
    fold: str
    folder: Path
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name in messages: `lda-rms`, or `lda-rms fold0`."""
        return f"{self.method} {self.fold}".strip()


def unfinished(baselines: Iterable[Baseline], overwrite: bool) -> list[Baseline]:
    """The baselines without a result. DataError for a result that was made in another way, unless it may be
    overwritten."""
    left = []
    for baseline in baselines:
        path = baseline.folder / "metrics.json"
        if overwrite or not path.is_file():
            left.append(baseline)
            continue
        actual = read_json(path, "metrics of an earlier run").get("baseline")
        if actual != baseline.settings:
            found = difference({"": baseline.settings}, {"": actual if isinstance(actual, dict) else {}}, "").strip()
            raise DataError(
                f"{baseline.folder}: expected a result with {found}", hint="choose another {out} or give {overwrite}"
            )
        if not all((baseline.folder / name).is_file() for name in OUTPUT_FILES):
            left.append(baseline)
    return left


def open_folds(
    folder: Path,
    folds: Mapping[str, Split],
    subsets: Mapping[str, Sequence[str]],
    classes: Sequence[str] | None = None,
    *,
    no_idle: bool = False,
) -> dict[str, dict[str, WindowSet]]:
    """The windows of each fold: fold -> name -> windows. Every shard is opened once; checksums are not compared.

    subsets: name -> the subsets of the split that it combines; classes, no_idle: which windows to keep, as for
    `gestures.chosen`. SettingError for an invalid choice of classes; DataError for a subset without windows, or if the
    windows called `train` lack a class.
    """
    records = [
        name for split in folds.values() for names in subsets.values() for s in names for name in split.records(s)
    ]
    distinct = list(dict.fromkeys(records))
    shards = open_shards(folder, distinct)  # opened together, because they must agree
    kept = gestures.chosen(shards[0].classes, shards[0].rest_classes, classes, no_idle=no_idle)
    opened = {name: gestures.restricted(shard, kept) for name, shard in zip(distinct, shards, strict=True)}
    by_fold: dict[str, dict[str, WindowSet]] = {}
    for fold, split in folds.items():
        by_fold[fold] = {}
        for name, names in subsets.items():
            shards = [opened[record] for subset in names for record in split.records(subset)]
            if not sum(len(shard.windows) for shard in shards):
                raise DataError(f"{split.folder}: expected windows in its {' and '.join(names)} subset, found none")
            by_fold[fold][name] = WindowSet(shards)
        train = by_fold[fold]["train"]
        if missing := sorted(set(range(len(kept))) - set(train.label.tolist())):
            raise DataError(
                f"{split.folder}: expected training windows of every class, found none of {kept[missing[0]]}"
            )
    return by_fold


def restriction(windows: Mapping[str, Mapping[str, WindowSet]]) -> dict[str, Any]:
    """`classes_left_out` for metrics.json, from windows by fold and name, and `classes` if they are in another order
    than in the shards; empty if all classes are kept in their order."""
    shard = next(iter(windows.values()))["train"].shards[0]
    left_out = shard.meta.get("classes_left_out")
    chosen = {"classes_left_out": left_out} if left_out else {}
    return chosen | ({"classes": list(shard.classes)} if shard.meta.get("classes_reordered") else {})


def known_people(windows: Mapping[str, WindowSet], subset: str) -> dict[str, list[str]]:
    """Which of the people scored are not new, see `met_before`. windows: `train`, `scored` and, if something was chosen
    on them, `val`."""
    people = {name: {shard.subject for shard in own.shards} for name, own in windows.items()}
    return met_before(people["scored"], people["train"], people.get("val", ()), subset)


def checksum_of(windows: Iterable[WindowSet]) -> str:
    """One checksum over the shards of several sets of windows."""
    return data_checksum(shard for one in windows for shard in one.shards)


def write(
    baseline: Baseline,
    windows: WindowSet,
    prediction: np.ndarray,
    probabilities: np.ndarray | None,
    facts: Mapping[str, Any],
    rows: np.ndarray | None = None,
    smoothing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a result with `facts` about how it was made; returns the contents of metrics.json.

    prediction: (n,) class indices; probabilities: (n, classes) or None; both for `windows`, in their order, or for
    those at the places `rows` (n,). smoothing: `vote` and `hold` of `write_results`.
    """
    from semg.evaluation.report import write_results  # imports matplotlib, which takes a second

    return write_results(
        baseline.folder,
        ScoredWindows.of(windows, slice(None) if rows is None else rows),
        prediction,
        probabilities,
        extra={"checkpoint": None, **facts, "baseline": baseline.settings},
        **(smoothing or {}),
    )


def report(
    windows: WindowSet,
    prediction: np.ndarray,
    probabilities: np.ndarray | None,
    rows: np.ndarray,
    smoothing: Mapping[str, Any],
) -> dict[str, Any]:
    """What metrics.json says about the windows at the places `rows` only; the decisions, as in `write`, are for all
    windows."""
    shares = None if probabilities is None else probabilities[rows]
    return metrics.report(ScoredWindows.of(windows, rows), prediction[rows], shares, **smoothing)


def pooled(baselines: Sequence[Baseline]) -> dict[str, tuple[float, float | None, int]]:
    """For each method that has a result in every fold, made with the present settings: mean and standard deviation of
    the leading metric over the people of all folds, and the number of people. A person who is scored in several folds
    counts once, with the mean over these folds."""
    people: dict[str, dict[str, list[float]]] = {}
    whole = {baseline.method for baseline in baselines}
    for baseline in baselines:
        path = baseline.folder / "metrics.json"
        report = read_json(path, "metrics of this run") if path.is_file() else {}
        # it was made from other data, or is an old result that should have been overwritten
        if report.get("baseline") != baseline.settings:
            whole.discard(baseline.method)
            continue
        scores = people.setdefault(baseline.method, {})
        for who, one in report["per_subject"].items():
            scores.setdefault(who, []).append(one[metrics.leading().name])
    by_method = {}
    for method in dict.fromkeys(baseline.method for baseline in baselines):
        if method in whole:
            values = np.array([np.mean(scores) for scores in people[method].values()])
            spread = float(values.std(ddof=1)) if len(values) > 1 else None
            by_method[method] = (float(values.mean()), spread, len(values))
    return by_method


# --- messages -----------------------------------------------------------------------------------------------------


def describe(fold: str, windows: Mapping[str, WindowSet], subset: str, normalize: str) -> str:
    """A line before the work on a fold: how many windows of how many people."""
    counts = {name: (len(one), len({shard.subject for shard in one.shards})) for name, one in windows.items()}
    shard = windows["train"].shards[0]
    left_out = shard.meta.get("classes_left_out")
    classes = f"; {', '.join(shard.classes)} alone, left out: {', '.join(left_out)}" if left_out else ""
    words = {
        name: f"{counted(n, 'window')} of {counted(people, 'person', 'people')}" for name, (n, people) in counts.items()
    }
    where = f"{fold}: " if fold else ""
    scored = f"scoring {words['scored']} ({subset})"
    return f"{where}training on {words['train']}, {scored}, normalisation: {normalize}{classes}"


def finish(
    console: Console, out: Path, baselines: Sequence[Baseline], left: Sequence[Baseline], done: Mapping[str, float]
) -> int:
    """Print the results, over all folds if there are several; returns the exit code."""
    leading, scores = metrics.leading(), dict(done)
    if len({baseline.fold for baseline in baselines}) > 1:
        scores = {}  # those of single folds are of different people
        for method, (mean, sd, people) in pooled(baselines).items():
            scores[f"{method}, all folds"] = mean
            score = leading.labelled(mean) + (f" +- {sd:.4f}" if sd is not None else "")
            console.say(f"all folds  {method:<28} {score} over {counted(people, 'person', 'people')}")
    best = max(scores, key=lambda name: leading.rank(scores[name]), default=None)
    best_words = f"; best {leading.labelled(scores[best])} ({best})" if best else ""
    failed = len(left) - len(done)
    console.finish(
        f"{out}: {counted(len(done), 'result')} written{best_words}; {next_command('compare.py', out)}",
        out=out.as_posix(),
        **{leading.name: dict(done)},
        kept=len(baselines) - len(left),
        failed=failed,
    )
    return 1 if failed else 0
