"""Whatever is wrong with an input is said in one line with its own exit code, and the other inputs are done.

Each row of a table is one wrong input: how it is made, and what has to be said. The scripts run in this process, from
their flags to their exit code.
"""

import contextlib
import hashlib
import importlib
import io
import json
import pickle
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pandas as pd
import pytest
import recordings
import small_shards
import torch
from downloading import Done

from semg.common import cli
from semg.common.errors import DataError
from semg.data.putemg_recording import Recording
from semg.data.shards import list_records
from semg.inference.checkpoint import open_checkpoint, write_checkpoint

TINY = "--layers 1 --width 16 --patch 64 --frame 160 --epochs 1 --batch-size 32 --device cpu --init random --quiet"
RATE = recordings.RATE


def script(name: str, *arguments: object) -> Done:
    """Run a script in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    words = [f"{name}.py", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(sys, "argv", words):
            cli.run(importlib.import_module(name).main)
    except SystemExit as stop:
        return Done(int(stop.code or 0), out.getvalue(), err.getvalue())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    raise AssertionError("cli.run returned")


def check_refused(done: Done, code: int, message: str) -> None:
    """One line of error, that matches `message`, and the exit code that goes with it."""
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if "error: " in line]
    assert len(lines) == 1, done.err
    assert re.search(message, lines[0]), f"{message!r} is not in {lines[0]!r}"
    if code == 1:
        assert done.err.strip() == lines[0], "nothing but the error"


@pytest.fixture(autouse=True)
def _counted(record_property: Callable[[str, object], None]) -> None:
    record_property("counted", "bad inputs")


# --- recordings ------------------------------------------------------------------------------------------------


def table(subject: int = 3) -> pd.DataFrame:
    """A second of idle, a second of fist."""
    result = recordings.frame(subject, samples=2 * RATE)
    result["TRAJ_GT"] = result["TRAJ_1"] = np.repeat([0.0, 1.0], RATE)
    return result


def with_value(column: str, row: int, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.iloc[row, table.columns.get_loc(column)] = value
        return table

    return change


def with_times(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.set_axis(change(table.index.to_numpy().copy()))


def twice(times: np.ndarray) -> np.ndarray:
    times[500] = times[499]
    return times


def back(times: np.ndarray) -> np.ndarray:
    times[500] = times[400]
    return times


def missing(times: np.ndarray) -> np.ndarray:
    times[500] = np.nan
    return times


TABLES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "23 channels": (lambda t: t.drop(columns="EMG_24"), "expected putEMG's columns, found none named EMG_24"),
    "25 channels": (lambda t: t.assign(EMG_25=0.0), "expected 24 channels, found also EMG_25"),
    "no label column": (lambda t: t.drop(columns="TRAJ_GT"), "found none named TRAJ_GT"),
    "no subject column": (lambda t: t.drop(columns="subject"), "found none named subject"),
    "a channel in lower case": (lambda t: t.rename(columns={"EMG_5": "emg_5"}), "found none named EMG_5"),
    "NaN": (with_value("EMG_7", 50, np.nan), "EMG_7: expected whole ADC counts .* found nan at sample 50"),
    "infinity": (with_value("EMG_7", 50, np.inf), "EMG_7: .* found inf at sample 50"),
    "minus infinity": (with_value("EMG_7", 50, -np.inf), "EMG_7: .* found -inf at sample 50"),
    "microvolts": (lambda t: t.assign(EMG_1=t["EMG_1"] * 6.1), "EMG_1: expected whole ADC counts"),
    "more than 12 bits": (with_value("EMG_7", 50, 5000), "EMG_7: .* found 5000.0 at sample 50"),
    "text for a channel": (lambda t: t.assign(EMG_3="12"), "EMG_3: expected numbers, found text"),
    "time twice": (with_times(twice), "expected time to rise .* at sample 500"),
    "time going back": (with_times(back), "expected time to rise .* at sample 500"),
    "a missing time": (with_times(missing), "expected time to rise .* found nan"),
    "time backwards": (with_times(lambda t: t[::-1]), "expected 5120 Hz within 1%"),
    "1000 Hz": (with_times(lambda t: t * 5.12), "expected 5120 Hz within 1%, found 1000"),
    "samples for time": (with_times(lambda t: np.arange(len(t), dtype=float)), "5120 Hz within 1%, found 1 Hz"),
    "label 4": (with_value("TRAJ_GT", 20, 4), "expected labels -1 and 0, 1, 2.* found 4.0 at sample 20"),
    "label 2.5": (with_value("TRAJ_GT", 20, 2.5), "found 2.5 at sample 20"),
    "a missing label": (with_value("TRAJ_GT", 20, np.nan), "found nan at sample 20"),
    "labels as text": (lambda t: t.assign(TRAJ_GT="fist"), "TRAJ_GT: expected numbers, found text"),
    "labels as categories": (lambda t: t.assign(TRAJ_GT=pd.Categorical(t["TRAJ_GT"])), "found text or categories"),
    "nothing but rest": (lambda t: t.assign(TRAJ_GT=-1.0), "expected segments of a gesture .* found none"),
    "shorter than a window": (lambda t: t.iloc[:1000], "expected segments of a gesture of at least a window"),
    "one sample": (lambda t: t.iloc[:1], "expected a recording of some seconds, found 1 sample"),
    "another person's": (lambda t: t.assign(subject=4.0), "expected subject 03 as in the file's name, found 4"),
    "nobody's": (lambda t: t.assign(subject="nobody"), "expected subject 03 .* found nobody"),
    "another's as category": (lambda t: t.assign(subject=pd.Categorical(["11"] * len(t))), "found 11 in column"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that nothing is wrong with, beside which the wrong ones are put."""
    return recordings.write(tmp_path_factory.mktemp("good"), table(9), recordings.record_name(9), complevel=1)


def preprocessed(good: Path, folder: Path, *flags: object) -> Done:
    """preprocess.py on what is in `folder` and a good recording, which is done whatever the others are."""
    shutil.copy(good, folder)
    done = script("preprocess", "--raw", folder, "--shards", folder / "shards", "--workers", 1, "--quiet", *flags)
    assert good.stem in list_records(folder / "shards")
    return done


@pytest.mark.parametrize("what", TABLES)
def test_a_recording_with_wrong_content(good: Path, tmp_path: Path, what: str) -> None:
    change, message = TABLES[what]
    path = recordings.write(tmp_path, change(table()))
    done = preprocessed(good, tmp_path)
    check_refused(done, 1, message)
    assert path.name in done.err
    assert "1 recording failed" in done.last
    assert list_records(tmp_path / "shards") == [good.stem]


def not_a_table(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data/table"] = np.zeros((10, 2))


def other_key(path: Path) -> None:
    recordings.write(path.parent, table(), key="other")


def fixed_format(path: Path) -> None:
    recordings.write(path.parent, table()[["EMG_1"]], format="fixed")


def pointing_out(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data/table"] = h5py.ExternalLink("/etc/passwd", "/")


def half(path: Path) -> None:
    whole = recordings.recording_bytes(3, samples=RATE)
    path.write_bytes(whole[: len(whole) // 2])


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty file": (lambda path: path.write_bytes(b""), "found an empty file; fetch it again"),
    "a web page": (lambda path: path.write_bytes(b"<html>" * 1000), "expected an HDF5 recording, found"),
    "HDF5's first bytes": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "expected an HDF5 recording, found"),
    "half a file": (half, "expected an HDF5 recording, found .*; fetch it again"),
    "a folder": (lambda path: path.mkdir(), "expected a recording, found|directory"),
    "no table": (not_a_table, "expected a pandas table .* found another kind of object"),
    "another key": (other_key, "a pandas table under the key 'data', found other"),
    "the fixed format": (fixed_format, "a pandas table under the key 'data'"),
    "a link to another file": (pointing_out, "own pandas table under the key 'data', found a link"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_recording(good: Path, tmp_path: Path, what: str) -> None:
    make, message = FILES[what]
    make(tmp_path / f"{recordings.record_name()}.hdf5")
    check_refused(preprocessed(good, tmp_path), 1, message)


def test_a_file_that_bears_no_records_name(good: Path, tmp_path: Path) -> None:
    shutil.copy(good, tmp_path / "notes.hdf5")
    check_refused(preprocessed(good, tmp_path), 1, "'notes': expected a record name such as")


@pytest.mark.parametrize("percent", [0.1, 1, 10, 30, 60, 90, 99.9])
def test_a_recording_cut_anywhere(good: Path, tmp_path: Path, percent: float) -> None:
    whole = recordings.recording_bytes(3, samples=RATE)
    (tmp_path / f"{recordings.record_name()}.hdf5").write_bytes(whole[: int(len(whole) * percent / 100)])
    check_refused(preprocessed(good, tmp_path), 1, "expected an HDF5 recording, found .*; fetch it again")


ODD: dict[str, tuple[dict[str, object], str]] = {
    "a dead channel": ({"EMG_2": 7.0}, "dead channels 2"),
    "a saturated channel": ({"EMG_3": np.tile([2047.0, 0.0], RATE)}, "saturated channels 3"),
    "one channel twice": ({"EMG_9": table()["EMG_10"].to_numpy()}, "equal channels 9=10"),
    "one label": ({"TRAJ_GT": 0.0}, ""),
    "32-bit channels": ({"EMG_4": table()["EMG_4"].to_numpy(np.float32)}, ""),
    "whole numbers": ({"EMG_4": table()["EMG_4"].to_numpy(np.int16), "TRAJ_GT": np.repeat([0, 1], RATE)}, ""),
    "subject as text": ({"subject": "03"}, ""),
    "subject as category": ({"subject": pd.Categorical(["03"] * 2 * RATE)}, ""),
}


@pytest.mark.parametrize("what", ODD)
def test_a_recording_that_is_odd_and_accepted(good: Path, tmp_path: Path, what: str) -> None:
    columns, warning = ODD[what]
    path = recordings.write(tmp_path, table().assign(**columns))
    done = preprocessed(good, tmp_path)
    assert done.code == 0, done.err
    assert (warning in done.err) if warning else done.err == ""
    assert path.stem in list_records(tmp_path / "shards")


def test_channels_in_another_order_are_found_by_name(tmp_path: Path) -> None:
    result = table()
    with Recording(recordings.write(tmp_path, result[list(result.columns[::-1])])) as recording:
        counts, _ = recording.read((1, 24), "TRAJ_GT")
    np.testing.assert_array_equal(counts, result[["EMG_1", "EMG_24"]].to_numpy())


# --- shards, splits and checkpoints: what evaluate.py and train.py say ------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/, split/ and run/best_model.ckpt."""
    folder = tmp_path_factory.mktemp("data")
    shards, split = small_shards.write_all(folder)
    done = script("train", "--shards", shards, "--split", split, "--out", folder / "run", *TINY.split())
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """All that, to spoil."""
    return Path(shutil.copytree(data, tmp_path / "copy"))


def evaluated(folder: Path, *flags: object) -> Done:
    places = [
        "--checkpoint",
        folder / "run/best_model.ckpt",
        "--shards",
        folder / "shards",
        "--split",
        folder / "split",
    ]
    return script("evaluate", *places, "--out", folder / "out", "--device", "cpu", "--quiet", *flags)


TESTED, OTHER = small_shards.name(5), small_shards.name(4)


def flip(path: Path, at: int = -5) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(bytes(content))


def described(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(path: Path) -> None:
    path.unlink() if path.is_file() else shutil.rmtree(path)


SHARDS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "no shard": (lambda own, _: without(own), "expected a shard for each of 1 records, found none for 1"),
    "a file in its place": (
        lambda own, _: (without(own), own.write_text("")),
        "expected a shard for each of 1 records",
    ),
    "no signal": (lambda own, _: without(own / "signal.npy"), r"signal\.npy: expected \d+ bytes, found no such file"),
    "no windows": (lambda own, _: without(own / "windows.npy"), r"windows\.npy: expected \d+ bytes, found no such"),
    "no description": (lambda own, _: without(own / "shard.json"), r"shard\.json: expected .*, found no such file"),
    "an empty signal": (lambda own, _: (own / "signal.npy").write_bytes(b""), r"signal\.npy: .* found 0 bytes"),
    "a flipped bit of the signal": (lambda own, _: flip(own / "signal.npy"), r"signal\.npy: expected the checksum"),
    "a flipped bit of the windows": (lambda own, _: flip(own / "windows.npy"), r"windows\.npy: expected the checksum"),
    "text for a description": (lambda own, _: (own / "shard.json").write_text("{"), "found unreadable JSON"),
    "a list for a description": (lambda own, _: (own / "shard.json").write_text("[]"), "found JSON that is no object"),
    "deep brackets": (lambda own, _: (own / "shard.json").write_text("[" * 100_000), "found unreadable JSON"),
    "another format": (lambda own, _: described(own / "shard.json", format_version=9), "shard format 2, found 9"),
    "another person": (lambda own, _: described(own / "shard.json", subject="01"), "expected its checksum"),
    "another's signal": (lambda own, other: shutil.copy(other / "signal.npy", own), r"signal\.npy: expected the check"),
    "another's folder": (
        lambda own, other: (without(own), shutil.copytree(other, own)),
        f"expected the shard of {TESTED}, found that of {OTHER}",
    ),
    "objects for a signal": (
        lambda own, _: np.save(own / "signal.npy", np.array([{}]), allow_pickle=True),
        r"signal\.npy: expected \d+ bytes",
    ),
}


@pytest.mark.parametrize("what", SHARDS)
def test_a_wrong_shard(copy: Path, what: str) -> None:
    spoil, message = SHARDS[what]
    spoil(copy / "shards" / TESTED, copy / "shards" / OTHER)
    check_refused(evaluated(copy), 1, message)
    assert not (copy / "out").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rate", 2560.0, "rate 5120.0, found 2560.0"),
        ("classes", ["idle", "fist", "flexion", "wave"], "classes"),
        ("channels", [f"X{i}" for i in range(24)], "channels"),
        ("arguments", {**small_shards.ARGUMENTS, "low": 30.0}, r"low 20\.0, found 30\.0"),
        ("arguments", {**small_shards.ARGUMENTS, "causal": True}, "causal False, found True"),
        ("arguments", {**small_shards.ARGUMENTS, "window": 160}, "window 320, found 160"),
    ],
)
def test_a_shard_made_otherwise(copy: Path, field: str, value: object, message: str) -> None:
    small_shards.write(copy / "shards", 5, **{field: value})
    check_refused(evaluated(copy), 1, message)


FORGED: list[tuple[str, object, str]] = [
    ("files", {}, "sizes and checksums of signal.npy and windows.npy for files"),
    ("files", {"signal.npy": 5, "windows.npy": 6}, "sizes and checksums of signal.npy and windows.npy"),
    ("files", {"signal.npy": {"bytes": 1, "sha256": ""}, "../split/test.txt": {}}, "sizes and checksums"),
    ("channels", 5, "expected a list of names for channels, found 5"),
    ("classes", None, "without classes"),
    ("arguments", {}, "without arguments.window"),
    ("arguments", {"window": 320, "stride": 0}, "for arguments.stride, found 0"),
    ("rate", "5120", "expected a number above 0 for rate"),
    ("record", 5, "for record, found 5"),
    ("subject", ["05"], "for subject, found"),
    ("n_samples", "many", "for n_samples"),
    ("second_moment", None, "without second_moment"),
    ("second_moment", [[1.0]], "expected a second_moment of 24 x 24 numbers"),
    ("second_moment", [["x"] * 24] * 24, "expected rows of numbers for second_moment"),
]


@pytest.mark.parametrize(("field", "value", "message"), FORGED, ids=lambda value: ascii(value)[:30])
def test_a_shard_that_says_what_cannot_be(copy: Path, field: str, value: object, message: str) -> None:
    """With a checksum that is right."""
    path = copy / "shards" / TESTED / "shard.json"
    meta = json.loads(path.read_text()) | {field: value}
    del meta["checksum"]
    checksum = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(meta | {"checksum": checksum}))
    check_refused(evaluated(copy), 1, message)


LISTS: dict[str, tuple[str, bytes, str]] = {
    "an unknown record": ("test", f"{small_shards.name(9)}\n".encode(), "found none for 1 of them, such as"),
    "no name": ("test", b"subject five\n", r"test\.txt:1: expected a record name such as .* found 'subject five'"),
    "a path": ("test", f"../{TESTED}\n".encode(), r"test\.txt:1: expected a record name"),
    "a record twice": ("test", f"{TESTED}\n{TESTED}\n".encode(), r"test\.txt:2: expected each record once"),
    "a record in two subsets": ("test", f"{OTHER}\n".encode(), "expected no recording in two subsets"),
    "an empty subset": ("test", b"", "expected recordings in every subset, found none in test"),
    "nothing but comments": ("val", b"# nobody yet\n\n", "found none in val"),
    "no text": ("test", b"\xff\xfe\x00\x01", "expected record names as text"),
    "UTF-16": ("test", TESTED.encode("utf-16"), "expected record names as text"),
}


@pytest.mark.parametrize("what", LISTS)
def test_a_wrong_split(copy: Path, what: str) -> None:
    part, content, message = LISTS[what]
    (copy / "split" / f"{part}.txt").write_bytes(content)
    check_refused(evaluated(copy), 1, message)


def test_a_split_without_a_subset_and_none_at_all(copy: Path) -> None:
    (copy / "split/val.txt").unlink()
    check_refused(evaluated(copy), 1, r"val\.txt: expected record names, one a line, found no such file")
    shutil.rmtree(copy / "split")
    check_refused(evaluated(copy), 1, "expected a split's folder, found none")


@pytest.mark.parametrize(
    "content",
    [f"\ufeff{TESTED}\n", f"{TESTED}\r\n", f"# who\n\n  {TESTED}  # tested\n\n", TESTED],
    ids=["a BOM", "Windows line ends", "comments and blank lines", "no line end"],
)
def test_a_split_written_otherwise_is_accepted(copy: Path, content: str) -> None:
    (copy / "split/test.txt").write_text(content, encoding="utf-8", newline="")
    assert evaluated(copy).code == 0


def changed(path: Path, description: dict | None = None, **tensors: torch.Tensor | None) -> None:
    """Write the checkpoint anew with other content; None takes a tensor out."""
    actual = open_checkpoint(path)
    kept = {name: value for name, value in (actual.tensors | tensors).items() if value is not None}
    write_checkpoint(path, actual.description | (description or {}), kept)


def wanting_gradients(path: Path) -> None:
    """As a single flipped bit does, found by mutation: the values, and so the checksum, are the same."""
    whole = torch.load(path, weights_only=True)
    whole["tensors"] = {
        name: value.requires_grad_() if value.is_floating_point() else value for name, value in whole["tensors"].items()
    }
    torch.save(whole, path)


def test_a_checkpoint_whose_tensors_want_gradients_is_the_same(copy: Path) -> None:
    wanting_gradients(copy / "run" / "best_model.ckpt")
    assert evaluated(copy).code == 0


class Hostile:
    def __reduce__(self) -> tuple:
        return print, ("run",)


NAN = torch.full((4,), float("nan"))
CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda path: path.unlink(), r"found no such file; train\.py writes one"),
    "an empty file": (lambda path: path.write_bytes(b""), "expected a checkpoint, found"),
    "a text": (lambda path: path.write_text("hello"), "expected .*, found"),
    "the first half": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "expected a checkpoint, found"),
    "a few bytes short": (lambda path: path.write_bytes(path.read_bytes()[:-99]), "expected a checkpoint, found"),
    "a hostile pickle": (lambda path: path.write_bytes(pickle.dumps(Hostile())), "found objects that could run code"),
    "hostile inside": (lambda path: torch.save({"x": Hostile()}, path), "found objects that could run code"),
    "a list": (lambda path: torch.save([1, 2], path), "expected a checkpoint of this project"),
    "another project's": (lambda path: torch.save({"state_dict": {}}, path), "expected a checkpoint of this project"),
    "another version": (
        lambda path: torch.save(torch.load(path, weights_only=True) | {"version": 7}, path),
        "version 2, found 7; train again",
    ),
    "another description": (
        lambda path: torch.save(torch.load(path, weights_only=True) | {"description": "{}"}, path),
        "expected its checksum, found another",
    ),
    "last.ckpt": (
        lambda path: shutil.copy(path.with_name("last.ckpt"), path),
        "expected a trained model, best_model.ckpt, found",
    ),
    "a missing tensor": (lambda path: changed(path, **{"model.head.weight": None}), "head.weight.*found none"),
    "no gains": (lambda path: changed(path, train_gain=None), r"train_gain of shape \(24,\), found none"),
    "gains of one channel": (lambda path: changed(path, train_gain=torch.ones(1)), r"found one of shape \(1,\)"),
    "an extra tensor": (lambda path: changed(path, **{"model.extra": torch.ones(2)}), "no place for"),
    "another shape": (lambda path: changed(path, **{"model.head.weight": torch.ones(3, 3)}), r"found \(3, 3\)"),
    "NaN weights": (lambda path: changed(path, **{"model.head.bias": NAN}), "NaN or infinity in model.head.bias"),
    "another network": (lambda path: changed(path, {"model": {"colour": "red"}}), "expected a model configuration"),
    "a network for other channels": (
        lambda path: changed(path, {"model": open_checkpoint(path).description["model"] | {"channels": 24}}),
        "expected a model of 48 channels for such data, found one of 24",
    ),
    "other classes": (
        lambda path: changed(path, {"data": open_checkpoint(path).description["data"] | {"classes": ["a", "b"]}}),
        "expected a model of 2 classes for such data, found one of 4",
    ),
    "an unknown normalisation": (
        lambda path: changed(path, {"normalize": {"method": "magic"}}),
        "expected how signals were normalised, found normalize: expected one of session, train, none",
    ),
    "no data": (
        lambda path: changed(path, {"data": None}),
        "expected a trained model, best_model.ckpt, found one without data.rate",
    ),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_wrong_checkpoint(copy: Path, what: str, capfd: pytest.CaptureFixture) -> None:
    path = copy / "run" / "best_model.ckpt"
    spoil, message = CHECKPOINTS[what]
    spoil(path)
    check_refused(evaluated(copy), 1, message)
    assert "run" not in capfd.readouterr().out


def described_otherwise(path: Path, dotted: str, value: object) -> None:
    """Give one field of a checkpoint's description another value, with a checksum that is right."""
    description = json.loads(json.dumps(open_checkpoint(path).description))
    place = description
    *folders, last = dotted.split(".")
    for part in folders:
        place = place[part]
    place[last] = value
    changed(path, description)


DESCRIPTIONS: list[tuple[str, str, object, str]] = [
    ("evaluate", "run", "../../evil", "expected the name of a folder for run, found '../../evil'"),
    ("evaluate", "run", "/etc/evil", "expected the name of a folder for run"),
    ("export", "run", "../../evil", "expected the name of a folder for run"),
    ("export", "run", "..", "expected the name of a folder for run"),
    ("evaluate", "run", "a\x00b", "expected the name of a folder for run"),
    ("evaluate", "run", "x" * 300, "expected the name of a folder for run"),
    ("evaluate", "trained_on", [[1]], "for trained_on"),
    ("evaluate", "trained_on", None, "without trained_on"),
    ("evaluate", "split.train", 3, "for split.train"),
    ("evaluate", "split.folder", "a\x00", "for split.folder"),
    ("export", "split.name", None, "without split.name"),
    ("export", "validation", {"val/macro_f1": "high"}, "expected a number for validation.val/macro_f1"),
    ("export", "data.arguments.window", None, "without data.arguments.window"),
    ("evaluate", "data.channels", 5, "expected a list of names for data.channels, found 5"),
    ("predict", "data.channels", 5, "expected a list of names for data.channels, found 5"),
    ("predict", "data.classes", ["a", "b"], "expected a model of 2 classes for such data, found one of 4"),
    ("predict", "data.rate", "fast", "expected a number above 0 for data.rate, found 'fast'"),
    ("plot", "data.rate", 0, "expected a number above 0 for data.rate, found 0"),
    ("plot", "data.classes", None, "without data.classes"),
    ("predict", "data.arguments.stride", 0, "expected a whole number above 0 for data.arguments.stride"),
    ("predict", "data.arguments.window", 1, "expected a model of 1 samples for such data, found one of 320"),
    ("predict", "data.arguments.low", 900.0, "expected a filter and montage that can be, found low: expected above 0"),
    ("predict", "data.arguments.low", None, "without data.arguments.low"),
    ("predict", "data.arguments.order", 99, "expected a whole number from 1 to 12 for data.arguments.order"),
    ("predict", "data.arguments.notch", 5, "expected frequencies for data.arguments.notch"),
    ("predict", "data.arguments.montage", "odd", "expected monopolar, car or bipolar"),
    ("predict", "data.arguments.channels", [1] * 16, "expected a recording's channels to become the model's"),
    ("predict", "data.arguments.channels", list(range(80, 104)), "as the model is of another device"),
    ("predict", "data.arguments.labels", "gesture", "as the model is of another device"),
    ("evaluate", "model.layers", 10**6, "layers: expected 1 to 1000, found 1000000"),
    ("evaluate", "model.layers", 900, "expected weights of 900 blocks, found"),
    ("evaluate", "model.width", 2**20, r"expected embed.weight of shape \(1048576, .*found \(16, "),
    ("predict", "model.architecture.n_inner", 2**40, r"expected backbone.*of shape \(.*1099511627776.*\), found"),
    ("evaluate", "model.layers", 1.5, "layers: expected a value such as 2, found 1.5"),
    ("evaluate", "model.tune", 5, "tune: expected a value such as full, found 5"),
    ("evaluate", "model.band_edges", ["a", "b"], "band_edges: expected a value such as"),
    ("evaluate", "normalize.ridge", "x", "ridge: expected a number above 0"),
    ("evaluate", "shards", None, "without shards"),
]


@pytest.mark.parametrize(("name", "field", "value", "message"), DESCRIPTIONS, ids=lambda value: ascii(value)[:30])
def test_a_checkpoint_that_says_what_cannot_be(
    good: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, field: str, value: object, message: str
) -> None:
    """Its checksum is right: anybody can write one. Nothing is written, least of all where `run` leads to."""
    path, inside = copy / "run" / "best_model.ckpt", copy / "deep" / "er"
    described_otherwise(path, field, value)
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    before = set(copy.rglob("*"))
    words = {
        "evaluate": ["--checkpoint", path, "--shards", copy / "shards", "--split", copy / "split", "--device", "cpu"],
        "export": ["--checkpoint", path, "--no-onnx"],
        "predict": [good, "--checkpoint", path, "--device", "cpu"],
        "plot": ["architecture", path],
    }
    done = script(name, *words[name], "--quiet")
    assert done.code == 1 and "Traceback" not in done.err
    assert re.search(message, done.err), done.err
    assert len([line for line in done.err.splitlines() if "error: " in line]) == 1
    assert set(copy.rglob("*")) == before


def test_an_exported_folder_that_says_what_cannot_be(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its description has no checksum."""
    checkpoint = copy / "run" / "best_model.ckpt"
    assert script("export", "--checkpoint", checkpoint, "--no-onnx", "--out", copy / "hf").code == 0
    monkeypatch.chdir(copy)
    for change, message in (
        ({"run": "../evil"}, "expected the name of a folder for run"),
        ({"run": "\ud800"}, "found half a character in a text"),
        ({"model": None}, "without model"),
        ({"validation": "x"}, "expected an object for validation"),
    ):
        whole = (copy / "hf/config.json").read_text()
        described(copy / "hf/config.json", **change)
        check_refused(script("export", "--checkpoint", copy / "hf", "--no-onnx"), 1, message)
        (copy / "hf/config.json").write_text(whole)
    assert not (copy / "exports").exists() and not (copy.parent / "evil").exists()


@pytest.mark.parametrize("what", ["an empty file", "the first half", "hostile inside", "best_model.ckpt"])
def test_a_wrong_checkpoint_to_resume_from(copy: Path, what: str) -> None:
    last = copy / "run" / "last.ckpt"
    if what == "best_model.ckpt":
        shutil.copy(last.with_name(what), last)
    else:
        CHECKPOINTS[what][0](last)
    flags = ["--shards", copy / "shards", "--split", copy / "split", "--out", copy / "run", *TINY.split(), "--resume"]
    check_refused(script("train", *flags), 1, "last.ckpt: expected")


def test_a_traceback_is_shown_with_debug_alone(copy: Path) -> None:
    without(copy / "run" / "best_model.ckpt")
    check_refused(evaluated(copy), 1, "found no such file")
    with pytest.raises(DataError, match="no such file"):
        evaluated(copy, "--debug")


def test_adapting_that_leaves_the_numbers_is_told(copy: Path) -> None:
    """NaN would be scored as if the first class had been decided for everywhere."""
    model, places = copy / "run/best_model.ckpt", ["--shards", copy / "shards", "--split", copy / "split"]
    flags = ["--checkpoint", model, "--lr", 1e15, "--epochs", 2, "--out", copy / "out"]
    for amp in ("fp32", "bf16"):
        done = script("calibrate", *places, *flags, "--device", "cpu", "--quiet", "--amp", amp)
        check_refused(done, 1, r"subject 05: step \d+: expected .* gradient.*, found .*; try a smaller --lr")
        assert ("or --amp fp32" in done.err) == (amp == "bf16"), "advised where it is not used already"
    assert not (copy / "out" / "metrics.json").exists()


# --- results, curves and tables ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What evaluate.py writes."""
    out = tmp_path_factory.mktemp("results") / "run"
    assert evaluated(data, "--out", out).code == 0
    return out


def person(**scores: object) -> dict[str, object]:
    return {"per_subject": {"05": {"macro_f1": 0.5, "accuracy": 0.5, "n_windows": 3, **scores}}}


INFINITE = float("inf")
RESULTS: list[tuple[dict[str, object], str]] = [
    ({"per_subject": {}}, "expected a value of macro-F1 for at least one person"),
    ({"per_subject": [1]}, "expected per_subject with macro_f1 and n_windows"),
    ({"per_subject": {"05": {}}}, "expected per_subject with macro_f1 and n_windows"),
    (person(macro_f1=None), "expected a value of macro-F1 for at least one person"),
    (person(macro_f1=float("nan")), "a number that is not finite: NaN"),
    (person(macro_f1=INFINITE), "a number that is not finite: Infinity"),
    (person(macro_f1=70.8), "expected a macro_f1 from 0 to 1"),
    (person(macro_f1=-1), "expected a macro_f1 from 0 to 1"),
    (person(n_windows=INFINITE), "a number that is not finite: Infinity"),
    ({"subset": ["test"]}, "expected train, val or test as subset"),
    ({"subset": 5}, "expected train, val or test as subset"),
    ({"subset": "val"}, "expected results of one subset"),
    ({"per_subject": {"\ud800": {}}}, "found half a character in a text"),
]


@pytest.mark.parametrize(("change", "message"), RESULTS, ids=lambda value: ascii(value)[:40])
def test_results_that_cannot_be(results: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    (tmp_path / "wrong").mkdir()
    shutil.copy(results / "metrics.json", tmp_path / "wrong")
    described(tmp_path / "wrong" / "metrics.json", **change)
    check_refused(script("compare", results, tmp_path / "wrong", "--out", tmp_path / "out", "--quiet"), 1, message)
    assert not (tmp_path / "out").exists()


RECORDS = np.array([TESTED] * 3)
PREDICTIONS: dict[str, dict[str, np.ndarray]] = {
    "other arrays": {"label": np.zeros(3, int)},
    "lengths that differ": {"record": RECORDS, "label": np.zeros(2, int), "prediction": np.zeros(3, int)},
    "no window": {"record": RECORDS[:0], "label": np.zeros(0, int), "prediction": np.zeros(0, int)},
    "numbers for records": {"record": np.arange(3), "label": np.zeros(3, int), "prediction": np.zeros(3, int)},
    "no array": {"record": RECORDS[0], "label": np.array(0), "prediction": np.array(0)},
    "text for labels": {"record": RECORDS, "label": RECORDS, "prediction": RECORDS},
    "a label below 0": {"record": RECORDS, "label": np.array([0, 1, -2]), "prediction": np.zeros(3, int)},
    "halves of labels": {"record": RECORDS, "label": np.full(3, 0.5), "prediction": np.zeros(3, int)},
    "a million million classes": {"record": RECORDS, "label": np.zeros(3, int), "prediction": np.array([0, 1, 2**40])},
}


@pytest.mark.parametrize("what", PREDICTIONS)
def test_predictions_that_cannot_be(tmp_path: Path, what: str) -> None:
    np.savez(tmp_path / "predictions.npz", **PREDICTIONS[what])
    done = script("compare", tmp_path / "predictions.npz", "--out", tmp_path / "out", "--quiet")
    check_refused(done, 1, r"predictions\.npz: expected record, label and prediction of windows, found")


@pytest.mark.parametrize("content", [b"", b"PK" + b"x" * 99, b"half"], ids=["empty", "no archive", "half"])
def test_predictions_that_are_no_archive(results: Path, tmp_path: Path, content: bytes) -> None:
    whole = (results / "predictions.npz").read_bytes()
    (tmp_path / "predictions.npz").write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    done = script("compare", tmp_path / "predictions.npz", "--out", tmp_path / "out", "--quiet")
    check_refused(done, 1, r"predictions\.npz: expected record, label and prediction of windows, found")


CALIBRATED: list[tuple[dict[str, object], str]] = [
    ({"calibrate": INFINITE}, "a number that is not finite: Infinity"),
    ({"calibrate": 0}, "expected a whole number above 0 for calibrate"),
    (
        {"chance_over_subjects": {"macro_f1": "0.5"}},
        "expected a number or null for each metric for chance_over_subjects",
    ),
    ({"per_subject": [1]}, "expected per_subject with macro_f1"),
    ({"per_subject": {}}, "expected a value of macro-F1 for at least one person"),
    ({"zero_shot_on_the_same_windows": {"per_subject": {}}}, "expected a value of macro-F1 for at least one person"),
    ({"zero_shot_on_the_same_windows": 5}, r"expected results of calibrate\.py"),
    (person(macro_f1=float("nan")), "a number that is not finite: NaN"),
    ({"per_subject": {"09": person()["per_subject"]["05"]}}, "expected the same people with and without"),  # type: ignore[index]
]


@pytest.mark.parametrize(("change", "message"), CALIBRATED, ids=lambda value: ascii(value)[:40])
def test_calibrated_results_that_cannot_be(
    results: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    shutil.copy(results / "metrics.json", tmp_path)
    scores = json.loads((results / "metrics.json").read_text())["per_subject"]
    adapted = {"calibrate": 1, "zero_shot_on_the_same_windows": {"per_subject": scores}}
    described(tmp_path / "metrics.json", **(adapted | change))
    check_refused(script("plot", "calibration", tmp_path, "--out", tmp_path / "a.png", "--quiet"), 1, message)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]\n", b"5\n", b"null\n", b"{}\n", b"\xff\xfe", b"[" * 100_000, b'{"epoch": 1, "train/loss": "x"}'],
    ids=lambda value: ascii(value)[:20],
)
def test_curves_that_cannot_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    done = script("plot", "curves", tmp_path, "--out", tmp_path / "a.png", "--quiet")
    check_refused(done, 1, r"metrics\.jsonl: expected one line of metrics an epoch, found")


def array(**shape: object) -> bytes:
    """A .npy file whose header says `shape`, and nothing after it."""
    told = {"descr": "<f8", "fortran_order": False, "shape": (4000, 24), **shape}
    return b"\x93NUMPY\x01\x00v\x00" + repr(told).ljust(117).encode() + b"\n"


def saved(values: np.ndarray) -> bytes:
    result = io.BytesIO()
    np.save(result, values)
    return result.getvalue()


ROW = ",".join(["1"] * 24) + "\n"
SIGNS = np.random.default_rng(0).choice([-1.0, 1.0], (4000, 24))
SAMPLES: dict[str, tuple[str, bytes, str]] = {
    "nothing": (".npy", b"", "expected a NumPy array, found"),
    "half a header": (".npy", b"\x93NUMPY\x01\x00", "expected a NumPy array, found"),
    "more than any memory": (".npy", array(shape=(99999999999, 24)), "expected a NumPy array, found"),
    "a shape that cannot be": (".npy", array(shape=(-1, 24)), "expected a NumPy array, found"),
    "text in place of a shape": (".npy", array(shape="many"), "expected a NumPy array, found"),
    "no samples": (".npy", saved(np.zeros((0, 24))), "expected numbers of shape"),
    "no channels": (".npy", saved(np.zeros((4000, 0))), "expected numbers of shape"),
    "one dimension": (".npy", saved(np.zeros(4000)), "expected numbers of shape"),
    "complex numbers": (".npy", saved(np.zeros((4000, 24), complex)), "expected numbers of shape"),
    "NaN": (".npy", saved(np.full((4000, 24), np.nan)), "expected finite numbers, found nan at sample 0"),
    "lightning": (".npy", saved(1e38 * SIGNS), "expected amplitudes below 65 mV"),
    "beyond 32 bits": (".npy", saved(1e300 * SIGNS), "expected amplitudes below 65 mV"),
    "an empty table": (".csv", b"", "expected"),
    "UTF-16": (".csv", (ROW * 500).encode("utf-16")[:-1], "in utf-16, as it begins, found other bytes"),
    "two decimal marks": (".csv", (ROW.replace(",", ";") * 500 + "1,5;2.5" + ";1" * 22).encode(), "found '1,5'"),
    "a short row": (".csv", (ROW * 500 + "1,2\n" + ROW).encode(), ":501: expected 24 cells"),
    "text in the middle": (".csv", (ROW * 500 + ROW.replace("1", "x")).encode(), ":501: expected a number in column 1"),
    "NUL bytes": (".csv", bytes(1000), "expected"),
}


@pytest.mark.parametrize("what", SAMPLES)
def test_samples_that_cannot_be(data: Path, tmp_path: Path, what: str) -> None:
    """The table beside them is decided for."""
    suffix, content, message = SAMPLES[what]
    wrong = tmp_path / f"wrong{suffix}"
    wrong.write_bytes(content)
    np.save(tmp_path / "right.npy", np.random.default_rng(0).normal(0, 30, (4000, 24)))
    model = ["--checkpoint", data / "run/best_model.ckpt", "--device", "cpu", "--out", tmp_path / "out", "--quiet"]
    done = script("predict", wrong, tmp_path / "right.npy", "--rate", 5120, *model)
    check_refused(done, 1, message)
    assert wrong.name in done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["right.csv"]


@pytest.mark.parametrize("rate", ["1e-300", "1", "10000000"])
def test_a_rate_that_cannot_be_resampled(data: Path, tmp_path: Path, rate: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4000, 24)))
    model = ["--checkpoint", data / "run/best_model.ckpt", "--device", "cpu", "--out", tmp_path / "out", "--quiet"]
    (line,) = [
        line
        for line in script("predict", tmp_path / "a.npy", "--rate", rate, *model).err.splitlines()
        if line.startswith("error: ")
    ]
    assert "expected a rate of 51.2 to 512000 Hz, found" in line


def test_an_output_that_cannot_be_written_costs_that_recording_alone(data: Path, good: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / f"{good.stem}.csv").mkdir(parents=True)
    np.save(tmp_path / "right.npy", np.random.default_rng(0).normal(0, 30, (4000, 24)))
    model = ["--checkpoint", data / "run/best_model.ckpt", "--device", "cpu", "--out", tmp_path / "out", "--quiet"]
    done = script("predict", good, tmp_path / "right.npy", "--rate", 5120, *model)
    check_refused(done, 1, f"{good.stem}.csv: expected to read or write there, found: Is a directory")
    assert (tmp_path / "out" / "right.csv").is_file()


STATES: list[tuple[dict[str, object], str]] = [
    ({"state": None}, "without state"),
    ({"state": {}}, "an object with training, pretraining"),
    ({"state.later": 1}, "an object with training, pretraining"),
    ({"state.best_epoch": -1}, "expected a whole number for state.best_epoch, found -1"),
    ({"state.training": {"epoch": 1}}, "an object with epoch, in_epoch, .* for state.training"),
    ({"state.rows": 5}, "expected rows of metrics for state.rows"),
    ({"state.best": "high"}, "expected a number for state.best"),
    ({"state.confusion": [[1]]}, "expected a table of 4 x 4 counts for state.confusion"),
    ({"config": 5}, "expected an object for config"),
    ({"split": "0" * 64}, "expected the split .* as it is now, found another"),
]


@pytest.mark.parametrize(("change", "message"), STATES, ids=lambda value: ascii(value)[:40])
def test_a_last_ckpt_that_says_what_cannot_be(data: Path, copy: Path, change: dict[str, object], message: str) -> None:
    """As one of another version does, with a checksum that is right. The run is left as it is."""
    last = copy / "run" / "last.ckpt"
    for field, value in change.items():
        described_otherwise(last, field, value)
    before = {path: path.read_bytes() for path in (copy / "run").glob("*.*")}
    flags = ["--shards", data / "shards", "--split", data / "split", "--out", copy / "run", *TINY.split(), "--resume"]
    check_refused(script("train", *flags), 1, f"last.ckpt: .*{message}")
    assert {path: path.read_bytes() for path in (copy / "run").glob("*.*")} == before


@pytest.mark.parametrize("name", ["optimizer.bogus.x", "model.bogus"])
def test_a_last_ckpt_with_a_tensor_too_many(data: Path, copy: Path, name: str) -> None:
    changed(copy / "run" / "last.ckpt", **{name: torch.ones(2)})
    flags = ["--shards", data / "shards", "--split", data / "split", "--out", copy / "run", *TINY.split(), "--resume"]
    check_refused(script("train", *flags), 1, "last.ckpt: expected this run's weights and optimiser, found others")


# --- flags ------------------------------------------------------------------------------------------------------

FLAGS: list[tuple[str, str, str]] = [
    ("preprocess", "--window 0", "above 0"),
    ("preprocess", "--window -5", "expected"),
    ("preprocess", "--window 250us", "expected samples"),
    ("preprocess", "--stride 300ms", "expected at most the window"),
    ("preprocess", "--low 700 --high 20", "--low 700: expected above 0 and below --high, 20 Hz"),
    ("preprocess", "--low 50 --high 50", "--low 50: expected above 0 and below --high, 50 Hz"),
    ("preprocess", "--low 0", "above 0"),
    ("preprocess", "--low nan", "above 0"),
    ("preprocess", "--high 2560", "Nyquist"),
    ("preprocess", "--high inf", "above 0"),
    ("preprocess", "--notch 50 2600", "--notch 50 2600: expected between 0 and 2560 Hz, found 2600"),
    ("preprocess", "--order 0", "at least 1"),
    ("preprocess", "--order 13", "at most 12"),
    ("preprocess", "--transition-margin -0.1", "at least 0"),
    ("preprocess", "--channels 0", "from 1 to 24"),
    ("preprocess", "--channels 5-3", "rising"),
    ("preprocess", "--channels 1,1", "each number once"),
    ("preprocess", "--workers 0", "at least 1"),
    ("preprocess", "--workers two", "whole number"),
    ("create_dataset_files", "--val 0.5 --test 0.5", "expected less than 1 together"),
    ("create_dataset_files", "--test 0", "above 0"),
    ("create_dataset_files", "--test 1.5", "at most 1"),
    ("create_dataset_files", "--protocol kfold --folds 1", "at least 2"),
    ("create_dataset_files", "--folds 3", "means nothing to --protocol subject"),
    ("create_dataset_files", "--seed -1", "at least 0"),
    ("create_dataset_files", "--test-subjects 03 --val-subjects 03", "no person in both"),
    ("train", "--patch 77", "expected a whole number of samples that divides"),
    ("train", "--patch 0", "above 0"),
    ("train", "--patch 640", "--patch"),
    ("train", "--frame 10ms", "--frame"),
    ("train", "--heads 3", "--heads"),
    ("train", "--layers 0", "at least 1"),
    ("train", "--epochs 0", "at least 1"),
    ("train", "--batch-size 0", "at least 1"),
    ("train", "--lr 0", "above 0"),
    ("train", "--lr -1", "above 0"),
    ("train", "--lr inf", "above 0"),
    ("train", "--warmup 2", "at most 1"),
    ("train", "--dropout 1", "at most 0.9"),
    ("train", "--ema 1", "at most 0.99999"),
    ("train", "--seed -1", "at least 0"),
    ("train", "--tune last:9", "--tune"),
    ("train", "--tune everything", "--tune"),
    ("train", "--augment channel_dropout=2", "--augment"),
    ("train", "--augment band_rotation", "--augment"),
    ("train", "--augment band_rotation=0.1 channel_dropout=0 band_rotation=0.2", "found band_rotation 2 times"),
    ("train", "--bands 700 20", "--band"),
    ("train", "--bands 20 3000", "--band"),
    ("train", "--bands 20", "--band"),
    ("train", "--calibrate 1", "--calibrate: expected it no longer; instead: python calibrate.py"),
    ("train", "--init-from x.ckpt", "--init-from: expected it no longer; instead: python calibrate.py"),
    ("evaluate", "--batch-size 0", "at least 1"),
    ("evaluate", "--vote 0", "at least 1"),
    ("evaluate", "--workers -1", "at least 0"),
    ("evaluate", "--subset all", "invalid choice"),
    ("evaluate", "--device tpu", "invalid choice"),
    ("evaluate", f"--vote 1{'0' * 30}", "at most 9.0072e"),
    ("evaluate", "--normalize none", "invalid choice"),
    ("train", f"--seed 1{'0' * 30}", "at most 9.0072e"),
    ("train", f"--patch {'9' * 400}", "expected a length"),
    ("train", "--pretrain -1", "at least 0"),
    ("train", "--out /", "--out /: expected a folder with a name of its own"),
    ("calibrate", "--repetitions 0", "at least 1"),
    ("calibrate", "--tune last:9", "--tune last:9: expected full, last:1 to last:1"),
    ("calibrate", "--augment jitter=1", "--augment jitter=1: expected no jitter"),
    ("calibrate", "--augment roll", "--augment roll: expected band_rotation"),
    ("calibrate", "--frontend raw", "unrecognized arguments: --frontend raw"),
    ("calibrate", "--epochs 0", "at least 1"),
    ("train", "--ridge 0", "above 0"),
    ("train", "--ridge nan", "above 0"),
    ("train", "--ridge 11", "at most 10"),
    ("train", "--whitening all", "invalid choice"),
    ("evaluate", "--normalize running", "'running' is now called online"),
    ("train", "--whitening beside", "'beside' is now called append"),
    ("train", "--whitening only", "'only' is now called replace"),
    ("train", "--whitening replace --normalize train", "--whitening"),
    ("predict", "--rate 0", "above 0"),
    ("predict", "--rate nan", "above 0"),
    ("predict", "--start-after 1e308", "at most 9.0072e"),
    ("predict", f"--block {'9' * 400}", "expected a length"),
    ("predict", "--channels 0-", "expected numbers"),
    ("baselines", "--features moment", "--features|moment"),
    ("baselines", "--features rms+", "--features|expected"),
    ("baselines", "--subset train", "not trained on"),
    ("baselines", "--max-train-windows 7", "at least 8"),
    ("baselines", "--networks shallow --features rms", "--networks: expected it no longer; instead: python deep_base"),
    ("deep_baselines", "--networks deep", "invalid choice"),
    ("deep_baselines", "--lr inf", "above 0"),
    ("deep_baselines", "--decimate 0", "at least 1"),
    ("compare", "--group best", "expected NAME=GLOB"),
    ("compare", "--reference nobody", "--reference nobody: expected one of"),
    ("compare", "--metric auc", "invalid choice"),
    ("plot", "--begin -1", "at least 0"),
    ("plot", "--begin 1000", "before the recording's end"),
    ("plot", "--seconds 1e-9", "expected at least 2 samples"),
    ("plot", "--channels 99", "expected numbers from 1 to 24"),
]


@pytest.mark.parametrize(("name", "flags", "message"), FLAGS, ids=lambda value: str(value)[:40])
def test_wrong_flags(
    good: Path, data: Path, results: Path, tmp_path: Path, name: str, flags: str, message: str
) -> None:
    places = {
        "preprocess": ["--raw", good.parent, "--shards", tmp_path / "out"],
        "create_dataset_files": ["--shards", data / "shards", "--out", tmp_path / "out"],
        "train": ["--shards", data / "shards", "--split", data / "split", "--out", tmp_path / "out", *TINY.split()],
        "evaluate": ["--checkpoint", data / "run" / "best_model.ckpt", "--out", tmp_path / "out"],
        "calibrate": [
            *("--checkpoint", data / "run" / "best_model.ckpt", "--shards", data / "shards"),
            *("--split", data / "split", "--out", tmp_path / "out", "--quiet"),
        ],
        "predict": [good, "--checkpoint", data / "run" / "best_model.ckpt", "--out", tmp_path / "out"],
        "baselines": ["--shards", data / "shards", "--split", data / "split", "--out", tmp_path / "out"],
        "deep_baselines": ["--shards", data / "shards", "--split", data / "split", "--out", tmp_path / "out"],
        "compare": [results, "--out", tmp_path / "out"],
        "plot": ["recording", good, "--out", tmp_path / "out.png"],
    }
    check_refused(script(name.split()[0], *places[name], *flags.split()), 2, message)
    assert not list(tmp_path.rglob("*.*")), "nothing is written"
