"""Comparing methods over people: finding and pooling runs, intervals, paired tests.

The unit is a person: windows of one person are not independent, but people are. Several runs of one person (seeds) are
averaged before anything else; folds contribute different people.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.console import counted, printable
from semg.common.errors import DAMAGED_NPZ, DataError, SettingError
from semg.common.files import expect_file, is_system_file, read_json
from semg.common.schema import TEXT, TEXTS, Field, check_fields, is_finite, is_whole, text
from semg.data.putemg import parse_record
from semg.data.shards import difference
from semg.evaluation.metrics import bootstrap_interval, metric, per_subject

WRITTEN = "metrics as evaluate.py or baselines.py write them"
ROUNDING = 1e-9  # tolerance: a mean of eight ones may be slightly above one
MOST_CLASSES = 1000
LONGEST = 64  # most characters in a person's name
FEWEST_SUBJECTS = 6  # with fewer, a two-sided Wilcoxon test cannot reach p < 0.05: its smallest p is 2 / 2^n

_MET = {  # field of a metrics.json -> what a reader must know about scores whose model has met the people scored
    "trained_on_subjects_scored": "people scored were trained on ({}); they are not new to the model",
    "chosen_on_subjects_scored": "the model was chosen on people scored ({}); this flatters it",
    "calibrated_on": "the model was calibrated on labels of {}",
    "adapted_to": "the model was adapted without labels to {}",
}
_PEOPLE = Field("a list of people", lambda value: value == [] or TEXTS.holds(value), needed=False)
_FIELDS = {
    **dict.fromkeys(("trained_on_subjects_scored", "chosen_on_subjects_scored"), _PEOPLE),
    **dict.fromkeys(("classes", "calibrated_on", "adapted_to"), replace(TEXTS, needed=False)),
    "normalize": replace(TEXT, needed=False),
}
_RECORDING = re.compile(r"\d{2}-\d{4}-\d{2}-\d{2}-[a-z][a-z0-9_]*")  # a split of the protocol recording
# fold0, gpt2-seed1; or a fold of that protocol, 03-2018-05-11-sequential
_RUN_PART = re.compile(r"(^|[-_.])(fold|seed|run|subject)[-_]?\d+(?=$|[-_.])|^\d{2}-\d{4}-\d{2}-\d{2}-[a-z][a-z0-9_]*$")


@dataclass(frozen=True)
class Evaluation:
    """The scores of one training run by one metric. subjects: each person's score; windows: how many of each person
    were scored.

    subset: of the split; None if there are only predictions, which do not say. simulated: whether the result says that
    recordings were simulated. data: what it says about the shards scored, as in `ScoredWindows`; empty if nothing.
    classes: the gestures that it decided between; empty if it does not say. knows: which data of the people scored the
    model has learnt from, in words; empty if there are only predictions. normalize: how signals were normalised; empty
    if it does not say. met: people scored, or files, that are not new to the model, by field of `_MET`.
    """

    path: Path
    subset: str | None
    subjects: dict[str, float]
    windows: dict[str, int]
    simulated: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    knows: str = ""
    normalize: str = ""
    met: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """The evaluations of one method's runs. subjects: each person's score, the mean over the runs that scored that
    person."""

    name: str
    evaluations: tuple[Evaluation, ...]
    subjects: dict[str, float]

    @property
    def values(self) -> np.ndarray:
        """(n_people,) the scores, in the order of the people's numbers."""
        return np.array([self.subjects[subject] for subject in sorted(self.subjects)])

    @property
    def runs_per_subject(self) -> tuple[int, int]:
        """The smallest and the largest number of runs that scored one person."""
        counts = [sum(subject in one.subjects for one in self.evaluations) for subject in self.subjects]
        return min(counts), max(counts)

    @property
    def windows(self) -> dict[str, int]:
        """Number of windows scored for each person, in the first run with that person."""
        windows_of: dict[str, int] = {}
        for one in self.evaluations:
            windows_of = {**one.windows, **windows_of}
        return windows_of


@dataclass(frozen=True)
class Paired:
    """A method minus the reference, over the n people that both have scored; no interval if they are few."""

    n: int
    difference: float
    interval: tuple[float, float] | None
    p: float


# --- finding and naming runs ---------------------------------------------------------------------------------


def find_results(path: Path) -> list[Path]:
    """The result files that `path` stands for: itself, its metrics.json, or all metrics.json below it, sorted."""
    if path.is_file():
        return [path]
    if (path / "metrics.json").is_file():
        return [path / "metrics.json"]
    below = sorted(path.rglob("metrics.json")) if path.is_dir() else []
    paths = [run for run in below if not any(map(is_system_file, run.relative_to(path).parts))]
    if not paths:
        raise DataError(f"{path}: expected a metrics.json or a folder with one, found none; run evaluate.py")
    return paths


def each_once(paths: Iterable[Path]) -> list[Path]:
    """The paths in order, without those that name the same file or folder as an earlier one."""
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(path.resolve(), path)
    return list(first.values())


def told_apart(folders: Sequence[Path]) -> list[str]:
    """A name for each of several different folders: its path, without the part common to all."""
    return _without_common([folder.resolve().parts for folder in folders])


def _without_common(folders: Sequence[Sequence[str]]) -> list[str]:
    """The parts of each path joined, but those at its beginning that all share; the last part always stays."""
    shared = 0
    while folders and all(len(parts) > shared + 1 and parts[shared] == folders[0][shared] for parts in folders):
        shared += 1
    return [printable("/".join(parts[shared:])) for parts in folders]


def method_names(runs: Sequence[Path]) -> list[str]:
    """A name for each run's method: its folder's path without folds, seeds, runs and subjects, and without the part
    common to all.

    results/none/fold0/lda-rms and results/session/fold1/lda-rms give none/lda-rms and session/lda-rms.
    """
    stripped = [[_RUN_PART.sub("", part).strip("-_.") for part in run.resolve().parent.parts] for run in runs]
    return _without_common([[part for part in parts if part] for parts in stripped])


def read_evaluation(path: Path, name: str) -> Evaluation:
    """Read a metrics.json, or score a predictions.npz. DataError if it is not in the format of evaluate.py."""
    return read_evaluations(path, [name])[name]


def read_evaluations(path: Path, names: Iterable[str]) -> dict[str, Evaluation]:
    """The same for several metrics in a single reading, because the file could be replaced between two."""
    content: dict[str, Any]
    if path.suffix == ".npz":
        content = {"per_subject": _score_predictions(path)}
    else:
        content = read_json(path, WRITTEN)
    return {name: evaluation_of(path, content, name) for name in names}


def evaluation_of(path: Path, content: dict[str, Any], name: str) -> Evaluation:
    """The evaluation in `content`, read from `path`. DataError if it is not in the format of evaluate.py."""
    try:
        scored = {subject: one[name] for subject, one in content["per_subject"].items()}
        subjects = {subject: _number(value) for subject, value in scored.items() if value is not None}
        windows = {subject: _count(one["n_windows"]) for subject, one in content["per_subject"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: expected per_subject with {name} and n_windows, found {error!r}") from None
    if not subjects:
        lacking = "a predictions.npz does not say which classes are rest, a metrics.json does"
        raise DataError(
            f"{path}: expected a value of {metric(name).label} for at least one person, found none",
            lacking if path.suffix == ".npz" else "",
        )
    if metric(name).share and not all(0 <= value <= 1 + ROUNDING for value in subjects.values()):
        raise DataError(f"{path}: expected a {name} from 0 to 1 for at least one person, found {subjects}")
    if wrong := [subject for subject in content["per_subject"] if not text(subject) or not 0 < len(subject) <= LONGEST]:
        raise DataError(
            f"{path}: expected people's names of 1 to {LONGEST} printable characters, found {wrong[0][:99]!r}"
        )
    subset = content.get("subset")
    if subset is not None and not text(subset):
        raise DataError(f"{path}: expected train, val or test as subset, found {subset!r}")
    check_fields(path, content, _FIELDS, WRITTEN, "evaluate.py writes it")
    return Evaluation(
        path,
        subset,
        subjects,
        windows,
        simulated=content.get("simulated") is True,
        data=_data_of(path, content),
        classes=tuple(content.get("classes") or ()),
        knows="" if path.suffix == ".npz" else _known(content),
        normalize=content.get("normalize") or "",
        met={name: tuple(content.get(name) or ()) for name in _MET},
    )


def adapted_on(content: Mapping[str, Any]) -> str:
    """What the model of a metrics.json was adapted on without labels: `session`, `first` or `online`; empty if it was
    not adapted."""
    how = content.get("adaptation")
    if not isinstance(how, dict):
        return ""
    return str(how.get("mode", how.get("on", "")))  # baselines.py writes `on`


def _known(content: Mapping[str, Any]) -> str:
    """Which data of the people scored the model has learnt from, in words."""
    repetitions, mode = content.get("calibrate"), adapted_on(content)
    each = f"{printable(str(repetitions))} of each gesture"
    labelled = [] if repetitions is None else [f"calibrated with labels ({each})"]
    unlabelled = [f"adapted without labels ({printable(mode)})"] if mode else []
    if content.get("calibrated_on"):
        labelled.insert(0, "calibrated with labels (adapt.py)")
    if content.get("adapted_to"):
        unlabelled.insert(0, "adapted without labels (adapt.py)")
    return " and ".join([*labelled, *unlabelled]) or "neither adapted nor calibrated"


def _data_of(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the result says about the shards; empty for results of earlier versions, which say nothing."""
    data = content.get("data")
    if data is None or data == {}:
        return {}
    parts = [data.get(name) for name in ("arguments", "checksums")] if isinstance(data, dict) else []
    if not parts or not all(isinstance(part, dict) and all(map(text, part)) for part in parts):
        raise DataError(f"{path}: expected arguments and checksums of shards as data, found another")
    return data


def _number(value: object) -> float:
    """`value` if it is a finite number; texts and True, which could pass for one, are not."""
    if not is_finite(value):
        raise ValueError(f"{value!r} in place of a number")
    return float(value)  # type: ignore[arg-type]


def _count(value: object) -> int:
    if not is_whole(value, 0):
        raise ValueError(f"{value!r} in place of a count")
    return int(value)  # type: ignore[call-overload]


def _score_predictions(path: Path) -> dict[str, dict[str, Any]]:
    """Each person's metrics, computed from a predictions.npz."""
    expect_file(path, "predictions")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            record, label, prediction = (arrays[name] for name in ("record", "label", "prediction"))
            subject = arrays["subject"] if "subject" in arrays.files else subjects_of(record)
        if record.ndim != 1 or any(array.dtype.kind not in "iu" for array in (label, prediction)):
            raise ValueError("other kinds of arrays")
        n_classes = int(max(label.max(), prediction.max())) + 1
        if n_classes > MOST_CLASSES:  # their confusion matrix would be too large
            raise ValueError(f"{MOST_CLASSES} classes and more")
        return per_subject(label, prediction, subject, n_classes)
    except (*DAMAGED_NPZ, DataError) as error:
        problem = f"expected record, label and prediction of windows, found {error}"
        raise DataError(f"{path}: {problem}; evaluate.py writes such files") from None


def subjects_of(record: np.ndarray) -> np.ndarray:
    """(n,) the person of each window, from its recording's name; DataError if the name does not contain it."""
    names, place = np.unique(record, return_inverse=True)
    return np.array([parse_record(str(name)).subject for name in names])[place]


def pool(name: str, evaluations: Iterable[Evaluation]) -> Method:
    """Average each person's runs."""
    pooled = tuple(evaluations)
    subjects = sorted({subject for one in pooled for subject in one.subjects})
    means = {p: float(np.mean([one.subjects[p] for one in pooled if p in one.subjects])) for p in subjects}
    return Method(name, pooled, means)


# --- statistics over people ----------------------------------------------------------------------------------


def paired(method: Method, reference: Method) -> Paired:
    """Mean difference over the people of both, its bootstrap interval, and the two-sided Wilcoxon signed-rank test."""
    both = sorted(set(method.subjects) & set(reference.subjects))
    if not both:
        raise DataError(f"{method.name}: expected people that {reference.name} has scored too, found none")
    difference = np.array([method.subjects[subject] - reference.subjects[subject] for subject in both])
    difference[np.abs(difference) < 1e-12] = 0.0  # rounding errors of means are not differences
    return Paired(len(both), float(difference.mean()), bootstrap_interval(difference), _wilcoxon(difference))


def _wilcoxon(difference: np.ndarray) -> float:
    from scipy.stats import wilcoxon  # takes half a second to import, and most of a script's runs compare nothing

    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values adjusted for their number, in the order given."""
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    steps = np.arange(len(p), 0, -1) * np.array(p)[order]
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, steps))
    return adjusted.tolist()


def differences_between(methods: Sequence[Method]) -> list[str]:
    """Notes that a reader of the table needs: methods scored on other people, windows, gestures or shards, adapted or
    calibrated to the people scored while others are not, normalised by other signals, or with uneven numbers of runs;
    and methods that have met the people scored before."""
    notes = []
    everyone = {subject for method in methods for subject in method.subjects}
    for method in methods:
        if missing := sorted(everyone - set(method.subjects)):
            notes.append(f"{method.name}: {len(missing)} of {len(everyone)} people not scored ({', '.join(missing)})")
        fewest, most = method.runs_per_subject
        if fewest != most:
            notes.append(f"{method.name}: some people have {counted(fewest, 'run')}, others {most}")
        other = sorted(p for p, n in method.windows.items() if n != methods[0].windows.get(p, n))
        if other:
            notes.append(f"{method.name}: not the same windows as {methods[0].name} (people {', '.join(other)})")
        first: dict[tuple[str, ...], int] = {}
        for one in method.evaluations:
            recording = [part for part in one.path.parts if _RECORDING.fullmatch(part)]  # each has its own windows
            if [p for p, n in one.windows.items() if first.setdefault((p, *recording), n) != n]:
                notes.append(f"{method.name}: {one.path} has other numbers of windows than the runs before it")
    learnt = "methods have learnt from different data of the people scored"
    return [
        *notes,
        *_told_apart(learnt, {method.name: [one.knows for one in method.evaluations] for method in methods}),
        *_told_apart(
            "methods were normalised differently",
            {method.name: [one.normalize for one in method.evaluations] for method in methods},
        ),
        *_other_gestures(methods),
        *_other_data(methods),
        *_met_before(methods),
    ]


def _told_apart(what: str, said: Mapping[str, Iterable[str]]) -> list[str]:
    """A note that begins with `what` if methods differ in it. said: method -> what its results say, empty if
    nothing."""
    names: dict[str, list[str]] = {}
    for method, words in said.items():
        for word in filter(None, dict.fromkeys(words)):
            names.setdefault(word, []).append(method)
    groups = "; ".join(f"{printable(word)}: {', '.join(own)}" for word, own in names.items())
    return [f"{what}: {groups}"] if len(names) > 1 else []


def _met_before(methods: Sequence[Method]) -> list[str]:
    """A note for each way in which models have met the people scored before, with the methods of which it is true."""
    names: dict[str, list[str]] = {}
    for method in methods:
        for kind, words in _MET.items():
            if whom := sorted({name for one in method.evaluations for name in one.met.get(kind, ())}):
                names.setdefault(words.format(", ".join(whom)), []).append(method.name)
    return [f"{', '.join(own)}: {note}" for note, own in names.items()]


def _other_gestures(methods: Sequence[Method]) -> list[str]:
    """A note for each set of other gestures than the first result's, with the methods of which a result decided between
    them."""
    said = [(method.name, one) for method in methods for one in method.evaluations if one.classes]
    first = said[0][1] if said else None
    names: dict[str, dict[str, None]] = {}  # words -> methods, in their order
    for name, one in said:
        if first is None or set(one.classes) == set(first.classes):
            continue
        without = ", ".join(gesture for gesture in first.classes if gesture not in one.classes)
        more = ", ".join(gesture for gesture in one.classes if gesture not in first.classes)
        differs = "; ".join([*([f"without {without}"] if without else []), *([f"with {more}"] if more else [])])
        names.setdefault(differs, {})[name] = None
    return [f"{', '.join(own)}: of other gestures than {first.path}: {words}" for words, own in names.items() if first]


def _other_data(methods: Sequence[Method]) -> list[str]:
    """A note for each method with a result on shards that were made differently from the first result's, or made again
    between two results."""
    notes, first = [], None
    scored: dict[str, tuple[Path, object]] = {}  # recording -> where it was first scored, and its checksum
    for method in methods:
        wrong = ""
        for one in filter(lambda one: one.data, method.evaluations):
            first = first or one
            how, usual = (
                {"": {**each.data["arguments"], "rate": each.data.get("rate"), "unit": each.data.get("unit")}}
                for each in (one, first)
            )
            if how != usual:
                found = printable(difference(usual, how, ""))[:120]
                wrong = (
                    wrong or f"{one.path} is of shards made differently from those of {first.path}: expected {found}"
                )
            for record, checksum in one.data["checksums"].items():
                path, known = scored.setdefault(record, (one.path, checksum))
                if known != checksum:
                    wrong = wrong or f"the shard of {record} was made again differently between {path} and {one.path}"
        if wrong:
            notes.append(f"{method.name}: {wrong}")
    return notes


def against(methods: Sequence[Method], reference: str | None) -> dict[str, tuple[Paired, float]]:
    """Every other method paired with the reference, with its corrected p; empty without a reference."""
    if reference is None:
        return {}
    by_name = {method.name: method for method in methods}
    if reference not in by_name:
        raise SettingError("reference", f"one of {', '.join(by_name)}")
    others = [method for method in methods if method.name != reference]
    pairs = [paired(method, by_name[reference]) for method in others]
    corrected = holm([pair.p for pair in pairs])
    return {m.name: (pair, p) for m, pair, p in zip(others, pairs, corrected, strict=True)}


def check_same_subset(methods: Sequence[Method]) -> None:
    """DataError if the methods were scored on different subsets of their splits."""
    subsets = {one.subset: one.path for method in methods for one in method.evaluations if one.subset}
    if len(subsets) > 1:
        actual = ", ".join(f"{subset} in {path}" for subset, path in sorted(subsets.items()))
        raise DataError(f"expected results of one subset, found {actual}", "evaluate all with the same {subset}")


def simulated(methods: Sequence[Method]) -> list[str]:
    """A note if recordings were simulated: such numbers say nothing about people."""
    names = [method.name for method in methods if any(one.simulated for one in method.evaluations)]
    return [f"scored on SIMULATED recordings, no people: {', '.join(names)}"] if names else []


def too_few(methods: Sequence[Method], pairs: dict[str, tuple[Paired, float]]) -> list[str]:
    """A note if there are too few people for any test to find a difference."""
    fewest = min([pair.n for pair, _ in pairs.values()] or [len(methods[0].subjects)])
    if fewest >= FEWEST_SUBJECTS:
        return []
    people = counted(fewest, "person", "people")
    return [f"only {people}: no paired test can reach p < 0.05 with fewer than {FEWEST_SUBJECTS}"]


def p_text(p: float) -> str:
    """A p value with three decimals, or four for small ones."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"
