"""Augmentation of normalised tokens, in ways that another person or another day could change them.

Tokens are (B, T, F) with F = channels * bands log powers, then patch * channels samples; zero means "as usual for
this session" for every feature, so masking with zeros hides a channel, a band or a time without saying anything
false. Every draw comes from one generator, so the same seed gives the same augmentation.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semg.common.errors import SettingError

OF_BAND_POWERS = ("gain", "frequency_masking")  # what changes log powers, and leaves samples as they are
SHARES = ("band_rotation", "channel_dropout", "time_masking", "frequency_masking", "jitter")  # from 0 to 1
RENAMED = {
    "roll": "band_rotation",
    "mask": "channel_dropout",
    "time_mask": "time_masking",
    "band_mask": "frequency_masking",
}


@dataclass(frozen=True)
class Augmentation:
    """How strongly to change the tokens; 0 leaves a change out.

    band_rotation: probability of turning every ring of electrodes by one place, all the same way: the sleeve sits
    differently.
    channel_dropout: share of electrodes set to 0. time_masking: share of tokens; frequency_masking: of frequency bands.
    gain: standard deviation of a shift of each channel's log power, in the session's: another electrode contact.
    noise: standard deviation of noise on every feature.
    mixup: parameter of the Beta distribution with which pairs of windows and labels are mixed.
    jitter: share of windows whose start is moved at random within their label's segment, by up to the stride.

    OF_BAND_POWERS leave samples as they are.
    """

    band_rotation: float = 0.5
    channel_dropout: float = 0.1
    time_masking: float = 0.0
    frequency_masking: float = 0.0
    gain: float = 0.0
    noise: float = 0.0
    mixup: float = 0.0
    jitter: float = 1.0

    @classmethod
    def parse(cls, words: list[str]) -> "Augmentation":
        """`[]`: the default; `["none"]`: nothing; `["band_rotation=0.5", "gain=0.2"]`: these alone.

        Raises SettingError.
        """
        if not words:
            return cls()
        strengths = dict.fromkeys(NAMES, 0.0)
        if words == ["none"]:
            return cls(**strengths)
        for word in words:
            name, equals, value = word.partition("=")
            if name in RENAMED:
                raise SettingError("augment", f"{RENAMED[name]}, which is the name of {name} now", repr(word))
            if name not in strengths or not equals:
                raise SettingError("augment", f"none, or NAME=VALUE with a name of {', '.join(strengths)}", repr(word))
            strengths[name] = _strength(name, value)
        names = [word.partition("=")[0] for word in words]
        if again := [name for name in names if names.count(name) > 1]:
            raise SettingError("augment", "each change once", f"{again[0]} {names.count(again[0])} times")
        return cls(**strengths)

    def __str__(self) -> str:
        used = [f"{name}={value:g}" for name, value in asdict(self).items() if value]
        return " ".join(used) or "none"


NAMES = tuple(field.name for field in fields(Augmentation))


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
    """What the features of a token are: (channels, bands) log powers, then (patch, channels) samples.

    ring: electrodes of one ring; 0 where the channels are no whole rings. copies: how often each electrode is among
    the channels, all electrodes once before any of them again.
    """

    channels: int
    bands: int
    patch: int
    ring: int
    copies: int = 1

    @classmethod
    def of(cls, config: Any, ring: int, copies: int = 1) -> "TokenLayout":
        """The layout of a ModelConfig's tokens, for electrodes in rings of `ring`, each seen `copies` times."""
        channels = config.channels
        whole = ring if (channels // copies) % ring == 0 else 0
        return cls(channels, config.band_features // channels, config.raw_features // channels, whole, copies)


def draw(
    how: Augmentation,
    layout: TokenLayout,
    shape: tuple[int, int],
    generator: torch.Generator,
    device: torch.device | None = None,
) -> "TokenChange":
    """Draw one change of a batch of tokens and of what they are trained towards.

    shape: (B, T) of the batch. generator: on the CPU, so that the same is drawn whatever the device of the tokens.
    """
    B, T = shape
    C, K, P = layout.channels, layout.bands, layout.patch

    def normal(strength: float, *size: int) -> Tensor | None:
        return (strength * torch.randn(size, generator=generator)).to(device) if strength and math.prod(size) else None

    moves = _draw_moves(how, layout, shape, generator, device)
    gain = normal(how.gain if K else 0.0, B, 1, C, 1)
    band_noise = normal(how.noise, B, T, C, K)
    shown = None
    if how.frequency_masking and K:
        shown = (torch.rand(B, 1, 1, K, generator=generator) >= how.frequency_masking).float().to(device)
    sample_noise = normal(how.noise, B, T, P, C)
    mixing = _draw_mixing(how.mixup, B, generator, device) if how.mixup else None
    return TokenChange(layout, moves, gain, band_noise, shown, sample_noise, mixing)


@dataclass(frozen=True)
class TokenChange:
    """A change that is drawn: `change(tokens)` (B, T, F) and `change.targets(target)` (B, K) apply it, any number of
    times. What is None is left out.

    moves: what takes whose place. gain (B, 1, C, 1), band_noise (B, T, C, K), shown (B, 1, 1, K): for band powers.
    sample_noise (B, T, patch, C): for samples. mixing: which windows are mixed.
    """

    layout: TokenLayout
    moves: "_Moves | None"
    gain: Tensor | None
    band_noise: Tensor | None
    shown: Tensor | None
    sample_noise: Tensor | None
    mixing: "_Mixing | None"

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, F)."""
        layout, split, shape = self.layout, self.layout.channels * self.layout.bands, tokens.shape[:2]
        parts = []
        if layout.bands:
            parts.append(self._bands(tokens[..., :split].view(*shape, layout.channels, layout.bands)))
        if layout.patch:
            parts.append(self._samples(tokens[..., split:].view(*shape, layout.patch, layout.channels)))
        flat = [part.flatten(2) for part in parts]
        changed = flat[0] if len(flat) == 1 else torch.cat(flat, dim=2)
        return changed if self.mixing is None else self.mixing(changed)

    def targets(self, target: Tensor) -> Tensor:
        """(B, K) shares of the classes -> (B, K)."""
        return target if self.mixing is None else self.mixing(target)

    def _bands(self, bands: Tensor) -> Tensor:
        """(B, T, C, K) -> the same shape."""
        if self.moves is not None:
            bands = self.moves.of_bands(bands)
        if self.gain is not None:
            bands = bands + self.gain
        if self.band_noise is not None:
            bands = bands + self.band_noise
        return bands if self.shown is None else bands * self.shown

    def _samples(self, raw: Tensor) -> Tensor:
        """(B, T, patch, C) -> the same shape."""
        if self.moves is not None:
            raw = self.moves.of_samples(raw)
        return raw if self.sample_noise is None else raw + self.sample_noise


def _draw_moves(
    how: Augmentation,
    layout: TokenLayout,
    shape: tuple[int, int],
    generator: torch.Generator,
    device: torch.device | None,
) -> "_Moves | None":
    """What takes whose place in as many windows and tokens; None: nothing does."""
    rotates = how.band_rotation and layout.ring
    if not (rotates or how.channel_dropout or how.time_masking):
        return None
    channel = torch.arange(layout.channels, dtype=torch.int32).expand(shape[0], -1)
    if rotates:
        chance = torch.rand(shape[0], generator=generator)
        step = (chance < how.band_rotation / 2).int() - (chance > 1 - how.band_rotation / 2).int()  # -1, 0 or 1
        place = channel % layout.ring
        channel = (channel - place) + (place - step[:, None]) % layout.ring
    hidden = None
    if how.channel_dropout:
        chance = torch.rand(shape[0], layout.channels // layout.copies, generator=generator)
        hidden = (chance < how.channel_dropout).repeat(1, layout.copies).to(device)
    times = (torch.rand(shape, generator=generator) < how.time_masking).to(device) if how.time_masking else None
    return _Moves(channel.to(device), hidden, times)


@dataclass(frozen=True)
class _Moves:
    """channel (B, C): the channel whose features each takes; hidden (B, C) and times (B, T): where there are none."""

    channel: Tensor
    hidden: Tensor | None
    times: Tensor | None

    def of_bands(self, bands: Tensor) -> Tensor:
        """(B, T, C, K) -> the same shape. Rows of K are taken by one index: a fifth of the time of `gather`."""
        B, T, C, K = bands.shape
        behind = B * T * C  # a row of zeros behind the last
        token = torch.arange(0, behind, C, dtype=torch.int32, device=bands.device).view(B, T, 1)
        channel = self.channel
        if self.hidden is not None:
            channel = channel.masked_fill(self.hidden, behind)
        if self.times is not None:
            token = token.masked_fill(self.times[:, :, None], behind)
        origin = (token + channel[:, None]).flatten().clamp_(max=behind)
        rows = torch.cat([bands.reshape(-1, K), bands.new_zeros(1, K)])
        return rows.index_select(0, origin).view(bands.shape)

    def of_samples(self, raw: Tensor) -> Tensor:
        """(B, T, patch, C) -> the same shape. As they lie, by `gather`: rows would have to be turned round, twice."""
        moved = raw.gather(3, self.channel.long()[:, None, None].expand(raw.shape))
        if self.hidden is not None:
            moved.masked_fill_(self.hidden[:, None, None], 0)
        if self.times is not None:
            moved.masked_fill_(self.times[:, :, None, None], 0)
        return moved


@dataclass(frozen=True)
class _Mixing:
    """Mixup (Zhang et al. 2018): each row (B, ...) mixed with another of the batch; weight, partner: (B,)."""

    weight: Tensor
    partner: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        weight = self.weight.view(-1, *[1] * (rows.dim() - 1))
        return weight * rows + (1 - weight) * rows[self.partner]


def _draw_mixing(strength: float, batch: int, generator: torch.Generator, device: torch.device | None) -> _Mixing:
    draws = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    weight = torch.from_numpy(draws.beta(strength, strength, batch).astype(np.float32))
    partner = torch.randperm(batch, generator=generator)
    return _Mixing(weight.to(device), partner.to(device))


def one_hot(label: Tensor, classes: int) -> Tensor:
    """(B,) labels -> (B, classes) float targets."""
    return F.one_hot(label, classes).float()
