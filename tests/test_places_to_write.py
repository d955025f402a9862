"""Where scripts write: what cannot become a file is said before long work, and no two programs share one."""

import os
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import adapt
import baselines
import calibrate
import compare
import deep_baselines
import evaluate
import export
import live
import plot
import predict
import report
import sweep
from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import atomic_folder, expect_place
from semg.inference.live_outputs import DecisionTable

SHIPPED = ROOT / "checkpoints" / "best_model.ckpt"


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


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (evaluate, ["--checkpoint", SHIPPED, "--shards", "nowhere"]),
        (calibrate, ["--checkpoint", SHIPPED, "--shards", "nowhere"]),
        (export, ["--checkpoint", SHIPPED, "--no-onnx"]),
        (predict, ["x.npy", "--rate", "200", "--checkpoint", "nowhere"]),
        (live, ["--lsl", "nobody", "--checkpoint", "nowhere"]),
        (baselines, ["--shards", "nowhere"]),
        (deep_baselines, ["--shards", "nowhere"]),
        (sweep, ["--shards", "nowhere", "--split", "nowhere"]),
        (sweep, ["--shards", "nowhere", "--split", "nowhere", "--checkpoints", "{}", "--out"]),
        (compare, ["nowhere"]),
    ],
    ids=lambda one: one.__name__ if hasattr(one, "main") else "",
)
def test_a_file_in_place_of_a_folder_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch, script, words
) -> None:
    """What had been computed until then, sometimes for hours, was lost."""
    file = tmp_path / "there"
    file.touch()
    out = [str(tmp_path / "other")] if words[-1] == "--out" else ["--out", str(file)]
    monkeypatch.setattr(sys, "argv", [script.__name__, *(str(word).format(file) for word in words), *out])
    with pytest.raises(DataError, match=f"^{file}: expected a folder, to write the .* under it, found a file"):
        script.main()


@pytest.mark.parametrize(
    ("script", "words", "kept"),
    [
        (report, ["page.html", "--out", "page.html"], "page.html"),
        (plot, ["curves", "rows.png", "--out", "rows.png"], "rows.png"),
        (compare, ["compare.json", "--out", "."], "compare.json"),
        (adapt, ["x.ckpt", "x.npy", "--rate", "200", "--overwrite", "--out", "./x.npy"], "x.npy"),
        (predict, ["x.npy", "--rate", "200", "--stream", "--save-statistics", "run/config.json"], "run/config.json"),
        (predict, ["x.npy", "--rate", "200", "--stream", "--save-statistics", "results/predictions"], ""),
    ],
    ids=lambda one: one.__name__ if hasattr(one, "main") else "",
)
def test_no_output_takes_the_place_of_an_input_or_of_another(tmp_path: Path, monkeypatch, script, words, kept) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for name in filter(None, (kept, "x.npy")):
        (tmp_path / name).write_text("the only copy")
    given = [*words, "--checkpoint", "run"] if script is predict else words
    monkeypatch.setattr(sys, "argv", [script.__name__, *given])
    with pytest.raises(UsageError, match=r"^--\S+ \S+: expected (another place|a place of its own), found that of"):
        script.main()
    assert not kept or (tmp_path / kept).read_text() == "the only copy"


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


def test_a_full_disk_is_named_where_it_had_room_for_a_part_of_an_array(tmp_path: Path) -> None:
    """NumPy's error names neither file nor cause; of a folder of shards, nobody knew which."""
    with pytest.raises(OSError) as caught, atomic_folder(tmp_path / "shard"):
        raise OSError("128000 requested and 118720 written")
    told = f"{tmp_path / 'shard'}: expected to read or write there, found: a disk that takes no more (128000 requested"
    assert cli.in_words(caught.value).startswith(told)
    assert cli.in_words(caught.value).endswith("; free some and run again")
