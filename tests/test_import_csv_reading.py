"""import_csv.py reads a table once, as it is at one time, and keeps in memory only what it will need."""

from pathlib import Path

import numpy as np
import pytest
from csv_study import table

import import_csv
from semg.data import table_recording
from semg.data.tables import Table


@pytest.mark.parametrize(("room", "times"), [(None, 2), (0, 4), (500_000, 3)])
def test_a_table_is_read_once_where_memory_allows(study, monkeypatch, room, times):
    study.write()
    read: list[Path] = []

    class Counted(Table):
        def __init__(self, path, **settings):
            read.append(path)
            super().__init__(path, **settings)

    assert study.run(shards="plain")[0] == 0
    monkeypatch.setattr(table_recording, "Table", Counted)
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


def test_the_same_samples_twice_are_one_recording(study):
    """A file that was copied under another person's name: what is tested would have been trained on."""
    study.write(people=3)
    (study.folder / "p3.csv").write_text((study.folder / "p1.csv").read_text().replace("label", "Label"))
    code, out, errors = study.run()
    assert code == 1
    assert "p3.csv: expected a recording of its own, found the samples of p1.csv again" in errors
    assert "2 shards written" in out


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

    monkeypatch.setattr(table_recording, "Table", Counted)
    monkeypatch.setattr(import_csv, "KEPT_BYTES", 2 * (4800 * 8 * 8 + 4800 * 5 * 4))
    assert study.run()[0] == 1
    assert read == ["p1.csv", "p2.csv", "p3.csv"]
