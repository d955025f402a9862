"""The network with which a training run begins: its shape, from settings and data, and its initial weights."""

import math
import os
from typing import Any

import torch

from model import CONTROLS, GPT2Classifier, ModelConfig, weight_shapes
from semg.backbones import Pretrained, fingerprint, open_pretrained, own_parameters, shuffled
from semg.common.errors import SettingError
from semg.data.shards import Shard
from semg.training.config import TrainConfig, bands_at, patch_of

ORTHOGONAL_GAIN = 1.41  # as in Lu et al. 2021, "Pretrained transformers as universal computation engines"
SMALL = {"layers": 2, "width": 64, "heads": 4}  # the default size of a random GPT-2


def decoder_of(config: TrainConfig) -> Pretrained | None:
    """The decoder that `backbone` names, with its configuration checked; None for a control and for a random GPT-2 of
    any size."""
    if config.backbone in CONTROLS or (config.backbone == "gpt2" and config.init == "random"):
        return None
    decoder = open_pretrained(config.backbone)
    for name in ("width", "heads"):
        if getattr(config, name):
            hint = "give {backbone} gpt2 {init} random with it"
            raise SettingError(name, f"none with {config.backbone}, which has its own", hint=hint)
    if config.layers and config.layers > decoder.layers:
        raise SettingError("layers", f"at most the {decoder.layers} of {config.backbone}", config.layers)
    return decoder


def model_config(config: TrainConfig, shard: Shard, decoder: Pretrained | None) -> ModelConfig:
    """The network that the settings describe, for windows as in `shard`. Raises SettingError if it cannot be built.

    decoder: from `decoder_of`. Lengths are converted to samples here, and frequencies to cycles per sample.
    """
    rate, window = shard.rate, shard.window
    shape: dict[str, Any] = dict(SMALL)
    if decoder is not None:
        own = ("layers", "width", "heads", "architecture")
        shape = {"backbone": decoder.family.name} | {name: getattr(decoder, name) for name in own}
    elif config.backbone in CONTROLS:
        shape |= {"backbone": config.backbone}
    sizes = {"layers": config.layers, "width": config.width, "heads": config.heads}
    shape |= {name: value for name, value in sizes.items() if value}
    try:
        return ModelConfig(
            channels=len(shard.channels) * config.normalization.copies,
            samples=window,
            classes=len(shard.classes),
            frontend=config.frontend,
            patch=patch_of(window, rate) if config.patch is None else config.patch.samples(rate),
            frame=config.frame.samples(rate),
            band_edges=tuple(edge / rate for edge in config.bands or bands_at(rate)),
            pooling=config.pooling,
            dropout=config.dropout,
            tune=config.tune,
            **shape,
        )
    except SettingError as error:
        raise in_own_units(error, config, rate) from None


def in_own_units(error: SettingError, config: TrainConfig, rate: float) -> SettingError:
    """An error of ModelConfig, which counts in samples, converted to the units of the settings: hertz, and time where
    it was given as time."""

    def say(value: float) -> str:
        if error.field == "band_edges":
            return f"{value * rate:g}"
        length = getattr(config, error.field) if error.field in ("patch", "frame") else None
        return f"{value:g}" if length is None else length.say(value, rate)

    return error.translated(say, {"band_edges": "bands"})


def build(config: TrainConfig, shape: ModelConfig, decoder: Pretrained | None) -> GPT2Classifier:
    """The network with its initial weights. SettingError if it is too large for the memory, DataError for weights that
    do not fit."""
    _check_room(shape, decoder)
    weights = None
    # read before the network is built, so that a wrong file fails early
    if decoder is not None and config.init != "random":
        weights = decoder.weights(shape.layers)
    torch.manual_seed(config.seed)
    model = GPT2Classifier(shape)
    if weights is not None:
        model.load_backbone(weights if config.init == "pretrained" else shuffled(weights, config.seed))
    _prepare_embedding(config, model, decoder)
    return model


def _check_room(shape: ModelConfig, decoder: Pretrained | None) -> None:
    """SettingError for a network larger than the memory. Some systems promise more memory than they have, and end the
    process without a message when it is used."""
    size, room = 4 * sum(map(math.prod, weight_shapes(shape).values())), _memory()
    if size > room:
        expected = f"weights that fit into the memory of {room / 2**30:.0f} GiB, found {size / 2**30:,.0f} GiB of them"
        raise SettingError("width" if decoder is None else "backbone", expected)


def _memory() -> float:
    """Bytes of memory that the machine has; infinity if the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@torch.no_grad()
def _prepare_embedding(config: TrainConfig, model: GPT2Classifier, decoder: Pretrained | None) -> None:
    """Set the initial weights of the map from tokens to the backbone."""
    weight = model.embed.weight
    if config.embed_init == "orthogonal":
        torch.nn.init.orthogonal_(weight, gain=ORTHOGONAL_GAIN)
    if config.embed_scale == "1":
        return
    factor = (
        _scale_of_backbone(config, model, decoder) if config.embed_scale == "backbone" else float(config.embed_scale)
    )
    weight.mul_(factor)
    model.embed.bias.mul_(factor)


def _scale_of_backbone(config: TrainConfig, model: GPT2Classifier, decoder: Pretrained | None) -> float:
    """The factor that makes embedded tokens, whose features have a variance of 1, as large as the backbone's own
    embeddings."""
    if decoder is None:
        expected = "a number, for there is no pretrained decoder whose own embeddings could be measured"
        raise SettingError("embed_scale", expected, config.embed_scale)
    embedded = model.embed.weight.square().sum(1).mean().sqrt()
    return decoder.embedding_std(model.config.tokens) / float(embedded)


def first_weights(config: TrainConfig, model: GPT2Classifier, decoder: Pretrained | None) -> dict[str, Any]:
    """Which weights the backbone has before training, for the record in results."""
    facts: dict[str, Any] = {"source": config.backbone}
    if model.backbone is not None:
        facts["init"] = "random" if config.backbone in CONTROLS else config.init
    if decoder is not None and decoder.revision:
        facts["revision"] = decoder.revision
    if model.backbone is not None:
        facts["weights_sha256"] = fingerprint(own_parameters(model.backbone))
    return facts
