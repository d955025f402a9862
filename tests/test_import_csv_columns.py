"""import_csv.py: which columns of a table are channels, and what the others say about its samples."""

import numpy as np
import pandas as pd
import pytest
from csv_study import RATE, table


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


def test_a_grid_of_many_channels_is_said_in_a_few_words(study):
    names = ["ref", *(f"E{n:02}" for n in range(1, 12)), *(f"E{n:02}" for n in range(13, 19)), "E19b"]
    noise = np.random.default_rng(0)

    def many(table: pd.DataFrame) -> pd.DataFrame:
        signal = noise.normal(0, 50, (len(table), len(names)))
        return pd.DataFrame(signal, columns=names).assign(label=table["label"])

    code, out, errors = study.write(many).run("--rings", "none", "--channels", f"1-{len(names)}")
    assert (code, errors) == (0, "")
    assert "channels ref, E01 to E11, E13 to E18, E19b\n" in out


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
    for settings in ({}, {"sep": ";", "decimal": ","}):
        study.write(
            lambda t: (one := change(t)).assign(trial=np.where(one.index % 400 < 200, 0, one["trial"])), **settings
        )
        assert "two trials" not in study.run("--overwrite")[1], "with a rest between them their labels tell"


def test_recordings_of_other_channels_are_named(study):
    study.write(people=3)
    table(2).drop(columns="ch3").to_csv(study.folder / "p2.csv", index=False)
    code, out, errors = study.run()
    assert code == 1
    assert "p2.csv: expected the channels ch1, ch2, ch3" in errors
    assert "2 shards written" in out


def turned(own):
    """The same table with its channels in the opposite order."""
    return own[[*own.columns[7::-1], "label"]]


def test_channels_of_the_same_names_in_another_order_are_put_in_that_of_most(study):
    study.write(people=3).run(shards="expected")
    turned(table(3)).to_csv(study.folder / "p3.csv", index=False)
    code, out, _ = study.run()
    assert (code, "p3.csv: channels put in the order of the others, by their names" in out) == (0, True)
    for actual, expected in zip(study.shards(), study.shards("expected"), strict=True):
        assert (actual.channels, actual.rings) == (expected.channels, expected.rings)
        assert np.array_equal(actual.signal, expected.signal)
    assert "0 shards written, 3 kept" in study.run()[1]


def test_channels_are_put_in_the_order_of_shards_that_are_there(study):
    """Those of a second list were written in their own order, and train.py refused the folder."""
    study.write(people=1).run()
    turned(table(2)).to_csv(study.folder / "p2.csv", index=False)
    study.list.write_text("file,subject\np2.csv,2\n")
    code, out, _ = study.run()
    assert (code, "p2.csv: channels put in the order of the others, by their names" in out) == (0, True)
    assert study.shards()[1].channels == tuple(f"ch{i}" for i in range(1, 9))
    assert study.run("--overwrite")[0] == 0
    assert study.shards()[1].channels == study.shards()[0].channels
    assert study.run(shards="another")[0] == 0
    assert study.shards("another")[0].channels[0] == "ch8"


@pytest.mark.parametrize("flags", [("--rings", "1-8"), ("--rings", "1-4", "5-8")])
def test_rings_named_by_columns_need_channels_in_one_order(study, flags):
    study.write(people=3)
    turned(table(3)).to_csv(study.folder / "p3.csv", index=False)
    code, out, errors = study.run(*flags)
    assert (code, "2 shards written" in out) == (1, True)
    assert "found ch8, ch7, ch6, ch5, ch4, ch3, ch2, ch1; write its columns in that order" in errors
