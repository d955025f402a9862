"""Where scripts write: what cannot become a file is said before long work, and no two programs share one."""

import os
import sys
from pathlib import Path

import pytest

import adapt
import live
import plot
import report
from semg.common.errors import DataError
from semg.common.files import atomic_folder, expect_place
from semg.inference.live_outputs import DecisionTable


def test_a_place_that_can_become_a_file_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").write_text("x")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "new" / "deep" / "x.html", tmp_path / "there", Path("x.html")):
        expect_place(path, "the page")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_place_that_cannot_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").write_text("x")
    with pytest.raises(DataError, match=f"^{tmp_path}: expected a file's name for the page, found a folder$"):
        expect_place(tmp_path, "the page")
    with pytest.raises(DataError, match="there: expected a folder, to write the page under it, found a file"):
        expect_place(tmp_path / "there" / "deep" / "x.html", "the page")
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)  # the tests may run as root, who may all
    with pytest.raises(DataError, match="expected a folder to write the page to, found one that you may not write to"):
        expect_place(tmp_path / "new" / "x.html", "the page")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (adapt, ["model.ckpt", "x.npy", "--rate", "200", "--overwrite", "--out", "{}"]),
        (report, ["results", "--out", "{}"]),
        (plot, ["curves", "run", "--out", "{}"]),
        (live, ["--lsl", "nobody", "--save-statistics", "{}"]),
    ],
    ids=["adapt", "report", "plot", "live"],
)
def test_a_folder_in_place_of_a_file_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch, script, words
) -> None:
    folder = tmp_path / "x.png" if script is plot else tmp_path / "x.html"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", [script.__name__, *(word.format(folder) for word in words)])
    with pytest.raises(DataError, match=r"expected a file.s name for .*, found a folder"):
        script.main()


def test_two_decision_tables_of_one_second_are_two_files(tmp_path: Path) -> None:
    tables = [DecisionTable(tmp_path / "armband-2026-01-01-10-00-00.csv", ["idle", "fist"]) for _ in range(3)]
    for table in tables:
        table.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(table.path.name for table in tables)
    assert [name.removeprefix("armband-2026-01-01-10-00-00") for name in names] == ["-2.csv", "-3.csv", ".csv"]


@pytest.mark.parametrize("error", [OSError(16, "Device or resource busy"), KeyboardInterrupt()])
def test_a_folder_that_does_not_get_its_place_leaves_the_old_one_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The old one has been moved away by then: it was deleted with what was to replace it."""
    folder = tmp_path / "split"
    folder.mkdir()
    (folder / "old").touch()
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if (path / "new").exists():
            raise error
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(type(error)), atomic_folder(folder) as temporary:
        (temporary / "new").touch()
        patch.setattr(Path, "replace", refuse)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["split", "split/old"]
