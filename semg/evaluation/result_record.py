"""A result's metrics.json, checked, for the page that report.py makes. Results may come from anybody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.console import counted
from semg.common.errors import DataError
from semg.common.files import places_near, read_json
from semg.common.schema import COUNT, OBJECT, TEXT, TEXTS, Field, check_fields, is_finite, is_whole, text
from semg.evaluation.comparison import MOST_CLASSES, WRITTEN, Evaluation, adapted_on, evaluation_of
from semg.evaluation.metrics import Metric

_MOST_WINDOWS = 2**40  # most windows in a cell of a confusion matrix


def _are_sessions(value: Any) -> bool:
    """A list of sessions that were adapted to as a whole, or of each session's name the attempts in its course."""
    if isinstance(value, dict):
        return all(text(name) and isinstance(own, list) and all(map(_is_attempt, own)) for name, own in value.items())
    return isinstance(value, list) and all(_is_attempt(one) and text(one.get("session")) for one in value)


def _is_attempt(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("accepted"), bool)
        and (value.get("reason") is None or text(value["reason"]))
    )


def _are_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(one is None or is_finite(one) for one in value.values())


_SESSIONS = Field(
    "a list of sessions, each with a name and whether the adapted model was accepted",
    _are_sessions,
    needed=False,
)
_FIELDS = {
    **dict.fromkeys(("made", "made.arguments", "made.versions", "adaptation"), replace(OBJECT, needed=False)),
    **dict.fromkeys(("checkpoint", "checkpoint_sha256", "split", "split_sha256"), replace(TEXT, needed=False)),
    **dict.fromkeys(("made.commit", "made.script", "adaptation.mode"), replace(TEXT, needed=False)),
    "rest_classes": Field("a list of names", lambda value: value == [] or TEXTS.holds(value), needed=False),
    "calibrate": replace(COUNT, needed=False),
    "adaptation.sessions": _SESSIONS,
    "chance_over_subjects": Field("a number or null for each metric", _are_scores, needed=False),
}


@dataclass(frozen=True)
class Before:
    """The model before adaptation to the people scored, on the same windows.

    name: what the result calls it; evaluations: by metric.
    """

    name: str
    evaluations: Mapping[str, Evaluation]


@dataclass(frozen=True)
class ResultRecord:
    """One evaluation. content: metrics.json; evaluations: by metric; before: the model before adaptation, or None if it
    was not adapted.

    confusion: (K, K) windows by true class (row) and decided class; None if the file has none.
    """

    path: Path
    content: Mapping[str, Any]
    evaluations: Mapping[str, Evaluation]
    classes: tuple[str, ...]
    confusion: np.ndarray | None
    before: Before | None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Script, arguments, versions and commit; empty if the file does not state them."""
        return self.content.get("made") or {}

    @property
    def repetitions(self) -> int | None:
        """Number of repetitions of each gesture used for calibration; None if calibrate.py did not write the result."""
        return self.content.get("calibrate")

    @property
    def model(self) -> tuple[str, ...]:
        """Which model it is of: the checksum of a checkpoint, or the classifier and features of a baseline; empty texts
        if the result does not say."""
        baseline = self.content.get("baseline")
        of = baseline if isinstance(baseline, dict) else {}
        return str(self.content.get("checkpoint_sha256") or ""), str(of.get("classifier")), str(of.get("features"))

    def chance(self, metric: Metric) -> float | None:
        """The mean over people for decisions that ignore the signal; None if the result does not state it."""
        return (self.content.get("chance_over_subjects") or {}).get(metric.name)

    @property
    def adapted_on(self) -> str:
        """What the model was adapted on without labels: `session`, `first` or `online`; empty if it was not adapted."""
        return adapted_on(self.content)

    @property
    def sessions(self) -> list[Mapping[str, Any]]:
        """Of each session whether the model was adapted to it (`session`, `accepted`), and if not, why (`reason`). A
        session that was adapted to in its course is accepted if one attempt was."""
        told = (self.content.get("adaptation") or {}).get("sessions") or []
        if isinstance(told, list):
            return told
        return [
            {
                "session": name,
                "accepted": any(one["accepted"] for one in attempts),
                "reason": attempts[-1].get("reason") if attempts else "too little signal",
            }
            for name, attempts in told.items()
        ]

    def content_of(self, record: str) -> str:
        """Checksum of the contents of a recording's shard when it was scored; empty if the result does not state it."""
        data = next(iter(self.evaluations.values())).data
        return str(data.get("checksums", {}).get(record, ""))

    @property
    def shards(self) -> Path | None:
        """The folder of shards that was given to the script that made the result, also if this script runs in another
        folder."""
        folder = (self.provenance.get("arguments") or {}).get("shards")
        if not (text(folder) and folder):
            return None
        places = places_near(Path(folder), self.path)
        return next((place for place in places if place.is_dir()), places[0])


def chance_of(results: Sequence[ResultRecord], metric: Metric) -> float | None:
    """The mean over the people of all results for decisions that ignore the signal; None if a result does not state it.

    Each result counts for its people: those of several runs, as in folds with several seeds, count once a run.
    """
    levels, people = (
        [one.chance(metric) for one in results],
        [len(one.evaluations[metric.name].subjects) for one in results],
    )
    return None if None in levels or not sum(people) else float(np.average(np.array(levels, float), weights=people))


def counted_sessions(sessions: Sequence[Mapping[str, Any]]) -> str:
    """`20 sessions`, as in `ResultRecord.sessions`; says so if runs of several models were adapted to the same ones."""
    total, different = counted(len(sessions), "session"), len({one["session"] for one in sessions})
    return total if different == len(sessions) else f"{total} ({different} different ones, in several runs)"


def read_result(path: Path, wanted: Sequence[Metric]) -> ResultRecord:
    """Read a metrics.json, with the wanted metrics of each person.

    DataError if it is not in the format of evaluate.py, calibrate.py and the baselines.
    """
    if path.suffix != ".json":
        raise DataError(f"{path}: expected a metrics.json or the folder of one, found another file")
    content = read_json(path, WRITTEN)  # read once, because another run could replace the file
    evaluations = {metric.name: evaluation_of(path, content, metric.name) for metric in wanted}
    check_fields(path, content, _FIELDS, WRITTEN, "evaluate.py writes it")
    classes = tuple(content.get("classes") or ())
    if len(classes) > MOST_CLASSES:
        raise DataError(f"{path}: expected at most {MOST_CLASSES} classes, found {len(classes)}")
    return ResultRecord(
        path, content, evaluations, classes, _confusion(path, content, len(classes)), _before(path, content, wanted)
    )


def _confusion(path: Path, content: Mapping[str, Any], n: int) -> np.ndarray | None:
    rows = content.get("confusion")
    if rows is None or not n:
        return None
    square = isinstance(rows, list) and len(rows) == n and all(isinstance(row, list) and len(row) == n for row in rows)
    if not square or not all(is_whole(cell, 0) and cell < _MOST_WINDOWS for row in rows for cell in row):
        raise DataError(f"{path}: expected windows of {n} true and {n} decided classes as confusion, found others")
    counts = np.array(rows, np.int64)
    if not counts.sum():
        raise DataError(f"{path}: expected at least one window in confusion, found none")
    return counts


def _before(path: Path, content: Mapping[str, Any], wanted: Sequence[Metric]) -> Before | None:
    """The scores of the unadapted model; evaluate.py and calibrate.py write them under different names."""
    for key, name in (("unadapted", "as trained"), ("zero_shot_on_the_same_windows", "zero-shot")):
        if isinstance(content.get(key), dict):
            scores = {**content, "per_subject": None, **content[key]}
            return Before(name, {one.name: evaluation_of(path, scores, one.name) for one in wanted})
    return None
