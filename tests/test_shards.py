"""Shards open whole or not at all; windows are what the table says."""

import json

import numpy as np
import pytest
import small_shards

from semg.common.errors import DataError
from semg.data.shards import WindowSet, list_records, open_shard, open_shards


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
    with pytest.raises(DataError, match="expected shard format 1, found 99"):
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
    with pytest.raises(DataError, match=r"none for 1 of them"):
        open_shards(tmp_path, [records[0], small_shards.name(9)])


def test_records_are_the_folders_without_those_under_way(tmp_path):
    record = small_shards.write(tmp_path, 3)
    (tmp_path / ".other.tmp").mkdir()
    assert list_records(tmp_path) == [record]
    with pytest.raises(DataError, match=r"preprocess\.py"):
        list_records(tmp_path / "none")


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
