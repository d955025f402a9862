"""import_csv.py on lists and tables as they come: what it takes, and what it says."""

import csv
import itertools
import json
import os

import numpy as np
import pytest

import import_csv
from semg.common.errors import DataError
from semg.data.shards import open_shard


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


def many_warnings(study, *words):
    """Five recordings without a negative sample, of which each has lost samples at another time."""
    gaps = itertools.count(300, 200)

    def change(table):
        at = next(gaps)
        rectified = {f"ch{n}": table[f"ch{n}"].abs() for n in range(1, 9)}
        return table.assign(**rectified, time=np.arange(len(table)) / 200).drop(index=range(at, at + 100))

    return study.write(change, people=5).run(*words)


def test_warnings_of_many_recordings_are_one_line_for_each_kind(study):
    code, _, errors = many_warnings(study)
    rectified, lost = errors.splitlines()
    p = [study.folder / f"p{n}.csv" for n in range(6)]
    assert code == 0
    assert rectified == (
        f"warning: {p[1]}: its samples are never below 0 and most lie near it: a rectified signal or an envelope loses "
        f"its course to the filter (the same in 4 more recordings: {p[2]}, {p[3]}, {p[4]}, ...; --json lists all)"
    )
    assert lost == (
        "warning: p1: lost samples: 0.5 s in 1 gap, at 1.5 s (with other numbers in 4 more recordings: p2, p3, p4, "
        "...; --json lists all)"
    )


def test_a_program_gets_all_warnings(study):
    _, out, _ = many_warnings(study, "--json")
    warnings = json.loads(out)["warnings"]
    assert len(warnings) == 10
    assert warnings[-1] == "p5: lost samples: 0.5 s in 1 gap, at 5.5 s"


def test_warnings_of_a_stopped_run_are_told(study, monkeypatch, capsys):
    def stopped(entry, *others, make=import_csv.make_shard):
        if entry.facts.name == "p4":
            raise KeyboardInterrupt
        return make(entry, *others)

    monkeypatch.setattr(import_csv, "make_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        many_warnings(study)
    lost = "p1: lost samples: 0.5 s in 1 gap, at 1.5 s (with other numbers in 2 more recordings: p2, p3)"
    assert lost in capsys.readouterr().err, "their shards are kept from now on, and kept ones are not warned of"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_recording_and_others_are_done(study):
    study.write()
    (study.folder / "p2.csv").unlink()
    os.mkfifo(study.folder / "p2.csv")
    code, out, errors = study.run()
    assert code == 1
    assert "p2.csv: expected a table of samples, found a pipe" in errors
    assert "1 shard written" in out


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
