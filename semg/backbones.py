"""Decoders of Hugging Face as backbones: built, read from a folder or the Hub, fed with embeddings, trained in part.

Each family (GPT-2, LLaMA, ...) is one `Family` at the end of this file; to add a family, add one more. Everything in a
family's config.json that affects the function of its blocks is kept as plain types, so that a network can be rebuilt
without the folder; a configuration that cannot be kept in this way is refused.

Weights are read only from safetensors, tensor by tensor, and only those of the blocks that are kept. No gap is filled:
a weight that is missing, not finite or of another shape is refused by name before memory is allocated.

transformers imports its models at their first use, which takes seconds. Nothing here uses them before a network is
configured, so that a command that stops earlier, as for a wrong flag or a missing file, answers at once.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers.utils.hub import cached_file, extract_commit_hash

from semg.common.errors import DataError, SettingError, short
from semg.common.files import expect_file, read_json
from semg.weight_files import StoredTensor, stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

HUB_NAMES = {  # short names, and the commit on the Hub that was checked
    "gpt2": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
}
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MOST_BLOCKS = 1000  # real decoders have a few hundred at most; more would fill the memory before being refused
MOST_CONFIG_BYTES = 1 << 24
FUSED = {"gelu_new": "gelu_pytorch_tanh"}  # GPT-2's activation: the same function, as one kernel instead of eight
# Buffers in older files; they follow from the configuration.
_BUFFERS = re.compile(r"(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$|decoder\.version$")
_PROJECTIONS = re.compile(r"(^|\.)project_[^.]*\.[^.]*$")  # between word embeddings and blocks
# Fields of config.json that do not concern the blocks: words, heads on top, text generation, storage, reporting.
_NOT_OF_BLOCKS = {
    *("vocab_size", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "word_embed_proj_dim"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
    *("use_cache", "is_decoder", "pretraining_tp", "classifier_dropout", "add_cross_attention"),
    "layerdrop",  # skips whole blocks in training
}
# Fields that make transformers compute another function than the family's own, unless they have one of these values.
_ONLY: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (None, False),
    "is_causal": (None, True),
    "is_encoder_decoder": (None, False),
    "per_layer_config": (None,),
    "quantization_config": (None,),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of decoders, with the names that transformers gives to its parts.

    name: `model_type` in config.json. config, model: classes of transformers. blocks, words, last_norm, positions: the
    paths in the model of the blocks, the word embedding, the norm after the blocks, and learned positions (`positions`
    is empty for rotary positions). offset: the row of the first position.
    activation: its field in config.json. dropout: fields for the dropout of training. lora: the attention projections
    that get low-rank updates. transposed: whether these store (in, out) matrices.
    """

    name: str
    config: str
    model: str
    blocks: str = "layers"
    words: str = "embed_tokens"
    last_norm: str = "norm"
    positions: str = ""
    offset: int = 0
    activation: str = "hidden_act"
    dropout: tuple[str, ...] = ("attention_dropout",)
    lora: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    transposed: bool = False

    # --- its configuration ---

    @property
    def config_class(self) -> "type[PreTrainedConfig]":
        """The family's configuration class."""
        return getattr(transformers, self.config)

    def field(self, standard: str) -> str:
        """The family's own name for a field that most families call `hidden_size`, `num_hidden_layers` and so on."""
        return self.config_class.attribute_map.get(standard, standard)

    @property
    def sizes(self) -> tuple[str, str, str]:
        """The fields for blocks, width and heads, which ModelConfig stores separately."""
        return self.field("num_hidden_layers"), self.field("hidden_size"), self.field("num_attention_heads")

    @property
    def carried(self) -> list[str]:
        """The fields that affect what the blocks compute, without `sizes`."""
        general = {one.name for one in fields(transformers.PreTrainedConfig)}
        apart = general | _NOT_OF_BLOCKS | {*self.sizes, *self.dropout}
        return [one.name for one in fields(self.config_class) if one.name not in apart]

    def configured(
        self, layers: int, width: int, heads: int, architecture: Mapping[str, Any], dropout: float = 0.0
    ) -> "PreTrainedConfig":
        """The family's configuration. Raises ValueError (SettingError if a field is to blame) for an impossible one.

        architecture: values of `carried` fields; missing ones have the family's defaults.
        """
        from transformers.activations import ACT2FN

        if unknown := sorted(set(architecture) - set(self.carried)):
            raise SettingError("architecture", f"fields of {self.config}", unknown[0])
        if not 1 <= layers <= MOST_BLOCKS:
            raise SettingError("layers", f"1 to {MOST_BLOCKS}", layers)
        values = json.loads(json.dumps(architecture))  # a copy: transformers completes rope_parameters in place
        if isinstance(values.get("layer_types"), list):
            values["layer_types"] = values["layer_types"][:layers]
        values |= dict(zip(self.sizes, (layers, width, heads), strict=True)) | dict.fromkeys(self.dropout, dropout)
        words = {"vocab_size": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "use_cache": False}
        config = _quietly_configured(self, words | values)
        activation = getattr(config, self.activation)
        if activation not in ACT2FN:
            raise SettingError(self.activation, "an activation that transformers has", repr(activation))
        return config

    def completed(self, layers: int, width: int, heads: int, architecture: Mapping[str, Any]) -> dict[str, Any]:
        """All `carried` fields as plain types. Raises ValueError for an impossible configuration."""
        config = self.configured(layers, width, heads, architecture)
        plain = json.loads(json.dumps({name: getattr(config, name) for name in self.carried}))
        if wrong := [path for path, value in _numbers(plain) if not math.isfinite(value)]:
            raise SettingError(wrong[0], "a finite number", "NaN or infinity")
        if self.longest(plain) < 1:
            raise SettingError(self.field("max_position_embeddings"), "at least 1", self.longest(plain))
        return plain

    def longest(self, architecture: Mapping[str, Any]) -> int:
        """The largest number of tokens that the family can read."""
        return int(architecture[self.field("max_position_embeddings")])

    # --- the network ---

    def build(
        self, layers: int, width: int, heads: int, architecture: Mapping[str, Any], dropout: float
    ) -> "PreTrainedModel":
        """The blocks with random weights, drawn as transformers draws them, and without a word embedding.

        Raises SettingError for a network that cannot be built or does not fit into memory.
        """
        config = self.configured(layers, width, heads, architecture, dropout)
        activation = getattr(config, self.activation)
        setattr(config, self.activation, FUSED.get(activation, activation))
        try:
            with _no_chatter():
                model = getattr(transformers, self.model)._from_config(config, attn_implementation=attention_of(config))
        except Exception as error:  # sizes that overflow or do not fit into memory, invalid rotary settings
            raise SettingError("backbone", "a decoder that can be built", short(error)) from None
        parent, _, name = self.words.rpartition(".")
        setattr(model.get_submodule(parent), name, None)  # words are never looked up, so their matrix is dropped
        return model

    def choose_what_trains(self, model: nn.Module, tune: str, rank: int) -> None:
        """Freeze everything except what `tune` names: `full`, `last:N` blocks, `fpt`, `lora` (of this rank) or
        `frozen`."""
        model.requires_grad_(tune == "full")
        if tune.startswith("last:"):
            model.get_submodule(self.blocks)[-int(tune.removeprefix("last:")) :].requires_grad_(True)  # type: ignore[index]
            parent, _, name = self.last_norm.rpartition(".")
            if (norm := getattr(model.get_submodule(parent), name)) is not None:
                norm.requires_grad_(True)
        elif tune == "fpt":  # Lu et al. 2021, "Pretrained transformers as universal computation engines"
            for module in model.modules():
                if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm"):
                    module.requires_grad_(True)
            if self.positions:
                model.get_submodule(self.positions).requires_grad_(True)
        elif tune == "lora":
            _add_lora(model, rank, self)

    def trained_positions(self, model: nn.Module) -> int:
        """How many learned positions are trainable."""
        if not self.positions:
            return 0
        table = model.get_submodule(self.positions).weight
        return len(table) - self.offset if table.requires_grad else 0  # type: ignore[arg-type]


def attention_of(config: "PreTrainedConfig") -> str:
    """The attention to use for a configuration: ours, without a mask, unless some blocks attend to only part of the
    earlier tokens."""
    from semg import attention

    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # stated for all blocks at once
        kinds = ["sliding_attention"] if getattr(config, "sliding_window", None) else []
    return attention.CAUSAL if all(kind == "full_attention" for kind in kinds) else "sdpa"


def _quietly_configured(family: Family, values: dict[str, Any]) -> "PreTrainedConfig":
    """transformers' configuration with these values. ValueError, in one line, for any error that it raises."""
    try:
        with _no_chatter():
            config = family.config_class(**values)
    except Exception as error:  # its checks raise errors of any kind
        raise ValueError(f"{family.config}: {short(error)}") from None
    return config


@contextmanager
def _no_chatter() -> Iterator[None]:
    """A context in which transformers logs errors only."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a value of plain types, with its path."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, path)
    elif isinstance(value, int | float):
        yield path, value


def _add_lora(model: nn.Module, rank: int, family: Family) -> None:
    """Add low-rank updates to the attention projections (Hu et al. 2021), with peft."""
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and few runs need it

    targets = list(family.lora)
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, fan_in_fan_out=family.transposed)
    inject_adapter_in_model(settings, model)


def forward(model: nn.Module, embedded: Tensor) -> Tensor:
    """(B, T, d) embeddings instead of words -> (B, T, d) output of the last norm."""
    from semg import attention

    decoder = cast("PreTrainedModel", model)
    if attention.faster_side_by_side(decoder, embedded):
        return attention.side_by_side(decoder, embedded)
    return decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state


def use_kernel(model: nn.Module) -> None:
    """Use a GPU kernel for short windows in training, if possible; for steps that are replayed as CUDA graphs."""
    from semg import attention

    attention.use_kernel(cast("PreTrainedModel", model))


# --- weights ------------------------------------------------------------------------------------------------------


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The decoder's own parameters under its family's names, without those that LoRA added."""
    named = model.named_parameters()
    return {name.replace(".base_layer.", "."): weight for name, weight in named if ".lora_" not in name}


def load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load `weights`, named as in `own_parameters`, into the model. ValueError if they do not fit."""
    parameters = own_parameters(model)
    _check_shapes({k: tuple(v.shape) for k, v in parameters.items()}, {k: tuple(v.shape) for k, v in weights.items()})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def _check_shapes(expected: Mapping[str, tuple[int, ...]], actual: Mapping[str, tuple[int, ...]]) -> None:
    if missing := sorted(set(expected) - set(actual)):
        raise ValueError(
            f"expected weights of all {len(expected)} names, found {len(missing)} missing: {', '.join(missing[:3])}"
            + (", ..." if len(missing) > 3 else "")
        )
    for name, shape in expected.items():
        if tuple(actual[name]) != shape:
            raise ValueError(f"expected {name} of shape {shape}, found {tuple(actual[name])}")


def shuffled(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Weights whose matrices have the same numbers in random places: a control that keeps only their statistics.

    Vectors (biases, norms) stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)

    def moved(values: Tensor) -> Tensor:
        places = torch.randperm(values.numel(), generator=generator)
        return values.flatten()[places].view_as(values)

    return {name: moved(weights[name]) if weights[name].dim() > 1 else weights[name] for name in sorted(weights)}


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors in the order of their names: name, shape and float32 values of each."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().float().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- a pretrained decoder in a folder or on the Hub ---------------------------------------------------------------


@dataclass(frozen=True)
class Pretrained:
    """A pretrained decoder whose config.json has been read and checked; its weights are read on demand.

    source: a folder or a name on the Hub; revision: the commit there, empty for a folder.
    """

    source: str
    revision: str
    family: Family
    layers: int
    width: int
    heads: int
    architecture: dict[str, Any] = field(repr=False)

    def weights(self, layers: int) -> dict[str, Tensor]:
        """The float32 weights of the first `layers` blocks and of the norm after them, under the family's names.

        Raises DataError for a file that is incomplete or belongs to another decoder.
        """
        in_file = self._stored
        try:
            expected = self._expected(layers)
            self._check_names(expected, in_file)
            _check_shapes(expected, {name: one.shape for name, one in in_file.items()})
        except ValueError as error:
            raise DataError(f"{self.source}: {error}; these are not the weights of its {CONFIG}") from None
        return {name: in_file[name].read() for name in expected}

    def embedding_std(self, tokens: int) -> float:
        """The standard deviation of the blocks' original input: word embeddings plus the first `tokens` learned
        positions.

        Raises DataError if the file has no word embedding, or no positions although the family has them.
        """
        in_file = self._stored
        words = in_file.get(f"{self.family.words}.weight")
        if words is None:
            raise DataError(f"{self.source}: expected an embedding of words to take the scale from, found none")
        variance = float(words.read().var())
        if self.family.positions:
            table = in_file.get(f"{self.family.positions}.weight")
            if table is None:
                raise DataError(f"{self.source}: expected positions to take the scale from, found none")
            variance += float(table.read()[self.family.offset : self.family.offset + tokens].var())
        return math.sqrt(variance)

    def _expected(self, layers: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights needed, without allocating them."""
        with torch.device("meta"):
            model = self.family.build(layers, self.width, self.heads, self.architecture, 0.0)
        return {name: tuple(weight.shape) for name, weight in model.named_parameters()}

    def _check_names(self, expected: Mapping[str, object], in_file: Mapping[str, StoredTensor]) -> None:
        """ValueError unless the file has all blocks of the configuration, and no unknown weights in those that are
        kept."""
        numbered = re.compile(re.escape(self.family.blocks) + r"\.(\d+)\.")
        blocks = {int(match[1]) for name in in_file if (match := numbered.match(name))}
        if absent := set(range(self.layers)) - blocks:
            first = min(absent)
            raise ValueError(f"expected weights of {self.layers} blocks, found {len(blocks)} (none of block {first})")
        parts = {name.partition(".")[0] for name in expected}
        built = {_block(numbered, name) for name in expected}
        words = self.family.words + "."
        for name in sorted(set(in_file) - set(expected)):
            needed = name.partition(".")[0] in parts and not name.startswith(words) and _block(numbered, name) in built
            if needed and not _BUFFERS.search(name) and not _PROJECTIONS.search(name):
                raise ValueError(f"expected the weights of a {self.family.name} alone, found {name} too")

    @cached_property
    def _stored(self) -> dict[str, StoredTensor]:
        """The contents of the weight files, listed once, so that everything read is from the same files."""
        return stored_tensors(self._weights_files())

    def _weights_files(self) -> list[Path]:
        if (whole := self._file(WEIGHTS)) is not None:
            return [whole]
        index = self._file(INDEX)
        if index is None:
            raise DataError(
                f"{self.source}: expected {WEIGHTS}, found none (a pickle such as pytorch_model.bin could run code, "
                "and is not read); transformers' save_pretrained writes one"
            )
        of_name = read_json(index, "the index of weights in several files").get("weight_map")
        names = sorted(set(map(str, of_name.values()))) if isinstance(of_name, dict) else []
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise DataError(f"{index}: expected a weight_map of names to safetensors files beside it, found another")
        files = [self._file(name) for name in names]
        if None in files:
            raise DataError(
                f"{self.source}: expected {names[files.index(None)]}, which {INDEX} names, found no such file"
            )
        return [one for one in files if one is not None]

    def _file(self, name: str) -> Path | None:
        return _file_of(self.source, self.revision, name)


def _block(numbered: re.Pattern[str], name: str) -> str:
    return match[1] if (match := numbered.match(name)) else ""


def open_pretrained(name: str) -> Pretrained:
    """Read and check the config.json of a decoder.

    name: `gpt2`, a folder in the Hugging Face layout, or OWNER/NAME on the Hub, with @REVISION for a branch, tag or
    commit. Raises DataError for anything that cannot be loaded as intended.
    """
    source, revision = source_of(name)
    path = _file_of(source, revision, CONFIG)
    if path is None:
        raise _unreachable(source, "no such file")
    if path.stat().st_size > MOST_CONFIG_BYTES:
        raise DataError(f"{path}: expected a model's configuration, found {path.stat().st_size:,} bytes")
    content = read_json(path, "a model's configuration")
    if revision:
        revision = extract_commit_hash(str(path), None) or revision
    if _file_of(source, revision, "adapter_config.json") is not None:
        raise DataError(f"{source}: expected a model, found an adapter too; merge it into the model (peft) first")
    try:
        kind = content.get("model_type")
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise ValueError(f"model_type: expected {', '.join(FAMILIES)}, found {kind!r}")
        return Pretrained(source, revision, FAMILIES[kind], *_read_sizes(FAMILIES[kind], content))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _read_sizes(family: Family, content: Mapping[str, Any]) -> tuple[int, int, int, dict[str, Any]]:
    """Blocks, width, heads and all `carried` fields of a config.json. Raises ValueError for fields that cannot be
    kept."""
    for name, values in _ONLY.items():
        if content.get(name) not in values:
            raise ValueError(
                f"{name}: expected none, which would make it another function, found {_brief(content[name])}"
            )
    standard = ("num_hidden_layers", "hidden_size", "num_attention_heads")
    for name in (*family.sizes, *standard):
        value = content.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, found {_brief(value)}")
    for name in (family.sizes[0], standard[0]):
        if (blocks := content.get(name, 1)) > MOST_BLOCKS:
            raise ValueError(f"{name}: expected at most {MOST_BLOCKS} blocks, found {blocks}")
    config = _quietly_configured(family, json.loads(json.dumps(content)))
    layers, width, heads = (getattr(config, name) for name in family.sizes)
    plain = {name: getattr(config, name) for name in family.carried}
    return layers, width, heads, family.completed(layers, width, heads, plain)


def source_of(name: str) -> tuple[str, str]:
    """The source that the name of a backbone means: (folder, "") or (Hub name, revision). DataError if it can be
    neither."""
    if name in HUB_NAMES:
        return HUB_NAMES[name]
    folder = Path(name)
    if folder.is_dir():
        return str(folder), ""
    hub, _, revision = name.partition("@")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", hub):
        return hub, revision or "main"
    raise DataError(
        f"{name}: expected {', '.join(HUB_NAMES)}, none, attention, a folder with {CONFIG}, or OWNER/NAME on the "
        "Hugging Face Hub, found none of them"
    )


def _file_of(source: str, revision: str, name: str) -> Path | None:
    """The path of a file in a folder or of a model on the Hub, downloaded if necessary; None if there is no such
    file."""
    if not revision:
        path = Path(source) / name
        if not path.exists():
            return None
        expect_file(path, "a file of a pretrained model")
        return path
    try:
        cached = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        raise _unreachable(source, short(error)) from None
    return None if cached is None else Path(cached)


def hide_progress() -> None:
    """Switch off transformers' own progress bars, including those for downloads from the Hub."""
    transformers.logging.disable_progress_bar()


def _unreachable(source: str, reason: str) -> DataError:
    return DataError(
        f"{source}: expected a folder with {CONFIG} and {WEIGHTS}, or a model on the Hugging Face Hub, found none "
        f"({reason})",
        hint="give a local folder with them as {backbone} FOLDER, or train without pretrained weights: {init} random",
    )


def _brief(value: object) -> str:
    return repr(value)[:60]


# --- the families ---------------------------------------------------------------------------------------------

FAMILIES = {
    family.name: family
    for family in (
        Family(  # all sizes, and DistilGPT2
            name="gpt2",
            config="GPT2Config",
            model="GPT2Model",
            blocks="h",
            words="wte",
            last_norm="ln_f",
            positions="wpe",
            activation="activation_function",
            dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
            lora=("c_attn", "attn.c_proj"),
            transposed=True,
        ),
        Family(name="llama", config="LlamaConfig", model="LlamaModel"),  # SmolLM2, TinyLlama
        Family(name="qwen2", config="Qwen2Config", model="Qwen2Model"),
        Family(name="qwen3", config="Qwen3Config", model="Qwen3Model"),
        Family(  # Pythia
            name="gpt_neox",
            config="GPTNeoXConfig",
            model="GPTNeoXModel",
            words="embed_in",
            last_norm="final_layer_norm",
            dropout=("attention_dropout", "hidden_dropout"),
            lora=("attention.query_key_value", "attention.dense"),
        ),
        Family(  # OPT's projections between word embeddings and blocks (in 350M) count as part of the embeddings
            name="opt",
            config="OPTConfig",
            model="OPTModel",
            blocks="decoder.layers",
            words="decoder.embed_tokens",
            last_norm="decoder.final_layer_norm",
            positions="decoder.embed_positions",
            offset=2,
            activation="activation_function",
            dropout=("dropout", "attention_dropout"),
            lora=("q_proj", "k_proj", "v_proj", "out_proj"),
        ),
    )
}
