"""import_csv.py: gestures as tables name them, and which of them become classes."""

import numpy as np
import pytest
from csv_study import GESTURES, table

from semg.common.errors import DataError, SettingError, UsageError


def test_numbers_as_labels_are_one_class_however_they_are_written(study):
    study.write()
    codes = {"idle": 0, "fist": 2, "open": 10, "pinch": 1}
    for subject, kind in ((1, int), (2, float)):
        result = table(subject)
        result.assign(label=result["label"].map(codes).astype(kind)).to_csv(
            study.folder / f"p{subject}.csv", index=False
        )
    assert "4 gestures: 0, 1, 2, 10" in study.run()[1]
    assert study.shards()[0].classes == ("0", "1", "2", "10")
    assert "2 gestures: 10, 0" in study.run("--classes", "10.0", "0", "--overwrite")[1]


def test_no_idle_keeps_the_gestures_alone(study):
    assert "3 gestures: fist, open, pinch" in study.write().run("--no-idle")[1]
    assert study.shards()[0].rest_classes == ()
    assert "2 gestures: idle, pinch" in study.run("--no-idle", "--rest-classes", "fist", "open", "--overwrite")[1]
    with pytest.raises(SettingError, match="a class without a gesture among idle, fist, open, pinch, found none"):
        study.run("--no-idle", "--rest-classes", "--overwrite")


def test_classes_that_no_recording_has_are_warned_of(study):
    _, out, errors = study.write().run("--classes", "idle", "fits", "Fist")
    assert "no recording has the gesture fits, Fist (--classes); they have fist, idle, open, pinch" in errors
    assert "3 gestures" in out
    with pytest.raises(DataError, match="expected one of the gestures nap, sleep, found fist"):
        study.run("--classes", "nap", "sleep", "--overwrite")


def test_gestures_that_differ_in_capitals_are_warned_of(study):
    errors = study.write(lambda t: t.replace({"label": {"open": "Fist"}})).run()[2]
    assert "differ in capitals alone are classes of their own: Fist, fist" in errors


def test_a_label_that_never_lasts_is_warned_of(study):
    study.write(lambda t: t.assign(label=t["label"].where(t.index != 100, "fits")))
    code, _, errors = study.run()
    assert code == 0
    assert "no window is of fits: no such label lasts for a window; --classes keeps the others alone" in errors
    assert study.run("--classes", *GESTURES, "--overwrite")[2] == ""


def test_a_gesture_that_is_new_leaves_the_shards_that_are_there_alone(study):
    """The new person was written with more classes than the others, so that no split could be made; and a gesture of
    the others was said to last for no window."""
    study.write().run()
    before = [shard.classes for shard in study.shards()]
    study.write(people=3)
    result = table(3)
    result.assign(label=result["label"].replace("fist", "wave")).to_csv(study.folder / "p3.csv", index=False)
    with pytest.raises(
        DataError, match=r"expected the gestures .*wave, found .* in p1, which is there already"
    ) as error:
        study.run()
    assert error.value.hint == f"{{classes}} {' '.join(before[0])} keeps to these, {{overwrite}} makes all anew"
    assert [shard.classes for shard in study.shards()] == before
    code, out, errors = study.run("--classes", *before[0])
    assert (code, errors, "1 shard written, 2 kept" in out) == (0, "", True)


def test_of_many_gestures_the_difference_from_the_shards_there_is_named(study):
    """Of two lists of 50 names nobody sees which one differs, and the command to type was cut off in its middle."""
    names = [f"gesture {k} of the fingers, with the wrist in flexion" for k in range(12)]
    study.write(people=1, change=lambda one: one.assign(label=np.repeat(names, len(one) // 12))).run()
    classes = study.shards()[0].classes
    assert len(classes) == 12
    changed = [*names[:-1], "a new one"]
    study.write(people=1, change=lambda one: one.assign(label=np.repeat(changed, len(one) // 12)))
    with pytest.raises(DataError) as error:
        study.run()
    message = str(error.value.message)
    assert f" (without a new one and with {names[-1]})" in message
    assert names[9] not in message and "and 4 more in p1, which is there already" in message
    hint = "{classes} with the classes in " + (study.folder / "shards" / "p1" / "shard.json").as_posix()
    assert (error.value.hint or "").startswith(hint)


def test_gestures_of_recordings_that_failed_are_not_said_to_be_too_short(study):
    study.write()
    table(2).assign(label="wave", ch1=5.0, **{f"ch{n}": 5.0 for n in range(2, 9)}).to_csv(
        study.folder / "p2.csv", index=False
    )
    code, _, errors = study.run()
    assert code == 1
    assert "no window is of" not in errors


def test_a_class_called_0_is_pointed_out_for_in_many_data_sets_it_is_rest_or_no_label(study):
    told = "0 is a gesture too: --rest-classes 0 if it is rest, --classes with the others if it is no label"
    study.write(lambda t: t.replace({"label": {"idle": "0", "fist": "1", "open": "2"}}))
    assert told in study.run()[1]
    assert "0 is a gesture" not in study.run("--rest-classes", "0", "--overwrite")[1]
    assert "0 is a gesture" not in study.run("--classes", "0", "1", "--overwrite")[1]
    study.write(lambda t: t.replace({"label": {"fist": "0"}}))
    assert f"no gesture is made in idle (--rest-classes); {told}" in study.run("--overwrite")[1]


def test_a_table_without_a_header_has_its_labels_in_a_column_by_number(study):
    study.write().run(shards="plain")
    study.write(header=False, people=6)
    code, _, errors = study.run()
    assert code == 1
    told = (
        "expected a column 'label', found 9 columns without a header; --labels counts it from 1, such as --labels 9; "
    )
    assert f"p1.csv: {told}" in errors
    assert f"3 more recordings: {told}" in errors, "one reason, whatever the first samples are"
    study.write(header=False)
    assert "expected a column '10', found 9 columns without a header" in study.run("--labels", 10)[2]
    assert study.run("--labels", 9)[0] == 0
    for one, other in zip(study.shards("plain"), study.shards(), strict=True):
        np.testing.assert_array_equal(one.signal, other.signal)
        assert one.classes == other.classes
    np.save(
        study.folder / "p1.npy", table(1).replace({"label": {g: k for k, g in enumerate(GESTURES)}}).to_numpy(float)
    )
    study.list.write_text("file,subject\np1.npy,1\n")
    assert study.run("--labels", 9, shards="numpy")[0] == 0
    np.testing.assert_array_equal(study.shards("numpy")[0].signal, study.shards("plain")[0].signal)


@pytest.mark.parametrize("word", ["nan", "", " "])
def test_a_word_that_stands_for_no_gesture_names_no_class(study, word):
    """A class without a name came into the shards."""
    study.write()
    for flag, others in (("--classes", ("idle", "fist")), ("--rest-classes", ("idle",))):
        with pytest.raises(UsageError, match=f"{flag}: expected names of gestures, found {word!r}"):
            study.run(flag, word, *others)


@pytest.mark.parametrize("missing", ["NA", "<NA>", "<undefined>", "<missing>"])
def test_what_r_pandas_and_matlab_write_for_no_label_is_none(study, missing):
    study.write(lambda t: t.replace({"label": {"idle": missing}}))
    assert "3 gestures: fist, open, pinch" in study.run()[1]


def test_a_label_that_cannot_be_written_is_named_before_the_first_shard(study):
    study.write(lambda t: t.replace({"label": {"open": "op\x1ben"}}))
    with pytest.raises(DataError, match=r"expected names of gestures in the column 'label', found 'op\\x1ben'"):
        study.run()


def test_a_single_gesture_is_refused_for_nothing_can_be_trained(study):
    study.write()
    with pytest.raises(UsageError, match="--classes: expected at least 2 gestures, found fist alone"):
        study.run("--classes", "fist")
    study.write(lambda t: t.assign(label="fist"))
    told = "expected recordings of at least 2 gestures in the column 'label', found fist alone"
    with pytest.raises(DataError, match=told) as error:
        study.run()
    assert "{classes} names those of all recordings that belong together" in error.value.hint
    assert not (study.folder / "shards").exists()
    assert study.run("--classes", "idle", "fist")[0] == 0, "as one of several imports into a folder"


def test_the_list_names_the_gestures_of_whole_recordings(study):
    """Recording programs often write a file for each repetition, named after its gesture, without a header."""
    whole = table(1)
    rows = ["file,subject,label"]
    for subject in (1, 2):
        for place, (gesture, one) in enumerate(table(subject).groupby("label", sort=False)):
            name = f"s{subject}/R_0_C_{place}.csv"
            (study.folder / name).parent.mkdir(exist_ok=True)
            one.drop(columns="label").to_csv(study.folder / name, index=False, header=False)
            rows.append(f"{name},{subject},{gesture}")
    study.list.write_text("\n".join(rows))
    code, out, errors = study.run()
    assert (code, errors) == (0, "")
    assert "4 gestures: idle, fist, open, pinch" in out
    shards = study.shards()
    assert [shard.meta["gesture"] for shard in shards[:4]] == GESTURES
    assert [set(shard.windows["label"]) for shard in shards[:4]] == [{0}, {1}, {2}, {3}]
    assert shards[0].signal.shape == (len(whole) // 4, 8)
    study.list.write_text("\n".join(rows).replace("R_0_C_3.csv,1,pinch", "R_0_C_3.csv,1,fist"))
    code, _, errors = study.run()
    assert code == 1
    assert "s1-R_0_C_3: expected gesture fist, found pinch; --overwrite redoes it" in errors


def test_a_gesture_in_list_and_table_is_ambiguous_and_in_neither_is_asked_for(study):
    study.write(people=3)
    table(3).drop(columns="label").to_csv(study.folder / "p3.csv", index=False)
    study.list.write_text("file,subject,label\np1.csv,1,fist\np2.csv,2,\np3.csv,3,\n")
    code, out, errors = study.run()
    assert code == 1
    assert "p1.csv: expected its gestures in the list or in the table, found 'fist' in the list and a column" in errors
    assert "p3.csv: expected a column 'label', found ch1, ch2" in errors
    assert "a column label in the list names the gesture of a whole recording" in errors
    assert "1 shard written" in out


def test_a_label_in_the_list_is_written_like_one_in_a_table(study):
    study.write()
    for subject in (1, 2):
        table(subject).drop(columns="label").to_csv(study.folder / f"p{subject}.csv", index=False)
    study.list.write_text("file,subject,label\np1.csv,1,1.0\np2.csv,2,2\n")
    assert "2 gestures: 1, 2" in study.run()[1]


@pytest.mark.parametrize("name", ["No_Motion", "no motion", "Rest"])
def test_common_names_of_rest_are_known(study, name):
    study.write(lambda t: t.replace({"label": {"idle": name}}))
    assert f"no gesture is made in {name}" in study.run()[1]
