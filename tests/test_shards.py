"""Shards open whole or not at all; windows are what the table says."""

import errno
import json
import mmap
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small_shards
from conftest import ROOT

from semg.common.errors import DataError
from semg.data import shards as shards_module
from semg.data.shards import WindowSet, list_records, meta_checksum, open_shard, open_shards


@pytest.fixture
def shard(tmp_path):
    return tmp_path / small_shards.write(tmp_path, 3)


def test_what_is_written_is_read(shard):
    opened = open_shard(shard, verify=True)
    assert (opened.record, opened.subject, opened.session) == (shard.name, "03", "03/2018-05-11")
    assert opened.signal.shape == (len(small_shards.labels()), 24)
    assert opened.signal.dtype == np.float16
    assert opened.meta["class_counts"] == dict.fromkeys(small_shards.CLASSES, 15)
    x = np.asarray(opened.signal, np.float64)
    np.testing.assert_allclose(opened.second_moment, x.T @ x / len(x), rtol=1e-4, atol=1e-2 * np.max(x**2) / 100)


def test_same_content_same_bytes(tmp_path):
    for folder in ("a", "b"):
        small_shards.write(tmp_path / folder, 3)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 3
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


@pytest.mark.parametrize("name", ["signal.npy", "windows.npy", "shard.json"])
def test_a_missing_or_cut_file_is_named(shard, name):
    whole = (shard / name).read_bytes()
    (shard / name).write_bytes(whole[:-3])
    with pytest.raises(DataError, match=name if name != "shard.json" else "JSON"):
        open_shard(shard)
    (shard / name).unlink()
    with pytest.raises(DataError, match=f"{name}.*no such file"):
        open_shard(shard)


@pytest.mark.parametrize("name", ["signal.npy", "windows.npy"])
def test_a_flipped_bit_is_found_when_verified(shard, name):
    data = bytearray((shard / name).read_bytes())
    data[-5] ^= 4
    (shard / name).write_bytes(bytes(data))
    with pytest.raises(DataError, match="checksum"):
        open_shard(shard, verify=True)


def test_a_changed_description_is_found(shard):
    meta = json.loads((shard / "shard.json").read_text())
    meta["subject"] = "04"
    (shard / "shard.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="checksum"):
        open_shard(shard)


def test_another_format_version_is_refused(shard):
    meta = json.loads((shard / "shard.json").read_text())
    (shard / "shard.json").write_text(json.dumps({**meta, "format_version": 99}))
    with pytest.raises(DataError, match="expected shard format 2, found 99"):
        open_shard(shard)


def test_files_of_another_shard_are_refused(tmp_path):
    one, other = (tmp_path / small_shards.write(tmp_path, subject) for subject in (3, 4))
    (one / "signal.npy").write_bytes((other / "signal.npy").read_bytes())
    with pytest.raises(DataError, match="checksum"):
        open_shard(one, verify=True)
    other.rename(tmp_path / small_shards.name(5))
    with pytest.raises(DataError, match=r"expected the shard of .*05.*, found that of .*04"):
        open_shard(tmp_path / small_shards.name(5))


def test_shards_made_differently_do_not_mix(tmp_path):
    changed = {**small_shards.ARGUMENTS, "low": 30.0}
    records = [small_shards.write(tmp_path, 3), small_shards.write(tmp_path, 4, arguments=changed)]
    with pytest.raises(DataError, match=r"low 20\.0, found 30\.0"):
        open_shards(tmp_path, records)
    there = r"none for 1 of them.*; shards of 2 subjects are there \(03 04\): make those missing with"
    with pytest.raises(DataError, match=there):
        open_shards(tmp_path, [records[0], small_shards.name(9)])


def test_records_are_the_folders_without_those_under_way(tmp_path):
    record = small_shards.write(tmp_path, 3)
    for foreign in (".other.tmp", ".ipynb_checkpoints", "lost+found", "@eaDir"):
        (tmp_path / foreign).mkdir()
    assert list_records(tmp_path) == [record]
    with pytest.raises(DataError, match=r"preprocess\.py"):
        list_records(tmp_path / "none")


def rewritten(shard, **changes):
    """The shard's description with other fields, None for none, and a checksum that is right."""
    meta = json.loads((shard / "shard.json").read_text()) | changes
    meta = {key: value for key, value in meta.items() if value is not None and key != "checksum"}
    (shard / "shard.json").write_text(json.dumps(meta | {"checksum": meta_checksum(meta)}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_samples", 2**63, "a number beyond 64 bits: 9223372036854775808"),
        ("order", 10**400, "a number beyond 64 bits: 1000"),
        ("rate", 10**400, "a number beyond 64 bits: 1000"),
        ("second_moment", [[10**400] * 24] * 24, "a number beyond 64 bits: 1000"),
        ("arguments", {"window": 2**62, "stride": 1}, "a recording of at least a window, 4611686018427387904 samples"),
        ("rings", [[0, 24]], "places below 24, the number of channels, in rings, found 24"),
        ("rings", [[0, 1], [1, 2]], "each place once for rings"),
        ("classes", ["idle", "fist", "idle", "open"], "each of the classes once, found idle, fist, idle, open"),
        ("rest_classes", ["nap"], "rest_classes among the classes, found 'nap'"),
        ("subject", "../03", "expected a name of .* for subject"),
    ],
)
def test_numbers_and_facts_that_cannot_be_are_named(shard, field, value, message):
    rewritten(shard, **{field: value})
    with pytest.raises(DataError, match=message):
        open_shard(shard)


@pytest.mark.parametrize("name", ["signal.npy", "windows.npy"])
def test_a_damaged_numpy_header_is_named(shard, name):
    """Every byte of it, in several ways: it is refused in one line, or the arrays are as they were."""
    data, before = (shard / name).read_bytes(), open_shard(shard)
    signal = np.array(before.signal)
    for place in range(128):
        for byte in (0, 10, 40, 57, 255):
            (shard / name).write_bytes(data[:place] + bytes([byte]) + data[place + 1 :])
            try:
                opened = open_shard(shard)
            except DataError as error:
                assert "\n" not in str(error)
            else:
                assert np.array_equal(opened.signal, signal)
                assert np.array_equal(opened.windows, before.windows)


SMALL_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np
from semg.data.shards import WindowSet, list_records, open_shards
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
shards = open_shards(folder, list_records(folder), verify=True)
windows = WindowSet(shards)
places = np.random.default_rng(0).permutation(len(windows))
batch = windows.gather(places)
for row, place in zip(batch, places):
    start = windows.start[place]
    assert np.array_equal(row, shards[windows.shard[place]].signal[start : start + windows.window])
taken = []
try:
    while True:
        taken.append(open("/dev/null"))
except OSError:
    pass
try:
    [shard.signal for shard in shards]
except OSError as error:
    print(len(shards), error.strerror)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_more_shards_than_files_may_be_open(tmp_path):
    """And where no file may be opened at all, that is said, not that a shard is damaged."""
    for subject in range(1, 61):
        small_shards.write(tmp_path, subject, repetitions=1)
    done = subprocess.run([sys.executable, "-c", SMALL_LIMIT, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "60 Too many open files\n", done.stderr


def test_a_shard_replaced_while_it_is_in_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("semg.data.signal_file._most_mapped", lambda: 1)
    one, other = (tmp_path / small_shards.write(tmp_path, subject) for subject in (3, 4))
    shards = open_shards(tmp_path, [one.name, other.name])
    assert len(shards[0].signal) == len(shards[1].signal)
    small_shards.write(tmp_path, 3, arguments={**small_shards.ARGUMENTS, "low": 30.0})
    with pytest.raises(DataError, match=r"signal\.npy: expected the file as it was, found it replaced"):
        _ = shards[0].signal


def test_data_are_the_same_if_results_of_them_are(tmp_path):
    """Whichever version of the program wrote them: nobody is made to train again for that."""

    def content(**changes):
        return open_shard(tmp_path / small_shards.write(tmp_path, 3, **changes)).content

    first = content()
    assert content(commit="another", versions={"numpy": "3"}) == first
    others = {"arguments": {**small_shards.ARGUMENTS, "low": 30.0}}, {"rest_classes": []}, {"repetitions": 2}
    assert len({first, *(content(**one) for one in others)}) == 4


def numbered_anew(path):
    """The same file or folder, with the same times, under other inodes: as network drives show one that they forgot."""
    copy = path.with_name("copy")
    if path.is_dir():
        shutil.copytree(path, copy)
        shutil.rmtree(path)
    else:
        shutil.copy2(path, copy)
    copy.replace(path)


def test_a_shard_whose_files_are_numbered_anew_is_the_same(tmp_path, monkeypatch):
    shard = tmp_path / small_shards.write(tmp_path, 3)
    opened, before = open_shard(shard), (shard / "signal.npy").stat().st_ino
    numbered_anew(shard / "signal.npy")
    assert (shard / "signal.npy").stat().st_ino != before
    assert opened.signal.shape == (len(small_shards.labels()), 24)
    read = shards_module.read_meta

    def numbered_after(path):
        meta = read(path)
        numbered_anew(path)
        return meta

    monkeypatch.setattr(shards_module, "read_meta", numbered_after)
    assert open_shard(shard, verify=True).meta == opened.meta


CUT = """
import os, sys
from pathlib import Path
import numpy as np
from semg.common.errors import DataError
from semg.data.shards import WindowSet, open_shard
shard = Path(sys.argv[1])
windows = WindowSet([open_shard(shard)])
places = np.arange(len(windows))
windows.gather(places)
os.truncate(shard / "signal.npy", 4096)
try:
    windows.gather(places)
except DataError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cuts no file that is mapped")
def test_a_signal_that_is_cut_while_it_is_in_use_is_named(shard):
    """In a process of its own: without a look at the size, reading what is gone ends it by SIGBUS."""
    done = subprocess.run([sys.executable, "-c", CUT, shard], capture_output=True, text=True, cwd=ROOT)
    expected = "expected the file as it was, found it cut or removed; make it anew, then run this again"
    assert (done.returncode, done.stdout) == (0, f"{shard / 'signal.npy'}: {expected}\n"), done.stderr


def test_a_signal_that_another_machine_removed_is_named(shard, monkeypatch):
    """A network drive says so of a file that is open: ESTALE."""

    class Stale(mmap.mmap):
        def size(self):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    opened = open_shard(shard)
    monkeypatch.setattr(mmap, "mmap", Stale)
    with pytest.raises(DataError, match=r"signal\.npy: expected the file as it was, found it cut or removed"):
        _ = opened.signal


def test_a_recording_shorter_than_a_window_is_no_shard(tmp_path):
    """Statistics are of windows spread over each recording, labelled or not."""
    with pytest.raises(DataError, match="expected a recording of at least a window, 20000 samples, found 11520"):
        small_shards.write(tmp_path, 3, arguments=small_shards.ARGUMENTS | {"window": 20000})
    assert list_records(tmp_path) == []


def test_windows_of_many_shards(tmp_path):
    records = [small_shards.write(tmp_path, 3), small_shards.write(tmp_path, 4, repetitions=1)]
    shards = open_shards(tmp_path, records)
    windows = WindowSet(shards)
    assert len(windows) == 60 + 20
    assert windows.subject.tolist() == ["03"] * 60 + ["04"] * 20
    index = np.array([79, 0, 61])
    batch = windows.gather(index)
    for row, place in enumerate(index):
        start = windows.start[place]
        expected = shards[windows.shard[place]].signal[start : start + small_shards.WINDOW]
        assert np.array_equal(batch[row], expected)
    moved = windows.gather(index[1:], windows.start[index[1:]] + 1)
    assert np.array_equal(moved[:, :-1], batch[1:, 1:])
