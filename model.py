"""The network: sEMG windows -> patches -> GPT-2 -> gesture scores.

    x (B, C, N) microvolts, or already scaled
      -> front-end: T tokens of F features each        log band powers of a frame, samples of a patch, see frontends
      -> normalised by `statistics`, or by the mean and standard deviation stored in the model
      -> one linear map                                (B, T, d)
      -> GPT-2, fed with embeddings                    (B, T, d); or one attention layer; or nothing
      -> mean or last token -> LayerNorm -> linear head -> (B, K) logits

This module knows tensors only: no file, gesture, frequency in Hz, device or network connection. Frequencies are in
cycles per sample.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semg import backbones, frontends
from semg.common.errors import SettingError
from semg.common.length import nearest_divisor

CONTROLS = ("attention", "none")  # in place of a backbone
POOLINGS = ("mean", "last")
MOST_TOKENS = 8192  # in a window; this is many minutes of signal, so a configuration with more is wrong
MOST_NUMBERS = 1 << 26  # channels times samples of a window


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything needed to rebuild the network, as plain types.

    channels, samples, classes: size of a window, and number of outputs. patch: samples per token; must divide
    `samples`.
    frame: samples from which a token's band powers are computed, centred on the patch; at least `patch`.
    band_edges: rising frequencies in cycles per sample; n edges make n - 1 bands.
    backbone: a family of semg/backbones.py such as `gpt2`; `attention` (one self-attention layer, a control); or `none`
    (the tokens are pooled directly).
    layers, width, heads: of the backbone. architecture: everything else in the family's configuration that affects the
    function it computes; missing entries get the family's defaults.
    tune: which part of the backbone is trained: `full`, `last:N` blocks, `fpt` (LayerNorms and positions), `lora`,
    `frozen`.
    """

    channels: int = 24
    samples: int = 1280
    classes: int = 8
    frontend: str = "bands"
    patch: int = 128
    frame: int = 256
    band_edges: tuple[float, ...] = (0.0039, 0.0070, 0.0127, 0.0230, 0.0416, 0.0753, 0.1367)
    backbone: str = "gpt2"
    layers: int = 2
    width: int = 64
    heads: int = 4
    architecture: dict[str, Any] | None = None
    pooling: str = "mean"
    dropout: float = 0.1
    tune: str = "full"
    lora_rank: int = 8

    def __post_init__(self) -> None:
        """Raises SettingError if the network cannot be built."""
        kinds = (*backbones.FAMILIES, *CONTROLS)
        _expect(self.backbone in kinds, "backbone", " or ".join(kinds), self.backbone)
        _expect(self.pooling in POOLINGS, "pooling", " or ".join(POOLINGS), self.pooling)
        for name in ("channels", "samples", "classes", "patch", "layers", "width", "heads", "lora_rank"):
            _expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        if self.samples % self.patch:
            expected = "a whole number of samples that divides the window's {}, such as {}"
            raise SettingError("patch", expected, self.patch, (self.samples, nearest_divisor(self.samples, self.patch)))
        headless = self.backbone == "none"
        _expect(headless or self.width % self.heads == 0, "heads", f"a divisor of the width {self.width}", self.heads)
        few = f"at most {MOST_NUMBERS // self.channels} with {self.channels} channels"
        _expect(self.samples * self.channels <= MOST_NUMBERS, "samples", few, self.samples)
        self._complete_architecture()
        shortest = math.ceil(self.samples / self.longest)
        few = f"at least {{}}, so that a window has at most the {self.longest} tokens that the backbone takes"
        _expect(self.patch >= shortest, "patch", few, self.patch, shortest)
        _expect(0 <= self.dropout < 1, "dropout", "within 0 <= dropout < 1", self.dropout)
        frontends.check(self)
        tuned_blocks(self)

    def _complete_architecture(self) -> None:
        """Store everything needed to rebuild the backbone, including the family's defaults, which may change with
        transformers."""
        architecture, complete = self.architecture or {}, {}
        if self.family is not None:
            complete = self.family.completed(self.layers, self.width, self.heads, architecture)
        else:
            _expect(not architecture, "architecture", f"none for {self.backbone}", architecture)
        object.__setattr__(self, "architecture", complete)

    @property
    def family(self) -> backbones.Family | None:
        """The backbone's family; None for a control."""
        return backbones.FAMILIES.get(self.backbone)

    @property
    def longest(self) -> int:
        """The largest number of tokens that the backbone accepts."""
        return min(MOST_TOKENS, self.family.longest(self.architecture or {})) if self.family else MOST_TOKENS

    @property
    def tokens(self) -> int:
        """Number of patches in a window."""
        return self.samples // self.patch

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON and checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`. Raises TypeError for unknown fields, SettingError for wrong values."""
        fields_given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        fields_given = _without_former_names(fields_given)
        for field in fields(cls):
            value = fields_given.get(field.name, field.default)
            kinds = {int: (int,), float: (int, float), str: (str,), tuple: (tuple,), type(None): (dict, type(None))}
            right = isinstance(value, kinds[type(field.default)]) and not isinstance(value, bool)
            numbers = not isinstance(value, tuple) or all(isinstance(x, int | float) for x in value)
            _expect(right and numbers, field.name, f"a value such as {field.default}", repr(value))
        return cls(**fields_given)


_FORMER_NAMES = {  # of entries of `architecture`, from the time when GPT-2 was the only family
    "positions": "n_positions",
    "inner": "n_inner",
    "activation": "activation_function",
    "norm_epsilon": "layer_norm_epsilon",
}


def _without_former_names(values: Mapping[str, Any]) -> dict[str, Any]:
    former = {_FORMER_NAMES[name]: values[name] for name in values if name in _FORMER_NAMES}
    if not former:
        return dict(values)
    current = {name: value for name, value in values.items() if name not in _FORMER_NAMES}
    return current | {"architecture": former if values.get("backbone") == "gpt2" else {}}


def _expect(holds: bool, name: str, expected: str, actual: object, *limits: float) -> None:
    if not holds:
        raise SettingError(name, expected, actual, limits)


def tuned_blocks(config: ModelConfig) -> int:
    """How many of the last blocks are trained in full under `tune`. Raises SettingError for an unknown `tune`."""
    if config.tune == "full":
        return config.layers
    if config.tune in ("fpt", "lora", "frozen"):
        return 0
    word, _, count = config.tune.partition(":")
    known = word == "last" and count.isdecimal() and 1 <= int(count) <= config.layers
    _expect(known, "tune", f"full, last:1 to last:{config.layers}, fpt, lora or frozen", config.tune)
    return int(count)


def widest(device: torch.device) -> torch.dtype:
    """The type for sums over many tokens: float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class AttentionLayer(nn.Module):
    """One causal self-attention layer with a residual: the control of Tan et al. (NeurIPS 2024)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.mix = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.positions = nn.Parameter(torch.randn(config.tokens, config.width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        x = x + self.positions
        # (B, h, T, d / h) each
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.mix(self.norm(x)).chunk(3, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class GPT2Classifier(nn.Module):
    """The whole network. `GPT2Classifier(config)` has random weights; `load_backbone` loads pretrained ones."""

    def __init__(self, config: ModelConfig, frontend: frontends.FrontEnd | None = None) -> None:
        """frontend: the front-end of this configuration, if it has been built already."""
        super().__init__()
        self.config = config
        width = config.width
        self.frontend = frontend or frontends.FrontEnd(config)
        features = self.frontend.n_features
        self.token_mean: Tensor
        self.token_std: Tensor
        self.register_buffer("token_mean", torch.zeros(features))
        self.register_buffer("token_std", torch.ones(features))
        self.embed = nn.Linear(features, width)
        self.backbone = _backbone(config)
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, config.classes)
        if self.backbone is not None and config.family is not None:  # a control is always trained in full
            config.family.choose_what_trains(self.backbone, config.tune, config.lora_rank)

    def forward(
        self,
        x: Tensor,
        statistics: Tensor | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
        cached: Tensor | None = None,
    ) -> Tensor:
        """(B, C, N) -> (B, classes) logits.

        statistics: (B, 2, F) mean and standard deviation of the tokens of each window's session, from
        `finish_statistics`. Without it, the model's own `token_mean` and `token_std` are used.
        change: a function applied to the normalised tokens (B, T, F): augmentation in training.
        cached: (B, T, F) cacheable features, in the form that `frontend` takes, if they have been computed already.
        """
        tokens = self.tokens(x, statistics, cached)
        return self.classify(tokens if change is None else change(tokens))

    def tokens(self, x: Tensor, statistics: Tensor | None = None, cached: Tensor | None = None) -> Tensor:
        """(B, C, N) -> (B, T, F) normalised tokens."""
        return self.normalized(self.features(x, cached), statistics)

    def features(self, x: Tensor, cached: Tensor | None = None) -> Tensor:
        """(B, C, N) -> (B, T, F) tokens as the front-end computes them."""
        with torch.autocast(x.device.type, enabled=False):  # powers span too many decades for bf16
            return self.frontend(x.float(), cached)

    def normalized(self, features: Tensor, statistics: Tensor | None = None) -> Tensor:
        """(B, T, F) tokens as the front-end computes them -> (B, T, F) normalised tokens."""
        with torch.autocast(features.device.type, enabled=False):
            if statistics is None:
                return (features - self.token_mean) / self.token_std
            return (features - statistics[:, :1]) / statistics[:, 1:]

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, T, F) normalised tokens -> (B, d), what the head sees."""
        hidden = self.hidden(tokens)
        return self.norm(hidden.mean(1) if self.config.pooling == "mean" else hidden[:, -1])

    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, T, F) normalised tokens -> (B, T, d), the backbone's output."""
        embedded = self.embed(tokens)
        if self.backbone is not None and self.config.family is not None:
            return backbones.forward(self.backbone, embedded)
        return embedded if self.backbone is None else self.backbone(embedded)

    def classify(self, tokens: Tensor) -> Tensor:
        """(B, T, F) normalised tokens -> (B, classes) logits."""
        return self.head(self.drop(self.pooled(tokens)))

    def restricted(self, outputs: Sequence[int]) -> "GPT2Classifier":
        """A copy with only these outputs, in this order. Its softmax is that of the full network, renormalised over
        them."""
        smaller = copy.deepcopy(self)
        smaller.config = replace(self.config, classes=len(outputs))
        for name in ("weight", "bias"):
            rows = getattr(self.head, name).detach()[list(outputs)].clone()
            setattr(smaller.head, name, nn.Parameter(rows, getattr(self.head, name).requires_grad))
        smaller.head.out_features = len(outputs)
        return smaller

    @torch.no_grad()
    def token_statistics(self, x: Tensor) -> Tensor:
        """(B, C, N) windows of one session -> (3, F) the tokens' sum, sum of squares and count, of `widest` type.

        Add these up over batches, then call `finish_statistics`.
        """
        return self.feature_sums(self.features(x))

    @staticmethod
    def feature_sums(features: Tensor) -> Tensor:
        """(B, T, F) the output of `features` -> (3, F) of `widest` type, as from `token_statistics`."""
        each = features.flatten(0, 1).to(widest(features.device))
        return torch.stack([each.sum(0), each.square().sum(0), torch.full_like(each[0], len(each))])

    def finish_statistics(self, sums: Tensor) -> Tensor:
        """(3, F) sums -> (2, F) mean and standard deviation; 0 and 1 for features that the front-end does not
        normalise."""
        mean = sums[0] / sums[2]
        std = (sums[1] / sums[2] - mean.square()).clamp(min=0).sqrt().clamp(min=1e-3)
        if not self.frontend.all_normalized:
            left = ~self.frontend.normalized.to(sums.device)
            mean, std = mean.masked_fill(left, 0.0), std.masked_fill(left, 1.0)
        return torch.stack([mean, std]).float()

    def load_backbone(self, weights: Mapping[str, Tensor]) -> None:
        """Load pretrained weights, as semg/backbones.py reads them, into the backbone. ValueError if there is no
        backbone or they do not fit."""
        if self.backbone is None or self.config.family is None:
            raise ValueError(f"backbone: expected one to load weights into, found {self.config.backbone}")
        backbones.load(self.backbone, weights)

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of parameters: all and trainable ones, in the network and in the backbone alone.

        Also of learned positions: how many are trainable, and how many of these a window reaches. The others never get
        a gradient.
        """
        backbone = list(self.backbone.parameters()) if self.backbone is not None else []
        family = self.config.family
        positions = family.trained_positions(self.backbone) if family and self.backbone is not None else 0
        return {
            "total": sum(p.numel() for p in self.parameters()),
            "trainable": sum(p.numel() for p in self.parameters() if p.requires_grad),
            "backbone": sum(p.numel() for p in backbone),
            "backbone_trainable": sum(p.numel() for p in backbone if p.requires_grad),
            "positions_trainable": positions,
            "positions_reached": min(positions, self.config.tokens),
        }


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's weights, without allocating them. SettingError if the network cannot be built."""
    frontend = frontends.FrontEnd(config)
    try:
        with torch.device("meta"):
            network = GPT2Classifier(config, frontend)
    except RuntimeError as error:  # a size that overflows
        raise SettingError("width", "a network that can be built", " ".join(str(error).split())) from None
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


def _backbone(config: ModelConfig) -> nn.Module | None:
    if config.family is None:
        return AttentionLayer(config) if config.backbone == "attention" else None
    return config.family.build(config.layers, config.width, config.heads, config.architecture or {}, config.dropout)
