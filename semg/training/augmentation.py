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

OF_BANDS = ("gain", "band_mask")  # what changes log powers, and leaves samples as they are


@dataclass(frozen=True)
class Augmentation:
    """How strongly to change the tokens; 0 leaves a change out. OF_BANDS change band powers alone, not samples.

    roll: probability of turning all rings of electrodes by one place, either way: the sleeve sits differently.
    mask: share of electrodes hidden; time_mask: share of tokens hidden; band_mask: share of frequency bands hidden.
    gain: standard deviation of a shift of each channel's log powers, in those of the session: another contact.
    noise: standard deviation of noise on every feature.
    mixup: parameter of the Beta distribution with which pairs of windows and labels are mixed.
    jitter: 1 moves a window's start at random within its label's segment, by up to the stride.
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
        moves = self._moves(shape[0], shape[1], tokens.device)
        parts = []
        if layout.bands:
            bands = tokens[..., :split].view(*shape, layout.channels, layout.bands)
            parts.append(self._changed_bands(moves.of_bands(bands) if moves else bands))
        if layout.patch:
            raw = tokens[..., split:].view(*shape, layout.patch, layout.channels)
            parts.append(self._noisy(moves.of_samples(raw) if moves else raw))
        flat = [part.flatten(2) for part in parts]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=2)

    def _moves(self, batch: int, count: int, device: torch.device) -> "_Moves | None":
        """What takes whose place in as many windows and tokens; None: nothing does."""
        layout, how = self.layout, self.how
        rolls = how.roll and layout.ring
        if not (rolls or how.mask or how.time_mask):
            return None
        channel = torch.arange(layout.channels, dtype=torch.int32).expand(batch, -1)
        if rolls:
            draw = torch.rand(batch, generator=self.generator)
            step = (draw < how.roll / 2).int() - (draw > 1 - how.roll / 2).int()  # -1, 0 or 1
            place = channel % layout.ring
            channel = (channel - place) + (place - step[:, None]) % layout.ring
        hidden = None
        if how.mask:
            draw = torch.rand(batch, layout.channels // layout.copies, generator=self.generator)
            hidden = (draw < how.mask).repeat(1, layout.copies).to(device)
        times = None
        if how.time_mask:
            times = (torch.rand(batch, count, generator=self.generator) < how.time_mask).to(device)
        return _Moves(channel.to(device), hidden, times)

    def _changed_bands(self, bands: Tensor) -> Tensor:
        B, _, C, K = bands.shape
        if self.how.gain:
            shift = self.how.gain * torch.randn(B, 1, C, 1, generator=self.generator)
            bands = bands + shift.to(bands.device)
        bands = self._noisy(bands)
        if self.how.band_mask:
            shown = torch.rand(B, 1, 1, K, generator=self.generator) >= self.how.band_mask
            bands = bands * shown.float().to(bands.device)
        return bands

    def _noisy(self, features: Tensor) -> Tensor:
        if not self.how.noise:
            return features
        return features + self.how.noise * torch.randn(features.shape, generator=self.generator).to(features.device)


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
