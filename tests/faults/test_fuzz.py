"""Damage at random: a damaged shard, split, checkpoint or recording is refused in one line or changes nothing.

Each mutation flips bits, cuts the end off, or swaps, repeats or blanks blocks of one file. Seeded: a failure's number
says which one it was. `make faults` tries twenty thousand, `make test` a few hundred.

A recording is a file of putEMG's own, whose format has no checksum of its own: what protects its numbers is the
compression's checksum (zlib has one, blosc none), the rising index in every row, and the checks of counts and labels.
Without zlib about one such damage in twenty-five changes numbers unseen: there the downloader's MD5 is what protects.
"""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import recordings
import small_shards
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import mutated

from semg.common.errors import DataError
from semg.data.putemg import is_record, parse_record
from semg.data.putemg_recording import Recording
from semg.data.shards import open_shard
from semg.data.splits import Split, read_split, write_split
from semg.inference.checkpoint import open_checkpoint, write_checkpoint


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Nothing may hang."""

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def shard(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    path = folder / small_shards.write(folder, 3, repetitions=1)

    def content() -> object:
        opened = open_shard(path, verify=True)
        return opened.meta, opened.signal.tobytes(), opened.windows.tobytes()

    # the small files half of the time: their bytes mean more than the signal's do
    return [path / "shard.json", path / "windows.npy", path / "signal.npy"], content


def split(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    names = [[small_shards.name(subject, kind) for kind in ("a", "b")] for subject in range(1, 7)]
    parts = [tuple(name for both in part for name in both) for part in (names[:3], names[3:4], names[4:])]
    write_split(folder / "split", Split("", "subject", *parts, seed=1), {"script": "create_dataset_files.py"})

    def content() -> object:
        actual = read_split(folder / "split")
        return actual.protocol, actual.seed, actual.name, actual.train, actual.val, actual.test

    return [folder / "split" / name for name in ("train.txt", "val.txt", "test.txt", "split.json")], content


def checkpoint(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    path = folder / "best_model.ckpt"
    torch.manual_seed(0)
    tensors = {f"model.{i}": torch.randn(5, 7) for i in range(4)} | {
        "step": torch.tensor(3),
        "half": torch.ones(3).half(),
    }
    write_checkpoint(path, {"model": {"width": 7}, "classes": ["idle", "fist"]}, tensors)

    def content() -> object:
        opened = open_checkpoint(path)
        return opened.description, {k: (v.dtype, v.shape, v.numpy().tobytes()) for k, v in opened.tensors.items()}

    return [path], content


def recording(folder: Path) -> tuple[list[Path], Callable[[], object]]:
    path = folder / f"{recordings.record_name()}.hdf5"
    path.write_bytes(recordings.recording_bytes())

    def content() -> object:
        with Recording(path) as opened:
            counts, labels = opened.read(tuple(range(1, 25)), "TRAJ_GT")
            return counts.tobytes(), labels.tobytes(), opened.record

    return [path], content


MADE = {made.__name__: made for made in (shard, split, checkpoint, recording)}


def attack(folder: Path, kind: str, seeds: range) -> dict[str, int]:
    files, content = MADE[kind](folder)
    right = content()
    output = {"refused": 0, "without effect": 0}
    for seed in seeds:
        draw = random.Random(f"{kind}/{seed}")
        path = draw.choice(files)
        whole = path.read_bytes()
        path.unlink()  # not written over: what was opened before may still be mapped
        path.write_bytes(mutated(whole, draw))
        try:
            with at_most(30):
                actual = content()
        except DataError as error:
            assert "\n" not in str(error) and ": expected " in str(error), (seed, str(error))
            output["refused"] += 1
        else:
            assert actual == right, f"{kind} {seed}: accepted with another content"
            output["without effect"] += 1
        path.unlink()
        path.write_bytes(whole)
    return output


@pytest.mark.parametrize("kind", MADE)
def test_damage_is_refused_or_without_effect(tmp_path: Path, record_property, kind: str) -> None:
    output = attack(tmp_path, kind, range(100))
    record_property(f"mutations of a {kind}", sum(output.values()))
    assert output["refused"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("part", range(2))
def test_much_damage_is_refused_or_without_effect(tmp_path: Path, record_property, kind: str, part: int) -> None:
    output = attack(tmp_path, kind, range(1000 + 2500 * part, 3500 + 2500 * part))
    record_property(f"mutations of a {kind}", sum(output.values()))
    assert output["refused"] > 300


@given(st.text() | st.from_regex(r"emg_[a-z]{5,8}-\d\d-[a-z_]+-\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d-\d{3}.?"))
@example("emg_gestures-03-repeats_long-2018-05-11-10-00-00-000\n")
@example("../emg_gestures-03-repeats_long-2018-05-11-10-00-00-000")
def test_a_name_is_a_records_as_a_whole_or_refused(text: str) -> None:
    try:
        record = parse_record(text)
    except DataError as error:
        assert not is_record(text) and "\n" not in str(error)
    else:
        assert is_record(text) and record.name == text and text.isascii() and not set(text) & set("/\\\n.")
