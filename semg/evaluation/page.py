"""Results and training runs as a single HTML page that needs no other file and no network.

`read_page` reads and checks, `render` fills in page.html. Everything that comes from a file is escaped by Jinja; the
page's Content-Security-Policy forbids scripts and addresses of any kind.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jinja2
import numpy as np

from semg.common.console import counted, printable
from semg.common.errors import DataError, SettingError
from semg.evaluation import comparison, inline_charts, metrics
from semg.evaluation.comparison import (
    Method,
    Paired,
    check_same_subset,
    each_once,
    find_results,
    method_names,
    p_text,
    pool,
    told_apart,
)
from semg.evaluation.metrics import Metric, bootstrap_interval
from semg.evaluation.predictions import Predictions, excerpt, predictions_of, reliability, surest_errors
from semg.evaluation.result_record import Before, ResultRecord, chance_of, counted_sessions, read_result
from semg.evaluation.run_record import RunRecord, find_runs, is_run, read_run_record

P = ParamSpec("P")
T = TypeVar("T")
CHANNELS = 6  # channels drawn for a misclassified window
MOST_CLASSES = 40  # a larger confusion matrix is not readable
CONFUSIONS = 20  # the most frequent ones, listed in place of such a matrix
_LONGEST_VALUE = 160  # most characters of a setting's value


@dataclass(frozen=True)
class Entry:
    """A method on the page: what compare.py calls a method, together with its full results.

    pooled: by metric; errors: about files that could not be read; the page shows them.
    """

    name: str
    results: tuple[ResultRecord, ...]
    pooled: Mapping[str, Method]
    predictions: tuple[tuple[ResultRecord, Predictions], ...]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """All contents of the page. failures: inputs that could not be read at all."""

    title: str
    metric: Metric
    entries: tuple[Entry, ...]
    runs: Mapping[str, RunRecord]
    failures: tuple[str, ...]
    reference: str | None
    shards: Path | None
    errors_shown: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether any recording behind the page was simulated."""
        scored = [run.simulated for entry in self.entries for one in entry.results for run in one.evaluations.values()]
        return any(scored) or any(run.simulated for run in self.runs.values())


# --- reading ---------------------------------------------------------------------------------------------------


def read_page(
    sources: Sequence[Path],
    metric: Metric,
    *,
    title: str,
    reference: str | None,
    shards: Path | None,
    errors_shown: int,
    provenance: Mapping[str, Any],
) -> Page:
    """Read runs and results. An input that cannot be read is shown as a failure; DataError if none can be read.

    reference: the method with which the others are compared, None for the first; shards: None for the folder that each
    result names; errors_shown: number of misclassified windows to show for each method.
    """
    failures: list[str] = []
    found = [pair for path in dict.fromkeys(sources) if (pair := _try(failures, _results_or_runs, path)) is not None]
    paths = each_once(path for results, _ in found for path in results)
    read_runs = _runs(each_once(run for _, runs in found for run in runs), failures)
    reported = list({one.name: one for one in (metric, *metrics.headlines())}.values())
    read = {path: _try(failures, read_result, path, reported) for path in paths}
    groups: dict[str, list[ResultRecord]] = {}
    for name, path in zip(method_names(paths), paths, strict=True):
        if (result := read[path]) is not None:
            groups.setdefault(name, []).append(result)
    entries = [_entry(name, results, reported) for name, results in groups.items()]
    if not entries and not read_runs:
        raise DataError(failures[0] if failures else "expected results or training runs, found none")
    check_same_subset([entry.pooled[metric.name] for entry in entries])
    names = [entry.name for entry in entries]
    if reference is not None and reference not in names:
        expected = f"one of {', '.join(names)}" if names else "results to compare, found training runs alone"
        raise SettingError("reference", expected)
    reference = reference or (names[0] if len(names) > 1 else None)
    return Page(title, metric, tuple(entries), read_runs, tuple(failures), reference, shards, errors_shown, provenance)


def _results_or_runs(path: Path) -> tuple[list[Path], list[Path]]:
    """The results that `path` stands for, otherwise its training runs; of a run, the run. DataError if there are
    none."""
    if is_run(path):
        return [], [path]
    try:
        return find_results(path), []
    except DataError:
        if runs := find_runs(path):
            return [], runs
        raise


def _runs(folders: Sequence[Path], failures: list[str]) -> dict[str, RunRecord]:
    """The runs in these folders that can be read, each under a name of its own."""
    read = {name: _try(failures, read_run_record, run) for name, run in zip(told_apart(folders), folders, strict=True)}
    return {name: run for name, run in read.items() if run is not None}


def _try(failures: list[str], read: Callable[P, T], *words: P.args, **named: P.kwargs) -> T | None:
    """The result of `read`, or None, with its error message added to `failures`."""
    try:
        return read(*words, **named)
    except DataError as error:
        failures.append(str(error))
        return None


def _entry(name: str, results: list[ResultRecord], reported: Sequence[Metric]) -> Entry:
    pooled = {one.name: pool(name, (result.evaluations[one.name] for result in results)) for one in reported}
    errors: list[str] = []
    predictions = []
    for result in results:
        if result.classes and (windows := _try(errors, predictions_of, result)) is not None:
            predictions.append((result, windows))
    return Entry(name, tuple(results), pooled, tuple(predictions), tuple(errors))


# --- what the template is given --------------------------------------------------------------------------------


@cache  # compiling it takes longer than all the rest of a page
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    return environment.get_template("page.html")


def render(page: Page) -> str:
    """The page's HTML; the same page always gives the same text."""
    return _template().render(
        title=page.title,
        simulated=page.simulated,
        failures=page.failures,
        table=_table(page),
        paired=_paired(page),
        adapted=[_adapted(entry, page.metric) for entry in page.entries if _before_and_after(entry, page.metric)],
        repetitions=_repetitions(page),
        entries=[_details(entry, page) for entry in page.entries],
        runs=[_run(name, run) for name, run in page.runs.items()],
        made=_provenance(page.provenance),
    )


def _methods(page: Page) -> list[Method]:
    return [entry.pooled[page.metric.name] for entry in page.entries]


def _table(page: Page) -> dict[str, Any] | None:
    """Every method over people, best first, with dots and notes; None without results."""
    if not page.entries:
        return None
    metric, methods = page.metric, _methods(page)
    order = sorted(page.entries, key=lambda one: (-metric.rank(one.pooled[metric.name].values.mean()), one.name))
    names = list(page.entries[0].pooled)
    rows = [{"name": one.name, "simulated": _simulated(one), "cells": _row(one, names)} for one in order]
    heads = [metrics.metric(name).label for name in names]
    everyone = sorted({who for method in methods for who in method.subjects})
    people = [
        {"name": who, "cells": [metric.text(one.pooled[metric.name].subjects.get(who)) for one in order]}
        for who in everyone
    ]
    values = {one.name: one.pooled[metric.name].subjects for one in order}
    return {
        "metric": metric,
        "heads": heads,
        "rows": rows,
        "people": people,
        "chart": inline_charts.people(values, metric, metric.head, chance=_chance(order, metric)),
        "chance": metric.text(_chance(order, metric)),
        "notes": _notes(page, methods),
    }


def _row(entry: Entry, names: Sequence[str]) -> list[str]:
    first = entry.pooled[names[0]]
    fewest, most = first.runs_per_subject
    cells = [str(len(first.subjects)), str(most) if fewest == most else f"{fewest} to {most}"]
    for name in names:
        metric, values = metrics.metric(name), entry.pooled[name].values
        spread = f" ± {metric.text(float(values.std(ddof=1)))}" if len(values) > 1 else ""
        cells += [f"{metric.text(float(values.mean()))}{spread}", metric.ends(bootstrap_interval(values))]
    return cells


def _notes(page: Page, methods: Sequence[Method]) -> list[str]:
    """Notes that a reader of the table needs."""
    return [*comparison.differences_between(methods), *comparison.too_few(methods, _pairs(page))]


def _simulated(entry: Entry) -> bool:
    return any(run.simulated for one in entry.results for run in one.evaluations.values())


def _chance(entries: Sequence[Entry], metric: Metric) -> float | None:
    """The mean over people for decisions that ignore the signal, if it is the same for all entries as shown."""
    levels = [chance_of(entry.results, metric) for entry in entries]
    return levels[0] if len({metric.text(level) for level in levels}) == 1 else None


def _sharing(page: Page) -> list[Method]:
    """The reference, and the methods that have scored some of its people; empty without a reference."""
    base = next((method for method in _methods(page) if method.name == page.reference), None)
    if base is None:
        return []
    return [method for method in _methods(page) if set(method.subjects) & set(base.subjects)]


def _pairs(page: Page) -> dict[str, tuple[Paired, float]]:
    """Each of `_sharing` paired with the reference, with its corrected p; empty without a reference."""
    return comparison.against(_sharing(page), page.reference)


def _paired(page: Page) -> dict[str, Any] | None:
    """Each method minus the reference, person by person; None if there is none to compare with it."""
    pairs = _pairs(page)
    if not pairs:
        return None
    metric, sharing = page.metric, _sharing(page)
    base = next(method for method in sharing if method.name == page.reference)
    apart = [method.name for method in _methods(page) if method not in sharing]
    rows = [
        {
            "name": name,
            "cells": [
                metric.text(pair.difference, "+"),
                metric.ends(pair.interval, "+"),
                str(pair.n),
                p_text(pair.p),
                p_text(p),
            ],
        }
        for name, (pair, p) in pairs.items()
    ]
    differences = {
        method.name: {who: v - base.subjects[who] for who, v in method.subjects.items() if who in base.subjects}
        for method in sharing
        if method is not base
    }
    label = f"{metric.label} minus that of {page.reference}" + (", percentage points" if metric.share else "")
    return {
        "reference": page.reference,
        "metric": metric,
        "rows": rows,
        "apart": apart,
        "chart": inline_charts.people(differences, metric, label, zero=True),
    }


def _befores(entry: Entry) -> list[tuple[ResultRecord, Before]]:
    return [(result, result.before) for result in entry.results if result.before is not None]


def _before_and_after(entry: Entry, metric: Metric) -> dict[str, tuple[float, float]]:
    """Person -> scores of the unadapted and the adapted model, means over the runs that scored the person."""
    results = _befores(entry)
    was = pool(entry.name, (before.evaluations[metric.name] for _, before in results)).subjects
    now = pool(entry.name, (one.evaluations[metric.name] for one, _ in results)).subjects
    return {who: (was[who], now[who]) for who in sorted(set(was) & set(now))}


def _adapted(entry: Entry, metric: Metric) -> dict[str, Any]:
    """A method whose model was adapted, next to the unadapted model on the same windows, for at least one person."""
    pairs = _before_and_after(entry, metric)
    results = _befores(entry)
    first, before = results[0]
    count = first.repetitions
    how = f"calibrated with {counted(count, 'repetition')} of each gesture" if count else ""
    if first.adapted_on or not count:
        how += (" and " if how else "") + "adapted without labels"
    sessions = [one for result, _ in results for one in result.sessions]
    means = _means(pairs)
    words = before.name, how
    return {
        "name": entry.name,
        "words": words,
        "metric": metric,
        "labels": bool(count),
        "means": [metric.text(mean) for mean in means],
        "difference": metric.text(means[1] - means[0], "+"),
        "better": sum(now > was for was, now in pairs.values()),
        "worse": sum(now < was for was, now in pairs.values()),
        "people": len(pairs),
        "sessions": counted_sessions(sessions) if sessions else "",
        "accepted": sum(one["accepted"] for one in sessions),
        "kept": [one for one in sessions if not one["accepted"]],
        "chart": inline_charts.before_after(pairs, metric, words),
    }


def _repetitions(page: Page) -> list[dict[str, Any]]:
    """Scores by the number of repetitions used for calibration, for each `_recipe` with several of them."""
    groups: dict[str, dict[int, Entry]] = {}
    for entry in page.entries:
        count = entry.results[0].repetitions
        if count and _before_and_after(entry, page.metric):
            groups.setdefault(_recipe(entry), {})[count] = entry
    charts = []
    for by_count in groups.values():
        if len(by_count) < 2:
            continue
        means = {count: _means(_before_and_after(one, page.metric)) for count, one in by_count.items()}
        names = [by_count[count].name for count in sorted(by_count)]
        charts.append({"names": names, "chart": inline_charts.repetitions(means, page.metric)})
    return charts


def _means(pairs: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Means over people of the scores before and after adaptation."""
    was, now = np.mean(list(pairs.values()), axis=0)
    return float(was), float(now)


def _recipe(entry: Entry) -> str:
    """Which models were calibrated to which people and gestures, and how apart from the number of repetitions, as a
    text to compare."""
    models = sorted({str(one.content.get("checkpoint_sha256")) for one in entry.results})
    first = entry.results[0]
    settings: dict[str, Any] = {"adapt": first.adapted_on}
    for of, repetitions in (("calibration", "repetitions"), ("baseline", "calibrate")):
        if isinstance(how := first.content.get(of), dict):
            settings[of] = {name: value for name, value in how.items() if name != repetitions}
    people = sorted({who for one in entry.results for run in one.evaluations.values() for who in run.subjects})
    gestures = sorted({gesture for one in entry.results for gesture in one.classes})
    return json.dumps([models, people, gestures, settings], sort_keys=True)


def _details(entry: Entry, page: Page) -> dict[str, Any]:
    """One method in detail: confusion matrix, classes, confidence, misclassified windows, how it was made."""
    first = entry.results[0]
    tables = [one.confusion for one in entry.results if one.confusion is not None and one.classes == first.classes]
    whole = len(tables) == len(entry.results)
    counts: np.ndarray | None = np.sum(tables, axis=0) if whole and tables else None
    return {
        "name": entry.name,
        "simulated": _simulated(entry),
        "runs": len(entry.results),
        "errors": entry.errors,
        "classes": first.classes,
        "confusion": None if counts is None else _confusion(counts, first.classes),
        "confidence": _confidence(entry),
        "wrong": _wrong(entry, page) if page.errors_shown else None,
        "made": [_result_facts(one) for one in entry.results],
    }


def _confusion(counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Rows of the matrix, none if there are too many classes to read; the most frequent confusions, and the scores of
    each class."""
    total = counts.sum(1)
    rows = []
    for k, name in enumerate(classes if len(classes) <= MOST_CLASSES else ()):
        shares = counts[k] / total[k] if total[k] else np.zeros(len(classes))
        cells = [{"percent": round(100 * s), "windows": int(n)} for s, n in zip(shares, counts[k], strict=True)]
        rows.append({"name": name, "cells": cells})
    scores = metrics.per_class(counts, classes)
    columns = ("precision", "recall", "f1")
    percent = {
        name: [*("-" if one[key] is None else f"{100 * one[key]:.1f}" for key in columns), f"{one['support']:,}"]
        for name, one in scores.items()
    }
    return {"rows": rows, "often": _often(counts, classes), "per_class": percent}


def _often(counts: np.ndarray, classes: Sequence[str]) -> list[dict[str, str]]:
    """The most frequent confusions of one gesture with another, in falling order."""
    wrong = counts * ~np.eye(len(classes), dtype=bool)
    most = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    places = zip(*np.unravel_index(most, wrong.shape), strict=True)
    return [
        {
            "true": classes[row],
            "decided": classes[column],
            "windows": f"{wrong[row, column]:,}",
            "percent": f"{100 * wrong[row, column] / counts[row].sum():.1f}",
        }
        for row, column in places
        if wrong[row, column]
    ]


def _confidence(entry: Entry) -> dict[str, Any] | None:
    """Reliability over all windows of a method; None if it has no probabilities."""
    with_probabilities = [one for _, one in entry.predictions if one.probabilities is not None]
    if not with_probabilities:
        return None
    confidence = np.concatenate([one.confidence for one in with_probabilities if one.confidence is not None])
    right = np.concatenate([one.label == one.prediction for one in with_probabilities])
    bins, error = reliability(confidence, right)
    return {
        "chart": inline_charts.reliability(bins),
        "error": f"{100 * error:.1f}",
        "mean": f"{100 * confidence.mean():.1f}",
        "right": f"{100 * right.mean():.1f}",
    }


def _wrong(entry: Entry, page: Page) -> list[dict[str, Any]]:
    """The most confident wrong decisions of a method, with their signals if the shards exist. Each confusion of one
    gesture with another appears once per person, whichever run made it."""
    surest: dict[tuple[str, str, str], tuple[float, ResultRecord, Predictions, int]] = {}
    for result, one in entry.predictions:
        confidence = one.confidence
        if confidence is None:
            continue
        for k in surest_errors(one, page.errors_shown):
            kind = str(one.subject[k]), result.classes[one.label[k]], result.classes[one.prediction[k]]
            candidate = float(confidence[k]), result, one, k
            surest[kind] = max(candidate, surest.get(kind, candidate), key=lambda each: each[0])
    chosen = sorted(surest.values(), key=lambda candidate: -candidate[0])
    return [_wrong_window(*candidate, page.shards) for candidate in chosen[: page.errors_shown]]


def _wrong_window(
    confidence: float, result: ResultRecord, one: Predictions, place: int, shards: Path | None
) -> dict[str, Any]:
    folder, record, start = shards or result.shards, str(one.record[place]), int(one.start[place])
    missing: list[str] = []
    if folder is None:
        missing.append("The result does not say where the shards are.")
        part = None
    else:
        part = _try(missing, excerpt, folder, record, start, CHANNELS, result.content_of(record))
    assert one.probabilities is not None  # noqa: S101  a confidence is computed from them
    return {
        "subject": str(one.subject[place]),
        "record": record,
        "true": result.classes[one.label[place]],
        "decided": result.classes[one.prediction[place]],
        "confidence": f"{100 * confidence:.1f}",
        "truth": f"{100 * float(one.probabilities[place, one.label[place]]):.1f}",
        "begin": None if part is None else f"{part.begin:.2f}",
        "start": start,
        "chart": None if part is None else inline_charts.traces(part),
        "missing": missing[0] if missing else "",
    }


def _result_facts(result: ResultRecord) -> dict[str, Any]:
    """How a result was made, for a table."""
    content = result.content
    facts = {
        "result": result.path.parent.as_posix(),
        "subset": content.get("subset"),
        "windows": f"{sum(next(iter(result.evaluations.values())).windows.values()):,}",
        "split": content.get("split"),
        "split SHA-256": content.get("split_sha256"),
        "checkpoint": content.get("checkpoint"),
        "checkpoint SHA-256": content.get("checkpoint_sha256"),
        "normalisation": content.get("normalize"),
    }
    return {
        "facts": {name: value for name, value in facts.items() if value is not None},
        **_provenance(result.provenance),
    }


def _provenance(content: Mapping[str, Any]) -> dict[str, Any]:
    """Script, commit and versions, from a file's `made`."""
    return {
        "script": content.get("script", "not said"),
        "commit": content.get("commit", "not said"),
        "versions": {name: _text(value) for name, value in (content.get("versions") or {}).items()},
    }


def _text(value: Any) -> str:
    """A setting as text, shortened if it is long."""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    words = "default" if value is None else "yes" if value is True else "no" if value is False else str(value)
    return words if len(words) <= _LONGEST_VALUE else f"{words[:_LONGEST_VALUE]}…"


def _run(name: str, run: RunRecord) -> dict[str, Any]:
    """A training run: data, curves, settings."""
    first = metrics.METRICS[0]
    best = max(run.rows, key=lambda row: first.rank(row[f"val/{first.name}"]))
    derived = run.config["derived"]
    data = {name: derived[name] for name in ("train", "val") if isinstance(derived.get(name), dict)}
    columns = ("subjects", "recordings", "windows")
    parameters = derived.get("parameters")
    return {
        "name": name,
        "simulated": run.simulated,
        "data": {subset: [_text(one.get(column, "-")) for column in columns] for subset, one in data.items()},
        "split": _text(run.config["arguments"].get("split")),
        "classes": _text(derived.get("classes")),
        "parameters": {k: _text(v) for k, v in parameters.items()} if isinstance(parameters, dict) else {},
        "epochs": len(run.rows),
        "best": best["epoch"],
        "score": f"{best[f'val/{first.name}']:.4f}",
        "metric": first,
        "charts": [inline_charts.learning_curve(run.rows, one, best["epoch"]) for one in (metrics.LOSS, first)],
        "arguments": {name: _text(value) for name, value in run.config["arguments"].items()},
        **_provenance({"script": "train.py"} | run.config),
    }
