"""The network of a checkpoint, built only if description, weights and training data fit each other."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from model import GPT2Classifier, ModelConfig, weight_shapes
from semg.common.errors import DataError
from semg.common.schema import COUNT, OBJECT, POSITIVE, TEXTS, Field, check_fields, texts
from semg.data import normalization
from semg.data.shards import RINGS
from semg.inference.checkpoint import Checkpoint

_FIELDS = {
    "model": OBJECT,
    "data.rate": POSITIVE,
    "data.channels": TEXTS,
    "data.classes": TEXTS,
    "data.rest_classes": Field("a list of classes", lambda names: names == [] or texts(names), needed=False),
    "data.rings": replace(RINGS, needed=False),
    "classes_of_training": replace(TEXTS, needed=False),
    "data.arguments": OBJECT,
    "data.arguments.window": COUNT,
    "data.arguments.stride": COUNT,
    "normalize": OBJECT,
}


def network_of(checkpoint: Checkpoint) -> tuple[GPT2Classifier, normalization.ChannelNormalization]:
    """The network with its weights, in evaluation mode, and its channel normalisation.

    DataError if the checkpoint does not hold them, or if they do not fit each other and the data.
    """
    _check_description(checkpoint)
    try:
        how = normalization.ChannelNormalization(**checkpoint.description["normalize"])
    except (TypeError, ValueError) as error:
        raise DataError(f"{checkpoint.path}: expected how signals were normalised, found {error}") from None
    channels = len(checkpoint.description["data"]["channels"]) * how.copies
    prefix = "model."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
    try:
        config = ModelConfig.from_dict(checkpoint.description["model"])
        _check_shape(checkpoint, config, channels)
        # sizes agree with the file, so memory may be allocated
        _check_weights(checkpoint, weight_shapes(config), weights)
        model = GPT2Classifier(config)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{checkpoint.path}: expected a model configuration, found {error}") from None
    model.load_state_dict(weights)
    return model.eval(), how


def _check_description(checkpoint: Checkpoint) -> None:
    """DataError unless the checkpoint has all that a network needs, and a gain for each channel."""
    description = checkpoint.description
    if "state" in description and "model" not in description:
        state = "the state of a run, for train.py to go on"
        raise DataError(f"{checkpoint.path}: expected a trained model, best_model.ckpt, found {state}")
    check_fields(checkpoint.path, description, _FIELDS, "a trained model, best_model.ckpt", "train.py writes one")
    n_channels = len(description["data"]["channels"])
    if beyond := [place for ring in description["data"].get("rings") or () for place in ring if place >= n_channels]:
        raise DataError(f"{checkpoint.path}: expected places below {n_channels} in data.rings, found {beyond[0]}")
    gain, shape = checkpoint.tensors.get("train_gain"), (n_channels,)
    if gain is None or gain.shape != shape:  # another shape might go unnoticed by broadcasting
        actual = "none" if gain is None else f"one of shape {tuple(gain.shape)}"
        raise DataError(f"{checkpoint.path}: expected train_gain of shape {shape}, found {actual}")


def _check_weights(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]
) -> None:
    for name in sorted(set(expected) ^ set(weights)):
        actual = "none" if name in expected else f"{name}, which the model has no place for"
        raise DataError(f"{checkpoint.path}: expected the weights of the model ({name}), found {actual}")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise DataError(f"{checkpoint.path}: expected {name} of shape {shape}, found {tuple(weights[name].shape)}")


def _check_shape(checkpoint: Checkpoint, config: ModelConfig, channels: int) -> None:
    """DataError unless the network fits the data and the weights in the file; checked first because building it may
    take long."""
    data = checkpoint.description["data"]
    fitting = {
        "channels": (config.channels, channels),
        "classes": (config.classes, len(data["classes"])),
        "samples": (config.samples, data["arguments"]["window"]),
    }
    for name, (actual, expected) in fitting.items():
        if actual != expected:
            raise DataError(
                f"{checkpoint.path}: expected a model of {expected} {name} for such data, found one of {actual}"
            )
    if (stride := data["arguments"]["stride"]) > config.samples:
        raise DataError(f"{checkpoint.path}: expected a stride of at most {config.samples} samples, found {stride}")
    if config.family is not None and config.layers > len(checkpoint.tensors):
        found_blocks = f"{len(checkpoint.tensors)} tensors in all"
        raise DataError(f"{checkpoint.path}: expected weights of {config.layers} blocks, found {found_blocks}")
