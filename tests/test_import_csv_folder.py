"""import_csv.py into a folder that has shards already: what is kept, what is refused, what is taken over."""

import pytest
from csv_study import table

import import_csv
from semg.common.errors import DataError, UsageError
from semg.data.shards import open_shard


def test_shards_made_otherwise_are_named_and_the_rest_of_them_counted(study):
    assert study.write(people=6).run()[0] == 0
    code, _, errors = study.run("--unit", "uV")
    assert code == 1
    first, *_, last = [line.removeprefix("error: ") for line in errors.splitlines()]
    output = "expected unit uV, found none; --overwrite redoes it"
    assert first.endswith(f"p1: {output}")
    assert last == f"3 more recordings: {output}"


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        ((), ("--rest-classes", "fist"), "rest_classes ['fist'], found ['idle']"),
        (("--rest-classes", "fist"), (), "rest_classes ['idle'], found ['fist']"),
        ((), ("--no-idle",), "classes ['fist', 'open', 'pinch'], found ['idle', 'fist', 'open', 'pinch']"),
        ((), ("--simulated",), "simulated True, found False"),
        ((), ("--rings", "none"), "rings [], found [[0, 1, 2, 3, 4, 5, 6, 7]]"),
        ((), ("--channels", "1-8"), "columns [1, 2, 3, 4, 5, 6, 7, 8], found none"),
        (("--channels", "1-8", "--rings", "1-8"), ("--channels", "1-8", "--rings", "1-4"), "rings [[0, 1, 2, 3]]"),
        ((), ("--unit", "uV"), "unit uV, found none"),
        ((), ("--window", "300ms"), "window 60, found 50"),
        ((), ("--notch", "60"), "notch [60.0], found [50.0]"),
    ],
)
def test_flags_that_existing_shards_do_not_have_are_refused_before_recordings_are_read(study, first, then, told):
    """To read hundreds of recordings takes minutes; only then it was said that --overwrite is needed."""
    assert study.write(people=1).run(*first)[0] == 0
    code, out, errors = study.run(*then)
    assert code == 1
    assert f"p1: expected {told}" in errors and "; --overwrite redoes it" in errors
    assert "reading" not in out
    assert "0 shards written, 0 kept, 0 windows; 1 recording failed, see above" in out
    assert study.run(*then, "--overwrite")[0] == study.run(*then)[0] == 0


def test_gestures_that_existing_shards_do_not_have_are_refused_before_recordings_are_read(study, monkeypatch):
    study.write().run()
    monkeypatch.setattr(import_csv, "look_at_all", None)
    with pytest.raises(DataError, match="expected the gestures fist, open, found idle, fist, open, pinch in p1"):
        study.run("--classes", "fist", "open")


def test_flags_that_contradict_each_other_are_refused_before_recordings_are_read(study, monkeypatch):
    study.write()
    monkeypatch.setattr(import_csv, "look_at_all", None)
    with pytest.raises(UsageError, match="--rest-classes nap: expected one of the classes fist, open"):
        study.run("--classes", "fist", "open", "--rest-classes", "nap")
    with pytest.raises(UsageError, match="--stride 300ms: expected at most the window, 250ms"):
        study.run("--stride", "300ms")
    with pytest.raises(UsageError, match="--rings: expected columns that --channels names, found 4"):
        study.run("--channels", "1-3", "--rings", "1-4")


def test_a_ring_of_columns_that_are_no_channels_is_refused_when_these_are_known(study, monkeypatch):
    """Not only once all recordings are read, and filtered as far as the first."""
    study.write(people=1)
    monkeypatch.setattr(import_csv, "settle", None)
    code, _, errors = study.run("--rings", "1-9")
    assert code == 1
    assert "p1.csv: expected a channel in column 9 (--rings), found none there" in errors


def test_a_shard_that_is_damaged_or_of_another_person_is_refused_first_and_others_are_made(study):
    study.write(people=2).run()
    (study.folder / "shards" / "p1" / "shard.json").write_text("{}")
    study.write(people=4)
    study.list.write_text(study.list.read_text().replace("p2.csv,2", "p2.csv,7"))
    (study.folder / "p3.csv").write_text("")
    code, out, errors = study.run()
    assert code == 1
    damaged, other, empty = errors.splitlines()
    assert "expected shard format" in damaged and "--overwrite" in damaged
    assert "p2: expected subject 7, found 2; --overwrite redoes it" in other
    assert "p3.csv: expected" in empty
    assert "1 shard written, 0 kept" in out and "3 recordings failed" in out


def test_a_recording_added_later_is_multiplied_by_the_same(study):
    study.write(lambda t: t.assign(**(t.filter(like="ch") * 1e-6)), people=2).run()
    scale = study.shards()[0].arguments["scale"]
    study.write(lambda t: t.assign(**(t.filter(like="ch") * 1e-6)), people=3)
    result = table(3)
    result.assign(**(result.filter(like="ch") * 9e-6)).to_csv(study.folder / "p3.csv", index=False)
    out = study.run()[1]
    assert "1 shard written, 2 kept" in out
    assert {shard.arguments["scale"] for shard in study.shards()} == {scale}


def test_notches_and_factor_of_shards_at_another_rate_are_not_taken_over(study):
    """150 Hz is no frequency of a signal at 200 Hz."""
    study.write(lambda t: t.assign(**(t.filter(like="ch") * 1e-6)))
    assert study.run("--notch", 50, 150, rate=1000)[0] == 0
    code, out, errors = study.write(people=3).run()
    assert code == 1
    assert "p1: expected rate 200.0, found 1000.0; --overwrite redoes it" in errors
    assert "1 shard written" in out
    shard = open_shard(study.folder / "shards" / "p3")
    assert (shard.arguments["notch"], shard.arguments["scale"]) == ([50.0], 10.0)


def test_another_list_of_other_people_is_filtered_and_multiplied_as_the_folders_shards_are(study):
    """Otherwise no model could be trained on both."""
    study.write(people=1).run("--notch", 60)
    (study.folder / "p1.csv").unlink()
    weak = table(2)
    weak.assign(**(weak.filter(like="ch") * 0.01)).to_csv(study.folder / "p2.csv", index=False)
    study.list.write_text("file,subject\np2.csv,2\n")
    assert study.run()[0] == 0
    one, other = study.shards()  # they open together
    assert (one.arguments["notch"], one.arguments["scale"]) == (other.arguments["notch"], other.arguments["scale"])


def test_a_person_of_whom_the_folder_has_more_than_the_list_is_refused_and_others_are_done(study):
    """Order in time is that of one list: two lists both began a person's at 1, and a later session came first."""
    study.write(people=1).run()
    table(2).to_csv(study.folder / "later.csv", index=False)
    table(3).to_csv(study.folder / "p3.csv", index=False)
    study.list.write_text("file,subject\nlater.csv,1\np3.csv,3\n")
    for flags in ([], ["--overwrite"]):
        code, out, errors = study.run(*flags)
        assert code == 1
        assert "later.csv: expected all recordings of subject 1 in one list, for it gives their order" in errors
        assert f"found also {study.folder / 'shards' / 'p1'} of subject 1; add it to the list" in errors
        assert "1 shard" in out.splitlines()[-1] or "1 kept" in out.splitlines()[-1]
    study.list.write_text("file,subject\np1.csv,1\nlater.csv,1\np3.csv,3\n")
    assert study.run()[0] == 0
    assert {shard.record: shard.order for shard in study.shards()} == {"p1": 1, "later": 2, "p3": 1}
