"""Decisions while the signal is still coming in: block by block, as from a live device, never looking ahead.

A stream filters each block causally, cuts windows where enough samples are there, and decides. What a window is
normalised by is either given beforehand (`Given`) or is what the stream has seen so far (`OnlineNormalization`).
"""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.common.errors import DataError
from semg.data.filters import CausalFilter
from semg.data.normalization import ChannelNormalization, gains_from, transform_from

# by what factor the signal seen may grow until whitening is computed anew
NEARLY_THE_SAME = 1.01  # in the time between two decisions
STALE = 1.1  # at once, before the next one


@dataclass(frozen=True)
class Decision:
    """One window's outcome. end: sample after the window's last; computing: seconds since its block came in."""

    end: int
    probabilities: np.ndarray  # (K,) float32
    computing: float


@dataclass(frozen=True)
class Predictions:
    """Of one recording. end: (n,) samples after the windows' last; probabilities: (n, K).

    Of a stream also delay: (n,) seconds from a window's last sample to its decision, and computing: (n,) how many of
    them were spent on computing.
    """

    end: np.ndarray
    probabilities: np.ndarray
    delay: np.ndarray | None = None
    computing: np.ndarray | None = None


class Normalization(Protocol):
    """What brings windows to the scale that the model was trained on."""

    @property
    def transform(self) -> np.ndarray:
        """(C, C') float32: what samples are multiplied by now; the same array as before unless it has changed."""

    def see(self, block: np.ndarray) -> None:
        """(n, C) filtered microvolts that have come in."""

    def normalized(self, features: Tensor) -> Tensor:
        """(1, T, F) the front-end's features of a window, seen through `transform` -> (1, T, F) normalised tokens."""

    def prepare(self) -> None:
        """Do what the next window need not wait for: a decision has been made, and the next block is still to come."""


class Given:
    """Normalisation that was known before: from training data, or from an earlier hour."""

    def __init__(
        self, model: GPT2Classifier, transform: np.ndarray, statistics: Tensor | None, device: torch.device
    ) -> None:
        """transform: (C, C') float32; statistics: (2, F), or None where the model's own serve."""
        self._model = model
        self.transform = transform
        self._statistics = None if statistics is None else statistics[None].to(device)

    def see(self, block: np.ndarray) -> None:
        """Nothing is learnt from the stream."""

    def normalized(self, features: Tensor) -> Tensor:
        """See `Normalization`."""
        return self._model.normalized(features, self._statistics)

    def prepare(self) -> None:
        """All is known."""


class OnlineNormalization:
    """Normalisation by all of this stream so far: the channels' powers and correlations, and the tokens' statistics.

    It is what session normalisation comes to when a session is not over yet. Its first seconds rest on little: a
    stream should not decide in them (see `Stream`).

    Log powers of scaled channels depend on the gains, which change as the stream goes on. They are summed up as powers
    in microvolts (twice the gain's logarithm less), so that sums of early tokens stay true under later gains. Whitened
    channels have no such rule; their early tokens count as they were.
    """

    def __init__(
        self, model: GPT2Classifier, channel_normalization: ChannelNormalization, device: torch.device
    ) -> None:
        config = model.config
        self._model, self._channel_normalization, self._device = model, channel_normalization, device
        self._electrodes = config.channels // channel_normalization.copies
        self._products = np.zeros((self._electrodes, self._electrodes))
        self._samples = 0
        self._transform = np.empty((0, 0), np.float32)
        self._transformed_at = 0  # samples seen when the transform was computed
        # (F,) how much higher the transform's gains make the log powers than they are in microvolts
        self._offset = torch.zeros(model.frontend.n_features, dtype=torch.float64)
        self._sums = torch.zeros(3, len(self._offset), dtype=torch.float64)

    def see(self, block: np.ndarray) -> None:
        """Add (n, C) filtered microvolts to the channels' products."""
        wide = block.astype(np.float64)
        self._products += wide.T @ wide
        self._samples += len(block)

    @property
    def transform(self) -> np.ndarray:
        """See `Normalization`."""
        self._renew(STALE)
        return self._transform

    def prepare(self) -> None:
        """See `Normalization`: here, a matrix root, which takes as long as a small model."""
        self._renew(NEARLY_THE_SAME)

    def _renew(self, growth: float) -> None:
        """Compute the transform anew if the signal seen has grown by this factor since it was."""
        if self._samples <= growth * self._transformed_at:
            return
        moment = self._products / self._samples
        self._transform = transform_from(moment, self._channel_normalization)
        self._transformed_at = self._samples
        if self._channel_normalization.whitening != "replace":
            logarithm = torch.from_numpy(2 * np.log(gains_from(np.diag(moment)).astype(np.float64)))
            for group in filter(lambda group: group.log_power, self._model.frontend.groups):
                every = logarithm.repeat_interleave(group.per_channel)
                self._offset[group.start : group.start + len(every)] = every

    def normalized(self, features: Tensor) -> Tensor:
        """See `Normalization`; the window itself is part of what has been seen."""
        self._sums += self._model.feature_sums(features.cpu() - self._offset)
        return self._model.normalized(features, self.statistics())

    def features(self, window: np.ndarray) -> Tensor:
        """(N, C) filtered microvolts -> (1, T, F), what `normalized` takes."""
        return self._model.features(self.scaled(window))

    def scaled(self, window: np.ndarray) -> Tensor:
        """(N, C) filtered microvolts -> (1, C', N) as the model takes them now; nothing is learnt from the window."""
        return _transformed(window, torch.from_numpy(self.transform).to(self._device))[None]

    def statistics(self) -> Tensor:
        """(1, 2, F) mean and standard deviation of the tokens so far, on the device."""
        statistics = self._model.finish_statistics(self._sums)
        statistics[0] += self._offset
        return statistics[None].to(self._device)


def _transformed(window: np.ndarray, transform: Tensor) -> Tensor:
    """(N, C) float16 microvolts -> (C', N) float32 on the transform's device."""
    # channels in rows, as the front-end reads them: it then has frames that lie in one piece of memory
    return transform.T @ torch.from_numpy(window).to(transform.device).float().T


class Ahead:
    """The front-end's features of the window that is coming in.

    Each frame's features are computed as soon as its samples are there, so that little is left to do when the
    window is whole and somebody waits for the decision.
    """

    def __init__(self, model: GPT2Classifier, device: torch.device) -> None:
        self._model = model
        self._frontend = model.frontend
        self.transform: np.ndarray | None = None  # (C, C') of this window; none before the first `begin`
        self._by = torch.empty(0, device=device)  # the same as a tensor
        self._x = torch.empty(1, model.config.channels, model.config.samples, device=device)
        self._have = 0  # samples of the window
        self._computed: list[Tensor] = []  # (1, frames, F) each

    def begin(self, transform: np.ndarray, known: np.ndarray) -> None:
        """Begin a window of which the first (n, C) filtered microvolts are known."""
        self.transform, self._by = transform, torch.from_numpy(transform).to(self._x.device)
        self._have, self._computed = 0, []
        self.add(known)

    def add(self, block: np.ndarray) -> None:
        """(n, C) the next filtered microvolts; before the first `begin` they are left to it."""
        if self.transform is None or not len(block):
            return
        end = self._have + len(block)
        self._x[0, :, self._have : end] = _transformed(block, self._by)
        if (frames := self._frontend.frames) is not None:
            begins = [at for at in frames.starts if self._have < at + frames.length <= end]
            if begins:
                self._computed.append(self._frontend.at_starts(self._x, begins))
        self._have = end

    def features(self) -> Tensor:
        """(1, T, F), once the window is whole."""
        known = self._frontend.tokens_of(torch.cat(self._computed, 1)) if self._computed else None
        return self._model.features(self._x, known)


class Stream:
    """A recording that is still going on: `push` samples as they come, get decisions as they can be made."""

    def __init__(
        self,
        model: GPT2Classifier,
        normalization: Normalization,
        sections: np.ndarray,
        reference: np.ndarray,
        stride: int,
        warmup: int = 0,
    ) -> None:
        """A stream at its beginning.

        sections: of the filter; reference: (channels in, C) from the samples pushed to microvolts of the model's
        channels; stride: samples from window to window; warmup: samples before whose end nothing is decided.
        """
        self._model, self._normalization = model, normalization
        self._filter = CausalFilter(sections)
        self._reference, self._stride, self._warmup = reference, stride, warmup
        self._length = model.config.samples
        self._window = np.empty((0, reference.shape[1]), np.float16)
        self._ahead = Ahead(model, model.token_mean.device)
        self._missing = self._length  # samples until the next window is whole
        self.seen = 0  # samples pushed

    @torch.inference_mode()
    def push(self, block: np.ndarray) -> list[Decision]:
        """(n, channels in) the next samples -> what can be decided now, in order."""
        begin = time.perf_counter()
        # float16, as signals are in shards: the model was trained on what is left of them
        new = self._filter(block.astype(np.float32) @ self._reference).astype(np.float16)
        decisions = []
        while len(new):
            part, new = new[: self._missing], new[self._missing :]
            self._normalization.see(part)
            self._ahead.add(part)
            self._window = np.concatenate([self._window, part])[-self._length :]
            self._missing -= len(part)
            self.seen += len(part)
            if self._missing == 0:
                self._missing = self._stride
                decided = self._decide()
                if self.seen >= self._warmup:
                    decisions.append(Decision(self.seen, decided, time.perf_counter() - begin))
                self._normalization.prepare()
                self._ahead.begin(self._normalization.transform, self._window[self._stride :])
        return decisions

    def _decide(self) -> np.ndarray:
        transform = self._normalization.transform
        if transform is not self._ahead.transform:  # it has changed since the window began
            self._ahead.begin(transform, self._window)
        tokens = self._normalization.normalized(self._ahead.features())
        return self._model.classify(tokens).float().softmax(1)[0].cpu().numpy()


def replay(stream: Stream, samples: np.ndarray, block: int, rate: float) -> Predictions:
    """Push a recording, (T, channels in) at `rate` Hz, in blocks of `block` samples, as a device would give them."""
    decisions: list[Decision] = []
    delay: list[float] = []
    for at in range(0, len(samples), block):
        made = stream.push(samples[at : at + block])
        decisions += made
        delay += [(stream.seen - one.end) / rate + one.computing for one in made]
    if not decisions:
        found = f"{len(samples) / rate:.1f} s"
        raise DataError(f"expected more signal than the warm-up, found {found}", hint="give a shorter {warmup}")
    return Predictions(
        np.array([one.end for one in decisions]),
        np.stack([one.probabilities for one in decisions]),
        np.array(delay),
        np.array([one.computing for one in decisions]),
    )
