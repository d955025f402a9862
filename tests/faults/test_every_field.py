"""Every field of every file that others may have made, with values that do not belong there.

Each ends in the project's own error, in one line, or in numbers that can be: never in a traceback, a hang or memory
that grows. Checksums are made right, as whoever forges a file does.
"""

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_shards
import test_checkpoint
import test_report
from fuzz_long import attempt
from test_fuzz import at_most

from semg.common.console import LONGEST_LINE, one_line
from semg.common.errors import DataError, UsageError
from semg.data.shards import WindowSet, check_alike, meta_checksum, open_shard
from semg.data.splits import Split, read_split, write_split
from semg.evaluation import metrics
from semg.evaluation.comparison import against, pool, read_evaluation
from semg.evaluation.page import read_page, render
from semg.evaluation.predictions import read_predictions, reliability, surest_errors
from semg.inference import checkpoint as layout
from semg.inference.trained_model import TrainedModel

EXPECTED = (DataError, UsageError)
LONGEST = 20  # seconds that one value may take
VALUES = {
    "null": None,
    "text": "\x1b[31m<b>=1+1",
    "NaN": float("nan"),
    "minus one": -1,
    "large": 2**62,
    "beyond 64 bits": 2**70,
    "large and real": 1e300,
    "no list": [],
    "long list": list(range(50_000)),
    "object": {"a": {"b": [None]}},
    "true": True,
}
Use = Callable[[Any], object]


def places(value: Any, way: tuple = ()) -> Iterator[tuple]:
    """The way to everything in a JSON value; of a list to its first item, of objects of people to the first."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, one in list(inside)[:1] if way[-1:] in (("per_subject",), ("per_class",)) else inside:
        yield (*way, key)
        yield from places(one, (*way, key))


def replaced(content: Any, way: tuple, value: Any) -> Any:
    """A copy with another value in one place."""
    actual = copy.deepcopy(content)
    holder = actual
    for key in way[:-1]:
        holder = holder[key]
    holder[way[-1]] = value
    return actual


def in_one_line(use: Use, content: Any) -> object:
    try:
        return use(content)
    except EXPECTED as error:
        assert "\n" not in str(error), "more than a line"
        assert len(one_line(str(error))) <= LONGEST_LINE, "more than anybody reads"
        raise


def every_field(content: dict[str, Any], use: Use) -> None:
    """Use `content` with every value in every place; what is not refused in a line or used is listed."""
    use(content)  # as it is, it is right
    counts, findings = Counter[str](), []
    for way in places(content):
        for name, value in VALUES.items():
            changed = replaced(content, way, value)
            with at_most(LONGEST):
                kind, what = attempt(lambda _, changed=changed: bool(in_one_line(use, changed)), 0, EXPECTED)
            counts[kind] += 1
            if kind == "finding":
                findings.append(f"{'.'.join(map(str, way))} = {name}: {what}")
    assert not findings, "\n".join(findings)
    assert counts["refused"] > counts["accepted"] / 10, counts


# --- checkpoints and what a stream has heard ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> layout.Checkpoint:
    """A small network's checkpoint with all that train.py says in it."""
    actual = test_checkpoint.checkpoint_of()
    actual.description["data"]["arguments"] |= {"channels": [*range(1, 9)], "montage": "monopolar", "causal": False}
    actual.description["data"] |= {"rest_classes": ["idle"], "unit": "uV", "rings": [[*range(8)]]}
    origin = {"folder": "splits/x", "name": "x", "train": ["a"]}
    actual.description.update(run="x", shards="data/shards", split=origin, trained_on=["1"])
    actual.description.update(class_windows=[5, 4, 3], validation={"val/macro_f1": 0.5})
    return actual


def write_forged(path: Path, description: dict[str, Any], tensors: dict) -> None:
    """A checkpoint whose checksum is right, whatever it says."""
    text = json.dumps(description)
    head = {"format": layout.FORMAT, "version": layout.VERSION, "checksum": layout._checksum(text, tensors)}
    layout.torch.save({**head, "description": text, "tensors": tensors}, path)


def test_every_field_of_a_checkpoint(trained: layout.Checkpoint, tmp_path: Path) -> None:
    signal = np.random.default_rng(0).normal(0, 50, (700, 8))

    def use(description: dict[str, Any]) -> object:
        write_forged(tmp_path / "best_model.ckpt", description, trained.tensors)
        model = TrainedModel.open(tmp_path / "best_model.ckpt", "cpu")
        shares = model.predict(signal).select_dtypes("number").to_numpy(float)
        assert len(shares) and np.isfinite(shares).all(), "probabilities that are not finite"
        model.stream().push(signal)
        return model.rest_classes, model.restriction(), model.prior, model.origin

    every_field(trained.description, use)


def test_every_field_of_a_streams_statistics(trained: layout.Checkpoint, tmp_path: Path) -> None:
    signal = np.random.default_rng(0).normal(0, 50, (2000, 8))
    write_forged(tmp_path / "best_model.ckpt", trained.description, trained.tensors)
    model = TrainedModel.open(tmp_path / "best_model.ckpt", "cpu")
    stream, path = model.stream(), tmp_path / "heard.npz"
    stream.push(signal)
    model.write_statistics(path, stream.heard())
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}

    def use(changes: dict[str, Any]) -> object:
        np.savez(path, **arrays | {name: np.array(value) for name, value in changes.items()})
        decided = model.stream(statistics=model.read_statistics(path)).push(signal)
        assert all(np.isfinite(one.probabilities).all() for one in decided)
        return decided

    every_field(json.loads(str(arrays["about"])), lambda about: use({"about": json.dumps(about)}))
    strange = [np.nan, -1, 2**62, "x", [], np.zeros(50_000), np.float32(1e38), True]
    for name in arrays:
        for value in strange:
            with pytest.raises(DataError):
                use({name: value})


# --- shards and splits -------------------------------------------------------------------------------------------


def test_every_field_of_shard_json(tmp_path: Path) -> None:
    path = tmp_path / small_shards.write(tmp_path, 3, repetitions=1)
    other = open_shard(tmp_path / small_shards.write(tmp_path, 4, repetitions=1))

    def use(meta: dict[str, Any]) -> object:
        meta = {**meta, "checksum": meta_checksum(meta)}
        (path / "shard.json").write_text(json.dumps(meta))
        shard = open_shard(path)
        check_alike([shard, other])
        windows = WindowSet([shard])
        return windows.gather(np.arange(len(windows))), shard.facts, shard.rings, windows.rest

    every_field(json.loads((path / "shard.json").read_text()), use)


def test_every_field_of_split_json(tmp_path: Path) -> None:
    names = [small_shards.name(subject) for subject in range(1, 7)]
    subsets = {"train": tuple(names[:3]), "val": tuple(names[3:4]), "test": tuple(names[4:])}
    write_split(tmp_path / "split", Split("x", "subject", **subsets, seed=1), {"script": "create_dataset_files.py"})
    path = tmp_path / "split" / "split.json"

    def use(meta: dict[str, Any]) -> object:
        meta = {**meta, "checksum": meta_checksum(meta)}
        path.write_text(json.dumps(meta))
        split = read_split(tmp_path / "split")
        assert isinstance(split.name, str)
        assert split.seed is None or (isinstance(split.seed, int) and split.seed >= 0)
        return split.subjects("train")

    every_field(json.loads(path.read_text()), use)


# --- results and runs --------------------------------------------------------------------------------------------


def page_of(folder: Path) -> str:
    """report.py's page of a result or a run; DataError for what it could not read."""
    metric = metrics.leading()
    page = read_page([folder], metric, title="x", reference=None, shards=None, errors_shown=0, provenance={})
    if page.failures:
        raise DataError(page.failures[0])
    actual = render(page)
    assert "<b>=1+1" not in actual and "\x1b" not in actual, "a text from a file as markup or command"
    return actual


def test_every_field_of_a_runs_config_json(tmp_path: Path) -> None:
    folder = test_report.write_run(tmp_path / "run")
    path = folder / "config.json"

    def use(config: dict[str, Any]) -> object:
        path.write_text(json.dumps(config))
        return page_of(folder)

    every_field(json.loads(path.read_text()), use)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a result."""
    folder = tmp_path_factory.mktemp("result")
    shards, _ = small_shards.write_all(folder)
    test_report.write_result(folder / "one", shards)
    return folder / "one"


def test_every_field_of_metrics_json(result: Path) -> None:
    path = result / "metrics.json"
    whole = path.read_text()

    def use(content: dict[str, Any]) -> object:
        path.write_text(json.dumps(content))
        methods = [pool("x", [read_evaluation(path, metrics.leading().name)])]
        return page_of(result), against(methods, None)

    try:
        every_field(json.loads(whole), use)
    finally:
        path.write_text(whole)


def test_every_column_of_predictions_npz(result: Path, tmp_path: Path) -> None:
    with np.load(result / "predictions.npz") as file:
        arrays = {name: file[name] for name in file.files}
    n, path = len(arrays["label"]), tmp_path / "predictions.npz"
    strange = [np.nan, -1, 2**62, "x", [], np.full(n, -1), np.full(n, np.nan), np.full(n, 2**62), np.full(n, "../\n")]
    strange += [np.full((n, 4), np.nan), np.full((n, 4), 1e30), np.zeros((n, 4), bool), np.zeros((2, 2, 2))]
    used = 0
    for name in arrays:
        for value in strange:
            np.savez(path, **arrays | {name: np.array(value)})
            try:
                read = read_predictions(path, 4)
            except DataError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                continue
            used += 1
            surest_errors(read, 5)
            assert read.confidence is None or np.isfinite(reliability(read.confidence, read.label == 0)[1])
    assert used < len(arrays) * len(strange) / 5
