"""Augmentation of normalised tokens, in ways that another person or another day could change them.

Tokens are (B, T, F) with F = channels * bands log powers, then patch * channels samples; zero means "as usual for
this session" for every feature, so masking with zeros hides a channel, a band or a time without saying anything
false. Every draw comes from one generator, so the same seed gives the same augmentation.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How strongly to change the tokens; 0 leaves a change out.

    roll: probability of turning all rings of electrodes by one place, either way: the sleeve sits differently.
    mask: share of electrodes hidden; time_mask: share of tokens hidden; band_mask: share of frequency bands hidden.
    gain: deviation of each channel's log power, in the session's deviations: another electrode contact.
    noise: deviation of noise on every feature.
    mixup: parameter of the Beta distribution with which pairs of windows and labels are mixed.
    jitter: 1 moves a window's start at random within its label's stretch, by up to the stride.
    """

    roll: float = 0.5
    mask: float = 0.1
    time_mask: float = 0.0
    band_mask: float = 0.0
    gain: float = 0.0
    noise: float = 0.0
    mixup: float = 0.0
    jitter: float = 1.0

    @classmethod
    def parse(cls, words: list[str]) -> "Augmentation":
        """`[]`: the default; `["none"]`: nothing; `["roll=0.5", "mask=0.2"]`: these alone. Raises ValueError."""
        if not words:
            return cls()
        nothing = {field.name: 0.0 for field in fields(cls)}
        if words == ["none"]:
            return cls(**nothing)
        names = [word.partition("=")[0] for word in words]
        if again := [name for name in nothing if names.count(name) > 1]:
            raise ValueError(f"expected each change once, found {again[0]} {names.count(again[0])} times")
        for word in words:
            name, equals, value = word.partition("=")
            if name not in nothing or not equals:
                raise ValueError(f"expected none, or NAME=VALUE with a name of {', '.join(nothing)}, found {word!r}")
            nothing[name] = float(value)
            top = 1.0 if name in ("roll", "mask", "time_mask", "band_mask", "jitter") else 10.0
            if not 0 <= nothing[name] <= top:
                raise ValueError(f"expected {name} from 0 to {top:g}, found {value}")
        return cls(**nothing)

    def __str__(self) -> str:
        used = [f"{name}={value:g}" for name, value in asdict(self).items() if value]
        return " ".join(used) or "none"


@dataclass(frozen=True)
class TokenLayout:
    """What the features of a token are: (channels, bands) log powers, then (patch, channels) samples.

    ring: electrodes of one ring; 0 where the channels are no whole rings. views: how often each electrode is among
    the channels, all electrodes once before any of them again.
    """

    channels: int
    bands: int
    patch: int
    ring: int
    views: int = 1

    @classmethod
    def of(cls, config: Any, ring: int, views: int = 1) -> "TokenLayout":
        """The layout of a ModelConfig's tokens, for electrodes in rings of `ring`, each seen `views` times."""
        channels = config.channels
        whole = ring if (channels // views) % ring == 0 else 0
        return cls(channels, config.band_features // channels, config.raw_features // channels, whole, views)


class TokenAugmenter:
    """Draws one change of a batch of tokens and applies it: `augmenter(tokens)`."""

    def __init__(self, how: Augmentation, layout: TokenLayout, generator: torch.Generator) -> None:
        self.how = how
        self.layout = layout
        self.generator = generator  # on the CPU: the same draws whatever the device

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, F)."""
        layout, split = self.layout, self.layout.channels * self.layout.bands
        shape = tokens.shape[:2]
        bands = tokens[..., :split].view(*shape, layout.channels, layout.bands)
        raw = tokens[..., split:].view(*shape, layout.patch, layout.channels).transpose(2, 3)
        parts = [part for part in (bands, raw) if part.shape[3]]
        if (origin := self._origin(*shape)) is not None:
            origin = origin.to(tokens.device)
            parts = [_taken(part, origin) for part in parts]
        if layout.bands:
            parts[0] = self._changed_bands(parts[0])
        if layout.patch:
            parts[-1] = parts[-1].transpose(2, 3)
        flat = [part.flatten(2) for part in parts]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=2)

    def _origin(self, batch: int, count: int) -> Tensor | None:
        """(B * T * C,): which of as many rows, a channel of a token, each takes its features from; None: its own.

        Where a channel or a time is hidden, it is the row B * T * C, one behind the last.
        """
        layout, how = self.layout, self.how
        rolls = how.roll and layout.ring
        if not (rolls or how.mask or how.time_mask):
            return None
        behind = batch * count * layout.channels
        channel = torch.arange(layout.channels, dtype=torch.int32).expand(batch, -1)
        if rolls:
            draw = torch.rand(batch, generator=self.generator)
            step = (draw < how.roll / 2).int() - (draw > 1 - how.roll / 2).int()  # -1, 0 or 1
            place = channel % layout.ring
            channel = (channel - place) + (place - step[:, None]) % layout.ring
        if how.mask:
            draw = torch.rand(batch, layout.channels // layout.views, generator=self.generator)
            channel = channel.masked_fill((draw < how.mask).repeat(1, layout.views), behind)
        token = torch.arange(0, behind, layout.channels, dtype=torch.int32).view(batch, count, 1)
        if how.time_mask:
            draw = torch.rand(batch, count, 1, generator=self.generator)
            token = token.masked_fill(draw < how.time_mask, behind)
        return (token + channel[:, None]).flatten().clamp_(max=behind)

    def _changed_bands(self, bands: Tensor) -> Tensor:
        B, T, C, K = bands.shape
        if self.how.gain:
            shift = self.how.gain * torch.randn(B, 1, C, 1, generator=self.generator)
            bands = bands + shift.to(bands.device)
        if self.how.noise:
            bands = bands + self.how.noise * torch.randn(B, T, C, K, generator=self.generator).to(bands.device)
        if self.how.band_mask:
            shown = torch.rand(B, 1, 1, K, generator=self.generator) >= self.how.band_mask
            bands = bands * shown.float().to(bands.device)
        return bands


def _taken(part: Tensor, origin: Tensor) -> Tensor:
    """(B, T, C, K) -> the same shape, with rows taken as `_origin` says: a fifth of the time of `gather`."""
    rows = torch.cat([part.reshape(-1, part.shape[3]), part.new_zeros(1, part.shape[3])])
    return rows.index_select(0, origin).view(part.shape)


def mixed(tokens: Tensor, target: Tensor, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): each window and its target (B, K) mixed with another of the batch."""
    if not strength:
        return tokens, target
    draws = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    weight = torch.from_numpy(draws.beta(strength, strength, len(tokens)).astype(np.float32)).to(tokens.device)
    partner = torch.randperm(len(tokens), generator=generator).to(tokens.device)
    mix = weight[:, None, None]
    return (
        mix * tokens + (1 - mix) * tokens[partner],
        weight[:, None] * target + (1 - weight[:, None]) * target[partner],
    )


def one_hot(label: Tensor, classes: int) -> Tensor:
    """(B,) labels -> (B, classes) float targets."""
    return F.one_hot(label, classes).float()
