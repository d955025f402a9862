"""import_csv.py on tables that look right and are not: names written in two ways, numbers read without their sign,
amplitudes that cannot be; and on slow devices."""

import os
import sys
import unicodedata

import pandas as pd
import pytest

import create_dataset_files
import import_csv
from semg.common.errors import DataError, SettingError
from semg.data.splits import read_split


def test_gestures_and_columns_have_one_name_however_their_accents_are_written(study):
    """macOS writes an accent behind its letter: the same word was two classes, which look alike."""
    words = {"fist": "ferm\u00e9", "open": "ouverte\u200b", "idle": "rel\u00e2ch\u00e9"}
    study.write(lambda t: t.replace({"label": words}).rename(columns={"label": "gest\u00e9"}))
    path = study.folder / "p2.csv"
    path.write_text(unicodedata.normalize("NFD", path.read_text(encoding="utf-8")), encoding="utf-8")
    study.run("--labels", "geste\u0301", "--classes", "ferme\u0301", "ouverte", "rela\u0302che\u0301")
    assert [shard.classes for shard in study.shards()] == [("ferm\u00e9", "ouverte", "rel\u00e2ch\u00e9")] * 2


def test_files_and_people_have_one_name_however_their_accents_are_written(study):
    study.write(name="ferme\u0301{}.csv")
    study.list.write_text("file,subject\nferm\u00e91.csv,Jose\u0301\nferme\u03012.csv,Jos\u00e9\n", encoding="utf-8")
    assert study.run()[0] == 0
    assert [(shard.record, shard.subject) for shard in study.shards()] == [
        ("ferm\u00e91", "Jos\u00e9"),
        ("ferm\u00e92", "Jos\u00e9"),
    ]


@pytest.mark.parametrize("second", ["P01", "p1", "P001"])
def test_one_person_under_two_names_is_refused(study, second):
    """They would have been in training and in test."""
    study.write(people=3)
    study.list.write_text(f"file,subject\np1.csv,P1\np2.csv,{second}\np3.csv,P10\n")
    with pytest.raises(DataError, match=f"expected one name for one person, found {second} after P1"):
        study.run()


@pytest.mark.parametrize(("first", "second"), [("S1", "s1"), ("1", "01"), ("day2", "day02")])
def test_one_session_of_a_person_under_two_names_is_refused(study, first, second):
    """They would have been normalised apart, and one of them could be in training and the other in test."""
    study.write(people=3)
    study.list.write_text(f"file,subject,session\np1.csv,P1,{first}\np2.csv,P1,{second}\np3.csv,P2,{first}\n")
    with pytest.raises(DataError, match=f"expected one name for one session of P1, found {second} after {first}"):
        study.run()
    study.list.write_text(f"file,subject,session\np1.csv,P1,{first}\np2.csv,P2,{second}\np3.csv,P3,{first}\n")
    assert study.run()[0] == 0


def test_no_frequency_is_filtered_out_twice(study):
    with pytest.raises(SettingError, match="notch: expected each frequency once, found 50 Hz twice"):
        study.write().run("--notch", 50, 50)


def test_numbers_that_were_read_without_their_sign_are_doubted(study):
    """A byte of -1 read as 255: signals of armbands in many public tables."""

    def changed(change):
        study.write(lambda t: t.assign(**{name: change(t[name].round().clip(-128, 127)) for name in t.columns[:-1]}))
        return study.run("--overwrite")[2]

    told = "p1.csv: its samples lie near 0 and near {} and seldom between: negative ones were read as unsigned numbers"
    assert told.format(255) in changed(lambda one: one % 256)
    assert told.format(65535) in changed(lambda one: one * 9 % 65536)
    assert changed(lambda one: one + 128) == ""


def test_labels_that_mark_beginnings_alone_are_named(study):
    study.write(lambda t: t.assign(label=t["label"].where(t["label"] != t["label"].shift(), "")))
    code, _, errors = study.run()
    assert code == 1
    assert "found none longer than 0.005 s; --transition-margin and --window take" in errors


def test_a_table_that_fills_a_sheet_is_doubted(study, monkeypatch):
    """What follows the last row of a sheet is lost when a program saves it."""
    monkeypatch.setattr("semg.data.tables._FULL_SHEETS", (4801,))
    study.write()
    told = "p1.csv: it ends with line 4801, the last row of an Excel sheet: is the rest of it missing?"
    assert told in study.run()[2]


def test_a_table_whose_last_line_was_cut_off_is_doubted(study):
    study.write()
    with (study.folder / "p1.csv").open("a") as file:
        file.write("1.5,2.5\n")
    code, _, errors = study.run()
    told = "p1.csv: its last line, 4802, has 2 cells of 9 and is left out: is the rest of it missing?"
    assert (code, told in errors) == (0, True), errors
    assert [len(shard.signal) for shard in study.shards()] == [4800, 4800]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_one_may_work_in_a_folder_whose_name_is_no_utf_8(study, tmp_path, monkeypatch):
    """An old disk's Latin-1; a flag that names such a folder is refused in a line, as results could not say it."""
    study.write(people=3)
    folder = tmp_path / os.fsdecode(b"\xe9tude")
    folder.mkdir()
    for path in tmp_path.glob("*.csv"):
        path.rename(folder / path.name)
    monkeypatch.chdir(folder)
    for main, words in (
        (import_csv.main, "recordings.csv --rate 200 --shards shards"),
        (create_dataset_files.main, "--shards shards --out split"),
    ):
        monkeypatch.setattr(sys, "argv", ["script.py", *words.split()])
        assert not main()
    monkeypatch.chdir(tmp_path)
    assert len(read_split(folder / "split", folder / "shards").train) == 1


@pytest.mark.parametrize("rate", [60, 100])
def test_a_slow_device_whose_signal_cannot_contain_the_mains_needs_no_flag(study, rate):
    code, out, _ = study.write().run(rate=rate)
    assert code == 0
    assert f"{rate} Hz, 20-{0.45 * rate:g} Hz kept, no notch; mains hum: not heard" in out
    assert study.shards()[0].arguments["notch"] == []


def test_recordings_added_later_have_the_notches_of_those_that_are_there_even_if_there_are_none(study):
    assert "no notch; mains hum" in study.write().run("--notch")[1]
    assert "1 shard written, 2 kept" in study.write(people=3).run()[1]
    assert [shard.arguments["notch"] for shard in study.shards()] == [[], [], []]


@pytest.mark.parametrize(
    ("factor", "told"),
    [(1e25, "found an RMS of inf"), (1e200, "found an RMS of nan"), (1e-200, "expected amplitudes above 6e-08, found")],
)
def test_amplitudes_that_cannot_be_computed_with_are_named(study, recwarn, factor, told):
    code, _, errors = study.write(lambda t: t.assign(**(t.filter(like="ch") * factor))).run()
    assert code == 1
    assert errors.count(told) == 2
    assert [one for one in recwarn if one.category is RuntimeWarning] == []


@pytest.mark.parametrize(("flags", "limit"), [([], "6550"), (["--unit", "mV"], "65.5 mV")])
def test_amplitudes_that_float16_cannot_hold_are_named_in_the_unit_of_the_table(study, flags, limit):
    factor = 1e-3 if flags else 1.0

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[100, "ch1"] = 5e7
        return table.assign(**(table.filter(like="ch") * factor))

    errors = study.write(change).run(*flags)[2]
    found = f"found {5e7 * factor:.6g} at sample 100 of channel 1"
    assert f"p1.csv: expected amplitudes below {limit}, {found}; is it in the others' unit?" in errors
