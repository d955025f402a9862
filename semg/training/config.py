"""A training run's settings: made by train.py from its flags, saved beside the model, and read back to resume.

Each setting is named after its flag. Settings that do not affect the result, such as output folder and device, are not
included.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from semg.common.errors import SettingError
from semg.common.length import Length, nearest_divisor
from semg.common.provenance import plain
from semg.data.normalization import RIDGE, ChannelNormalization
from semg.evaluation import metrics
from semg.frontends import has_log_powers
from semg.training.augmentation import OF_BAND_POWERS, Augmentation
from semg.training.optimization import REFERENCE_BATCH, OptimizerConfig, rate_factor

BANDS = (20.0, 36.0, 65.0, 118.0, 213.0, 386.0, 700.0)  # Hz, edges; equal steps on a logarithmic scale
PATCH, FRAME = Length("25ms"), Length("50ms")
AUTO = 0  # as a batch size: not set yet; semg/training/batch_size.py chooses it
CLOSE = 1.25  # an edge is dropped if half the sampling rate is less than this factor above it


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that a training run's result depends on, apart from code, data and kind of device.

    patch, bands: None means PATCH and BANDS, fitted to the windows and their rate. bands: edges in Hz.
    layers, width, heads: None means the backbone's own. pretrain: epochs of next-patch prediction before training.
    init: initial weights of the backbone: `pretrained`, `random` or `shuffled`. embed_init, embed_scale: initial
    weights of the map from tokens to the backbone: `uniform` or `orthogonal`, times a number, or (`backbone`) scaled to
    the pretrained embeddings.
    backbone_lr: None means by the backbone's size. batch_size: over all processes; AUTO means that the run chooses it
    and scales lr and backbone_lr to it (`at`). warmup, label_smoothing: fractions. ema: decay of the moving average of
    the weights, 0 for none.
    patience: stop after this many epochs without improvement; 0 means never. precompute: compute band powers once
    instead of in each step.
    """

    shards: Path
    split: Path
    seed: int = 0
    # the network
    backbone: str = "gpt2"
    init: str = "pretrained"
    embed_init: str = "uniform"
    embed_scale: str = "1"
    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    tune: str = "full"
    frontend: str = "bands"
    patch: Length | None = None
    frame: Length = FRAME
    bands: tuple[float, ...] | None = None
    pooling: str = "mean"
    normalize: str = "session"
    whitening: str = "append"
    ridge: float = RIDGE
    # the training
    epochs: int = 8
    pretrain: int = 0
    batch_size: int = REFERENCE_BATCH
    lr: float = 1e-3
    backbone_lr: float | None = None
    weight_decay: float = OptimizerConfig.weight_decay
    warmup: float = OptimizerConfig.warmup
    clip: float = OptimizerConfig.clip
    label_smoothing: float = 0.1
    dropout: float = 0.1
    ema: float = 0.0
    augment: Augmentation = field(default_factory=Augmentation)
    balance: str = "none"
    select: str = metrics.leading().name
    patience: int = 0
    amp: str = "auto"
    precompute: bool = True

    def __post_init__(self) -> None:
        """Raises SettingError for settings that cannot be combined."""
        _ = self.normalization
        if self.pretrain and self.backbone == "none":  # also checked where it is needed, but after minutes of preparing
            raise SettingError("backbone", "one that reads patches in order, for {pretrain}", self.backbone)
        for name in OF_BAND_POWERS:
            if getattr(self.augment, name) and not has_log_powers(self.frontend):
                expected = f"no {name}, which changes band powers, with {{frontend}} {self.frontend}"
                raise SettingError("augment", expected)

    @property
    def normalization(self) -> ChannelNormalization:
        """How channels are normalised."""
        return ChannelNormalization(self.normalize, self.whitening, self.ridge)

    @property
    def optimizer(self) -> OptimizerConfig:
        """The optimiser's settings."""
        return OptimizerConfig(
            lr=self.lr, backbone_lr=self.backbone_lr, weight_decay=self.weight_decay, warmup=self.warmup, clip=self.clip
        )

    def at(self, batch_size: int) -> "TrainConfig":
        """The settings with the batch size that a run has chosen for AUTO, and its learning rates."""
        factor = rate_factor(batch_size)
        backbone_lr = None if self.backbone_lr is None else self.backbone_lr * factor
        return replace(self, batch_size=batch_size, lr=self.lr * factor, backbone_lr=backbone_lr)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON and checkpoints."""
        settings = {one.name: plain(getattr(self, one.name)) for one in fields(self)}
        return settings | {"batch_size": self.batch_size or "auto"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`. TypeError, ValueError or AttributeError for values that `to_dict` did not make."""
        read = dict(values)
        read |= {name: Path(read[name]) for name in ("shards", "split")}
        read |= {name: Length(read[name]) for name in ("patch", "frame") if read[name] is not None}
        read["bands"] = None if read["bands"] is None else tuple(map(float, read["bands"]))
        read["batch_size"] = AUTO if read["batch_size"] == "auto" else read["batch_size"]
        read["augment"] = Augmentation.parse(read["augment"].split())
        return cls(**read)


def bands_at(rate: float) -> tuple[float, ...]:
    """BANDS, cut to what a sampling rate (Hz) allows: the highest band ends at half the rate."""
    half = rate / 2
    below = [edge for edge in BANDS if edge < half]
    if len(below) == len(BANDS):
        return BANDS
    while below and half < CLOSE * below[-1]:
        below.pop()
    return (*below, half)


def patch_of(window: int, rate: float) -> int:
    """The patch length, in samples, that divides the window (samples) and whose ratio to PATCH is nearest to 1."""
    return nearest_divisor(window, PATCH.samples(rate))
