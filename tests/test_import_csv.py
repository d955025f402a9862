"""import_csv.py on tables as they come: what it takes, what it says, and that a unit changes nothing but the unit."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import import_csv
from semg.common.errors import DataError, SettingError, UsageError
from semg.data.normalization import ChannelNormalization, transform_of
from semg.data.shards import Shard, open_shard, open_shards
from semg.data.tables import Table

GESTURES = ["idle", "fist", "open", "pinch"]
RATE = 200


def table(subject: int, rate: float = RATE, channels: int = 8, seconds: float = 3.0) -> pd.DataFrame:
    """Four gestures twice, each on channels of its own, in microvolts."""
    random, pattern = np.random.default_rng(subject), np.random.default_rng(7).uniform(0.3, 3, (4, channels))
    n = int(seconds * rate)
    signal = np.concatenate([random.normal(size=(n, channels)) * pattern[k] * 20 for _ in range(2) for k in range(4)])
    result = pd.DataFrame(signal, columns=[f"ch{i + 1}" for i in range(channels)])
    return result.assign(label=np.repeat(GESTURES * 2, n))


class Study:
    """A folder of recordings with its list, and import_csv.py run on it in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch
        self.list = folder / "recordings.csv"

    def write(self, change=lambda table: table, people: int = 2, name: str = "p{}.csv", **settings) -> "Study":
        names = [name.format(subject) for subject in range(1, people + 1)]
        for subject, file in enumerate(names, 1):
            change(table(subject)).to_csv(self.folder / file, **{"index": False, **settings})
        rows = "".join(f"{file},{subject}\n" for subject, file in enumerate(names, 1))
        self.list.write_text(f"file,subject\n{rows}")
        return self

    def run(self, *words, rate: float = RATE, shards: str = "shards") -> tuple[int, str, str]:
        flags = ["import_csv.py", self.list, "--rate", rate, "--shards", self.folder / shards, *words]
        self._monkeypatch.setattr(sys, "argv", list(map(str, flags)))
        return import_csv.main(), *self._capsys.readouterr()

    def shards(self, name: str = "shards") -> list[Shard]:
        folder = self.folder / name
        return open_shards(folder, sorted(path.name for path in folder.iterdir() if path.is_dir()))


@pytest.fixture
def study(tmp_path, capsys, monkeypatch) -> Study:
    return Study(tmp_path, capsys, monkeypatch)


# --- tables as they come -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("P{}.CSV", {}),
        ("p{}.txt", {"sep": "\t"}),
        ("p{}.tsv", {"sep": "\t", "decimal": ","}),
        ("p{}.csv", {"sep": ";", "decimal": ","}),
        ("p{}.csv", {"quoting": csv.QUOTE_ALL}),
        ("p{}.csv", {"encoding": "utf-16"}),
        ("p{}.csv", {"encoding": "utf-8-sig", "lineterminator": "\r\n"}),
        ("p{}.csv", {"index": True}),
    ],
)
def test_the_same_table_in_another_form_becomes_the_same_shard(study, name, settings):
    assert study.write().run(shards="plain")[0] == 0
    assert study.write(name=name, **settings).run(shards="other")[0] == 0
    for one, other in zip(study.shards("plain"), study.shards("other"), strict=True):
        np.testing.assert_array_equal(one.signal, other.signal)
        np.testing.assert_array_equal(one.windows, other.windows)
        assert (one.channels, one.classes) == (other.channels, other.classes)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", ", "),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text + ",,\n,,\n",
        lambda text: text.replace("file,subject", "File , SUBJECT"),
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: "# made by hand\n" + text,
        lambda text: text.replace("p1.csv", '"p1.csv"'),
        lambda text: text.replace("p1.csv", "P1.CSV"),
        lambda text: text.replace("p1.csv", ".\\p1.csv"),
        lambda text: text.replace(",1\n", ",1.0\n"),
        lambda text: "My study\n" + text,
    ],
)
def test_lists_as_they_come(study, change):
    study.write()
    study.list.write_text(change(study.list.read_text()), encoding="utf-8", newline="")
    assert "2 shards written" in study.run()[1]
    assert [shard.subject for shard in study.shards()] == ["1", "2"]


def test_a_person_has_one_name_however_a_spreadsheet_writes_the_number(study):
    study.write(people=3)
    study.list.write_text("file,subject,session\np1.csv,1.0,1\np2.csv,1,1.0\np3.csv,2.00,1\n")
    study.run()
    assert [(shard.subject, shard.session) for shard in study.shards()] == [("1", "1/1"), ("1", "1/1"), ("2", "2/1")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name,subject\np1.csv,1\n", "expected columns file, subject in a list of recordings, found name, subject"),
        ("file,subject\n", "expected a row a recording below the header, found no row"),
        ("file,subject\np1.csv,1\n,2\n", "recordings.csv:3: expected a file, found none"),
        ("file,subject\np1.csv,1,9\n", ":1: expected 3 names"),
        ("file,subject,Subject\np1.csv,1,2\n", "expected one column subject, found 2"),
        (None, "recordings.csv: expected a list of recordings, found no such file"),
    ],
)
def test_wrong_lists_are_named_with_the_line(study, content, told):
    study.write()
    study.list.unlink()
    if content is not None:
        study.list.write_text(content)
    with pytest.raises(DataError, match=told):
        study.run()


def test_the_true_reason_is_told_once_for_many_recordings_of_a_kind(study):
    code, _, errors = study.write(lambda t: t.rename(columns={"label": "gesture"}), people=6).run()
    assert code == 1
    lines = errors.splitlines()
    assert len(lines) == 4
    assert "p1.csv: expected a column 'label', found ch1" in lines[0]
    assert "--labels names another" in lines[0]
    assert "3 more recordings: expected a column 'label'" in lines[3]


def test_shards_made_otherwise_are_named_and_the_rest_of_them_counted(study):
    assert study.write(people=6).run()[0] == 0
    code, _, errors = study.run("--unit", "uV")
    assert code == 1
    first, *_, last = [line.removeprefix("error: ") for line in errors.splitlines()]
    output = "expected unit uV, found none; --overwrite redoes it"
    assert first.endswith(f"p1: {output}")
    assert last == f"3 more recordings: {output}"


def test_a_wrong_unit_is_one_error_and_no_shard(study):
    study.write(lambda t: t.assign(**(t.filter(like="ch") * 1e4)), people=4)
    with pytest.raises(UsageError, match=r"unit: expected a unit in which surface EMG has an RMS of 0.1 to 10000 uV"):
        study.run("--unit", "V")
    assert not (study.folder / "shards").exists()
    assert study.run()[0] == 0, "without --unit any scale will do"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_recording_and_others_are_done(study):
    study.write()
    (study.folder / "p2.csv").unlink()
    os.mkfifo(study.folder / "p2.csv")
    code, out, errors = study.run()
    assert code == 1
    assert "p2.csv: expected a table of samples, found a pipe" in errors
    assert "1 shard written" in out


# --- columns and labels ------------------------------------------------------------------------------------


def test_which_columns_are_channels_is_said_and_a_time_is_none_of_them(study):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.insert(0, "time", np.arange(len(table)) / RATE)
        return table.assign(note="", acc_x=1.5, trial=3)

    out = study.write(change).run()[1]
    assert "channels ch1, ch2, ch3, ch4, ch5, ch6, ch7, ch8; no channels: time (a time), note (text)" in out
    assert "missing samples are judged by time" in out
    assert study.shards()[0].channels == tuple(f"ch{n}" for n in range(1, 9))
    code, _, errors = study.run("--channels", "1-8", "--overwrite")
    assert code == 1
    assert "expected a channel in column 1, found 'time', which holds a time; the channels are --channels 2-9" in errors


@pytest.mark.parametrize("length", [100, 250])
def test_a_counter_that_begins_anew_is_said_and_cuts_no_window(study, length):
    assert study.write().run(shards="plain")[0] == 0
    study.write(lambda t: t.assign(n=(t.index + 37) % length + 1))
    code, out, errors = study.run()
    assert (code, errors) == (0, "")
    assert "no channels: n (a counter)" in out
    assert f"missing samples are judged by n, which wraps around after {length}" in out
    for one, other in zip(study.shards("plain"), study.shards(), strict=True):
        np.testing.assert_array_equal(one.signal, other.signal)
        np.testing.assert_array_equal(one.windows, other.windows)
        assert other.meta["faults"]["gaps"] == []


def test_a_channel_that_holds_no_numbers_shrinks_no_recording(study):
    for cell, told in (("1.234,5", "cells such as '1.234,5'"), ("", "empty cells")):
        first = "0,5" if cell else ""
        column = np.where(np.arange(len(table(1))) == 0, first, cell)
        study.write(lambda t, column=column: t.assign(ch3=column), people=1, sep=";", decimal=",")
        code, _, errors = study.run()
        assert code == 1
        assert f"p1.csv: expected numbers in column 3 (ch3), found {told}; numbers are read without grouped" in errors
    assert study.run("--channels", "1,2,4-8")[0] == 0


def test_a_recording_without_a_signal_is_refused(study):
    study.write(people=2)
    table(2).assign(**{f"ch{n}": 5.0 for n in range(1, 9)}).to_csv(study.folder / "p2.csv", index=False)
    code, out, errors = study.run()
    assert code == 1
    assert "p2.csv: expected a signal, found channels that never change" in errors
    assert "1 shard written" in out


def test_times_that_cannot_be_read_judge_nothing_and_nobody_says_so(study):
    study.write(lambda t: t.assign(time=[f"tick {n}" for n in range(len(t))]))
    out = study.run()[1]
    assert "time (a time)" in out
    assert "no column shows missing samples" in out


def test_what_is_ambiguous_is_asked_for_by_the_flags_name(study):
    study.write(lambda table: table.assign(reference=table["ch1"]))
    code, _, errors = study.run()
    assert code == 1
    assert "found 'reference' in column 10; say which columns are channels, such as --channels 1-8" in errors
    assert study.run("--channels", "1-8")[0] == 0


@pytest.mark.parametrize("name", ["subject", "Participant ID", "user"])
def test_a_table_of_several_people_is_refused_and_of_another_than_the_list_says_doubted(study, name):
    """As one person's they would be in training and test at once."""
    study.write(lambda t: t.assign(**{name: np.where(t.index < 999, 1, 2)}), people=1)
    code, _, errors = study.run()
    assert code == 1
    assert f"p1.csv: expected one person's recording, found 1, 2 in column 10 ({name}); write a table of each" in errors
    for person, doubted in (("P01", False), ("S7", True), ("anna", False)):
        study.write(lambda t, person=person: t.assign(**{name: person}), people=1)
        code, out, errors = study.run("--overwrite")
        told = f"its column says that person {person} was recorded, the list says 1"
        assert (code, told in errors, f"{name} (" in out) == (0, doubted, True)


def test_a_table_of_several_sessions_is_doubted(study):
    errors = study.write(lambda t: t.assign(session=np.where(t.index < 999, 1, 2))).run()[2]
    assert "p1.csv: its column session has 2 values, but it is taken as one session" in errors


def test_trials_right_after_each_other_are_repetitions_of_their_own(study):
    """Of a label that goes on from one to the next, all trials were one repetition, and windows were of two."""

    def change(table):
        gesture = np.repeat(["fist", "open"], 2400)
        return table.assign(label=gesture, trial=table.index // 400 % 6 + 1)

    out = study.write(change, people=1).run()[1]
    assert "no window spans two trials, which trial counts" in out
    (shard,) = study.shards()
    ends = shard.windows["start"] + shard.window - 1
    assert (shard.windows["start"] // 400 == ends // 400).all()
    np.testing.assert_array_equal(shard.windows["repetition"], shard.windows["start"] // 400 % 6)
    assert (shard.windows["low"] // 400 == (shard.windows["high"] + shard.window - 1) // 400).all()
    study.write(lambda t: (one := change(t)).assign(trial=np.where(one.index % 400 < 200, 0, one["trial"])))
    assert "two trials" not in study.run("--overwrite")[1], "with a rest between them their labels tell"


def test_a_unit_that_the_names_contradict_is_doubted(study):
    names = {f"ch{n}": f"EMG {n} (mV)" for n in range(1, 9)}
    study.write(lambda t: t.assign(**t.filter(like="ch") / 100).rename(columns=names))
    assert "p1.csv: its unit is mV by the names of its channels, --unit says uV" in study.run("--unit", "uV")[2]
    assert study.run("--unit", "mV", "--overwrite")[2] == study.run("--overwrite")[2] == ""


def test_the_same_samples_twice_are_one_recording(study):
    """A file that was copied under another person's name: what is tested would have been trained on."""
    study.write(people=3)
    (study.folder / "p3.csv").write_text((study.folder / "p1.csv").read_text().replace("label", "Label"))
    code, out, errors = study.run()
    assert code == 1
    assert "p3.csv: expected a recording of its own, found the samples of p1.csv again" in errors
    assert "2 shards written" in out


def test_a_rectified_signal_is_doubted_and_counts_from_0_are_not(study):
    def changed(change):
        study.write(lambda t: t.assign(**{name: change(t[name]) for name in t.columns[:-1]}))
        return study.run("--overwrite")[2]

    told = "p1.csv: its samples are never below 0 and most lie near it: a rectified signal or an envelope"
    assert told in changed(abs)
    assert told in changed(lambda one: (one**2).rolling(20, min_periods=1).mean() ** 0.5)
    assert changed(lambda one: np.round(one * 4) + 2048) == ""


def test_recordings_of_other_channels_are_named(study):
    study.write(people=3)
    table(2).drop(columns="ch3").to_csv(study.folder / "p2.csv", index=False)
    code, out, errors = study.run()
    assert code == 1
    assert "p2.csv: expected the channels ch1, ch2, ch3" in errors
    assert "2 shards written" in out


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


def test_a_table_without_a_header_has_its_labels_in_a_column_by_number(study):
    study.write().run(shards="plain")
    study.write(header=False)
    code, _, errors = study.run()
    assert code == 1
    assert "expected a column 'label', found " in errors
    assert "--labels names another, or counts it from 1 where there is no header, such as --labels 9" in errors
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


# --- reading once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "times"), [(None, 2), (0, 4), (500_000, 3)])
def test_a_table_is_read_once_where_memory_allows(study, monkeypatch, room, times):
    study.write()
    read: list[Path] = []

    class Counted(Table):
        def __init__(self, path, **settings):
            read.append(path)
            super().__init__(path, **settings)

    assert study.run(shards="plain")[0] == 0
    monkeypatch.setattr(import_csv, "Table", Counted)
    if room is not None:
        monkeypatch.setattr(import_csv, "KEPT_BYTES", room)
    assert study.run()[0] == 0
    assert len(read) == times
    for one, other in zip(study.shards("plain"), study.shards(), strict=True):
        np.testing.assert_array_equal(one.signal, other.signal)
        assert one.meta["checksum"] == other.meta["checksum"]


@pytest.mark.parametrize("room", [1 << 29, 0], ids=["kept", "read again"])
def test_a_table_that_changes_while_others_are_read_is_named_and_left_out(study, monkeypatch, room):
    """What holds for all was settled by what it was: new gestures would be left out, and its checksum be another's."""
    study.write(people=3)
    path, settle = study.folder / "p2.csv", import_csv.settle

    def replaced_first(*words):
        lines = path.read_text().splitlines(keepends=True)
        path.with_suffix(".new").write_text("".join(lines[:-9]))
        path.with_suffix(".new").replace(path)
        return settle(*words)

    monkeypatch.setattr(import_csv, "settle", replaced_first)
    monkeypatch.setattr(import_csv, "KEPT_BYTES", room)
    code, out, errors = study.run()
    assert code == 1
    assert "p2.csv: expected a recording at rest, found it changed while others were read; run this again" in errors
    assert "2 shards written" in out


def test_a_table_that_changes_between_checksum_and_reading_is_named(study, monkeypatch):
    study.write(people=2)
    path, checksum = study.folder / "p2.csv", import_csv.checksum

    def replaced_after(file):
        actual = checksum(file)
        if file == path:
            path.write_text(path.read_text().replace("idle", "fist"))
        return actual

    monkeypatch.setattr(import_csv, "checksum", replaced_after)
    assert "p2.csv: expected a recording at rest, found it changed" in study.run()[2]


# --- units -------------------------------------------------------------------------------------------------

SCALES = {"uV": 1.0, "mV": 1e-3, "V": 1e-6, "counts": 1e6, "adc": 1 / 0.02235, "nV": 1e3}


def test_the_same_signal_in_any_unit_is_the_same_within_float16s_rounding(study):
    signals, transformed = {}, {}
    for name, scale in SCALES.items():
        study.write(lambda t, scale=scale: t.assign(**(t.filter(like="ch") * scale)))
        assert study.run(shards=name)[0] == 0
        shards = study.shards(name)
        assert {shard.meta["unit"] for shard in shards} == {"arbitrary"}
        signals[name] = np.asarray(shards[0].signal, np.float64) / shards[0].arguments["scale"] / scale
        transform = transform_of(shards, ChannelNormalization("session"))[0]
        transformed[name] = np.asarray(shards[0].signal, np.float32) @ transform
        assert transformed[name].std(axis=0) == pytest.approx(np.ones(8), abs=2e-3)
    for name in SCALES:
        np.testing.assert_allclose(signals[name], signals["uV"], rtol=2e-3, atol=2e-4 * signals["uV"].std())
        np.testing.assert_allclose(transformed[name], transformed["uV"], rtol=2e-3, atol=1e-3)
    for name in ("mV", "V", "nV", "counts"):  # powers of ten: the same float16s, but for a last digit here and there
        assert np.isclose(signals[name], signals["uV"], rtol=1e-6, atol=0).mean() > 0.9


def test_a_unit_that_is_given_makes_microvolts(study):
    study.write().run("--unit", "uV", shards="uV")
    study.write(lambda t: t.assign(**(t.filter(like="ch") * 1e-3))).run("--unit", "mV", shards="mV")
    one, other = study.shards("uV")[0], study.shards("mV")[0]
    assert (one.meta["unit"], one.arguments["scale"], other.arguments["scale"]) == ("uV", 1.0, 1000.0)
    np.testing.assert_allclose(one.signal, other.signal, rtol=2e-3, atol=0.02)


def test_a_recording_added_later_is_multiplied_by_the_same(study):
    study.write(lambda t: t.assign(**(t.filter(like="ch") * 1e-6)), people=2).run()
    scale = study.shards()[0].arguments["scale"]
    study.write(lambda t: t.assign(**(t.filter(like="ch") * 1e-6)), people=3)
    result = table(3)
    result.assign(**(result.filter(like="ch") * 9e-6)).to_csv(study.folder / "p3.csv", index=False)
    out = study.run()[1]
    assert "1 shard written, 2 kept" in out
    assert {shard.arguments["scale"] for shard in study.shards()} == {scale}


def test_a_recording_in_another_unit_than_the_others_is_named(study):
    study.write(people=3)
    result = table(2)
    result.assign(**(result.filter(like="ch") * 1e-6)).to_csv(study.folder / "p2.csv", index=False)
    for flags, unit in ((["--unit", "uV"], " uV"), ([], "")):
        code, out, errors = study.run(*flags, "--overwrite")
        assert code == 1
        told = (
            rf"p2\.csv: expected an RMS near the others' \d+\.?\d*{unit}, found [\d.]+e-05{unit}: it is in another unit"
        )
        assert re.search(told, errors)
        assert "2 shards written" in out


# --- faults, gaps, mains, rates ----------------------------------------------------------------------------


def test_dead_and_equal_channels_are_reported(study):
    _, _, errors = study.write(lambda t: t.assign(ch3=0.0, ch6=t["ch5"])).run()
    assert "p1: dead channels 3, equal channels 5=6" in errors
    assert study.shards()[0].meta["faults"] == {
        "dead": [3],
        "saturated": [],
        "duplicate": [[5, 6]],
        "gaps": [],
        "still": [],
    }


def test_a_signal_that_stands_still_is_reported(study):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        channels = [name for name in table if name.startswith("ch")]
        table.loc[701:800, channels] = table.loc[700, channels].to_numpy()
        return table

    errors = study.write(change).run()[2]
    assert "p1: no channel changes for 0.505 s, at 3.5 s: were samples lost there?" in errors
    assert study.shards()[0].meta["faults"]["still"] == [[700, 101]]


def test_missing_samples_are_reported_and_no_window_spans_them(study):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.insert(0, "time", np.arange(len(table)) / RATE)
        return table.drop(index=table.index[700:800])

    errors = study.write(change).run()[2]
    assert "p1: lost samples: 0.5 s in 1 gap, at 3.5 s" in errors
    shard = study.shards()[0]
    assert shard.meta["faults"]["gaps"] == [[700, 100]]
    start = shard.windows["start"]
    assert not ((start < 700) & (start + shard.window > 700)).any()


def test_a_rate_that_the_time_contradicts_is_named_with_the_flag(study):
    study.write(lambda t: t.assign(time=np.arange(len(t)) / 1000))
    code, _, errors = study.run()
    assert code == 1
    assert "expected 200 Hz, found 1000 Hz by the times in column 10 (time); --rate is another" in errors


@pytest.mark.parametrize("mains", [50, 60])
def test_hum_is_said_recorded_and_taken_out(study, mains):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        hum = 40 * np.sin(2 * np.pi * mains * np.arange(len(table)) / RATE)
        return table.assign(**table.filter(like="ch").add(hum, axis=0))

    out = study.write(change).run()[1]
    assert f"{mains} Hz out; mains hum: {mains} Hz in 2 of 2" in out
    shard = study.shards()[0]
    assert (shard.meta["mains"], shard.arguments["notch"]) == (mains, [mains])
    out = study.run("--notch", 30, "--overwrite")[1]
    assert "30 Hz out; mains hum" in out


def test_without_hum_50_hertz_are_taken_out_as_ever(study):
    assert "50 Hz out; mains hum: not heard" in study.write().run()[1]
    assert study.shards()[0].meta["mains"] is None


def test_where_nothing_could_be_read_nothing_follows(study):
    study.write()
    for path in study.folder.glob("p*.csv"):
        path.write_text("")
    code, out, err = study.run()
    assert (code, err.count("error: ")) == (1, 2)
    assert "0 shards written" in out
    assert "next:" not in out


def test_rest_means_another_thing_elsewhere_and_is_refused_here(study, capsys):
    with pytest.raises(SystemExit) as stop:
        study.write().run("--rest", "nap")
    assert stop.value.code == 2
    assert "--rest: is now called --rest-classes" in capsys.readouterr().err


@pytest.mark.parametrize(("rate", "high"), [(200, 90), (1000, 450), (2000, 700)])
def test_no_flag_but_the_rate_is_needed(study, rate, high):
    study.write()
    for subject in (1, 2):
        table(subject, rate, seconds=1.5).to_csv(study.folder / f"p{subject}.csv", index=False)
    assert study.run(rate=rate)[0] == 0
    shard = study.shards()[0]
    assert (shard.arguments["low"], shard.arguments["high"]) == (20, high)
    assert shard.window == rate // 4


def test_what_is_simulated_is_said(study):
    study.write().run("--simulated")
    assert study.shards()[0].simulated
    study.run("--overwrite")
    assert not study.shards()[0].simulated
    (study.folder / "simulated.json").write_text(json.dumps({}))
    study.run("--overwrite")
    assert study.shards()[0].simulated


def test_the_shard_opens_and_says_how_it_was_made(study):
    study.write().run()
    shard = open_shard(study.folder / "shards" / "p1", verify=True)
    assert shard.arguments["unit"] is None
    assert np.log10(shard.arguments["scale"]).is_integer()


# --- adding to a folder ------------------------------------------------------------------------------------


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


# --- one class ---------------------------------------------------------------------------------------------


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


# --- memory ------------------------------------------------------------------------------------------------


def test_recordings_that_failed_or_are_kept_take_no_room(study, monkeypatch):
    """A long list with many of them filled the memory."""
    readings = []

    class Watched(import_csv.Readings):
        def __init__(self, *given):
            super().__init__(*given)
            readings.append(self)

    study.write(people=2).run()
    held = table(3)
    for subject in (3, 4):
        held.to_csv(study.folder / f"p{subject}.csv", index=False)
    held.drop(columns="ch3").to_csv(study.folder / "p5.csv", index=False)
    held.assign(**(held.filter(like="ch") * 1e6)).to_csv(study.folder / "p6.csv", index=False)
    held.assign(**{f"ch{n}": 5.0 for n in range(1, 9)}).to_csv(study.folder / "p7.csv", index=False)
    study.list.write_text("file,subject\n" + "".join(f"p{n}.csv,{n}\n" for n in range(1, 8)))
    monkeypatch.setattr(import_csv, "Readings", Watched)
    code, out, _ = study.run()
    assert code == 1
    assert "1 shard written, 2 kept" in out
    assert "4 recordings failed" in out
    assert readings[0].nbytes == 0


def test_a_recording_that_failed_leaves_its_room_to_the_next(study, monkeypatch):
    study.write(people=3)
    (study.folder / "p2.csv").write_text((study.folder / "p1.csv").read_text().replace("label", "Label"))
    read: list[str] = []

    class Counted(Table):
        def __init__(self, path, **settings):
            read.append(path.name)
            super().__init__(path, **settings)

    monkeypatch.setattr(import_csv, "Table", Counted)
    monkeypatch.setattr(import_csv, "KEPT_BYTES", 2 * (4800 * 8 * 8 + 4800 * 5 * 4))
    assert study.run()[0] == 1
    assert read == ["p1.csv", "p2.csv", "p3.csv"]
