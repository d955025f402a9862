"""create_dataset_files.py as a person runs it: on shards, on a list of names, with wrong flags and wrong input."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import create_dataset_files
from semg.common.errors import DataError
from semg.data import splits
from semg.data.putemg import TRAJECTORIES
from semg.data.records import from_name
from semg.data.shards import write_shard
from semg.data.windows import WINDOW_FIELDS

SCRIPT = "create_dataset_files.py"
CLASSES = ["idle", "fist", "pinch index"]
PEOPLE = (3, 4, 5, 8, 11)
TIMES = ("11-00-00-000", "11-10-00-000", "11-20-00-000")
NAMES = [
    f"emg_gestures-{person:02d}-{trajectory}-2018-05-{day}-{time}"
    for person in PEOPLE
    for day in ("11", "12")
    for trajectory, time in zip(TRAJECTORIES, TIMES, strict=True)
]


def write(
    folder: Path,
    name: str,
    labels: tuple[int, ...] = (0, 0, 1, 2),
    noise: int | None = None,
    classes: Sequence[str] = CLASSES,
) -> None:
    """A shard of a few samples: one window of two samples for each label."""
    record = from_name(name)
    meta = {"record": name, "subject": record.subject, "session": record.session, "order": record.order}
    meta |= {"task": record.task, "rate": 100.0, "unit": "uV", "channels": ["EMG_1", "EMG_2"], "rings": []}
    meta |= {"classes": list(classes), "rest_classes": ["idle"], "simulated": False}
    seed = NAMES.index(name) if noise is None else noise
    signal = np.random.default_rng(seed).normal(size=(2 * len(labels), 2)).astype(np.float16)
    windows = np.array([(2 * i, label, 0, 2 * i, 2 * i) for i, label in enumerate(labels)], WINDOW_FIELDS)
    write_shard(folder / name, {**meta, "arguments": {"window": 2, "stride": 2}}, signal, windows)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    for name in NAMES:
        write(folder, name)
    return folder


@pytest.fixture
def names(tmp_path) -> Path:
    path = tmp_path / "records.txt"
    path.write_text("\n".join(NAMES))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_default_split_of_shards_shares_nobody_and_is_shown(run_script, shards, tmp_path):
    out = tmp_path / "splits" / "mine"
    shown = run_script(SCRIPT, "--shards", shards, "--out", out).stdout
    split = splits.read_split(out)
    assert split.protocol == "subject"
    assert sorted(split.train + split.val + split.test) == sorted(NAMES)
    people = [split.subjects(subset) for subset in splits.SUBSETS]
    assert [len(group) for group in people] == [3, 1, 1]
    assert len(set().union(*people)) == 5
    header, train = (line.split() for line in shown.splitlines() if line.startswith(("subset", "train  ")))
    assert header == ["subset", "subjects", "recordings", "windows", "idle", "fist", "pinch", "index"]
    assert train == ["train", "3", "18", "72", "36", "18", "18"]
    assert f"next: python train.py --split {out} --shards " in shown
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine"]  # no lock, no temporary folder


def test_same_seed_same_bytes_from_shards_or_from_names_and_other_seed_another(run_here, shards, names, tmp_path):
    run_here(SCRIPT, "--shards", shards, "--out", tmp_path / "a" / "s")
    run_here(SCRIPT, "--records", names, "--out", tmp_path / "b" / "s")
    assert contents(tmp_path / "a" / "s") == contents(tmp_path / "b" / "s")
    assert str(tmp_path) not in (tmp_path / "a" / "s" / "split.json").read_text()
    run_here(SCRIPT, "--records", names, "--out", tmp_path / "c", "--seed", 1)
    assert splits.read_split(tmp_path / "c").checksum != splits.read_split(tmp_path / "a" / "s").checksum


@pytest.mark.parametrize(
    ("protocol", "folders"),
    [
        (("kfold", "--folds", 3), [f"fold{i}" for i in range(3)]),
        (("loso",), [f"fold{i}" for i in range(5)]),
        (("session",), [""]),
        (("recording",), sorted(f"{p:02d}-2018-05-{d}-{t}" for p in PEOPLE for d in (11, 12) for t in TRAJECTORIES)),
    ],
)
def test_each_protocol_writes_its_folders_and_says_what_is_where(run_here, shards, tmp_path, protocol, folders):
    out = tmp_path / "s"
    output = json.loads(run_here(SCRIPT, "--shards", shards, "--out", out, "--protocol", *protocol, "--json").stdout)
    assert sorted(output["splits"]) == sorted((out / folder).as_posix() for folder in folders)
    for folder in folders:
        split = splits.read_split(out / folder)
        assert split.protocol == protocol[0]
        facts = output["splits"][(out / folder).as_posix()]["test"]
        assert facts["subjects"] == list(split.subjects("test"))
        assert facts["windows"] == 4 * len(split.test)
        assert facts["windows_of_class"]["pinch index"] == len(split.test)


@pytest.mark.parametrize("protocol", ["subject", "kfold", "loso"])
def test_fewer_people_train_on_request_and_the_others_stay(run_here, names, tmp_path, protocol):
    """How many people are needed? Splits of ever more people, who validate and test the same."""
    read = {}
    for train in (None, 0.2, 0.4):
        out = tmp_path / f"{train}"
        flags = ("--train", train) if train else ()
        run_here(SCRIPT, "--records", names, "--out", out, "--protocol", protocol, *flags)
        read[train] = splits.read_folds(out)
    for key, whole in read[None].items():
        one, two = (read[train][key] for train in (0.2, 0.4))
        assert (len(one.subjects("train")), len(two.subjects("train"))) == (1, 2)
        assert set(one.train) < set(two.train) <= set(whole.train)
        assert len(one.train) == 6, "all recordings of a person"
        for subset in ("val", "test"):
            assert one.records(subset) == two.records(subset) == whole.records(subset)
    made = json.loads(next((tmp_path / "0.2").rglob("split.json")).read_text())["made"]
    assert made["arguments"]["train"] == 0.2


def test_people_can_be_named(run_here, names, tmp_path):
    flags = ("--test-subjects", 8, "11", "--val-subjects", "03")
    run_here(SCRIPT, "--records", names, "--out", tmp_path / "s", *flags)
    split = splits.read_split(tmp_path / "s")
    assert split.subjects("test") == ("08", "11")
    assert split.subjects("val") == ("03",)
    given = json.loads((tmp_path / "s" / "split.json").read_text())["made"]["arguments"]
    assert given["test_subjects"] == ["08", "11"]
    assert "test" not in given


def test_the_shares_own_list_serves_with_force_recordings_left_out(run_here, names, tmp_path):
    names.write_text("\n".join([*NAMES, NAMES[0].replace("gestures", "force")]) + "\r\n")
    shown = run_here(SCRIPT, "--records", names, "--out", tmp_path / "s").stdout
    assert "1 recording without gestures" in shown
    split = splits.read_split(tmp_path / "s")
    assert sorted(split.train + split.val + split.test) == sorted(NAMES)


def test_a_person_with_one_day_is_left_out_of_session_and_named(run_here, names, tmp_path):
    names.write_text("\n".join(NAMES[:-3]))
    shown = run_here(SCRIPT, "--records", names, "--out", tmp_path / "s", "--protocol", "session").stdout
    assert "left out for want of recordings: 11" in shown
    assert splits.read_split(tmp_path / "s").subjects("train") == ("03", "04", "05", "08")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--val", 0.5, "--test", 0.5), "expected less than 1 together, found 1"),
        (("--val", 1, "--test-subjects", 3), "expected less than 1 together"),
        (("--val", 0), "above 0"),
        (("--test", "nan"), "above 0"),
        (("--test", 1.5), "at most 1"),
        (("--folds", 1, "--protocol", "kfold"), "at least 2"),
        (("--folds", 3), "--folds: means nothing to --protocol subject"),
        (("--test", 0.2, "--protocol", "loso"), "--test: means nothing to --protocol loso"),
        (("--val-subjects", 3, "--protocol", "session"), "--val-subjects: means nothing"),
        (("--train", 0.5, "--protocol", "session"), "--train: means nothing to --protocol session"),
        (("--seed", -1), "at least 0"),
        (("--seed", "one"), "expected a whole number"),
        (("--protocol", "person"), "invalid choice"),
        (("--protocol", "custom"), "invalid choice"),  # what a split written by hand is
        (("--test-subjects", 3, "--val-subjects", 4, 3), "no person in both, found 03"),
        (("--test", 0.2, "--test-subjects", 3), "one of the two"),
    ],
)
def test_flags_that_make_no_sense_exit_with_2(run_here, names, tmp_path, flags, message):
    error = run_here(SCRIPT, "--records", names, "--out", tmp_path / "s", *flags, code=2).stderr
    assert message in error
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("", (), "expected names of gesture recordings, found none"),
        ("\n".join(NAMES[:6]), (), "expected people left to train, found 1 in all"),
        ("\n".join(NAMES[:12]), ("--protocol", "kfold"), "expected at least as many people as folds (5), found 2"),
        (NAMES[0], ("--protocol", "session"), "expected people with recordings of two sessions"),
        (NAMES[0], ("--protocol", "recording"), "three recordings, found none"),
        ("\n".join(NAMES), ("--test-subjects", "77"), "expected recordings of subject 77, found none"),
        ("\n".join(NAMES), ("--test-subjects", "abc"), "expected recordings of subject abc, found none"),
        ("\n".join(NAMES), ("--train", 0.9), "expected 4 people to train on, found 3 who neither validate nor test"),
        ("fist-1\nfist-2", (), "expected putEMG's record names unless --shards is given, found fist-1"),
        (f"{NAMES[0]}\n{NAMES[0]}", (), "records.txt:2: expected each record once"),
        ("<html>\n", (), "records.txt:1: expected a record name"),
    ],
)
def test_lists_that_make_no_split_exit_with_1(run_here, names, tmp_path, text, flags, message):
    names.write_text(text)
    error = run_here(SCRIPT, "--records", names, "--out", tmp_path / "s", *flags, code=1).stderr
    assert message in error
    assert str(names) in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_class_missing_from_a_part_is_refused(run_here, shards, tmp_path):
    own = tmp_path / "shards"
    shutil.copytree(shards, own)
    for name in NAMES:
        if "-08-" in name:
            write(own, name, labels=(0, 0, 1, 1))
    flags = ("--shards", own, "--out", tmp_path / "s", "--test-subjects", "08")
    error = run_here(SCRIPT, *flags, code=1).stderr
    assert "found none of pinch index in the test subset; name other people, or more, for it by --test-subj" in error
    error = run_here(SCRIPT, "--shards", own, "--out", tmp_path / "s", "--protocol", "loso", code=1).stderr
    assert re.search(r"found none of pinch index in the (val|test) subset of fold\d;", error)
    error = run_here(SCRIPT, "--shards", own, "--out", tmp_path / "s", "--protocol", "recording", code=1).stderr
    assert "parts the recordings of a session, so each has to hold every class" in error
    assert "docs/extending.md joins files of one gesture each" in error
    assert not (tmp_path / "s").exists()


def test_what_helps_is_advised_where_a_class_is_missing(run_here, tmp_path):
    for name in NAMES:
        write(tmp_path / "shards", name, labels=(0, 0, 1, 1))
    error = run_here(SCRIPT, "--shards", tmp_path / "shards", "--out", tmp_path / "s", code=1).stderr
    assert "found none of pinch index in any recording; make the shards again with --classes" in error
    counts = {"x": np.array([1, 0]), "y": np.ones(2), "z": np.ones(2)}
    lacking = create_dataset_files.Windows(("a", "b"), counts, np.array([9, 9]))
    split = splits.Split("", "loso", ("y",), ("z",), ("x",))
    with pytest.raises(DataError, match="tests each person alone, so each has to have every class"):
        create_dataset_files.refuse_missing_classes({"fold0": split}, lacking)
    split = splits.Split("", "subject", ("y",), ("x",), ("z",))
    with pytest.raises(DataError, match="in the val subset; choose another --seed, or more people"):
        create_dataset_files.refuse_missing_classes({"": split}, lacking)


def test_a_class_that_too_few_people_made_is_said_to_be_one(run_here, shards, tmp_path):
    """No other seed could help: a public data set has a gesture that two of its 36 people made."""
    own = tmp_path / "shards"
    shutil.copytree(shards, own)
    people = sorted({name.split("-")[1] for name in NAMES})
    for name in NAMES:
        if name.split("-")[1] not in people[:2]:
            write(own, name, labels=(0, 0, 1, 1))
    remedy = "make the shards again with --classes and the others alone"
    error = run_here(SCRIPT, "--shards", own, "--out", tmp_path / "s", code=1).stderr
    assert f"only 2 people made it, and each subset needs one: {remedy}" in error
    error = run_here(SCRIPT, "--shards", own, "--out", tmp_path / "s", "--protocol", "kfold", code=1).stderr
    assert f"only 2 people made it, and each of 5 folds needs one: {remedy}" in error


def test_one_recording_under_two_names_is_refused(run_here, shards, tmp_path):
    own = tmp_path / "shards"
    shutil.copytree(shards, own)
    write(own, NAMES[-1], noise=0)  # the signal of the first recording
    error = run_here(SCRIPT, "--shards", own, "--out", tmp_path / "s", code=1).stderr
    assert f"found the signal of {NAMES[0]} under another name" in error


def test_missing_and_damaged_shards_are_named(run_here, shards, names, tmp_path):
    error = run_here(SCRIPT, "--shards", tmp_path / "none", "--out", tmp_path / "s", code=1).stderr
    assert "run preprocess.py first, or import_csv.py" in error
    (tmp_path / "empty").mkdir()
    error = run_here(SCRIPT, "--shards", tmp_path / "empty", "--out", tmp_path / "s", code=1).stderr
    assert "expected shards, found none" in error
    own = tmp_path / "own"
    shutil.copytree(shards, own)
    (own / NAMES[2] / "windows.npy").unlink()
    assert f"{own / NAMES[2]}" in run_here(SCRIPT, "--shards", own, "--out", tmp_path / "s", code=1).stderr
    shutil.rmtree(own / NAMES[2])
    error = run_here(SCRIPT, "--shards", own, "--records", names, "--out", tmp_path / "s", code=1).stderr
    assert f"such as {NAMES[2]}" in error


# --- what is at OUT already --------------------------------------------------------------------------------


def test_the_same_split_is_kept_another_only_replaced_when_told(run_here, names, tmp_path):
    out = tmp_path / "s"
    kfold = (SCRIPT, "--records", names, "--out", out, "--protocol", "kfold")
    run_here(*kfold)
    before, result = contents(out), (out / "fold0").stat().st_mtime_ns
    (tmp_path / ".s.old.tmp").mkdir()  # as a run killed at its very end leaves it
    assert "kept" in run_here(*kfold).stdout
    assert contents(out) == before
    assert (out / "fold0").stat().st_mtime_ns == result
    assert not (tmp_path / ".s.old.tmp").exists()
    error = run_here(*kfold, "--seed", 1, code=1).stderr
    assert "expected no split or the same, found another" in error
    assert contents(out) == before
    run_here(*kfold, "--seed", 1, "--folds", 4, "--overwrite")
    assert len(splits.split_folders(out)) == 4
    (out / "fold0" / "train.txt").write_text("damaged")
    run_here(*kfold, code=1)
    run_here(*kfold, "--overwrite")
    assert contents(out) == before


def test_files_of_the_system_are_neither_splits_nor_in_their_way(run_here, names, tmp_path):
    out = tmp_path / "s"
    loso = (SCRIPT, "--records", names, "--out", out, "--protocol", "loso")
    run_here(*loso)
    (out / ".DS_Store").write_text("x")
    (out / ".ipynb_checkpoints").mkdir()
    (out / "fold0" / "Thumbs.db").write_text("x")
    (out / "@eaDir").mkdir()
    shutil.copy(out / "fold0" / "train.txt", out / "@eaDir")
    assert "kept" in run_here(*loso).stdout
    assert len(splits.split_folders(out)) == len(PEOPLE)
    run_here(*loso, "--seed", 1, "--overwrite")
    assert splits.read_split(out / "fold0").seed == 1


def test_nothing_else_is_ever_replaced(run_here, names, tmp_path):
    flags = (SCRIPT, "--records", names, "--overwrite", "--out")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    assert "found thesis.txt in it" in run_here(*flags, tmp_path / "notes", code=1).stderr
    assert "found a file" in run_here(*flags, names, code=1).stderr
    run_here(*flags, tmp_path / "splits" / "one")
    run_here(*flags, tmp_path / "splits" / "two")
    before = contents(tmp_path / "splits")
    assert "a split of its own" in run_here(*flags, tmp_path / "splits", code=1).stderr
    assert contents(tmp_path / "splits") == before
    (tmp_path / "new").mkdir()
    run_here(*flags, ".", cwd=tmp_path / "new")  # an empty folder may become the split
    assert splits.read_split(tmp_path / "new").name == "new"


@pytest.mark.parametrize("folds", [1, 2, 12])
@pytest.mark.parametrize(
    "classes", [[f"gesture {k}" for k in range(53)], [f"{'a long name ' * 5}{k}" for k in range(3)]]
)
def test_the_table_of_many_gestures_fits_into_a_terminal(folds, classes):
    rows = {name: np.arange(len(classes)) + place for place, name in enumerate(NAMES)}
    windows = create_dataset_files.Windows(tuple(classes), rows, np.full(len(classes), 5))
    subsets = [NAMES[:18], NAMES[18:24], NAMES[24:]]
    split = splits.Split("s", "kfold", *map(tuple, subsets))
    by_fold = {f"fold{k}": split for k in range(folds)} if folds > 1 else {"": split}
    shown = create_dataset_files.table(by_fold, windows)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 120
    summed = [sum(rows[name] for name in names) for names in subsets]
    for k, name in enumerate(classes):
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert line.removeprefix(name).split() == [str(counts[k]) for counts in summed]
    assert " ".join(lines[0].split()).endswith("subset subjects recordings windows")
    assert any(line.split()[-4:] == ["test", "1", "6", str(summed[2].sum())] for line in lines)


@pytest.mark.parametrize("protocol", ["subject", "kfold"])
def test_gestures_called_like_other_columns_of_the_table_are_counted_apart_from_these(run_here, tmp_path, protocol):
    classes = ["idle", "fold", "subset", "subjects", "recordings", "windows"]
    shards = tmp_path / "shards"
    for name in NAMES:
        write(shards, name, labels=(0, 0, 0, 1, 2, 3, 4, 5, 5), classes=classes)
    flags = (SCRIPT, "--shards", shards, "--out", tmp_path / "s", "--protocol", protocol)
    lines = run_here(*flags).stdout.splitlines()
    (head,) = (line.split() for line in lines if "subjects  recordings" in line)
    assert head[head.index("subset") :] == ["subset", "subjects", "recordings", "windows"]
    assert ["test", "1", "6", "54"] in [line.split()[-4:] for line in lines]
    for name, each in zip(classes, (3, 1, 1, 1, 1, 2), strict=True):
        assert [name, *(str(18 * each), str(6 * each), str(6 * each))] in [line.split() for line in lines]
    said = json.loads(run_here(*flags, "--json").stdout)
    for facts in (subsets["test"] for subsets in said["splits"].values()):
        assert (len(facts["subjects"]), facts["recordings"], facts["windows"]) == (1, 6, 54)
        assert facts["windows_of_class"] == dict(zip(classes, (18, 6, 6, 6, 6, 12), strict=True))
