"""The checkpoint's layout: plain types and tensors, with a checksum, written whole or not at all.

A checkpoint is one file, opened with `torch.load(weights_only=True)`, which runs no code from it. It holds
  format, version     what this is
  description         JSON text: model configuration, data arguments, classes, normalisation, split, how it was made
  tensors             the weights and what else is kept as tensors, by name
  checksum            SHA-256 over description and tensors
"""

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semg.errors import DataError
from semg.files import atomic_path

FORMAT = "semg-gpt2 checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its description in plain types, and its tensors by name."""

    path: Path
    description: dict[str, Any]
    tensors: dict[str, Tensor]


def write_checkpoint(path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint; at every moment `path` is the old file, the new one, or absent."""
    text = json.dumps(description, allow_nan=False)
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole = {
        "format": FORMAT,
        "version": VERSION,
        "description": text,
        "tensors": kept,
        "checksum": _checksum(text, kept),
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(whole, temporary)
        except RuntimeError as error:  # what PyTorch's own writer makes of a full disk
            raise DataError(
                f"{path}: expected room to write it, found a disk that takes no more ({_short(error)}); free some, "
                "then the same command with --resume goes on"
            ) from None


def open_checkpoint(path: Path) -> Checkpoint:
    """Open and verify a checkpoint. Raises DataError, naming the file, for anything that is not a whole one."""
    if not path.is_file():
        raise DataError(f"{path}: expected a checkpoint, found no such file; train.py writes one")
    try:
        with warnings.catch_warnings():  # a strange file's pickle protocol is no news beside the error that follows
            warnings.simplefilter("ignore")
            whole = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, IndexError) as error:
        raise DataError(f"{path}: expected a checkpoint, found a file that cannot be read ({_short(error)})") from None
    except pickle.UnpicklingError:
        raise DataError(f"{path}: expected tensors and plain types, found objects that could run code") from None
    except Exception as error:  # a damaged pickle can raise nearly anything; none of it may look like a crash
        raise DataError(f"{path}: expected a checkpoint, found damaged data ({_short(error)})") from None
    return _checked(path, whole)


def _checked(path: Path, whole: Any) -> Checkpoint:
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise DataError(f"{path}: expected a checkpoint of this project, found something else")
    if whole.get("version") != VERSION:
        raise DataError(f"{path}: expected checkpoint version {VERSION}, found {whole.get('version')}; train again")
    text, tensors = whole.get("description"), whole.get("tensors")
    if not isinstance(text, str) or not isinstance(tensors, dict) or whole.get("checksum") != _checksum(text, tensors):
        raise DataError(f"{path}: expected its checksum, found another: the file is damaged; copy it again")
    if wrong := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor.float()).all())]:
        raise DataError(f"{path}: expected finite weights, found NaN or infinity in {wrong[0]}; train again")
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise DataError(f"{path}: expected a description in JSON, found another; train again")
    # the file may say of a tensor that it wants a gradient: damage that the checksum, over values, does not see
    return Checkpoint(path, description, {name: tensor.detach() for name, tensor in tensors.items()})


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors, key=str):
        if not isinstance(tensors[name], Tensor):
            return ""  # matches no checksum
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
