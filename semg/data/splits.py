"""Splits: which recordings are for training, validation and test; made by a rule or written by hand; checked when read.

A split is a folder of three text files, train.txt, val.txt and test.txt, with one record name per line. Blank lines and
comments (from # to the end of the line) are skipped; Windows line ends and a byte order mark are accepted. split.json
in the same folder says by which rule they were made; without it the split is "custom".

What a rule promises is checked on the lists themselves, not taken from split.json: by the recordings' names if they
follow putEMG's scheme, otherwise by their shards. Every split guarantees at least that no recording is in two subsets.
Since windows never extend beyond their recording, no two subsets share a sample.

People are drawn by sorting them by a hash of seed and number: the same seed gives the same people with every version of
Python and NumPy.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semg.common.errors import DataError
from semg.common.files import (
    atomic_folder,
    expect_file,
    is_system_file,
    read_json,
    text_checksum,
    write_json,
    write_text,
)
from semg.common.schema import TEXT, Field, check_fields, is_whole
from semg.data import records as facts
from semg.data.putemg import is_record
from semg.data.records import Record, counting_order, from_name, in_time, is_name
from semg.data.shards import check_all_there, meta_checksum, read_meta

FORMAT_VERSION = 1
SUBSETS = ("train", "val", "test")
PROMISES = {
    "subject": "no person is in two subsets",
    "kfold": "no person is in two subsets; over the folds each person is tested once",
    "loso": "no person is in two subsets; one person is tested, over the folds each once",
    "session": "trained on each person's first session, tested on the same people's later sessions",
    "recording": "within one person's session: one recording is tested, the others are not",
    "custom": "no recording is in two subsets",
}
_NO_NAME = "expected a record name such as emg_gestures-03-sequential-2018-05-11-11-10-50-475"
_FIELDS = {
    "name": TEXT,
    "seed": Field("a whole number", lambda value: is_whole(value, 0), needed=False),
    "lists_sha256": TEXT,
}
PROTOCOLS = tuple(name for name in PROMISES if name != "custom")


@dataclass(frozen=True)
class Split:
    """The record names of each subset, sorted. `seed`: of the draw of people; None for a split written by hand.

    facts: of the recordings whose names do not contain them.
    """

    name: str
    protocol: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    seed: int | None = None
    folder: Path | None = None  # the folder that it was read from
    facts: Mapping[str, Record] = field(default_factory=dict, compare=False)

    def records(self, subset: str) -> tuple[str, ...]:
        """The record names of `subset`: train, val or test."""
        if subset not in SUBSETS:
            raise ValueError(f"expected one of {', '.join(SUBSETS)}, found {subset!r}")
        return getattr(self, subset)

    def facts_of(self, subset: str) -> list[Record]:
        """The facts of the recordings in `subset`: person, session, order in time."""
        return [self.facts.get(name) or from_name(name) for name in self.records(subset)]

    def subjects(self, subset: str) -> tuple[str, ...]:
        """The people of `subset`, sorted."""
        return _subjects(self.facts_of(subset))

    def shared_subjects(self, subset: str, other: str) -> tuple[str, ...]:
        """The people who are in both subsets, sorted. They are not new to a model trained on one of them."""
        others = set(self.subjects(other))
        return tuple(subject for subject in self.subjects(subset) if subject in others)

    @property
    def checksum(self) -> str:
        """SHA-256 over the three lists: splits with the same checksum are the same, whatever their names."""
        return text_checksum("".join(f"{subset} {name}\n" for subset in SUBSETS for name in self.records(subset)))


def _subjects(records: Iterable[Record]) -> tuple[str, ...]:
    return tuple(sorted({record.subject for record in records}, key=counting_order))


# --- reading -----------------------------------------------------------------------------------------------


def read_names(path: Path) -> tuple[str, ...]:
    """Record names from a text file, sorted. DataError for an invalid name or one that occurs twice."""
    expect_file(path, "record names, one a line")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected record names as text, found {error}") from None
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        if not is_name(name):
            raise DataError(f"{path}:{number}: {_NO_NAME}, found {name[:80]!r}")
        if name in lines:
            raise DataError(f"{path}:{number}: expected each record once, found {name} again, as in line {lines[name]}")
        lines[name] = number
    return tuple(sorted(lines))


def facts_by_name(names: Sequence[str], shards: Path | None) -> dict[str, Record]:
    """The facts of the recordings whose names do not contain them, from their shards. DataError if there are no
    shards."""
    others = [name for name in names if not is_record(name)]
    if not others:
        return {}
    if shards is None:
        raise DataError(f"{_NO_NAME}, or shards that say whose a recording is, found {others[0][:80]!r}")
    check_all_there(shards, names)
    return {name: facts.from_meta(read_meta(shards / name)) for name in others}


def read_split(folder: Path, shards: Path | None = None) -> Split:
    """Read a split's folder and check that it keeps the promise of its protocol. Raises DataError.

    shards: the folder of shards, which say whose a recording is; not needed for names that follow putEMG's scheme.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a split's folder, found none; create_dataset_files.py makes one")
    if not (folder / "train.txt").exists() and (folds := split_folders(folder)):
        raise DataError(f"{folder}: expected one split, found {len(folds)} folds; name one, such as {folds[0]}")
    train, val, test = (read_names(folder / f"{subset}.txt") for subset in SUBSETS)
    try:
        known = facts_by_name((*train, *val, *test), shards)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None
    path = folder / "split.json"
    if not path.exists():
        split = Split(folder.resolve().name, "custom", train, val, test, None, folder, known)
    else:
        meta = _read_meta(path)
        split = Split(meta["name"], meta["protocol"], train, val, test, meta["seed"], folder, known)
        if meta["lists_sha256"] != split.checksum:
            raise DataError(
                f"{path}: expected the lists it was made with, found train.txt, val.txt or test.txt changed; "
                "make the split anew, or delete split.json to make it a split of your own"
            )
    check_split(split, folder)
    return split


def split_folders(folder: Path) -> list[Path]:
    """The folders of splits in `folder`: itself, or its folds in numerical order; empty if there are none."""
    if (folder / "train.txt").exists():
        return [folder]
    folders = [path.parent for path in folder.glob("*/train.txt") if not is_system_file(path.parent.name)]
    return sorted(folders, key=lambda path: counting_order(path.name))


def read_folds(folder: Path, shards: Path | None = None) -> dict[str, Split]:
    """The splits in `folder` by the names of their folds, in numerical order; {"": split} if it is a single split.
    DataError.

    shards: as for `read_split`.
    """
    folders = split_folders(folder) or [folder]  # for a folder without splits, read_split reports what is wrong
    return {"" if path == folder else path.name: read_split(path, shards) for path in folders}


def _read_meta(path: Path) -> dict[str, Any]:
    meta = read_json(path, "a split's description")
    if meta.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{path}: expected split format {FORMAT_VERSION}, found {meta.get('format_version')}")
    if meta.get("checksum") != meta_checksum(meta):
        raise DataError(f"{path}: expected its checksum, found another: it was changed; make the split anew")
    if missing := sorted({"name", "protocol", "seed", "lists_sha256"} - set(meta)):
        raise DataError(f"{path}: expected {missing[0]} in a split's description, found none; make the split anew")
    check_fields(path, meta, _FIELDS, "a split's description", "make the split anew")
    if meta["protocol"] not in list(PROMISES):
        raise DataError(f"{path}: expected a protocol of {', '.join(PROMISES)}, found {meta['protocol']!r}")
    return meta


# --- checking ----------------------------------------------------------------------------------------------


def check_split(split: Split, where: Path | str) -> None:
    """DataError, beginning with `where`, unless the split's lists keep the promise of its protocol."""
    for subset in SUBSETS:
        if not split.records(subset):
            raise DataError(f"{where}: expected recordings in every subset, found none in {subset}")
    for subset, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := sorted(set(split.records(subset)) & set(split.records(other))):
            raise DataError(f"{where}: expected no recording in two subsets, found {both[0]} in {subset} and {other}")
        subjects = split.shared_subjects(subset, other)
        if subjects and split.protocol in ("subject", "kfold", "loso"):
            raise DataError(
                f"{where}: expected no person in two subsets ({split.protocol}), "
                f"found {', '.join(subjects)} in {subset} and {other}"
            )
    if split.protocol == "loso" and len(split.subjects("test")) > 1:
        raise DataError(f"{where}: expected one person to test (loso), found {', '.join(split.subjects('test'))}")
    if split.protocol == "session":
        _check_sessions(split, where)
    if split.protocol == "recording":
        sessions = sorted({record.session_key for subset in SUBSETS for record in split.facts_of(subset)})
        if len(sessions) > 1:
            raise DataError(f"{where}: expected one person's session (recording), found {' and '.join(sessions[:2])}")
        if len(split.test) > 1:
            raise DataError(f"{where}: expected one recording to test (recording), found {len(split.test)}")


def met_before(
    scored: Collection[str], trained: Iterable[str], judges: Iterable[str], subset: str
) -> dict[str, list[str]]:
    """Which of the people scored a model was trained on, and which others it was chosen on, as metrics.json says it.

    judges: the people by whom it was chosen; those of the subset val are there for that.
    """
    own = set(trained)
    chosen = set(judges) - own if subset != "val" else set()
    return {
        "trained_on_subjects_scored": sorted(own.intersection(scored)),
        "chosen_on_subjects_scored": sorted(chosen.intersection(scored)),
    }


def _check_sessions(split: Split, where: Path | str) -> None:
    """Everyone must be in all three subsets, and all test sessions must be later than all training sessions."""
    subjects = {subset: split.subjects(subset) for subset in SUBSETS}
    if not subjects["train"] == subjects["val"] == subjects["test"]:
        odd = sorted(
            set().union(*subjects.values()) - set(subjects["train"]).intersection(subjects["val"], subjects["test"])
        )
        raise DataError(f"{where}: expected every person in every subset (session), found {odd[0]} not in all")
    for subject in subjects["test"]:
        known = [r for r in (*split.facts_of("train"), *split.facts_of("val")) if r.subject == subject]
        tested = [r for r in split.facts_of("test") if r.subject == subject]
        sessions, later = {r.session for r in known}, {r.session for r in tested}
        if len(sessions) > 1 or sessions & later or min(r.order for r in tested) <= max(r.order for r in known):
            raise DataError(
                f"{where}: expected subject {subject} trained on one session and tested on later ones (session), "
                f"found {', '.join(sorted(sessions))} and {', '.join(sorted(later))}"
            )


# --- making ------------------------------------------------------------------------------------------------


def drawn(subjects: Iterable[str], seed: int, purpose: str) -> list[str]:
    """All `subjects` in an order that depends only on seed and purpose."""
    return sorted(subjects, key=lambda subject: text_checksum(f"{purpose}/{seed}/{subject}"))


def _count(fraction: float, subjects: int) -> int:
    """`fraction` of the people, rounded, but at least one."""
    return max(1, round(fraction * subjects))


def by_subject(
    records: Sequence[Record],
    *,
    val: float,
    test: float,
    seed: int,
    test_subjects: Sequence[str] = (),
    val_subjects: Sequence[str] = (),
) -> dict[str, Split]:
    """One split with no person in two subsets, under the key "".

    val, test: fractions of all people, drawn by `seed` unless people are named. DataError if a named person has no
    recordings or if nobody is left for training.
    """
    subjects = _subjects(records)
    if unknown := sorted({*test_subjects, *val_subjects} - set(subjects)):
        raise DataError(
            f"expected recordings of subject {', '.join(unknown)}, found none; there are {' '.join(subjects)}"
        )
    free = [subject for subject in subjects if subject not in {*test_subjects, *val_subjects}]
    tested = list(test_subjects) or drawn(free, seed, "test")[: _count(test, len(subjects))]
    free = [subject for subject in free if subject not in tested]
    validated = list(val_subjects) or drawn(free, seed, "val")[: _count(val, len(subjects))]
    return {"": _subject_split("subject", records, tested, validated, seed)}


def by_fold(records: Sequence[Record], *, folds: int, val: float, seed: int) -> dict[str, Split]:
    """fold0, fold1, ...: the people are divided into `folds` test subsets; validation people are drawn from the others.

    val: fraction of all people. DataError if there are fewer people than folds, or if nobody is left for training.
    """
    subjects = drawn(_subjects(records), seed, "fold")
    if folds > len(subjects):
        raise DataError(f"expected at least as many people as folds ({folds}), found {len(subjects)}")
    return _fold_splits("kfold", records, [subjects[fold::folds] for fold in range(folds)], val, seed)


def leave_one_out(records: Sequence[Record], *, val: float, seed: int) -> dict[str, Split]:
    """fold0, fold1, ...: each person is the test subset once, in the order of their numbers."""
    return _fold_splits("loso", records, [[subject] for subject in _subjects(records)], val, seed)


def _fold_splits(
    protocol: str, records: Sequence[Record], groups: Sequence[Sequence[str]], val: float, seed: int
) -> dict[str, Split]:
    subjects = _subjects(records)
    by_name = {}
    for fold, tested in enumerate(groups):
        rest = [subject for subject in subjects if subject not in tested]
        validated = drawn(rest, seed, f"val of fold {fold}")[: _count(val, len(subjects))]
        by_name[f"fold{fold}"] = _subject_split(protocol, records, tested, validated, seed)
    return by_name


def _subject_split(
    protocol: str, records: Sequence[Record], tested: Sequence[str], validated: Sequence[str], seed: int
) -> Split:
    n_subjects = len(_subjects(records))
    if n_subjects <= len(tested) + len(validated) or not validated:
        raise DataError(
            f"expected people left to train, found {n_subjects} in all, of whom {len(tested)} test and "
            f"{len(validated)} validate; at least 3 people are needed"
        )
    subsets: dict[str, list[Record]] = {subset: [] for subset in SUBSETS}
    for record in records:
        subset = "test" if record.subject in tested else "val" if record.subject in validated else "train"
        subsets[subset].append(record)
    return _split(protocol, subsets, seed)


def with_fewer_to_train(
    by_name: Mapping[str, Split], records: Sequence[Record], *, train: float, seed: int
) -> dict[str, Split]:
    """The splits with fewer people to train on, for a learning curve over people; validation and test stay.

    train: fraction of all people of `records`. People are drawn by `seed`: with a smaller fraction, some of the same
    people are left. DataError if a split has not so many people to train on.
    """
    count, smaller = _count(train, len(_subjects(records))), {}
    for name, split in by_name.items():
        subjects = drawn(split.subjects("train"), seed, f"train of {name}")
        if count > len(subjects):
            raise DataError(f"expected {count} people to train on, found {len(subjects)} who neither validate nor test")
        subsets = {subset: split.facts_of(subset) for subset in SUBSETS}
        subsets["train"] = [record for record in subsets["train"] if record.subject in subjects[:count]]
        smaller[name] = _split(split.protocol, subsets, seed)
    return smaller


def _split(protocol: str, subsets: Mapping[str, Iterable[Record]], seed: int) -> Split:
    train, val, test = (tuple(sorted(record.name for record in subsets[subset])) for subset in SUBSETS)
    known = {record.name: record for subset in SUBSETS for record in subsets[subset]}
    split = Split("", protocol, train, val, test, seed, facts=known)
    check_split(split, protocol)
    return split


def by_session(records: Sequence[Record], *, seed: int) -> tuple[dict[str, Split], list[str]]:
    """One split across sessions, under the key "", and the people who are left out.

    Each person's first session trains, except for its last recording (putEMG: repeats_short), which validates; all
    later sessions test. Left out are people with a single session, or with a single recording in the first.
    """
    subsets: dict[str, list[Record]] = {subset: [] for subset in SUBSETS}
    left_out = []
    for subject in _subjects(records):
        of_subject = in_time(record for record in records if record.subject == subject)
        first = [record for record in of_subject if record.session == of_subject[0].session]
        later = [record for record in of_subject if record.session != of_subject[0].session]
        if not later or len(first) < 2:
            left_out.append(subject)
            continue
        subsets["train"] += first[:-1]
        subsets["val"] += first[-1:]
        subsets["test"] += later
    if not subsets["train"]:
        raise DataError("expected people with recordings of two sessions, two of them in the first; found nobody")
    return {"": _split("session", subsets, seed)}, left_out


def by_recording(records: Sequence[Record], *, seed: int) -> tuple[dict[str, Split], list[str]]:
    """One split for each recording to test, under `<subject>-<session>-<task>`, and the sessions that are left out.

    If a session has a task twice, the key is the recording's name. Each recording of a session is tested once, as by
    the putEMG authors. Of the others, the last one in time validates and the rest train. The authors chose nothing on
    validation and trained on both others; methods that choose nothing either may be fitted on train.txt and val.txt
    together. Left out are sessions with fewer than three recordings.
    """
    sessions: dict[str, list[Record]] = {}
    for record in in_time(records):
        sessions.setdefault(record.session_key, []).append(record)
    by_test: dict[str, Split] = {}
    left_out = []
    for session, members in sorted(sessions.items(), key=lambda item: counting_order(item[0])):
        if len(members) < 3:
            left_out.append(session)
            continue
        distinct = len({record.task for record in members}) == len(members) and all(record.task for record in members)
        for tested in members:
            others = [record for record in members if record != tested]
            key = f"{tested.subject}-{tested.session}-{tested.task}" if distinct else tested.name
            if key in by_test:
                raise DataError(f"expected folders of different names, found {key} twice; rename a subject or session")
            by_test[key] = _split("recording", {"train": others[:-1], "val": others[-1:], "test": [tested]}, seed)
    if not by_test:
        raise DataError("expected a person's session with three recordings, found none")
    return by_test, left_out


# --- writing -----------------------------------------------------------------------------------------------


def write_splits(out: Path, splits: Mapping[str, Split], provenance: Mapping[str, Any]) -> None:
    """Write splits, replacing anything at `out`: each into the folder named by its key; "" is `out` itself.

    provenance: how they were made, as JSON types; stored in each split.json.
    """
    with atomic_folder(out) as folder:
        for key, split in splits.items():
            name = f"{out.resolve().name}/{key}".rstrip("/")
            _write_files(folder / key, split, name, provenance)


def write_split(folder: Path, split: Split, provenance: Mapping[str, Any]) -> None:
    """Write one split, replacing anything at `folder`."""
    write_splits(folder, {"": split}, provenance)


def _write_files(folder: Path, split: Split, name: str, provenance: Mapping[str, Any]) -> None:
    for subset in SUBSETS:
        write_text(folder / f"{subset}.txt", "".join(f"{record}\n" for record in split.records(subset)))
    meta = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "protocol": split.protocol,
        "promise": PROMISES[split.protocol],
        "seed": split.seed,
        "subjects": {subset: list(split.subjects(subset)) for subset in SUBSETS},
        "n_records": {subset: len(split.records(subset)) for subset in SUBSETS},
        "lists_sha256": split.checksum,
        "made": dict(provenance),
    }
    write_json(folder / "split.json", {**meta, "checksum": meta_checksum(meta)})
