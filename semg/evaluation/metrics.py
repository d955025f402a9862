"""How well predictions fit the truth: pure functions on exact integer counts.

Everything is computed from confusion matrices, (K, K) int64: row = true class, column = predicted class.

Undefined values: precision of a class that was never predicted, recall of a class that never occurred, and both for a
class that did neither, are None (JSON null), never 0. The mean recall (balanced accuracy) is over the classes that
occur in the truth; the mean F1 (macro-F1) is over those that occur in the truth or among the predictions. Both equal
scikit-learn's values when no labels are passed to it. A person's values follow the same rule on that person's windows
only, so a class that a person never made counts against that person only if it was predicted.

METRICS is the registry that all files, tables, pictures and TensorBoard read: a new metric is one entry there.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from semg.data.windows import UNLABELLED
from semg.evaluation import smoothing
from semg.evaluation.scored_windows import ScoredWindows

FEWEST_FOR_INTERVAL = 5  # people; a bootstrap over fewer has so few distinct samples that its ends are meaningless
RESAMPLES = 10_000  # of the bootstrap; the 2.5 % quantile is then based on 250 of them
MAX_PAUSE = 1.0  # seconds between two windows; after a longer pause, voting starts afresh


# --- from counts -------------------------------------------------------------------------------------------


def confusion(label: np.ndarray, prediction: np.ndarray, n_classes: int) -> np.ndarray:
    """(K, K) int64 counts: row = true class, column = predicted class.

    label, prediction: (n,) whole numbers from 0 to n_classes - 1. Raises ValueError otherwise.
    """
    return _confusions(np.zeros(len(label), np.int64), label, prediction, 1, n_classes)[0]


def _confusions(
    group: np.ndarray, label: np.ndarray, prediction: np.ndarray, n_groups: int, n_classes: int
) -> np.ndarray:
    """(G, K, K) int64: one confusion matrix per group. group, label, prediction: (n,)."""
    label, prediction = _indices(label, n_classes, "labels"), _indices(prediction, n_classes, "predictions")
    if not len(group) == len(label) == len(prediction):
        raise ValueError(f"expected as many predictions as labels, found {len(prediction)} and {len(label)}")
    cell = (group * n_classes + label) * n_classes + prediction
    counts = np.bincount(cell, minlength=n_groups * n_classes**2)
    return counts.reshape(n_groups, n_classes, n_classes).astype(np.int64)


def _indices(values: np.ndarray, n_classes: int, what: str) -> np.ndarray:
    """`values` as int64; ValueError unless they are class indices."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"expected {what} as whole numbers (n,), found {array.dtype} {array.shape}")
    if len(array) and (array.min() < 0 or array.max() >= n_classes):
        raise ValueError(f"expected {what} from 0 to {n_classes - 1}, found {array.min()} to {array.max()}")
    return array.astype(np.int64)


def accuracy(counts: np.ndarray) -> float:
    """Fraction of windows that are predicted correctly. counts: (K, K) with at least one window."""
    _check(counts)
    return float(np.trace(counts) / counts.sum())


def balanced_accuracy(counts: np.ndarray) -> float:
    """Mean recall over the classes that occur in the truth. counts: (K, K)."""
    _check(counts)
    support = counts.sum(1)
    return float(np.mean(np.diag(counts)[support > 0] / support[support > 0]))


def macro_f1(counts: np.ndarray) -> float:
    """Mean F1 over the classes that occur in the truth or among the predictions. counts: (K, K)."""
    _check(counts)
    either = counts.sum(1) + counts.sum(0)  # support + predicted = 2 TP + FN + FP
    return float(np.mean(2 * np.diag(counts)[either > 0] / either[either > 0]))


def active_accuracy(counts: np.ndarray, rest: np.ndarray | None) -> float | None:
    """Accuracy over the windows whose true class is a gesture, not rest; None without such windows.

    rest: (K,) which classes are rest; None if that is not known, and then the result is None, too.
    """
    _check(counts)
    if rest is None:
        return None
    total = int(counts[~rest].sum())
    return float(np.diag(counts)[~rest].sum() / total) if total else None


def per_class(counts: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Class name -> precision, recall, f1 (each None if undefined) and support, the number of its windows. counts: (K,
    K)."""
    hit, support, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    return {
        name: {
            "precision": _ratio(hit[k], predicted[k]),
            "recall": _ratio(hit[k], support[k]),
            "f1": _ratio(2 * hit[k], support[k] + predicted[k]),
            "support": int(support[k]),
        }
        for k, name in enumerate(classes)
    }


def _ratio(count: int, total: int) -> float | None:
    return float(count / total) if total else None


def _check(counts: np.ndarray) -> None:
    if counts.sum() == 0:
        raise ValueError("expected at least one window, found none")


# --- the registry ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A number that says how good decisions are.

    name: its key in files, columns and TensorBoard's tags. label: for readers. share: whether it is a fraction from 0
    to 1, shown in percent.
    """

    name: str
    label: str
    better: Literal["higher", "lower"] = "higher"
    share: bool = True

    def rank(self, value: float | None) -> float:
        """`value`, negated if necessary so that larger is better; None ranks below everything."""
        if value is None:
            return -math.inf
        return value if self.better == "higher" else -value

    @property
    def head(self) -> str:
        """A column heading: `macro-F1 (%)`."""
        return f"{self.label} (%)" if self.share else self.label

    def text(self, value: float | None, sign: str = "") -> str:
        """`value` in a column under `head`, `-` for None; sign: `+` to show the sign."""
        if value is None:
            return "-"
        return f"{100 * value:{sign}.1f}" if self.share else f"{value:{sign}.3f}"

    def ends(self, interval: Sequence[float] | None, sign: str = "") -> str:
        """`40.1 to 52.3`, both as in `text`, or why there is no interval."""
        if interval is None:
            return f"under {FEWEST_FOR_INTERVAL} people"
        return " to ".join(self.text(end, sign) for end in interval)

    def labelled(self, value: float | None, digits: int = 4) -> str:
        """`macro-F1 0.8125`: `value` in a sentence, `-` for None."""
        return f"{self.label} -" if value is None else f"{self.label} {value:.{digits}f}"


@dataclass(frozen=True, kw_only=True)
class Metric(Criterion):
    """A criterion that is computed from a confusion matrix.

    score: (K, K) counts, and (K,) which classes are rest or None -> its value, None if undefined.
    chance: (K,) windows of each class, and rest as above -> the best expected value of decisions that ignore the
    signal. headline: whether it is among the few that are shown in summaries of many runs and in pictures.
    """

    score: Callable[[np.ndarray, np.ndarray | None], float | None]
    chance: Callable[[np.ndarray, np.ndarray | None], float | None]
    headline: bool = False


def _commonest(support: np.ndarray, _rest: np.ndarray | None) -> float | None:
    """The value for always deciding for the most frequent class; no other decision that ignores the signal reaches
    more."""
    return _ratio(support.max(), support.sum())


def _commonest_gesture(support: np.ndarray, rest: np.ndarray | None) -> float | None:
    return None if rest is None or rest.all() else _ratio(support[~rest].max(), support[~rest].sum())


def _one_of_those_that_occur(support: np.ndarray, _rest: np.ndarray | None) -> float | None:
    """1 / K. If decisions that ignore the signal choose class k in a fraction q of the windows, its recall is q and its
    precision is p, its fraction of the truth. Its F1 is 2pq / (p + q), which is at most (p + q) / 2. Summed over all
    classes this is at most 1, with equality for q = p."""
    return _ratio(1, int(np.count_nonzero(support)))


METRICS: tuple[Metric, ...] = (  # the leading metric is first
    Metric(
        name="macro_f1",
        label="macro-F1",
        score=lambda counts, _rest: macro_f1(counts),
        chance=_one_of_those_that_occur,
        headline=True,
    ),
    Metric(
        name="accuracy",
        label="accuracy",
        score=lambda counts, _rest: accuracy(counts),
        chance=_commonest,
        headline=True,
    ),
    Metric(
        name="balanced_accuracy",
        label="balanced accuracy",
        score=lambda counts, _rest: balanced_accuracy(counts),
        chance=_one_of_those_that_occur,
    ),
    Metric(name="active_accuracy", label="accuracy without rest", score=active_accuracy, chance=_commonest_gesture),
)
# computed from probabilities, not from counts
LOSS = Criterion(name="loss", label="loss, nats", better="lower", share=False)


def metric(name: str) -> Metric:
    """The metric with that name."""
    return next(one for one in METRICS if one.name == name)


def leading() -> Metric:
    """The metric by which the best of several is chosen, and which summaries with a single number use."""
    return METRICS[0]


def headlines() -> tuple[Metric, ...]:
    """The metrics that are shown in summaries."""
    return tuple(one for one in METRICS if one.headline)


def criteria() -> dict[str, Criterion]:
    """All criteria by which an epoch can be chosen, by name."""
    return {one.name: one for one in (*METRICS, LOSS)}


def scores_of(counts: np.ndarray, rest: np.ndarray | None = None) -> dict[str, float | None]:
    """Every metric by name. counts: (K, K); rest: (K,) which classes are rest, None if that is not known."""
    return {one.name: one.score(counts, rest) for one in METRICS}


def chance(support: np.ndarray, rest: np.ndarray | None = None) -> dict[str, float | None]:
    """The expected value of each metric for decisions that ignore the signal. support: (K,) windows of each class."""
    return {one.name: one.chance(support, rest) for one in METRICS}


def chance_over_subjects(
    label: np.ndarray, subject: np.ndarray, n_classes: int, rest: np.ndarray | None = None
) -> dict[str, float | None]:
    """Of each metric, the mean over people of the value for decisions that ignore the signal, but know how often that
    person makes each gesture.

    It can be above the value for all windows together: a person who lacks gestures is scored on fewer. label, subject:
    (n,); rest: as in `scores_of`.
    """
    names, code = _codes(subject)
    supports = _confusions(code, label, label, len(names), n_classes).sum(2)
    people = [chance(support, rest) for support in supports]
    known = {one.name: [level for own in people if (level := own[one.name]) is not None] for one in METRICS}
    return {name: float(np.mean(levels)) if levels else None for name, levels in known.items()}


def is_rest(classes: Sequence[str], rest_classes: Collection[str]) -> np.ndarray:
    """(K,) which of the classes are rest."""
    return np.array([name in rest_classes for name in classes], bool)


# --- over people -------------------------------------------------------------------------------------------


def per_subject(
    label: np.ndarray, prediction: np.ndarray, subject: np.ndarray, n_classes: int, rest: np.ndarray | None = None
) -> dict[str, dict[str, Any]]:
    """Subject -> every metric and n_windows for that person's windows; sorted by subject.

    label, prediction: (n,) class indices; subject: (n,) the person of each window; rest: as in `scores_of`.
    """
    names, code = _codes(subject)
    tables = _confusions(code, label, prediction, len(names), n_classes)
    return {
        str(name): {**scores_of(table, rest), "n_windows": int(table.sum())}
        for name, table in zip(names, tables, strict=True)
    }


def by_group(
    label: np.ndarray,
    prediction: np.ndarray,
    subject: np.ndarray,
    group: np.ndarray,
    n_classes: int,
    rest: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """Group (n,), such as a minute, in rising order -> the mean of every metric over the people with windows in it, and
    its n_windows and n_subjects. Other arguments as in `per_subject`."""
    result = {}
    for value in np.unique(group).tolist():
        places = group == value
        people = per_subject(label[places], prediction[places], subject[places], n_classes, rest)
        mean = mean_over_subjects(people) | {"n_windows": int(places.sum()), "n_subjects": len(people)}
        result[str(value)] = mean
    return result


def _codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct values, sorted; (n,) place of each value among them).

    Like np.unique, but it sorts only the first of each run of equal values: windows of one recording are adjacent, and
    sorting the names of half a million windows would take seconds.
    """
    values = np.asarray(values)
    heads = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.empty(0, int)
    names, code = np.unique(values[heads], return_inverse=True)
    return names, np.repeat(code, np.diff([*heads, len(values)]))


def bootstrap_interval(values: Sequence[float] | np.ndarray, *, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean of `values` (n,), one value per person; None for few people.

    The unit is a person: windows of one person resemble each other, so resampling windows would give intervals that are
    too narrow. Below about ten people the interval is too narrow, as for every percentile bootstrap; below
    FEWEST_FOR_INTERVAL there is none.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"expected values (n,) of at least one person, found shape {array.shape}")
    if len(array) < FEWEST_FOR_INTERVAL:
        return None
    draws = np.random.default_rng(seed).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.percentile(array[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def mean_over_subjects(subjects: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Each metric's mean over the people for whom it is defined. subjects: from `per_subject`."""
    return {key: float(v.mean()) if len(v) else None for key, v in _columns(subjects).items()}


def _columns(subjects: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Metric -> (n,) values of the people who have one."""
    keys = [*(one.name for one in METRICS), "n_windows"]
    return {key: np.array([one[key] for one in subjects.values() if one[key] is not None], np.float64) for key in keys}


def over_subjects(subjects: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """mean_over_subjects, sd_over_subjects and ci95 for the result of `per_subject`, each with the same keys.

    The standard deviation is that of a sample (n - 1), None for a single person; the interval is None for few people.
    """
    values = _columns(subjects)
    intervals = {key: bootstrap_interval(v) if len(v) else None for key, v in values.items()}
    return {
        "mean_over_subjects": mean_over_subjects(subjects),
        "sd_over_subjects": {key: float(v.std(ddof=1)) if len(v) > 1 else None for key, v in values.items()},
        "ci95": {key: None if ends is None else list(ends) for key, ends in intervals.items()},
    }


# --- decisions over several windows ------------------------------------------------------------------------


def majority_vote(
    prediction: np.ndarray, record: np.ndarray, start: np.ndarray, k: int, n_classes: int, max_step: float
) -> np.ndarray:
    """(n,) the class that most of the last k windows chose, where each window is the last of its own k; ties go to the
    class chosen latest.

    Causal: a decision uses no later window. It also uses no window of another recording, and none from before a pause:
    windows that start more than `max_step` samples apart belong to different segments.

    max_step has to be longer than the transition margin that windows keep after a label change. Otherwise every segment
    would end where the true label changes, which would reveal the label change to the vote.

    prediction: (n,) class indices; record: (n,) names; start: (n,) first samples; in any order.
    """
    prediction = _indices(prediction, n_classes, "predictions")
    n = len(prediction)
    if n == 0:
        return prediction
    order, begins = smoothing.in_time(_codes(record)[1], start, max_step)
    ordered, here = prediction[order], np.arange(n)
    segment = np.maximum.accumulate(np.where(begins, here, 0))  # (n,) the place where each window's segment begins
    first = np.maximum(here - k + 1, segment)  # (n,) the place of the first window that votes
    best = np.full(n, -1, np.int64)
    voted = np.empty(n, np.int64)
    for c in range(n_classes):  # one class at a time, to limit memory
        says = ordered == c
        before = np.concatenate([[0], np.cumsum(says)])
        votes = before[here + 1] - before[first]
        latest = np.maximum.accumulate(np.where(says, here, -1))
        rank = votes * (n + 1) + latest  # by number of votes, then by the latest vote
        better = rank > best
        best[better], voted[better] = rank[better], c
    decided = np.empty(n, np.int64)
    decided[order] = voted
    return decided


def added_delay(k: int, stride: float) -> float:
    """How much later a vote over k windows follows a new gesture, in the unit of `stride`.

    A new class wins as soon as it has half of the k votes, because ties go to the latest.
    """
    return (k - 1) // 2 * stride


# --- all of it ---------------------------------------------------------------------------------------------


def scores(windows: ScoredWindows, prediction: np.ndarray) -> dict[str, Any]:
    """All metrics for one set of predictions (n,), as JSON types; see `report`."""
    known = np.asarray(windows.label) != UNLABELLED
    label, decided, classes = windows.label[known], prediction[known], windows.classes
    rest = is_rest(classes, windows.rest_classes)
    counts = confusion(label, decided, len(classes))
    subjects = per_subject(label, decided, windows.subject[known], len(classes), rest)
    return {
        **scores_of(counts, rest),
        **over_subjects(subjects),
        "per_class": per_class(counts, classes),
        "per_subject": subjects,
        "confusion": counts.tolist(),
    }


def report(
    windows: ScoredWindows,
    prediction: np.ndarray,
    probabilities: np.ndarray | None = None,
    *,
    vote: int = 1,
    hold: float = 0.0,
) -> dict[str, Any]:
    """What metrics.json says about some predictions, as JSON types; deterministic.

    prediction: (n,) indices into the classes. Windows with the label UNLABELLED are not scored, but are used for
    smoothing. With `vote` above 1, the key `vote` has the same metrics for the majority over the last `vote` windows,
    and the delay that it adds; they are separate because voting changes what a decision is. With `hold` above 0 and (n,
    K) probabilities, the key `smoothed` has the metrics for a hidden Markov model in which a gesture lasts `hold`
    seconds on average, see semg/evaluation/smoothing.py.

    Keys: every metric over all windows, by name; chance, the same for decisions that ignore the signal;
    mean_over_subjects, sd_over_subjects, ci95 (None below FEWEST_FOR_INTERVAL people), chance_over_subjects;
    per_class, per_subject; confusion (row = true class); classes, rest_classes; n_windows; n_subjects.
    """
    classes, start, stride = windows.classes, windows.start, windows.stride_seconds
    max_step = (windows.window_seconds + MAX_PAUSE) * windows.rate
    result = scores(windows, prediction)
    support, rest = np.array(result["confusion"]).sum(1), is_rest(classes, windows.rest_classes)
    known = np.asarray(windows.label) != UNLABELLED
    content = {
        **result,
        "chance": chance(support, rest),
        "chance_over_subjects": chance_over_subjects(windows.label[known], windows.subject[known], len(classes), rest),
        "classes": list(classes),
        "rest_classes": list(windows.rest_classes),
        "n_windows": int(support.sum()),
        "n_subjects": len(result["per_subject"]),
    }
    if vote > 1:
        voted = majority_vote(prediction, windows.record, start, vote, len(classes), max_step)
        delay = round(1000 * added_delay(vote, stride), 3)
        content["vote"] = {"k": vote, "added_delay_ms": delay, **scores(windows, voted)}
    if hold and probabilities is not None:
        recording = _codes(windows.record)[1]
        decided = smoothing.filtered(probabilities, recording, start, stride, hold, max_step).argmax(1)
        content["smoothed"] = {"hold_seconds": hold, **scores(windows, decided)}
    return content


def in_short(windows: ScoredWindows, prediction: np.ndarray) -> dict[str, Any]:
    """What metrics.json says about another model on the same windows: the means over people, and each person's
    scores."""
    whole = report(windows, prediction)
    return {key: whole[key] for key in ("mean_over_subjects", "per_subject")}
