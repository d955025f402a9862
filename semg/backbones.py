"""Pretrained GPT-2 weights from the Hugging Face Hub or from a local folder in its layout."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GPT2Config, GPT2Model

from semg.common.errors import DataError

HUB_NAME = "openai-community/gpt2"  # 124 M parameters, MIT licence
HUB_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


def source_of(backbone: str) -> tuple[str, str]:
    """What `--backbone` means: (Hub name, pinned revision) for `gpt2`, else (local folder, unused revision).

    Raises DataError for a folder that is not there.
    """
    if backbone == "gpt2":
        return HUB_NAME, HUB_REVISION
    folder = Path(backbone)
    if not (folder / "config.json").is_file():
        raise DataError(f"{backbone}: expected gpt2, none, attention or a folder with config.json, found none of them")
    return str(folder), "main"


def architecture(backbone: str) -> dict[str, Any]:
    """The fields of ModelConfig that describe the pretrained GPT-2. Raises DataError if it can't be had."""
    name, revision = source_of(backbone)
    try:
        config = GPT2Config.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise _unreachable(backbone, error) from None
    if config.model_type != "gpt2":
        raise DataError(f"{backbone}: expected a GPT-2, found a model of type {config.model_type}")
    return {
        "layers": config.n_layer,
        "width": config.n_embd,
        "heads": config.n_head,
        "positions": config.n_positions,
        "inner": config.n_inner,
        "activation": config.activation_function,
        "norm_epsilon": config.layer_norm_epsilon,
    }


def weights(backbone: str) -> dict[str, Tensor]:
    """GPT-2's weights by name, without the embedding matrix of words. Raises DataError if they can't be had."""
    name, revision = source_of(backbone)
    try:
        # safetensors alone: the older pytorch_model.bin is a pickle, which could run code
        model = GPT2Model.from_pretrained(name, revision=revision, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreachable(backbone, error) from None
    return {key: tensor for key, tensor in model.state_dict().items() if key != "wte.weight"}


def _unreachable(backbone: str, error: Exception) -> DataError:
    where = f"{HUB_NAME} on the Hugging Face Hub" if backbone == "gpt2" else backbone
    reason = " ".join(str(error).split())[:100]
    return DataError(
        f"{where}: expected GPT-2's config.json and model.safetensors, found none ({reason}); give a local folder "
        "with them as --backbone FOLDER, or train without pretrained weights: --init random"
    )
