"""Leaks planted on purpose: each is refused, or said aloud."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import small_shards
from test_bad_inputs import TINY, check_refused, script

from semg.data import splits
from semg.data.shards import open_shard, write_shard


@pytest.fixture(autouse=True)
def _counted(record_property) -> None:
    record_property("counted", "leaks")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    small_shards.write_all(tmp_path)
    return tmp_path


def trained(data: Path):
    places = ["--shards", data / "shards", "--split", data / "split"]
    return script("train", *places, "--out", data / "run", *TINY.split(), "--overwrite")


def evaluated(data: Path):
    places = ["--shards", data / "shards", "--split", data / "split", "--out", data / "out"]
    return script("evaluate", "--checkpoint", data / "run/best_model.ckpt", *places, "--device", "cpu", "--quiet")


def test_a_person_in_two_subsets_of_a_split_that_promises_otherwise(data: Path) -> None:
    """Even where split.json has the right checksums for the wrong lists."""
    parts = [
        (small_shards.name(1), small_shards.name(2)),
        (small_shards.name(3),),
        (small_shards.name(1, "sequential"),),
    ]
    splits.write_split(data / "split", splits.Split("", "subject", *parts, seed=0), {})
    check_refused(trained(data), 1, "expected no person in two subsets .*, found 01 in train and test")


def test_a_person_in_two_subsets_of_a_split_by_hand_is_said_aloud(data: Path) -> None:
    record = small_shards.write(data / "shards", 1, "sequential")
    small_shards.write_split(
        data / "split", train=[small_shards.name(1), small_shards.name(2)], val=[small_shards.name(3)], test=[record]
    )
    assert trained(data).code == 0
    done = evaluated(data)
    assert done.code == 0
    assert "PEOPLE OF THE TEST SET WERE TRAINED ON: 01" in done.err
    assert json.loads((data / "out/metrics.json").read_text())["trained_on_subjects_scored"] == ["01"]


def test_a_recording_in_two_subsets(data: Path) -> None:
    """And with it all overlapping windows: they never leave their recording."""
    (data / "split/test.txt").write_text(small_shards.name(1) + "\n")
    check_refused(trained(data), 1, "expected no recording in two subsets, found .* in train and test")


def test_a_split_changed_after_training_so_that_it_tests_what_was_trained_on(data: Path) -> None:
    assert trained(data).code == 0
    names = [small_shards.name(subject) for subject in range(1, 6)]
    small_shards.write_split(data / "split", train=names[3:4], val=names[4:], test=names[:1])
    done = evaluated(data)
    assert "PEOPLE OF THE TEST SET WERE TRAINED ON: 01" in done.err
    assert "RECORDINGS OF THE TEST SET WERE TRAINED ON: 1" in done.err


def test_one_recording_under_two_peoples_names(data: Path) -> None:
    source, copied = data / "shards" / small_shards.name(1), data / "shards" / small_shards.name(6)
    copied.mkdir()
    for name in ("signal.npy", "windows.npy"):
        (copied / name).write_bytes((source / name).read_bytes())
    meta = json.loads((source / "shard.json").read_text()) | {"record": copied.name, "subject": "06"}
    del meta["checksum"]
    checksum = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    (copied / "shard.json").write_text(json.dumps({**meta, "checksum": checksum}))
    done = script("create_dataset_files", "--shards", data / "shards", "--out", data / "new")
    check_refused(done, 1, "expected each recording once, found the signal of")


def test_windows_of_two_subsets_share_no_sample(data: Path) -> None:
    """Whatever the stride: in the split that the tool makes, no recording feeds two subsets."""
    done = script("create_dataset_files", "--shards", data / "shards", "--out", data / "made")
    assert done.code == 0, done.err
    result = splits.read_split(data / "made")
    samples = {}
    for subset in splits.SUBSETS:
        opened = [open_shard(data / "shards" / name) for name in result.records(subset)]
        samples[subset] = {(s.record, int(at) // 160) for s in opened for at in s.windows["start"]}
    assert not (samples["train"] & samples["test"] or samples["train"] & samples["val"])
    assert not samples["val"] & samples["test"]


@pytest.mark.parametrize("how", ["train", "baselines"])
def test_labels_drawn_at_random_give_chance_within_its_interval(tmp_path: Path, how: str) -> None:
    """Through files and scripts, from shards whose labels mean nothing to the interval in metrics.json."""
    records = [small_shards.write(tmp_path / "shards", subject) for subject in range(1, 15)]
    random = np.random.default_rng(3)
    for name in records:
        shard = open_shard(tmp_path / "shards" / name)
        windows, signal = shard.windows.copy(), np.array(shard.signal)
        windows["label"] = random.permutation(windows["label"])
        write_shard(shard.path, shard.meta, signal, windows)
    small_shards.write_split(tmp_path / "split", train=records[:4], val=records[4:6], test=records[6:])
    if how == "train":
        assert trained(tmp_path).code == 0
        assert evaluated(tmp_path).code == 0
        (actual,) = (tmp_path / "out").glob("metrics.json")
    else:
        places = ["--shards", tmp_path / "shards", "--split", tmp_path / "split", "--out", tmp_path / "out"]
        assert script("baselines", *places, "--features", "logband", "--classifiers", "lda", "--quiet").code == 0
        (actual,) = (tmp_path / "out").glob("*/metrics.json")
    low, high = json.loads(actual.read_text())["ci95"]["accuracy"]
    assert low <= 1 / len(small_shards.CLASSES) <= high
    assert high - low < 0.15, "an interval that says something"


@pytest.mark.parametrize("part", ["train", "test"])
def test_labels_shuffled_in_a_shard(data: Path, part: str) -> None:
    if part == "test":
        assert trained(data).code == 0
    path = data / "shards" / small_shards.name(1 if part == "train" else 5) / "windows.npy"
    windows = np.load(path)
    windows["label"] = np.random.default_rng(0).permutation(windows["label"])
    np.save(path, windows)
    done = trained(data) if part == "train" else evaluated(data)
    check_refused(done, 1, r"windows\.npy: expected the checksum in shard\.json, found another")
