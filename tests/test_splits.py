"""Splits: what each protocol promises, over random sets of recordings; and every wrong way to write one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semg.common.errors import DataError
from semg.data import splits
from semg.data.putemg import TRAJECTORIES, RecordName, parse_record
from semg.data.records import Record, from_name
from semg.data.shards import write_shard
from semg.data.windows import WINDOW_FIELDS

COMMITTED = Path(__file__).resolve().parent.parent / "splits"
TIMES = ("11-00-00-000", "11-10-00-000", "11-20-00-000")


def recordings(*people: int, days: int = 2, trajectories: tuple[str, ...] = TRAJECTORIES) -> list[Record]:
    return [
        from_name(RecordName("emg_gestures", f"{person:02d}", f"2018-05-{1 + day:02d}", time, trajectory).name)
        for person in people
        for day in range(days)
        for time, trajectory in zip(TIMES, trajectories, strict=False)
    ]


EVERYONE = recordings(*range(44))
NAMES = [record.name for record in recordings(3, 4, 5)]  # six names a person

people = st.lists(st.integers(0, 99), min_size=3, max_size=25, unique=True)
seeds = st.integers(0, 2**32)
fractions = st.floats(0.01, 0.45)


def together(split: splits.Split) -> list[str]:
    return sorted(split.train + split.val + split.test)


@given(people, seeds, fractions, fractions)
@settings(max_examples=80, deadline=None)
def test_subject_split_shares_nobody_and_loses_nothing(numbers, seed, val, test):
    records = recordings(*numbers)
    try:
        split = splits.by_subject(records, val=val, test=test, seed=seed)[""]
    except DataError as error:
        assert "left to train" in str(error)
        assert len(numbers) < 12
        return
    groups = [set(split.subjects(subset)) for subset in splits.SUBSETS]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert together(split) == sorted(record.name for record in records)
    assert len(groups[2]) == max(1, round(test * len(numbers)))


@given(people, seeds, st.integers(2, 8))
@settings(max_examples=60, deadline=None)
def test_folds_test_each_person_exactly_once(numbers, seed, folds):
    records = recordings(*numbers)
    if folds > len(numbers):
        with pytest.raises(DataError, match="at least as many people as folds"):
            splits.by_fold(records, folds=folds, val=0.1, seed=seed)
        return
    try:
        result = splits.by_fold(records, folds=folds, val=0.1, seed=seed)
    except DataError as error:
        assert "left to train" in str(error)
        return
    tested = [person for split in result.values() for person in split.subjects("test")]
    assert sorted(tested) == sorted({record.subject for record in records})
    assert list(result) == [f"fold{i}" for i in range(folds)]
    sizes = [len(split.subjects("test")) for split in result.values()]
    assert max(sizes) - min(sizes) <= 1
    for split in result.values():
        assert not any(split.shared_subjects(*pair) for pair in (("train", "val"), ("train", "test"), ("val", "test")))
        assert together(split) == sorted(record.name for record in records)


def test_loso_tests_each_person_once_alone():
    result = splits.leave_one_out(recordings(3, 8, 11, 20), val=0.25, seed=0)
    assert [split.subjects("test") for split in result.values()] == [("03",), ("08",), ("11",), ("20",)]
    assert all(len(split.subjects("val")) == 1 and len(split.train) == 12 for split in result.values())


def test_same_seed_same_split_other_seed_another_whatever_the_order():
    first = splits.by_subject(EVERYONE, val=0.15, test=0.2, seed=0)[""]
    assert splits.by_subject(EVERYONE[::-1], val=0.15, test=0.2, seed=0)[""] == first
    others = [splits.by_subject(EVERYONE, val=0.15, test=0.2, seed=seed)[""] for seed in range(1, 6)]
    assert len({split.checksum for split in [first, *others]}) == 6
    folds = [splits.by_fold(EVERYONE, folds=5, val=0.1, seed=seed)["fold0"].checksum for seed in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]


def test_people_are_drawn_alike_everywhere():
    """A frozen draw: another one here would make every published split irreproducible."""
    assert "".join(splits.drawn("01234567", 0, "test")) == "74253601"


def test_named_people_are_where_they_were_put():
    result = splits.by_subject(EVERYONE, val=0.1, test=0.2, seed=0, test_subjects=["08", "24"], val_subjects=["03"])[""]
    assert result.subjects("test") == ("08", "24")
    assert result.subjects("val") == ("03",)
    with pytest.raises(DataError, match=r"subject 77, found none"):
        splits.by_subject(EVERYONE, val=0.1, test=0.2, seed=0, test_subjects=["77"])


def test_session_trains_on_the_first_day_and_tests_on_later_ones_of_the_same_people():
    records = recordings(3, 4) + recordings(5, days=1) + recordings(6, trajectories=("sequential",))
    result, left_out = splits.by_session(records, seed=0)
    split = result[""]
    assert left_out == ["05", "06"]
    assert split.subjects("train") == split.subjects("val") == split.subjects("test") == ("03", "04")
    assert split.shared_subjects("train", "test") == ("03", "04")
    day = {subset: {parse_record(name).date for name in split.records(subset)} for subset in splits.SUBSETS}
    assert day == {"train": {"2018-05-01"}, "val": {"2018-05-01"}, "test": {"2018-05-02"}}
    assert {parse_record(name).trajectory for name in split.val} == {"repeats_short"}
    with pytest.raises(DataError, match="two sessions"):
        splits.by_session(recordings(3, days=1), seed=0)


def test_recording_tests_each_recording_of_a_day_once():
    result, left_out = splits.by_recording(recordings(3, 4) + recordings(5, trajectories=TRAJECTORIES[:2]), seed=0)
    assert left_out == ["05/2018-05-01", "05/2018-05-02"]
    assert len(result) == 12
    split = result["03-2018-05-01-repeats_long"]
    kinds = [[parse_record(name).trajectory for name in split.records(subset)] for subset in splits.SUBSETS]
    assert kinds == [["sequential"], ["repeats_short"], ["repeats_long"]]
    kinds = [
        parse_record(result["03-2018-05-01-repeats_short"].records(subset)[0]).trajectory for subset in splits.SUBSETS
    ]
    assert kinds == ["repeats_long", "sequential", "repeats_short"]
    assert len({from_name(name).session_key for name in together(split)}) == 1
    assert sorted(split.test[0] for split in result.values()) == sorted(r.name for r in recordings(3, 4))


# --- reading -----------------------------------------------------------------------------------------------


def by_hand(folder: Path, **subsets: str) -> Path:
    """A split of a person's own: 03 trains, 04 validates, 05 tests, unless told otherwise."""
    folder.mkdir(exist_ok=True)
    usual = {subset: "\n".join(NAMES[6 * i : 6 * i + 6]) for i, subset in enumerate(splits.SUBSETS)}
    for subset, text in {**usual, **subsets}.items():
        (folder / f"{subset}.txt").write_bytes(text.encode())
    return folder


def test_written_and_read_back(tmp_path):
    split = splits.by_subject(EVERYONE, val=0.1, test=0.2, seed=7)[""]
    splits.write_split(tmp_path / "mine", split, {"by": "a test"})
    actual = splits.read_split(tmp_path / "mine")
    assert (actual.name, actual.protocol, actual.seed, actual.checksum) == ("mine", "subject", 7, split.checksum)
    assert [actual.records(subset) for subset in splits.SUBSETS] == [split.records(subset) for subset in splits.SUBSETS]
    assert actual.folder == tmp_path / "mine"
    with pytest.raises(ValueError, match="expected one of train, val, test"):
        actual.records("testing")


def test_by_hand_with_comments_blank_lines_windows_line_ends_and_a_byte_order_mark(tmp_path):
    plain = splits.read_split(by_hand(tmp_path / "plain"))
    train = "\ufeff# my people\r\n\r\n" + "\r\n".join(f"  {name}  # good" for name in NAMES[5::-1]) + "\r\n"
    actual = splits.read_split(by_hand(tmp_path / "decorated", train=train))
    assert actual.protocol == "custom"
    assert actual.seed is None
    assert actual.train == plain.train == tuple(sorted(NAMES[:6]))
    assert actual.checksum == plain.checksum


def test_by_hand_a_shared_person_is_allowed_and_can_be_seen(tmp_path):
    actual = splits.read_split(by_hand(tmp_path / "s", train="\n".join(NAMES[:5]), val=NAMES[5]))
    assert actual.shared_subjects("train", "val") == ("03",)
    assert actual.shared_subjects("train", "test") == ()


BAD = {
    "duplicate": ({"train": f"{NAMES[0]}\n{NAMES[0]}"}, r"train.txt:2: .*each record once.*line 1"),
    "in two subsets": ({"val": NAMES[0]}, "no recording in two subsets.*train and val"),
    "empty": ({"test": ""}, "found none in test"),
    "only comments": ({"val": "# nobody\n\n"}, "found none in val"),
    "no record": ({"train": f"{NAMES[0]}\nhello you"}, r"train.txt:2: expected a record name.*'hello you'"),
    "whose": ({"train": f"{NAMES[0]}\nhello"}, "expected a record name .*, or shards that say whose .* found 'hello'"),
    "two on a line": ({"train": f"{NAMES[0]} {NAMES[1]}"}, "train.txt:1: expected a record name"),
    "path": ({"train": f"../{NAMES[0]}"}, "expected a record name"),
    "other digits": ({"train": NAMES[0].replace("03", "٠٣")}, "expected a record name"),
    "control": ({"train": NAMES[0] + "\x00"}, "expected a record name"),
    "long": ({"train": "x" * 10**6}, r"found 'x{80}'$"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_lists_are_refused_in_one_line(tmp_path, case):
    subsets, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        splits.read_split(by_hand(tmp_path / "s", **subsets))
    assert str(tmp_path / "s") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_unreadable_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected a split's folder, found none"):
        splits.read_split(tmp_path / "none")
    folder = by_hand(tmp_path / "s")
    (folder / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val.txt: expected record names.*no such file"):
        splits.read_split(folder)
    (folder / "val.txt").mkdir()
    with pytest.raises(DataError, match=r"val.txt: expected record names, one a line, found a folder"):
        splits.read_split(folder)
    by_hand(tmp_path / "utf16").joinpath("train.txt").write_text(NAMES[0], encoding="utf-16")
    with pytest.raises(DataError, match=r"train.txt: expected record names as text"):
        splits.read_split(tmp_path / "utf16")


def planted(split: splits.Split, name: str, source: str, target: str) -> splits.Split:
    """`split` with one recording moved from a subset to another."""
    subsets = {subset: set(split.records(subset)) for subset in splits.SUBSETS}
    subsets[source].remove(name)
    subsets[target].add(name)
    lists = (tuple(sorted(subsets[subset])) for subset in splits.SUBSETS)
    return splits.Split("planted", split.protocol, *lists, seed=split.seed)


def test_a_planted_leak_is_refused_even_where_split_json_vouches_for_it(tmp_path):
    subject = splits.by_subject(EVERYONE, val=0.1, test=0.2, seed=0)[""]
    session = splits.by_session(EVERYONE, seed=0)[0][""]
    recording = splits.by_recording(recordings(3, 4), seed=0)[0]["03-2018-05-01-sequential"]
    other_day = "emg_gestures-03-repeats_long-2018-05-02-11-00-00-000"
    foreign = splits.Split("f", "recording", (other_day,), recording.val, recording.test)
    leaks = [
        (planted(subject, subject.test[0], "test", "train"), "no person in two subsets"),
        (planted(subject, subject.val[0], "val", "train"), "no person in two subsets"),
        (planted(session, session.test[0], "test", "train"), "on one session"),
        (planted(session, session.train[0], "train", "test"), "on later ones"),
        (foreign, "one person's session"),
        (splits.Split("l", "loso", subject.train, subject.val, subject.test), "one person to test"),
        (splits.Split("s", "session", session.train, session.val, session.test[6:]), "every person in every subset"),
    ]
    for i, (leak, message) in enumerate(leaks):
        splits.write_split(tmp_path / str(i), leak, {})
        with pytest.raises(DataError, match=message):
            splits.read_split(tmp_path / str(i))


def test_lists_or_split_json_changed_after_they_were_made_are_refused(tmp_path):
    folder = tmp_path / "s"
    splits.write_split(folder, splits.by_subject(EVERYONE, val=0.1, test=0.2, seed=0)[""], {})
    train = (folder / "train.txt").read_text()
    (folder / "train.txt").write_text(train.partition("\n")[2])
    with pytest.raises(DataError, match=r"delete split\.json to make it a split of your own"):
        splits.read_split(folder)
    (folder / "train.txt").write_text(f"# the same but for this line\n{train}")
    assert splits.read_split(folder).seed == 0
    meta = json.loads((folder / "split.json").read_text())
    for change, message in (
        ({"seed": 1}, "its checksum"),
        ({"format_version": 2}, "split format 1, found 2"),
        ({"protocol": "loso"}, "its checksum"),
    ):
        (folder / "split.json").write_text(json.dumps({**meta, **change}))
        with pytest.raises(DataError, match=message):
            splits.read_split(folder)
    (folder / "split.json").write_text("{")
    with pytest.raises(DataError, match="unreadable JSON"):
        splits.read_split(folder)
    (folder / "split.json").unlink()
    assert splits.read_split(folder).protocol == "custom"


def test_folds_are_listed_in_counting_order_and_not_read_as_one_split(tmp_path):
    result = splits.by_fold(EVERYONE, folds=11, val=0.1, seed=0)
    splits.write_splits(tmp_path / "k", result, {})
    assert [folder.name for folder in splits.split_folders(tmp_path / "k")] == [f"fold{i}" for i in range(11)]
    assert splits.split_folders(tmp_path / "k" / "fold3") == [tmp_path / "k" / "fold3"]
    assert splits.split_folders(tmp_path) == []
    with pytest.raises(DataError, match="one split, found 11 folds; name one"):
        splits.read_split(tmp_path / "k")
    assert splits.read_split(tmp_path / "k" / "fold10").name == "k/fold10"
    read = splits.read_folds(tmp_path / "k")
    assert {name: fold.checksum for name, fold in read.items()} == {n: fold.checksum for n, fold in result.items()}
    assert list(splits.read_folds(tmp_path / "k" / "fold3")) == [""]


# --- recordings of other devices ---------------------------------------------------------------------------


def shard(folder: Path, subject: str, session: str, order: int, task: str = "") -> str:
    """A shard whose name says nothing of whose it is."""
    name = f"r{len(list(folder.iterdir())) if folder.exists() else 0}"
    one, n = np.zeros(1, WINDOW_FIELDS), 4
    facts = {"record": name, "subject": subject, "session": session, "order": order, "task": task, "rate": 200.0}
    facts |= {"unit": "uV", "channels": ["a"], "rings": [], "classes": ["b"], "rest_classes": [], "simulated": False}
    write_shard(folder / name, {**facts, "arguments": {"window": n, "stride": n}}, np.zeros((n, 1), np.float16), one)
    return name


def test_names_that_say_nothing_are_split_by_what_their_shards_say(tmp_path):
    shards = tmp_path / "shards"
    names = [shard(shards, subject, "1", 1) for subject in ("P101", "P9", "P10")]
    folder = by_hand(tmp_path / "s", **dict(zip(splits.SUBSETS, names, strict=True)))
    actual = splits.read_split(folder, shards)
    assert [actual.subjects(subset) for subset in splits.SUBSETS] == [("P101",), ("P9",), ("P10",)]
    with pytest.raises(DataError, match=r"s: expected a record name such as .*, or shards that say whose"):
        splits.read_split(folder)
    twice = shard(shards, "P9", "1", 2)
    leak = splits.Split("", "subject", (names[0], twice), (names[1],), (names[2],), seed=0)
    splits.write_split(tmp_path / "leak", replace(leak, facts=splits.facts_by_name([*names, twice], shards)), {})
    with pytest.raises(DataError, match=r"no person in two subsets .*, found P9 in train and val"):
        splits.read_split(tmp_path / "leak", shards)
    with pytest.raises(DataError, match=r"found none for 1 of them, such as gone; shards of 3 subjects .*P9 P10 P101"):
        splits.read_split(by_hand(tmp_path / "s", train=f"{names[0]}\ngone", val=names[1], test=names[2]), shards)


TWO_DAYS = [Record(f"{order}", "a", session, order) for order, session in enumerate(["one", "one", "two", "two"])]


def test_sessions_have_an_order_and_need_no_date():
    """Sessions by name would be evening, morning: what was recorded first trains."""
    people = [
        Record(f"{who}{n}", who, session, n) for who in "ab" for n, session in enumerate(["morning"] * 2 + ["evening"])
    ]
    split = splits.by_session(people, seed=0)[0][""]
    assert (split.train, split.val, split.test) == (("a0", "b0"), ("a1", "b1"), ("a2", "b2"))


def test_each_person_has_sessions_on_days_of_their_own():
    """One person's second session may be before another's first."""
    late = [replace(record, subject="late", name=f"late{record.name}", order=record.order + 10) for record in TWO_DAYS]
    late = [replace(record, session=f"{record.session} later") for record in late]
    split = splits.by_session([*TWO_DAYS, *late], seed=0)[0][""]
    assert split.test == ("2", "3", "late2", "late3")


def test_sessions_that_overlap_in_time_are_not_split():
    """The recordings tested would not all be later than those that train."""
    back = Record("back on the first day", "a", "one", 9)
    with pytest.raises(DataError, match="subject a trained on one session and tested on later ones"):
        splits.by_session([*TWO_DAYS, back], seed=0)


def test_two_sessions_may_not_train_where_one_is_promised():
    """Scores would be compared with those of people who were trained on one session."""
    people = [Record(f"{n}", "a", session, n) for n, session in enumerate(["one", "one", "two", "three"])]
    split = splits.Split("", "session", ("0", "2"), ("1",), ("3",), facts={one.name: one for one in people})
    with pytest.raises(DataError, match=r"expected subject a trained on one session .*, found one, two and three"):
        splits.check_split(split, "here")


def test_one_recording_of_a_long_session_validates_and_all_others_train():
    session = [Record(name, "a", "1", order) for order, name in enumerate("wxyz")]
    split = splits.by_recording(session, seed=0)[0]["x"]
    assert (split.train, split.val, split.test) == (("w", "y"), ("z",), ("x",))


def test_recordings_without_tasks_are_tested_under_their_names():
    session = [Record(name, "a", "1", order) for order, name in enumerate(("x", "y", "z"))]
    assert list(splits.by_recording(session, seed=0)[0]) == ["x", "y", "z"]


@pytest.mark.parametrize("tasks", [("fist", "fist", "pinch"), ("", "fist", "pinch")])
def test_recordings_whose_tasks_do_not_tell_them_apart_are_tested_under_their_names(tasks):
    session = [Record(name, "a", "1", order, task) for order, (name, task) in enumerate(zip("xyz", tasks, strict=True))]
    assert list(splits.by_recording(session, seed=0)[0]) == ["x", "y", "z"]


# --- who has been met before -------------------------------------------------------------------------------


def test_people_scored_who_were_trained_or_chosen_on_are_named_once_and_in_order():
    people = [f"{number:02d}" for number in range(20)]
    met = splits.met_before(people, people[4::-1], people[8:2:-1], "test")
    assert met == {"trained_on_subjects_scored": people[:5], "chosen_on_subjects_scored": people[5:9]}
    val = splits.met_before(people, people[4::-1], people[8:2:-1], "val")  # who are there to choose by
    assert val == {"trained_on_subjects_scored": people[:5], "chosen_on_subjects_scored": []}


# --- what is committed -------------------------------------------------------------------------------------


def test_the_published_unseen_users_are_the_test_people():
    split = splits.read_split(COMMITTED / "putemg-unseen-users")
    assert split.protocol == "subject"
    assert split.subjects("test") == ("08", "24", "34", "39")
    assert len(together(split)) == 264
    assert len({parse_record(name).subject for name in together(split)}) == 44


def test_the_committed_folds_test_each_of_44_people_once():
    folds = [splits.read_split(folder) for folder in splits.split_folders(COMMITTED / "putemg-kfold5")]
    assert len(folds) == 5
    tested = [person for split in folds for person in split.subjects("test")]
    assert len(tested) == len(set(tested)) == 44
    assert all(len(together(split)) == 264 for split in folds)
