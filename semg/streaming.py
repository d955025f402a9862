"""Decisions while the signal is still coming in: block by block, as from a live device, never looking ahead.

A stream filters each block causally, cuts windows where enough samples are there, and decides. What a window is
normalised by is either given beforehand (`Given`) or is what the stream has seen so far (`Running`).
"""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.filters import CausalFilter
from semg.normalize import Scaling, gains_from, mixing_from


@dataclass(frozen=True)
class Decision:
    """One window's outcome. end: sample after the window's last; computing: seconds since its block came in."""

    end: int
    probabilities: np.ndarray  # (K,) float32
    computing: float


class Normalization(Protocol):
    """What brings windows to the scale that the model was trained on."""

    def see(self, block: np.ndarray) -> None:
        """(n, C) filtered microvolts that have come in."""

    def __call__(self, window: np.ndarray) -> Tensor:
        """(N, C) filtered microvolts -> (1, T, F) normalised tokens, on the device."""


class Given:
    """Normalisation that was known before: from training data, or from an earlier hour."""

    def __init__(
        self, model: GPT2Classifier, mixing: np.ndarray, statistics: Tensor | None, device: torch.device
    ) -> None:
        """mixing: (C, C') float32; statistics: (2, F), or None where the model's own serve."""
        self._model = model
        self._mixing = torch.from_numpy(mixing).to(device)
        self._statistics = None if statistics is None else statistics[None].to(device)

    def see(self, block: np.ndarray) -> None:
        """Nothing is learnt from the stream."""

    def __call__(self, window: np.ndarray) -> Tensor:
        """See `Normalization`."""
        return self._model.tokens(_mixed(window, self._mixing), self._statistics)


class Running:
    """Normalisation by all of this stream so far: the channels' powers and correlations, and the tokens' statistics.

    It is what session normalisation comes to when a session is not over yet. Its first seconds rest on little: a
    stream should not decide in them (see `Stream`).

    Log powers of scaled channels depend on the gains, which change as the stream goes on. They are summed up as powers
    in microvolts (twice the gain's logarithm less), so that sums of early tokens stay true under later gains. Whitened
    channels have no such rule; their early tokens count as they were.
    """

    def __init__(self, model: GPT2Classifier, scaling: Scaling, device: torch.device) -> None:
        config = model.config
        self._model, self._scaling, self._device = model, scaling, device
        self._electrodes = config.channels // scaling.views
        self._bands = config.band_features // config.channels  # features a channel has, which lie side by side
        self._products = np.zeros((self._electrodes, self._electrodes))
        self._samples = 0
        self._mixing = np.empty((0, 0), np.float32)
        self._mixed_at = 0  # samples seen when the mixing was computed
        self._sums = torch.zeros(3, config.band_features + config.raw_features, dtype=torch.float64)

    def see(self, block: np.ndarray) -> None:
        """Add (n, C) filtered microvolts to the channels' products."""
        wide = block.astype(np.float64)
        self._products += wide.T @ wide
        self._samples += len(block)

    @property
    def gain(self) -> np.ndarray:
        """(C,) float32: one over each channel's root mean square so far."""
        return gains_from(np.diag(self._products) / self._samples)

    @property
    def mixing(self) -> np.ndarray:
        """(C, C') float32: what samples are multiplied by now."""
        whitens = self._scaling.whitening != "none"
        # a matrix root takes as long as a small model; one that has seen 1 % more signal is as good as the same
        if not whitens or self._samples > 1.01 * self._mixed_at:
            self._mixing = mixing_from(self._products / self._samples, self._scaling)
            self._mixed_at = self._samples
        return self._mixing

    def __call__(self, window: np.ndarray) -> Tensor:
        """See `Normalization`; the window itself is part of what has been seen."""
        features = self._model.features(self.scaled(window))
        offset = self._offset()
        total, squares, count = self._model.feature_sums(features).cpu()
        self._sums += torch.stack(
            [total - count * offset, squares - 2 * offset * total + count * offset.square(), count]
        )
        return self._model.normalized(features, self.statistics())

    def scaled(self, window: np.ndarray) -> Tensor:
        """(N, C) filtered microvolts -> (1, C', N) as the model takes them now; nothing is learnt from the window."""
        return _mixed(window, torch.from_numpy(self.mixing).to(self._device))

    def statistics(self) -> Tensor:
        """(1, 2, F) mean and deviation of the tokens so far, on the device."""
        statistics = self._model.finish_statistics(self._sums)
        statistics[0] += self._offset().float()
        return statistics[None].to(self._device)

    def _offset(self) -> Tensor:
        """(F,) float64: how much higher the current gains make the log powers than they are in microvolts."""
        offset = torch.zeros(self._sums.shape[1], dtype=torch.float64)
        if self._scaling.whitening != "only":
            logarithm = torch.from_numpy(2 * np.log(self.gain.astype(np.float64)))
            offset[: self._bands * len(logarithm)] = logarithm.repeat_interleave(self._bands)
        return offset


def _mixed(window: np.ndarray, mixing: Tensor) -> Tensor:
    """(N, C) float16 microvolts -> (1, C', N) float32 on the mixing's device."""
    # channels in rows, as the front-end reads them: it then has frames that lie in one piece of memory
    return (mixing.T @ torch.from_numpy(window).to(mixing.device).float().T)[None]


class Stream:
    """A recording that is still going on: `push` samples as they come, get decisions as they can be made."""

    def __init__(
        self,
        model: GPT2Classifier,
        normalization: Normalization,
        sections: np.ndarray,
        mixing: np.ndarray,
        stride: int,
        warmup: int = 0,
    ) -> None:
        """A stream at its beginning.

        sections: of the filter; mixing: (channels in, C) from the samples pushed to microvolts of the model's
        channels; stride: samples from window to window; warmup: samples before whose end nothing is decided.
        """
        self._model, self._normalization = model, normalization
        self._filter = CausalFilter(sections)
        self._mixing, self._stride, self._warmup = mixing, stride, warmup
        self._length = model.config.samples
        self._window = np.empty((0, mixing.shape[1]), np.float16)
        self._missing = self._length  # samples until the next window is whole
        self.seen = 0  # samples pushed

    def push(self, block: np.ndarray) -> list[Decision]:
        """(n, channels in) the next samples -> what can be decided now, in order."""
        begin = time.perf_counter()
        # float16, as signals are in shards: the model was trained on what is left of them
        new = self._filter(block.astype(np.float32) @ self._mixing).astype(np.float16)
        decisions = []
        while len(new):
            part, new = new[: self._missing], new[self._missing :]
            self._normalization.see(part)
            self._window = np.concatenate([self._window, part])[-self._length :]
            self._missing -= len(part)
            self.seen += len(part)
            if self._missing == 0:
                self._missing = self._stride
                decided = self._decide()
                if self.seen >= self._warmup:
                    decisions.append(Decision(self.seen, decided, time.perf_counter() - begin))
        return decisions

    @torch.inference_mode()
    def _decide(self) -> np.ndarray:
        tokens = self._normalization(self._window)
        return self._model.classify(tokens).float().softmax(1)[0].cpu().numpy()
