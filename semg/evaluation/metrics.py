"""How well predictions fit the truth: pure functions on exact integer counts.

Everything follows from confusion matrices, (K, K) int64: row = true class, column = predicted class.

Undefined values: precision of a class that was never predicted, recall of one that never occurred, and both for one
that did neither are None (JSON null), never 0. The mean recall (balanced accuracy) is over the classes that occur
in the truth; the mean F1 (macro-F1) over those that occur in the truth or among the predictions. Both are what
scikit-learn computes when it is not told any labels. A person's values follow the same rule on that person's
windows alone, so a class that a person never showed counts against them only if it was predicted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INACTIVE = ("idle", "rest")  # the classes in which the hand does nothing; most windows are of these
SUBJECT_KEYS = ("accuracy", "balanced_accuracy", "macro_f1", "n_windows")
RESAMPLES = 10_000  # of the bootstrap; the 2.5 % quantile then rests on 250 of them
MAX_PAUSE = 1.0  # seconds between two windows above which the later one begins a new segment of voting


# --- from counts -------------------------------------------------------------------------------------------


def confusion(label: np.ndarray, prediction: np.ndarray, n_classes: int) -> np.ndarray:
    """(K, K) int64 counts: row = true class, column = predicted class.

    label, prediction: (n,) whole numbers from 0 to n_classes - 1. Raises ValueError otherwise.
    """
    return _confusions(np.zeros(len(label), np.int64), label, prediction, 1, n_classes)[0]


def _confusions(
    group: np.ndarray, label: np.ndarray, prediction: np.ndarray, n_groups: int, n_classes: int
) -> np.ndarray:
    """(G, K, K) int64: one confusion matrix for each group. group, label, prediction: (n,)."""
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
    """Share of windows predicted right. counts: (K, K) with at least one window."""
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


def active_accuracy(counts: np.ndarray, classes: Sequence[str]) -> float | None:
    """Accuracy over the windows whose true class is a gesture, neither idle nor rest; None without such windows."""
    _check(counts)
    active = np.array([name not in INACTIVE for name in classes], bool)
    total = int(counts[active].sum())
    return float(np.diag(counts)[active].sum() / total) if total else None


def per_class(counts: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Class name -> precision, recall, f1 (each None where undefined) and support, its windows. counts: (K, K)."""
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


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _check(counts: np.ndarray) -> None:
    if counts.sum() == 0:
        raise ValueError("expected at least one window, found none")


# --- over people -------------------------------------------------------------------------------------------


def per_subject(
    label: np.ndarray, prediction: np.ndarray, subject: np.ndarray, n_classes: int
) -> dict[str, dict[str, Any]]:
    """Subject -> accuracy, balanced_accuracy, macro_f1, n_windows of that person's windows; sorted by subject.

    label, prediction: (n,) class indices; subject: (n,) whose window.
    """
    names, code = _codes(subject)
    tables = _confusions(code, label, prediction, len(names), n_classes)
    return {
        str(name): {
            "accuracy": accuracy(table),
            "balanced_accuracy": balanced_accuracy(table),
            "macro_f1": macro_f1(table),
            "n_windows": int(table.sum()),
        }
        for name, table in zip(names, tables, strict=True)
    }


def _codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct values, sorted; (n,) place of each value among them).

    As np.unique, but it sorts only the first of each run of equal values: windows of one recording stand together,
    and sorting the names of half a million windows would take seconds.
    """
    values = np.asarray(values)
    heads = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.empty(0, int)
    names, code = np.unique(values[heads], return_inverse=True)
    return names, np.repeat(code, np.diff([*heads, len(values)]))


def bootstrap_interval(values: Sequence[float] | np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values` (n,), one value a person.

    People are the unit: windows of one person resemble each other, so resampling windows would flatter. With few
    people (below about ten) the interval is too narrow, as every percentile bootstrap is; with one it is that
    value, which says nothing.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"expected values (n,) of at least one person, found shape {array.shape}")
    draws = np.random.default_rng(seed).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.percentile(array[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def over_subjects(subjects: Mapping[str, Mapping[str, Any]], *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """mean_over_subjects, sd_over_subjects and ci95 of what `per_subject` gives, each with the same keys.

    The standard deviation is that of a sample (n - 1); it and interval are None for a single person.
    """
    values = {key: np.array([subject[key] for subject in subjects.values()], np.float64) for key in SUBJECT_KEYS}
    several = len(subjects) > 1
    return {
        "mean_over_subjects": {key: float(v.mean()) for key, v in values.items()},
        "sd_over_subjects": {key: float(v.std(ddof=1)) if several else None for key, v in values.items()},
        "ci95": {key: list(bootstrap_interval(v, seed=seed)) if several else None for key, v in values.items()},
    }


# --- decisions over several windows ------------------------------------------------------------------------


def majority_vote(
    prediction: np.ndarray, record: np.ndarray, start: np.ndarray, k: int, n_classes: int, max_step: float
) -> np.ndarray:
    """(n,) class that most of the last k windows say, each window its own last one; ties go to the latest said.

    Causal: a decision looks at no later window. It looks at none of another recording either, and at none before
    a pause: windows that start more than `max_step` samples apart belong to different segments.

    max_step has to be longer than the transition margin that windows keep after a label change. Else every segment
    would end where the true label changes, and the vote would be told what it is to find out.

    prediction: (n,) class indices; record: (n,) names; start: (n,) first samples; in any order.
    """
    prediction = _indices(prediction, n_classes, "predictions")
    n = len(prediction)
    if n == 0:
        return prediction
    _, code = _codes(record)
    order = np.lexsort((start, code))
    said, at, recording = prediction[order], np.asarray(start)[order], code[order]
    begins = np.concatenate([[True], (recording[1:] != recording[:-1]) | (np.diff(at) > max_step)])
    here = np.arange(n)
    segment = np.maximum.accumulate(np.where(begins, here, 0))  # (n,) place where each window's segment begins
    first = np.maximum(here - k + 1, segment)  # (n,) place of the first window that has a say
    best = np.full(n, -1, np.int64)
    voted = np.empty(n, np.int64)
    for c in range(n_classes):  # one class at a time: memory stays a few columns
        says = said == c
        before = np.concatenate([[0], np.cumsum(says)])
        votes = before[here + 1] - before[first]
        latest = np.maximum.accumulate(np.where(says, here, -1))
        rank = np.where(votes > 0, votes * (n + 1) + latest, -1)  # by votes, then by who spoke last
        better = rank > best
        best[better], voted[better] = rank[better], c
    decided = np.empty(n, np.int64)
    decided[order] = voted
    return decided


def added_delay(k: int, stride: float) -> float:
    """How much later a vote over k windows can follow a new gesture, in the unit of `stride`.

    A new class wins once it has half of the k votes, for ties go to the latest.
    """
    return (k - 1) // 2 * stride


# --- all of it ---------------------------------------------------------------------------------------------


def scores(
    label: np.ndarray, prediction: np.ndarray, subject: np.ndarray, classes: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """All metrics of one set of predictions, in JSON's types; see `report`."""
    counts = confusion(label, prediction, len(classes))
    subjects = per_subject(label, prediction, subject, len(classes))
    return {
        "accuracy": accuracy(counts),
        "balanced_accuracy": balanced_accuracy(counts),
        "macro_f1": macro_f1(counts),
        "active_accuracy": active_accuracy(counts, classes),
        **over_subjects(subjects, seed=seed),
        "per_class": per_class(counts, classes),
        "per_subject": subjects,
        "confusion": counts.tolist(),
    }


def report(
    label: np.ndarray,
    prediction: np.ndarray,
    subject: np.ndarray,
    record: np.ndarray,
    start: np.ndarray,
    classes: Sequence[str],
    *,
    rate: float,
    window_seconds: float,
    stride_seconds: float,
    vote: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """What metrics.json says of some predictions, in JSON's types; deterministic.

    label, prediction: (n,) indices into classes; subject, record, start: (n,) whose window, of which recording,
    from which sample on; rate: Hz. With `vote` above 1 the key `vote` holds the same metrics for the majority over
    the last `vote` windows, apart from the others because it changes what a decision is, with the delay it adds.

    Keys: accuracy, balanced_accuracy, macro_f1, active_accuracy over all windows; mean_over_subjects,
    sd_over_subjects, ci95; per_class, per_subject; confusion (row = true class); classes; n_windows; n_subjects.
    """
    whole = scores(label, prediction, subject, classes, seed=seed)
    made = {
        **whole,
        "classes": list(classes),
        "n_windows": len(label),
        "n_subjects": len(whole["per_subject"]),
    }
    if vote > 1:
        max_step = (window_seconds + MAX_PAUSE) * rate
        voted = majority_vote(prediction, record, start, vote, len(classes), max_step)
        made["vote"] = {
            "k": vote,
            "added_delay_ms": round(1000 * added_delay(vote, stride_seconds), 3),
            **scores(label, voted, subject, classes, seed=seed),
        }
    return made
