"""A model's weights in safetensors files, read one at a time."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from semg.common.errors import DataError, short
from semg.common.files import expect_file, version

FLOATS = ("F64", "F32", "F16", "BF16")  # other types are quantised, and meaningless without their scales
# Prefixes that wrappers and models with a head add to the names of the weights that they wrap.
_WRAPPERS = ("module.", "base_model.model.", "base_model.", "transformer.", "model.", "gpt_neox.")
_WRAPPERS_ANYWHERE = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file; version: of the file when its header was read."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    version: tuple[int, int] | None = None

    def read(self) -> Tensor:
        """Its values as float32. DataError unless they are finite."""
        if self.dtype not in FLOATS:
            raise DataError(f"{self.path}: expected floating-point weights, found {self.key} of type {self.dtype}")
        try:
            with safe_open(self.path, framework="pt") as file:
                values = file.get_tensor(self.key).float().clone()  # not a view of a file that may be truncated
            same = version(self.path) == self.version
        except (SafetensorError, OSError):
            same = False
        if not same:
            raise DataError(f"{self.path}: expected the file as it was, found it replaced; start this run again")
        if not bool(torch.isfinite(values).all()):
            raise DataError(f"{self.path}: expected finite weights, found NaN or infinity in {self.key}")
        return values


def stored_tensors(paths: list[Path]) -> dict[str, StoredTensor]:
    """The tensors in the files, under their names without wrappers. DataError for damaged files."""
    held: dict[str, StoredTensor] = {}
    for path in paths:
        before = version(path)
        for key, shape, dtype in _header(path):
            name = _unwrapped(key)
            if name in held:
                raise DataError(f"{path}: expected one weight {name}, found two: {held[name].key} and {key}")
            held[name] = StoredTensor(path, key, shape, dtype, before)
    return held


def _header(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    expect_file(path, "a model's weights")
    with path.open("rb") as file:
        pointer = file.read(64).startswith(b"version https://git-lfs")
    if pointer:
        raise DataError(f"{path}: expected weights, found a Git LFS pointer to them; git lfs pull fetches them")
    try:
        with safe_open(path, framework="pt") as file:
            slices = [(key, file.get_slice(key)) for key in file.keys()]  # noqa: SIM118  not a dict
            return [(key, tuple(one.get_shape()), str(one.get_dtype())) for key, one in slices]
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError) as error:
        expected = f"expected a whole safetensors file, found a damaged one ({short(error)})"
        raise DataError(f"{path}: {expected}; copy or fetch it again") from None


def _unwrapped(name: str) -> str:
    name = _WRAPPERS_ANYWHERE.sub("", name)
    while prefix := next((one for one in _WRAPPERS if name.startswith(one)), None):
        name = name.removeprefix(prefix)
    return name
