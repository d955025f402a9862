"""Front-ends: what a token of a window consists of.

A window (B, C, N) becomes T tokens, one for each patch; a token has some features of every channel. The front-end
defines the layout of its tokens, and other code asks it: `groups` says where each feature is, how many channels it has,
whether it is normalised by the session's statistics and whether it can be computed once for overlapping windows.

To add a feature, write one class here and add its name to FEATURES; the front-end `bands+NAME` then includes it:

    class WaveformLength(FrameFeature):
        per_channel = 1

        def of_frames(self, frames: Tensor) -> Tensor:
            return frames.diff(dim=3).abs().sum(3, keepdim=True).log1p()

Frequencies are in cycles per sample. This module knows no files, gestures or hertz.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from semg.common.errors import SettingError

POWER_FLOOR = 1e-4  # added to band powers before the logarithm; a normalised channel's power is about 1
SHORTEST_FRAME = 3  # samples: a Hann window of two is zero throughout
# bytes of frames that a CPU processes at once: they fit into its caches; more takes twice as long
FRAME_BYTES = 1 << 21
MOST_WAVES = 1 << 26  # most numbers in the Fourier vectors of a frame; 3 seconds of sEMG need half as many
RECORDING_FRAMES = 4096  # frames of a recording that a GPU processes at once


class FrontEndConfig(Protocol):
    """What a front-end needs from ModelConfig. Lengths in samples."""

    @property
    def frontend(self) -> str:
        """Names of features, joined by `+`."""

    @property
    def channels(self) -> int:
        """Channels of a window."""

    @property
    def samples(self) -> int:
        """Samples of a window."""

    @property
    def patch(self) -> int:
        """Samples from one token to the next."""

    @property
    def frame(self) -> int:
        """Samples from which a FrameFeature is computed."""

    @property
    def band_edges(self) -> tuple[float, ...]:
        """Rising frequencies."""


@dataclass(frozen=True)
class Group:
    """The place of one feature in a token: `size` numbers from `start` on.

    channels, per_channel: their order is (channels, per_channel), with channels_last (per_channel, channels).
    normalized: whether each number is normalised by the session's mean and standard deviation.
    log_power: whether they are log powers in frequency bands, to all of which a channel's gain adds the same number.
    cacheable: whether they are computed from frames, which overlapping windows share.
    """

    name: str
    start: int
    channels: int
    per_channel: int
    channels_last: bool = False
    normalized: bool = True
    log_power: bool = False
    cacheable: bool = False

    @property
    def size(self) -> int:
        """How many numbers of a token it has."""
        return self.channels * self.per_channel

    def of(self, tokens: Tensor) -> Tensor:
        """(B, T, F) tokens -> (B, T, channels, per_channel), with channels_last (B, T, per_channel, channels)."""
        shape = (self.channels, self.per_channel)
        own = tokens[..., self.start : self.start + self.size]
        return own.unflatten(-1, shape[::-1] if self.channels_last else shape)


# --- features --------------------------------------------------------------------------------------------------


class Feature(nn.Module):
    """One kind of feature: (B, C, N) windows -> (B, T, C * per_channel), in the order that `Group` describes."""

    per_channel: int
    channels_last: ClassVar[bool] = False
    normalized: ClassVar[bool] = True
    log_power: ClassVar[bool] = False
    cacheable: ClassVar[bool] = False

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def check(cls, config: FrontEndConfig) -> None:
        """Raise SettingError for a configuration that cannot be built."""

    def spans(self) -> list[tuple[int, int]]:
        """First sample, and sample after the last, from which each token's features are computed: here, its patch."""
        patch = self.config.patch
        return [(at, at + patch) for at in range(0, self.config.samples, patch)]


class RawSamples(Feature):
    """The samples of the patch. They need only the channel's scaling: statistics of single samples of a patch are
    meaningless."""

    channels_last = True
    normalized = False

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__(config)
        self.per_channel = config.patch

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, T, patch * C)."""
        by_time = x.transpose(1, 2)  # (B, N, C), as batches are stored in memory: then the next line copies nothing
        return by_time.reshape(x.shape[0], x.shape[2] // self.per_channel, -1)


class FrameFeature(Feature):
    """A feature of a frame around each patch. A subclass defines `per_channel` and `of_frames`.

    Overlapping windows share frames. In training, each frame's features are computed once and stored as float16, so
    they must stay below 65504; a stream computes them as soon as the frame's samples are there.
    """

    cacheable = True

    @classmethod
    def check(cls, config: FrontEndConfig) -> None:
        """Raise SettingError unless frames are at least a patch and at most a window."""
        spans = (config.patch, config.samples)
        if not spans[0] <= config.frame <= spans[1]:
            raise SettingError("frame", "from a patch's {} to the window's {}", config.frame, spans)

    def of_frames(self, frames: Tensor) -> Tensor:
        """(B, C, n, frame) samples of n frames -> (B, C, n, per_channel)."""
        raise NotImplementedError

    def spans(self) -> list[tuple[int, int]]:
        """See Feature: here, the token's frame."""
        frames = Frames(self.config)
        return [(frames.starts[place], frames.starts[place] + frames.length) for place in frames.of_token]


class BandPowers(FrameFeature):
    """Log power in frequency bands, over a Hann-weighted frame.

    A frequency bin across an edge counts for both bands in part. The scale is that of a power spectral density: white
    noise of unit variance gives 0 in every band.

    The spectrum is a single matrix product with the windowed Fourier vectors of those bins that a band needs, which are
    a quarter of all bins for sEMG: this takes less time than a full FFT.
    """

    log_power = True

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__(config)
        self.per_channel = len(config.band_edges) - 1
        fourier, bank = _fourier(config.band_edges, config.frame)
        self.fourier: Tensor
        self.bank: Tensor
        self.register_buffer("fourier", fourier, persistent=False)  # (frame, 2 * bins)
        self.register_buffer("bank", bank, persistent=False)  # (2 * bins, bands)

    @classmethod
    def check(cls, config: FrontEndConfig) -> None:
        """Raise SettingError unless there are bands, their edges rise, and no band is narrower than a frame can
        resolve."""
        super().check(config)
        edges = config.band_edges
        rising = len(edges) >= 2 and all(a < b for a, b in pairwise(edges))
        if not (rising and edges[0] >= 0 and edges[-1] <= 0.5):
            raise SettingError("band_edges", "at least two frequencies, rising within {} and {}", edges, (0, 0.5))
        narrowest = min(b - a for a, b in pairwise(edges))
        # rounded: 5 of 200 Hz are 0.025 of the rate, but 0.125 - 0.1 is a little less
        shortest = max(SHORTEST_FRAME, math.ceil(round(0.25 / narrowest, 6)))
        if config.frame < shortest:
            raise SettingError("frame", "at least {} for such {band_edges}", config.frame, (shortest,))
        bins = max(config.frame * (edges[-1] - edges[0]), len(edges))
        if config.frame * bins > MOST_WAVES:
            longest = math.floor(min(math.sqrt(MOST_WAVES / (edges[-1] - edges[0])), MOST_WAVES / len(edges)))
            raise SettingError("frame", "at most {} for such {band_edges}", config.frame, (longest,))

    def of_frames(self, frames: Tensor) -> Tensor:
        """(B, C, n, frame) -> (B, C, n, bands)."""
        spectrum = frames @ self.fourier  # (B, C, n, 2 * bins)
        power = spectrum.square_() @ self.bank  # (B, C, n, bands)
        return power.add_(POWER_FLOOR).log_()


def _fourier(edges: tuple[float, ...], frame: int) -> tuple[Tensor, Tensor]:
    """Windowed cosines and sines of the bins that are in a band, (frame, 2 * bins), and the (2 * bins, bands) matrix
    that sums their squares into bands: the weight of each bin in each band, with weights of a band summing to 1."""
    half = 0.5 / frame
    bins = torch.fft.rfftfreq(frame, dtype=torch.float64)
    low, high = torch.tensor(edges[:-1]).double(), torch.tensor(edges[1:]).double()
    overlap = (torch.minimum(bins[:, None] + half, high) - torch.maximum(bins[:, None] - half, low)).clamp(min=0)
    needed = overlap.sum(1) > 0
    shares = (overlap / overlap.sum(0))[needed]
    window = torch.hann_window(frame, periodic=False, dtype=torch.float64)
    phase = 2 * torch.pi * torch.arange(frame, dtype=torch.float64)[:, None] * bins[needed]
    waves = torch.cat([phase.cos(), phase.sin()], dim=1) * (window / window.square().sum().sqrt())[:, None]
    return waves.float(), torch.cat([shares, shares]).float()


FEATURES: dict[str, type[Feature]] = {"bands": BandPowers, "raw": RawSamples}
_BOTH = "bands+raw"  # what `both` has always meant


def features_of(frontend: str) -> list[str]:
    """Names of the features in `bands`, `raw`, `both` or `bands+raw`. SettingError for unknown ones."""
    names = (_BOTH if frontend == "both" else frontend).split("+")
    if not all(name in FEATURES for name in names):
        raise SettingError("frontend", f"some of {', '.join(FEATURES)}, joined by +, or both", repr(frontend))
    if len(set(names)) < len(names):
        raise SettingError("frontend", "each feature once", repr(frontend))
    return names


def has_log_powers(frontend: str) -> bool:
    """Whether any of the features are log powers. Raises SettingError for unknown ones."""
    return any(FEATURES[name].log_power for name in features_of(frontend))


def check(config: FrontEndConfig) -> None:
    """Raise SettingError for a front-end that cannot be built."""
    for name in features_of(config.frontend):
        FEATURES[name].check(config)


# --- all features of a token -----------------------------------------------------------------------------------


class Frames:
    """The positions of the frames in a window: one centred on each patch, shifted inwards where it would leave the
    window.

    starts: their distinct first samples, rising; of_token: for each token, the place of its frame in `starts`.
    hop: the largest step, in samples, such that all frames of windows that start on multiples of it start on multiples,
    too.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        last, half = config.samples - config.frame, config.patch // 2 - config.frame // 2
        starts = [min(max(0, at + half), last) for at in range(0, config.samples, config.patch)]
        self.length = config.frame
        self.starts = sorted(set(starts))
        self.of_token = [self.starts.index(at) for at in starts]
        self.hop = math.gcd(*self.starts)

    @property
    def at(self) -> Tensor:
        """(T,) for each token of a window, the number of its frame among the frames at 0, hop, ..., counted from the
        window's start."""
        return torch.tensor([self.starts[place] for place in self.of_token]) // self.hop


class FrontEnd(nn.Module):
    """(B, C, N) -> (B, T, n_features): the features of `config.frontend` side by side, as `groups` says.

    The cacheable features can be computed separately: for a whole recording (`of_recording`), or frame by frame
    (`at_starts`), and passed to `forward`, which then need not compute them.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        features = {name: FEATURES[name](config) for name in features_of(config.frontend)}
        self.features = nn.ModuleDict(features)
        self.groups = _groups(features, config.channels)
        self.n_features = sum(group.size for group in self.groups)
        # whether all features are cacheable, so that the window itself is not needed
        self.all_cacheable = all(group.cacheable for group in self.groups)
        self.all_normalized = all(group.normalized for group in self.groups)
        self.frames = Frames(config) if any(group.cacheable for group in self.groups) else None
        self.normalized: Tensor
        self._frame_of_token: Tensor
        normalized = torch.cat([torch.full((group.size,), group.normalized) for group in self.groups])
        self.register_buffer("normalized", normalized, persistent=False)  # (n_features,) bool
        of_token = torch.tensor(self.frames.of_token if self.frames else [])
        self.register_buffer("_frame_of_token", of_token, persistent=False)  # (T,)

    def forward(self, x: Tensor, cached: Tensor | None = None) -> Tensor:
        """(B, C, N) -> (B, T, n_features). cached: (B, T, F) cacheable features, if they have been computed already."""
        if self.frames is not None and cached is None:
            cached = self._of_windows(x)
        parts, at = [], 0
        for group in self.groups:
            if group.cacheable:
                assert cached is not None  # noqa: S101  for the type checker
                parts.append(cached[..., at : at + group.size])
                at += group.size
            else:
                parts.append(self.features[group.name](x))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def spans(self) -> tuple[Tensor, Tensor]:
        """(T,) first sample from which each token is computed, and (T,) the sample after its last."""
        each = torch.tensor([cast(Feature, feature).spans() for feature in self.features.values()])  # (features, T, 2)
        return each[..., 0].amin(0), each[..., 1].amax(0)

    def tokens_of(self, frames: Tensor) -> Tensor:
        """(B, frames, F) features of a window's distinct frames -> (B, T, F), as `forward` takes them."""
        return frames[:, self._frame_of_token]

    def at_starts(self, x: Tensor, starts: Sequence[int]) -> Tensor:
        """(B, C, n) -> (B, len(starts), F): cacheable features of the frames that begin at these samples."""
        length = self._frames.length
        # by slices, which takes half the time of indexing every sample
        return self._of_frames(torch.stack([x[..., start : start + length] for start in starts], dim=2))

    @torch.no_grad()
    def of_recording(self, signal: Tensor, transform: Tensor) -> Tensor:
        """(time, C) a whole recording, (C, C') transform -> (n, F): cacheable features of the frames at 0, hop, ...

        Windows of a recording overlap, and training visits them repeatedly; features of their frames can be computed
        once. `Frames.at` says which frames a window's tokens need. The transformed signal is only computed in parts.
        """
        hop, length = self._frames.hop, self._frames.length
        count = (len(signal) - length) // hop + 1
        few = self._at_once(signal, transform.shape[1]) or RECORDING_FRAMES
        parts = []
        for first in range(0, count, few):
            last = min(first + few, count) - 1
            # (C', time), so that frames are contiguous
            part = transform.T @ signal[first * hop : last * hop + length].float().T
            parts.append(self._of_frames(part.unfold(1, length, hop)[None])[0])
        return torch.cat(parts)

    @property
    def _frames(self) -> Frames:
        if self.frames is None:
            raise ValueError("expected a front-end with features of frames, found none of them")
        return self.frames

    def _of_windows(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, T, F) cacheable features."""
        starts = self._frames.starts
        few = self._at_once(x, x.shape[1] * len(starts))
        whole = few is None or torch.compiler.is_exporting()  # an exported graph must work for any batch size
        parts = [x] if whole else x.split(few)
        return self.tokens_of(torch.cat([self.at_starts(part, starts) for part in parts]))

    def _of_frames(self, frames: Tensor) -> Tensor:
        """(B, C, n, frame) -> (B, n, F) cacheable features."""
        cacheable = [cast(FrameFeature, self.features[group.name]) for group in self.groups if group.cacheable]
        parts = [feature.of_frames(frames).transpose(1, 2).flatten(2) for feature in cacheable]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _at_once(self, x: Tensor, frames: int) -> int | None:
        """How many rows of `frames` frames are best processed together; None: all, as on a GPU."""
        return max(1, FRAME_BYTES // (4 * frames * self._frames.length)) if x.device.type == "cpu" else None


def _groups(features: Mapping[str, Feature], channels: int) -> tuple[Group, ...]:
    groups: list[Group] = []
    start = 0
    for name, feature in features.items():
        how = {key: getattr(feature, key) for key in ("channels_last", "normalized", "log_power", "cacheable")}
        groups.append(Group(name, start, channels, feature.per_channel, **how))
        start += groups[-1].size
    return tuple(groups)
