"""A checkpoint whose description and tensors do not agree: refused before memory is taken, whatever numbers it has."""

import copy
import hashlib
import json
import re

import pytest
import torch

from model import GPT2Classifier, ModelConfig
from semg.common.errors import DataError
from semg.inference import trained_model
from semg.inference.checkpoint import FORMAT, VERSION, Checkpoint, open_checkpoint, write_checkpoint, write_folder
from semg.inference.trained_model import TrainedModel

SMALL = {"channels": 8, "samples": 256, "patch": 32, "frame": 128, "band_edges": (0.01, 0.05, 0.14), "classes": 3}
LLAMA = {"backbone": "llama", "architecture": {"intermediate_size": 24, "num_key_value_heads": 1}}


def checkpoint_of(path="x", **changes) -> Checkpoint:
    """A whole checkpoint of a small network, as it is after opening."""
    torch.manual_seed(0)
    config = ModelConfig(**{**SMALL, "layers": 2, "width": 16, "heads": 2, **changes})
    tensors = {f"model.{name}": value for name, value in GPT2Classifier(config).state_dict().items()}
    data = {
        "rate": 1000.0,
        "channels": [f"EMG_{n}" for n in range(8)],
        "classes": ["idle", "fist", "flexion"],
        "arguments": {"window": 256, "stride": 128, "low": 20.0, "high": 400.0, "order": 4, "notch": [50.0]},
    }
    normalize = {"method": "session", "whitening": "none", "ridge": 0.1}
    description = {"model": config.to_dict(), "data": data, "normalize": normalize}
    return Checkpoint(path, json.loads(json.dumps(description)), tensors | {"train_gain": torch.ones(8)})


def network(checkpoint: Checkpoint) -> GPT2Classifier:
    return TrainedModel(checkpoint, torch.device("cpu")).network


def changed(checkpoint: Checkpoint, changes: dict) -> Checkpoint:
    """With other values at dotted places of the description."""
    description = copy.deepcopy(checkpoint.description)
    for dotted, value in changes.items():
        place = description
        *folders, last = dotted.split(".")
        for part in folders:
            place = place[part]
        place[last] = value
    return Checkpoint(checkpoint.path, description, checkpoint.tensors)


def window(samples: int, **model: object) -> dict:
    return {"model.samples": samples, "data.arguments.window": samples} | {f"model.{k}": v for k, v in model.items()}


HUGE = [
    ({}, {"model.width": 2**20}, r"embed.weight of shape \(1048576, 16\), found \(16, 16\)"),
    ({}, {"model.width": 2**40}, "can be built"),
    ({}, {"model.width": 2**62}, "can be built"),
    ({}, {"model.width": 2**20, "model.heads": 2**20}, "embed.weight of shape"),
    ({}, {"model.layers": 999}, "expected weights of 999 blocks, found"),
    ({}, {"model.layers": 2**40}, "layers: expected 1 to 1000"),
    ({}, {"model.architecture.n_positions": 2**50}, r"wpe.weight of shape \(1125899906842624, 16\)"),
    ({}, {"model.architecture.n_inner": 2**45}, "of shape"),
    ({"tune": "lora"}, {"model.lora_rank": 2**40}, "of shape"),
    ({}, window(2**30, patch=2**25, frame=2**28), "samples: expected at most 8388608 with 8 channels"),
    ({}, window(2**22, patch=2**20, frame=2**22), "frame: expected at most"),
    ({}, window(2**20, patch=1, frame=256), "patch: expected at least 1024, so that"),
    ({"backbone": "none"}, window(2**20, patch=1, frame=256), "patch: expected at least 128, so that"),
    ({"backbone": "attention"}, {"model.width": 2**40}, "can be built"),
    ({}, window(2**18, patch=2**10, frame=2**18, band_edges=[n / 2**18 for n in range(1, 2**17)]), "frame: expected"),
    ({"frontend": "raw"}, window(2**23, patch=2**20), "of shape"),
    (LLAMA, {"model.architecture.head_dim": 2**40}, "of shape"),
    (LLAMA, {"model.architecture.intermediate_size": 2**40}, "of shape"),
    (LLAMA, {"model.architecture.max_position_embeddings": 2**60} | window(2**20, patch=1), "patch: expected at least"),
    (LLAMA, {"model.architecture.rope_parameters": {"rope_type": "nope"}}, "can be built"),
    (LLAMA, {"model.architecture.colour": 3}, "architecture: expected fields of LlamaConfig, found colour"),
]


@pytest.mark.parametrize(("shape", "changes", "message"), HUGE, ids=lambda value: str(value)[:50])
def test_a_huge_network_is_refused_before_it_is_built(monkeypatch, shape, changes, message):
    whole = checkpoint_of(**shape)
    network(whole)

    def built(*_: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr(trained_model, "GPT2Classifier", built)
    with pytest.raises(DataError, match=message) as caught:
        network(changed(whole, changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rings", "message"),
    [
        ([[0, 8]], "places below 8 in data.rings, found 8"),
        ([[0, 1], [1, 2]], "each place once"),
        ("ring", "each place"),
    ],
)
def test_rings_that_cannot_be_are_refused(rings, message):
    with pytest.raises(DataError, match=message):
        network(changed(checkpoint_of(), {"data.rings": rings}))


def leaves(value, path=""):
    """Every dotted place of a description that holds no object."""
    for key, own in value.items():
        if isinstance(own, dict):
            yield from leaves(own, f"{path}{key}.")
        else:
            yield f"{path}{key}"


ODD = (0, -1, 1, 2**31, 2**62, -(2**62), 1e308, -1e308, 1e-320, 0.5, True, None, "", "x", [], [1e308], {}, {"a": 1})


@pytest.mark.parametrize(
    "shape", [{}, LLAMA, {"backbone": "attention", "frontend": "both"}], ids=["gpt2", "llama", "none"]
)
def test_any_odd_value_is_built_rightly_or_refused(shape):
    whole = checkpoint_of(**shape)
    refused = 0
    for place in [*leaves(whole.description["model"], "model."), *leaves(whole.description["normalize"], "normalize.")]:
        for value in ODD:
            try:
                network(changed(whole, {place: value}))
            except DataError:
                refused += 1
    assert refused > 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 30, "9" * 5000])
def test_numbers_that_are_none_are_refused_wherever_they_are(tmp_path, number):
    whole = checkpoint_of()
    path = tmp_path / "best_model.ckpt"
    write_checkpoint(path, whole.description, whole.tensors)
    open_checkpoint(path)
    raw = torch.load(path, weights_only=True)
    raw["description"] = raw["description"].replace('"ridge": 0.1', f'"ridge": {number}')
    digest = hashlib.sha256(raw["description"].encode())
    for name in sorted(raw["tensors"]):
        tensor = raw["tensors"][name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    torch.save(raw | {"checksum": digest.hexdigest()}, path)
    with pytest.raises(DataError, match="expected a description in JSON"):
        open_checkpoint(path)


HOSTILE = {
    "sparse": torch.eye(3).to_sparse(),
    "more than its storage": torch.zeros(1).expand(10**13),
    "without memory": torch.empty(3, device="meta"),
    "complex": torch.ones(3, dtype=torch.complex64).conj(),
    "of eight bits": torch.ones(3).to(torch.float8_e4m3fn),
    "no tensor": [1.0],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("checksum", ["", "0" * 64])
def test_tensors_on_which_operations_fail_are_refused(tmp_path, name, checksum):
    """They ended in PyTorch's own errors; an empty checksum was taken for that of what is no tensor."""
    path = tmp_path / "best_model.ckpt"
    content = {"description": "{}", "tensors": {"model.head.weight": HOSTILE[name]}, "checksum": checksum}
    torch.save({"format": FORMAT, "version": VERSION, **content}, path)
    with pytest.raises(DataError, match=r"best_model\.ckpt: expected a description and dense tensors by name") as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value)


def test_files_near_a_model_are_told_from_it_and_the_model_is_named(tmp_path):
    """What somebody may give in its place: the run's folder, the state of its training, one file of an export."""
    checkpoint, run, export = checkpoint_of(), tmp_path / "run", tmp_path / "export"
    run.mkdir()
    (run / "config.json").write_text('{"script": "train.py"}')
    write_checkpoint(run / "best_model.ckpt", checkpoint.description, checkpoint.tensors)
    write_checkpoint(run / "last.ckpt", {"state": {}, "config": {}}, {})
    export.mkdir()
    write_folder(export, checkpoint)
    best = run / "best_model.ckpt"
    for path, told in [
        (run, f"found the folder of a run, whose model is {best}"),
        (
            run / "last.ckpt",
            "expected a trained model, best_model.ckpt, found the state of a run, for train.py to go on",
        ),
        (export / "config.json", f"found one file of an exported model; give its folder, {export}"),
        (export / "model.safetensors", f"found one file of an exported model; give its folder, {export}"),
    ]:
        with pytest.raises(DataError, match=re.escape(told)):
            TrainedModel.open(path, "cpu")
    for path in (best, export):
        TrainedModel.open(path, "cpu")
