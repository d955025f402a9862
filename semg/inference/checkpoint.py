"""The file formats of a checkpoint: plain types and tensors with a checksum, written completely or not at all.

A checkpoint is one file, opened with `torch.load(weights_only=True)`, which runs no code from it. It holds
  format, version     the kind of file
  description         JSON text: model configuration, data arguments, classes, normalisation, split, how it was made
  tensors             the weights and everything else stored as tensors, by name
  checksum            SHA-256 over description and tensors

export.py writes the same contents as a folder in the Hugging Face layout, which can be opened in the same way:
  config.json         the description, and a checksum over the tensors
  model.safetensors   the tensors
"""

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from semg.common.errors import DataError, short
from semg.common.files import atomic_path, digest_of, expect_file, json_value, read_json, write_json

FORMAT = "semg-gpt2 checkpoint"
VERSION = 2
CONFIG, WEIGHTS = "config.json", "model.safetensors"
OLDEST_TORCH = (2, 10)  # in older ones, weights_only does not stop a hostile file: CVE-2025-32434, CVE-2026-24747
_NUMBERS = frozenset(
    [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    ]
)
_MODEL_TYPE = "semg-gpt2"  # by which an exported model is known, in both of its files
_LAYOUT = {"model_type": _MODEL_TYPE, "architectures": ["GPT2Classifier"]}


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its description as plain types, and its tensors by name.

    sha256: of the file from which the weights were read, even if `path` has been replaced since; empty if there was no
    file.
    """

    path: Path
    description: dict[str, Any]
    tensors: dict[str, Tensor]
    sha256: str = ""


def write_checkpoint(
    path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor], hint: str = "free some and run again"
) -> None:
    """Write a checkpoint; at every moment `path` is the old file, the new one, or absent.

    hint: advice in the DataError for a full disk.
    """
    text = json.dumps(description, allow_nan=False)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole = {
        "format": FORMAT,
        "version": VERSION,
        "description": text,
        "tensors": on_cpu,
        "checksum": _checksum(text, on_cpu),
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(whole, temporary)
        except RuntimeError as error:  # PyTorch's writer raises this for a full disk
            raise DataError(
                f"{path}: expected room to write it, found a disk that takes no more ({short(error, 120)})", hint=hint
            ) from None


def open_checkpoint(path: Path) -> Checkpoint:
    """Open and verify a checkpoint: the file that train.py writes, or the folder that export.py makes of it.

    Raises DataError, naming the file, for anything that is not a complete checkpoint.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a checkpoint, found no such file; train.py writes one")
    if path.name in (CONFIG, WEIGHTS) and is_export(path.parent):
        actual = f"one file of an exported model; give its folder, {path.parent}"
        raise DataError(f"{path}: expected a checkpoint or the folder of one, found {actual}")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise DataError(
            f"{path}: expected PyTorch {oldest} or newer to open it safely, found {torch.__version__}; "
            "pip install -r requirements.txt"
        )
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            # a warning about a strange file's pickle protocol adds nothing to the error that follows
            warnings.simplefilter("ignore")
            whole = torch.load(file, map_location="cpu", weights_only=True)
            sha256 = digest_of(file)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, IndexError) as error:
        raise DataError(
            f"{path}: expected a checkpoint, found a file that cannot be read ({short(error, 120)})"
        ) from None
    except pickle.UnpicklingError:
        raise DataError(f"{path}: expected tensors and plain types, found objects that could run code") from None
    except Exception as error:  # a damaged pickle can raise nearly any error; none may look like a crash
        raise DataError(f"{path}: expected a checkpoint, found damaged data ({short(error, 120)})") from None
    return replace(_checked(path, whole), sha256=sha256)


def _checked(path: Path, whole: Any) -> Checkpoint:
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise DataError(f"{path}: expected a checkpoint of this project, found something else")
    version = whole.get("version")
    if version != VERSION:
        raise DataError(f"{path}: expected checkpoint version {VERSION}, found {version}; train again")
    text, tensors = whole.get("description"), whole.get("tensors")
    if not isinstance(text, str) or not isinstance(tensors, dict) or not _are_plain(tensors):
        raise DataError(f"{path}: expected a description and dense tensors by name, found others; train again")
    if whole.get("checksum") != _checksum(text, tensors):
        raise DataError(f"{path}: expected its checksum, found another: the file is damaged; copy it again")
    _check_finite(path, tensors)
    try:
        description = json_value(text)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise DataError(f"{path}: expected a description in JSON, found another; train again")
    # the file may mark a tensor as requiring a gradient: the checksum, over values, does not detect such damage
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    return Checkpoint(path, description, tensors)


def _are_plain(tensors: Mapping[Any, Any]) -> bool:
    """Whether these are dense tensors of real numbers by name, as `write_checkpoint` writes them.

    A hostile file can hold others: operations fail on sparse ones, and one that is expanded can stand for more numbers
    than fit into memory.
    """
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            return False
        if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
            return False
        if tensor.dtype not in _NUMBERS or tensor.nbytes > tensor.untyped_storage().nbytes():
            return False
    return True


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if wrong := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor.float()).all())]:
        raise DataError(f"{path}: expected finite weights, found NaN or infinity in {wrong[0]}; train again")


# --- as a folder -----------------------------------------------------------------------------------------------


def write_folder(folder: Path, checkpoint: Checkpoint) -> None:
    """Write config.json and model.safetensors into `folder`; config.json is last because it contains the other's
    checksum."""
    contiguous = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(contiguous, metadata={"format": "pt", "model_type": _MODEL_TYPE}))
    head = {**_LAYOUT, "format_version": VERSION, "weights_checksum": _checksum("", contiguous)}
    content = head | checkpoint.description
    write_json(folder / CONFIG, content)


def files_of(path: Path) -> list[Path]:
    """The files of which the checkpoint at `path` consists."""
    return [path / CONFIG, path / WEIGHTS] if path.is_dir() else [path]


def is_export(folder: Path) -> bool:
    """Whether the config.json in `folder` is that of an exported model."""
    try:
        return bool(read_json(folder / CONFIG, "a description").get("model_type") == _MODEL_TYPE)
    except DataError:
        return False


def is_exports_weights(path: Path) -> bool:
    """Whether a model.safetensors is that of an exported model; an export that was stopped leaves it alone."""
    try:
        with safe_open(path, "pt") as weights:
            return (weights.metadata() or {}).get("model_type") == _MODEL_TYPE
    except (SafetensorError, OSError):
        return False


def _open_folder(folder: Path) -> Checkpoint:
    if (best := folder / "best_model.ckpt").is_file() and not is_export(folder):
        run = f"the folder of a run, whose model is {best}"
        raise DataError(f"{folder}: expected a checkpoint or a folder of export.py, found {run}")
    description = read_json(folder / CONFIG, "the description of an exported model; export.py writes one")
    for key, value in _LAYOUT.items():
        if (actual := description.pop(key, None)) != value:
            raise DataError(
                f"{folder / CONFIG}: expected {key} {value}, found {actual}; export.py writes such a folder"
            )
    version, expected = description.pop("format_version", None), description.pop("weights_checksum", None)
    if version != VERSION:
        raise DataError(f"{folder / CONFIG}: expected format_version {VERSION}, found {version}; export it again")
    path = folder / WEIGHTS
    expect_file(path, "an exported model's weights")
    try:
        raw = path.read_bytes()  # not memory-mapped: a file truncated while in use would kill the process
        tensors = load(raw)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{path}: expected an exported model's weights, found none ({short(error, 120)})") from None
    if not _are_plain(tensors):
        raise DataError(f"{path}: expected weights that are real numbers, found others; export it again")
    if expected != _checksum("", tensors):
        raise DataError(f"{path}: expected the checksum in {CONFIG}, found another: copy or export both again")
    _check_finite(path, tensors)
    return Checkpoint(folder, description, tensors, hashlib.sha256(raw).hexdigest())


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
