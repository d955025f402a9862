"""Normalisation of a stream's windows: fixed in advance (`Given`), or by the signal so far (`OnlineNormalization`)."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.data.batches import to_device
from semg.data.normalization import SMALLEST_RMS, ChannelNormalization, transform_from
from semg.inference.prior import Prior, share_of
from semg.inference.session_statistics import MOST_KEPT, SessionStatistics

AT_ONCE = 8  # kept windows whose tokens are computed again between two decisions
RENEWAL_GROWTH = 1.1  # the transform is computed again each time the signal has grown by this factor
# Token statistics and channel correlations need this many times as many windows as channel powers do, until the prior
# and the signal so far have equal weight. Chosen on validation people.
SLOWER = 2.0


class Normalization(Protocol):
    """Brings windows to the scale that the model was trained on."""

    @property
    def transform(self) -> np.ndarray:
        """(C, C') float32: the matrix by which samples are multiplied now; the same array object until it changes."""

    def see(self, block: np.ndarray) -> None:
        """Receive the next (n, C) filtered microvolts."""

    def normalized(self, features: Tensor) -> Tensor:
        """(1, T, F) the front-end's features of a window that was multiplied by `transform` -> (1, T, F) normalised
        tokens."""

    def prepare(self) -> None:
        """Do work that the next window need not wait for; called after a decision, before the next block arrives."""

    def heard(self) -> SessionStatistics | None:
        """The statistics of the session, for a later stream to start from; None if nothing is learnt."""

    def snapshot(self) -> "Given":
        """The normalisation that a window would get now, as a fixed one."""


class LatestSamples:
    """The last samples of a signal. Its blocks are copied only when they are `joined`, not when they are added."""

    def __init__(self, most: int, channels: int) -> None:
        """most: how many samples are kept."""
        self._most, self._count = most, 0  # samples in the blocks
        self._blocks = [np.empty((0, channels), np.float16)]

    def add(self, block: np.ndarray) -> None:
        """Receive the next (n, C) float16 samples; the caller must not change them afterwards."""
        self._blocks.append(block)
        self._count += len(block)
        if self._count > 2 * self._most:
            self.joined()

    def joined(self) -> np.ndarray:
        """(at most `most`, C) the last samples."""
        latest = np.concatenate(self._blocks)[-self._most :]
        self._blocks, self._count = [latest], len(latest)
        return latest


class Given:
    """Fixed normalisation: from training data, or from an earlier part of the session."""

    def __init__(
        self, model: GPT2Classifier, transform: np.ndarray, statistics: Tensor | None, device: torch.device
    ) -> None:
        """transform: (C, C') float32; statistics: (2, F), or None if the model's own are used."""
        self._model = model
        self.transform = transform
        self.statistics = None if statistics is None else statistics.to(device)

    def see(self, block: np.ndarray) -> None:
        """Does nothing: it does not learn from the stream."""

    def normalized(self, features: Tensor) -> Tensor:
        """See `Normalization`."""
        return self._model.normalized(features, None if self.statistics is None else self.statistics[None])

    def prepare(self) -> None:
        """Does nothing: everything is known."""

    def heard(self) -> None:
        """See `Normalization`."""

    def snapshot(self) -> "Given":
        """See `Normalization`."""
        return self


class OnlineNormalization:
    """Normalisation by the whole stream so far, and by a prior while there is little signal.

    It is the counterpart of session normalisation for a session that is still going on. The channel transform is
    computed from the products of all samples so far. Tokens depend on the transform, and tokens computed earlier cannot
    be converted to a new transform. Therefore some past windows are stored, evenly spaced over the signal so far, and
    when the transform changes, their tokens are computed again. This happens between decisions, a few windows at a
    time.

    The weight of the prior falls from 1 at the beginning to a half after some windows of signal, and soon to almost
    nothing. The number of windows was learnt from the training people's sessions (`Prior.half`).
    """

    def __init__(
        self,
        model: GPT2Classifier,
        channel_normalization: ChannelNormalization,
        device: torch.device,
        prior: Prior | None = None,
        heard: SessionStatistics | None = None,
    ) -> None:
        """heard: statistics of an earlier part of the same session to start from; its shapes must be the model's."""
        self._model, self._channel_normalization, self._device = model, channel_normalization, device
        self._prior, self._window = prior, model.config.samples
        channels = model.config.channels // channel_normalization.copies
        self._products = np.zeros((channels, channels))
        self._unsummed: list[np.ndarray] = []  # blocks that are not in the products yet
        self._samples = self._summed = 0  # received; in the products
        self._latest = LatestSamples(self._window, channels)
        self._past: list[np.ndarray] = []  # (N, C) past windows that are kept
        self._every, self._decided = 1, 0  # every how many windows one is kept; number of complete windows
        self._renewed_at = 0  # samples received when the transform was computed
        # sums of tokens, on the device that computes them: copying each window's would make the host wait for the GPU
        adding = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
        self._sums = torch.zeros(3, model.frontend.n_features, dtype=torch.float64, device=adding)
        self._known = None if prior is None else _sums_of(prior.statistics).to(adding)
        self._placed: tuple[np.ndarray, Tensor] | None = None  # the transform, and its copy on the device
        self._renewal: _Renewal | None = None
        self._transform: np.ndarray | None = None  # computed when the first window is complete
        if heard is not None:
            self._go_on_from(heard)

    def _go_on_from(self, heard: SessionStatistics) -> None:
        self._products, self._samples, self._summed = heard.products.copy(), heard.samples, heard.samples
        self._past, self._every, self._decided = list(heard.kept), heard.every, heard.decided
        self._sums, self._transform = torch.from_numpy(heard.sums.copy()).to(self._sums.device), heard.transform
        self._renewed_at = heard.renewed_at

    @torch.inference_mode()
    def heard(self) -> SessionStatistics | None:
        """See `Normalization`. If a new transform is being prepared, it is finished first. None before the first
        window."""
        while self._renewal is not None:
            self.prepare()
        if not self._decided:
            return None
        self._sum_up()
        return SessionStatistics(
            self._products.copy(),
            self.transform,
            self._sums.double().cpu().numpy(),
            np.stack(self._past),
            self._samples,
            self._renewed_at,
            self._decided,
            self._every,
        )

    def see(self, block: np.ndarray) -> None:
        """Add (n, C) filtered microvolts to the signal so far; the caller must not change them afterwards."""
        self._unsummed.append(block)
        self._samples += len(block)
        self._latest.add(block)
        # otherwise `prepare` does it, so that no decision waits for it; after gaps there may be no decision
        if self._samples - self._summed > self._window:
            self._sum_up()

    @property
    def transform(self) -> np.ndarray:
        """See `Normalization`."""
        if self._transform is None:
            self._transform, self._renewed_at = self._computed_transform(), self._samples
        return self._transform

    def normalized(self, features: Tensor) -> Tensor:
        """See `Normalization`; the window itself is included in the statistics."""
        self._sums += self._model.feature_sums(features.to(self._sums.device))
        if self._decided % self._every == 0:
            self._past.append(self._latest.joined())
            if len(self._past) > MOST_KEPT:
                self._past, self._every = self._past[::2], 2 * self._every
        self._decided += 1
        return self._model.normalized(features, self.statistics())

    def prepare(self) -> None:
        """See `Normalization`: computes the tokens of kept windows under a new transform."""
        self._sum_up()
        self._latest.joined()
        if self._renewal is None and self._samples > RENEWAL_GROWTH * self._renewed_at:
            self._renewal = _Renewal(self._computed_transform(), list(self._past), self._decided, self._samples)
        renewal = self._renewal
        if renewal is None:
            return
        self._add_to(renewal)
        if not renewal.waiting:
            self._transform, self._renewed_at = renewal.transform, renewal.samples
            # the kept windows represent all windows decided until then
            self._sums, self._renewal = renewal.sums * (renewal.decided / renewal.count), None

    def snapshot(self) -> Given:
        """See `Normalization`."""
        return Given(self._model, self.transform, self.statistics()[0], self._device)

    def _add_to(self, renewal: "_Renewal") -> None:
        few, renewal.waiting = renewal.waiting[:AT_ONCE], renewal.waiting[AT_ONCE:]
        transform = to_device(torch.from_numpy(renewal.transform), self._device)
        x = torch.stack([transformed(window, transform) for window in few])
        features = self._model.features(x).to(self._sums.device)
        renewal.sums = renewal.sums.to(features.device) + self._model.feature_sums(features)

    def _sum_up(self) -> None:
        """Add the latest blocks to the products of all samples so far."""
        for block in self._unsummed:
            wide = block.astype(np.float64)
            self._products += wide.T @ wide
        self._unsummed.clear()
        self._summed = self._samples

    def _computed_transform(self) -> np.ndarray:
        self._sum_up()
        heard = self._products / max(1, self._samples)
        if self._prior is not None:
            heard = _blended(self._prior, heard, self._samples / self._window)
        return transform_from(heard, self._channel_normalization)

    def features(self, window: np.ndarray) -> Tensor:
        """(N, C) filtered microvolts -> (1, T, F), the input of `normalized`."""
        return self._model.features(self.scaled(window))

    def scaled(self, window: np.ndarray) -> Tensor:
        """(N, C) filtered microvolts -> (1, C', N), the model's input at present; nothing is learnt from the window."""
        transform = self.transform
        if self._placed is None or self._placed[0] is not transform:
            self._placed = transform, to_device(torch.from_numpy(transform), self._device)
        return transformed(window, self._placed[1])[None]

    def statistics(self) -> Tensor:
        """(1, 2, F) mean and standard deviation of the tokens so far, on the device."""
        sums = self._sums
        if self._known is not None and self._prior is not None:
            share = share_of(SLOWER * self._prior.half, self._samples / self._window)
            sums = (1 - share) * sums / sums[2].clamp(min=1) + share * self._known
        return self._model.finish_statistics(sums)[None].to(self._device)


@dataclass
class _Renewal:
    """A new transform in preparation, with the sums of the tokens of those kept windows that have been computed under
    it."""

    transform: np.ndarray
    waiting: list[np.ndarray]
    decided: int
    samples: int

    def __post_init__(self) -> None:
        self.count = len(self.waiting)
        self.sums: Tensor = torch.zeros(())


def _sums_of(statistics: Tensor) -> Tensor:
    """(2, F) mean and standard deviation of tokens -> (3, F) float64 sums of a single token with these statistics."""
    mean, std = statistics.double()
    return torch.stack([mean, std.square() + mean.square(), torch.ones_like(mean)])


def _blended(prior: Prior, heard: np.ndarray, windows: float) -> np.ndarray:
    """(C, C) moment -> (C, C): correlations and log powers are each averaged with the prior's, with weights of their
    own."""
    moments = (prior.moment, heard)
    power = [np.maximum(np.diag(moment), SMALLEST_RMS**2) for moment in moments]
    correlation = [m / np.sqrt(p)[:, None] / np.sqrt(p) for m, p in zip(moments, power, strict=True)]
    share, loud = share_of(SLOWER * prior.half, windows), share_of(prior.half, windows)
    root = np.exp(0.5 * (loud * np.log(power[0]) + (1 - loud) * np.log(power[1])))
    return (share * correlation[0] + (1 - share) * correlation[1]) * root[:, None] * root


def transformed(window: np.ndarray, transform: Tensor) -> Tensor:
    """(N, C) float16 microvolts -> (C', N) float32 on the transform's device."""
    # channels in rows, as the front-end reads them, so that the samples of a frame are contiguous in memory
    return transform.T @ to_device(torch.from_numpy(window), transform.device).float().T
