"""Augmentation of normalised tokens, by changes that another person or another day could cause.

Tokens are (B, T, F), and the front-end's groups define the F features. For every feature, zero means "as usual in this
session", so a channel, band or time that is set to 0 looks ordinary, not silent. All random numbers come from one
generator, so the same seed gives the same augmentation.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semg.common.errors import SettingError
from semg.data.batches import to_device
from semg.data.rings import turned_by
from semg.frontends import Group

OF_BAND_POWERS = ("gain", "frequency_masking")  # these change log powers only, not samples
SHARES = ("band_rotation", "channel_dropout", "time_masking", "frequency_masking", "jitter")  # strengths from 0 to 1
NO_RINGS = "band rotation changes nothing here: the recordings' channels lie in no rings of electrodes"
RENAMED = {
    "roll": "band_rotation",
    "mask": "channel_dropout",
    "time_mask": "time_masking",
    "band_mask": "frequency_masking",
}


@dataclass(frozen=True)
class Augmentation:
    """Strength of each change of the tokens; 0 switches a change off.

    band_rotation: probability of rotating every ring of electrodes by one place, all in the same direction, as if the
    sleeve sat differently. None means `auto`: the training run chooses it, see semg/training/band_rotation.py.
    channel_dropout: fraction of electrodes set to 0. time_masking: fraction of tokens; frequency_masking: fraction of
    frequency bands.
    gain: standard deviation of a shift of each channel's log power, in units of the session's, as if by another
    electrode contact.
    noise: standard deviation of noise on every feature.
    mixup: parameter of the Beta distribution for mixing pairs of windows and labels.
    jitter: fraction of windows whose start is shifted at random within their label's segment, by at most the stride.

    Those in OF_BAND_POWERS do not change samples.
    """

    band_rotation: float | None = None
    channel_dropout: float = 0.1
    time_masking: float = 0.0
    frequency_masking: float = 0.0
    gain: float = 0.0
    noise: float = 0.0
    mixup: float = 0.0
    jitter: float = 1.0

    @classmethod
    def parse(cls, words: list[str]) -> "Augmentation":
        """`[]`: the default; `["none"]`: nothing; `["band_rotation=0.5", "gain=0.2"]`: only these.

        Raises SettingError.
        """
        if not words:
            return cls()
        strengths: dict[str, float | None] = dict.fromkeys(NAMES, 0.0)
        if words == ["none"]:
            return cls(**strengths)  # type: ignore[arg-type]  # None is for band_rotation alone
        for word in words:
            name, equals, value = word.partition("=")
            if name in RENAMED:
                raise SettingError("augment", f"{RENAMED[name]}, which is the name of {name} now", repr(word))
            if name not in strengths or not equals:
                raise SettingError("augment", f"none, or NAME=VALUE with a name of {', '.join(strengths)}", repr(word))
            strengths[name] = None if word == "band_rotation=auto" else _strength(name, value)
        names = [word.partition("=")[0] for word in words]
        if again := [name for name in names if names.count(name) > 1]:
            raise SettingError("augment", "each change once", f"{again[0]} {names.count(again[0])} times")
        return cls(**strengths)  # type: ignore[arg-type]

    def rotated(self, band_rotation: float) -> "Augmentation":
        """The same augmentation with this band rotation."""
        return replace(self, band_rotation=band_rotation)

    def __str__(self) -> str:
        used = [f"{name}={_in_digits(value)}" for name, value in asdict(self).items() if value != 0]
        return " ".join(used) or "none"


NAMES = tuple(field.name for field in fields(Augmentation))


def _in_digits(value: float | None) -> str:
    """`auto`, `0.5`, `1`: all digits that the value has, because runs are resumed with what is read back."""
    if value is None:
        return "auto"
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _strength(name: str, text: str) -> float:
    top = 1.0 if name in SHARES else 10.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= top:
        raise SettingError("augment", f"{name} from 0 to {top:g}", repr(text))
    return value


@dataclass(frozen=True)
class TokenLayout:
    """The features of a token, and the arrangement of the electrodes that they belong to.

    groups: those of the front-end. rings: for each ring of electrodes, their places in order around the arm; electrodes
    outside rings are not rotated. copies: how many times each electrode is among the channels; channels are ordered so
    that all electrodes come once before any comes again.
    """

    groups: tuple[Group, ...]
    rings: tuple[tuple[int, ...], ...]
    copies: int = 1

    @cached_property
    def turned(self) -> Tensor:
        """(3, C) for each channel, the channel whose features it gets when every ring is rotated by -1, 0 and 1
        places."""
        return torch.stack([self.turned_by(places) for places in (-1, 0, 1)])

    def turned_by(self, places: int) -> Tensor:
        """(C,) for each channel, the channel whose features it gets when every ring is rotated by `places`."""
        return torch.from_numpy(turned_by(self.rings, self.channels // self.copies, places, self.copies)).int()

    @property
    def channels(self) -> int:
        """Number of channels of a window."""
        return self.groups[0].channels


def draw(
    how: Augmentation,
    layout: TokenLayout,
    shape: tuple[int, int],
    generator: torch.Generator,
    device: torch.device | None = None,
) -> "TokenChange":
    """Draw one random change of a batch of tokens and their targets.

    shape: (B, T) of the batch. generator: on the CPU, so that the same numbers are drawn for every device. An exception
    is `noise`, which has too many numbers: a GPU draws it itself, seeded by the generator.
    """
    moves = _draw_moves(how, layout, shape, generator, device)
    changes = tuple(_draw_group(how, group, shape, generator, device) for group in layout.groups)
    mixing = _draw_mixing(how.mixup, shape[0], generator, device) if how.mixup else None
    return TokenChange(layout, moves, changes, mixing)


@dataclass(frozen=True)
class TokenChange:
    """A change that has been drawn: `change(tokens)` (B, T, F) and `change.targets(target)` (B, K) apply it, as often
    as needed.

    moves: which features are exchanged or set to 0; None if none. groups: the other changes, for each of the layout's
    groups. mixing: which windows are mixed; None if none.
    """

    layout: TokenLayout
    moves: "_Moves | None"
    groups: "tuple[_GroupChange, ...]"
    mixing: "_Mixing | None"

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, F)."""
        parts = []
        for group, change in zip(self.layout.groups, self.groups, strict=True):
            features = group.of(tokens)
            if self.moves is not None:
                features = self.moves.of_columns(features) if group.channels_last else self.moves.of_rows(features)
            parts.append(change(features).flatten(2))
        changed = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return changed if self.mixing is None else self.mixing(changed)

    def targets(self, target: Tensor) -> Tensor:
        """(B, K) fractions of the classes -> (B, K)."""
        return target if self.mixing is None else self.mixing(target)


@dataclass(frozen=True)
class _GroupChange:
    """gain (B, 1, C, 1) and noise (B, T, C, K) are added, and shown (B, 1, 1, K) is multiplied, unless None. The last
    two axes are swapped if a group has its channels last."""

    gain: Tensor | None
    noise: Tensor | None
    shown: Tensor | None

    def __call__(self, features: Tensor) -> Tensor:
        """(B, T, C, K) -> the same shape."""
        if self.gain is not None:
            features = features + self.gain
        if self.noise is not None:
            features = features + self.noise
        return features if self.shown is None else features * self.shown


def _placed(values: Tensor, device: torch.device | None) -> Tensor:
    return values if device is None else to_device(values, device)


def _normal(
    strength: float, size: tuple[int, ...], generator: torch.Generator, device: torch.device | None
) -> Tensor | None:
    return _placed(strength * torch.randn(size, generator=generator), device) if strength else None


def _noise(
    strength: float, size: tuple[int, ...], generator: torch.Generator, device: torch.device | None
) -> Tensor | None:
    if not strength or device is None or device.type != "cuda":
        return _normal(strength, size, generator, device)
    own = torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    return strength * torch.randn(size, generator=own, device=device)


def _draw_group(
    how: Augmentation, group: Group, shape: tuple[int, int], generator: torch.Generator, device: torch.device | None
) -> _GroupChange:
    def size(times: int, channels: int, numbers: int) -> tuple[int, ...]:
        return (shape[0], times, *((numbers, channels) if group.channels_last else (channels, numbers)))

    gain = _normal(how.gain if group.log_power else 0.0, size(1, group.channels, 1), generator, device)
    noise = _noise(how.noise, size(shape[1], group.channels, group.per_channel), generator, device)
    shown = None
    if how.frequency_masking and group.log_power:
        chance = torch.rand(size(1, 1, group.per_channel), generator=generator)
        shown = _placed((chance >= how.frequency_masking).float(), device)
    return _GroupChange(gain, noise, shown)


def _draw_moves(
    how: Augmentation,
    layout: TokenLayout,
    shape: tuple[int, int],
    generator: torch.Generator,
    device: torch.device | None,
) -> "_Moves | None":
    """Which features take whose place in a batch of this shape; None if none do."""
    if how.band_rotation is None:
        raise ValueError("band_rotation: expected a number, since what `auto` comes to is not drawn")
    rotates = how.band_rotation and layout.rings
    if not (rotates or how.channel_dropout or how.time_masking):
        return None
    channel = torch.arange(layout.channels, dtype=torch.int32).expand(shape[0], -1)
    if rotates:
        chance = torch.rand(shape[0], generator=generator)
        step = (chance < how.band_rotation / 2).int() - (chance > 1 - how.band_rotation / 2).int()  # -1, 0 or 1
        channel = layout.turned[step + 1]
    dropped = None
    if how.channel_dropout:
        chance = torch.rand(shape[0], layout.channels // layout.copies, generator=generator)
        dropped = _placed((chance < how.channel_dropout).repeat(1, layout.copies), device)
    times = None
    if how.time_masking:
        times = _placed(torch.rand(shape, generator=generator) < how.time_masking, device)
    return _Moves(_placed(channel, device), dropped, times)


@dataclass(frozen=True)
class _Moves:
    """channel (B, C): the channel whose features each channel gets; dropped (B, C) and times (B, T): what is set to
    0."""

    channel: Tensor
    dropped: Tensor | None
    times: Tensor | None

    def of_rows(self, features: Tensor) -> Tensor:
        """(B, T, C, K) -> the same shape. Rows of K numbers are selected by a single index, which takes a fifth of the
        time of `gather`."""
        B, T, C, K = features.shape
        behind = B * T * C  # index of a row of zeros after the last one
        token = torch.arange(0, behind, C, dtype=torch.int32, device=features.device).view(B, T, 1)
        channel = self.channel
        if self.dropped is not None:
            channel = channel.masked_fill(self.dropped, behind)
        if self.times is not None:
            token = token.masked_fill(self.times[:, :, None], behind)
        origin = (token + channel[:, None]).flatten().clamp_(max=behind)
        rows = torch.cat([features.reshape(-1, K), features.new_zeros(1, K)])
        return rows.index_select(0, origin).view(features.shape)

    def of_columns(self, features: Tensor) -> Tensor:
        """(B, T, K, C) -> the same shape. `gather` works on this layout directly; selecting rows would need two
        transpositions."""
        moved = features.gather(3, self.channel.long()[:, None, None].expand(features.shape))
        if self.dropped is not None:
            moved.masked_fill_(self.dropped[:, None, None], 0)
        if self.times is not None:
            moved.masked_fill_(self.times[:, :, None, None], 0)
        return moved


@dataclass(frozen=True)
class _Mixing:
    """Mixup (Zhang et al. 2018): each row (B, ...) is mixed with another row of the batch; weight, partner: (B,)."""

    weight: Tensor
    partner: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        weight = self.weight.view(-1, *[1] * (rows.dim() - 1))
        return weight * rows + (1 - weight) * rows[self.partner]


def _draw_mixing(strength: float, batch: int, generator: torch.Generator, device: torch.device | None) -> _Mixing:
    draws = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    weight = torch.from_numpy(draws.beta(strength, strength, batch).astype(np.float32))
    partner = torch.randperm(batch, generator=generator)
    return _Mixing(_placed(weight, device), _placed(partner, device))


def one_hot(label: Tensor, classes: int) -> Tensor:
    """(B,) labels -> (B, classes) float targets."""
    return F.one_hot(label, classes).float()
