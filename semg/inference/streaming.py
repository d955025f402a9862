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
from semg.data.batches import to_device
from semg.data.filters import CausalFilter
from semg.data.normalization import SMALLEST_RMS, ChannelNormalization, transform_from
from semg.inference.prior import Prior, share_of
from semg.inference.session_statistics import MOST_KEPT, SessionStatistics

KEPT_WINDOWS = MOST_KEPT  # past windows whose tokens are computed anew under a new transform
AT_ONCE = 8  # of them between two decisions
RENEWAL_GROWTH = 1.1  # by what factor what has been heard grows until the transform is computed anew
# Tokens' statistics and channels' correlations need so many times the windows that channels' powers need until the
# prior and what has been heard count the same. Chosen on validation people.
SLOWER = 2.0


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

    def heard(self) -> SessionStatistics | None:
        """What has been learnt of the session, for a later stream of it to go on from; None: nothing is learnt."""

    def snapshot(self) -> "Given":
        """How a window would be normalised now."""


class Adapting(Protocol):
    """What adapts a stream's network to what has been heard, while the stream goes on."""

    @property
    def network(self) -> GPT2Classifier:
        """What decides now; its front-end is the model's."""

    def see(self, block: np.ndarray) -> None:
        """(n, C) filtered microvolts that have come in."""

    def begin_recording(self) -> None:
        """What comes is another recording of the same session."""

    def prepare(self, normalization: Normalization) -> None:
        """Between two decisions; `network` changes here alone. It waits for no computing of another thread."""


class Given:
    """Normalisation that was known before: from training data, or from an earlier hour."""

    def __init__(
        self, model: GPT2Classifier, transform: np.ndarray, statistics: Tensor | None, device: torch.device
    ) -> None:
        """transform: (C, C') float32; statistics: (2, F), or None where the model's own serve."""
        self._model = model
        self.transform = transform
        self.statistics = None if statistics is None else statistics.to(device)

    def see(self, block: np.ndarray) -> None:
        """Nothing is learnt from the stream."""

    def normalized(self, features: Tensor) -> Tensor:
        """See `Normalization`."""
        return self._model.normalized(features, None if self.statistics is None else self.statistics[None])

    def prepare(self) -> None:
        """All is known."""

    def heard(self) -> None:
        """See `Normalization`."""

    def snapshot(self) -> "Given":
        """See `Normalization`."""
        return self


class OnlineNormalization:
    """Normalisation by all of this stream so far, and by a prior as long as that is little.

    It is what session normalisation comes to when a session is not over yet. The channel transform follows from the
    products of all samples heard. Tokens depend on the transform, and an early token cannot be put under a later one;
    so some past windows are kept as they came, evenly thinned over what has been heard, and when the transform
    changes, their tokens are computed anew. That happens between decisions, a few windows at a time.

    The prior's share falls from 1, at the beginning, to a half after some windows of signal, and soon to nothing; how
    many was learnt from the training people's sessions (`Prior.half`).
    """

    def __init__(
        self,
        model: GPT2Classifier,
        channel_normalization: ChannelNormalization,
        device: torch.device,
        prior: Prior | None = None,
        heard: SessionStatistics | None = None,
    ) -> None:
        """heard: of the same session earlier, to go on from; its shapes are the model's."""
        self._model, self._channel_normalization, self._device = model, channel_normalization, device
        self._prior, self._window = prior, model.config.samples
        channels = model.config.channels // channel_normalization.copies
        self._products = np.zeros((channels, channels))
        self._samples = 0
        self._tail = np.empty((0, channels), np.float16)  # the last window's worth of samples
        self._past: list[np.ndarray] = []  # (N, C) past windows
        self._every, self._decided = 1, 0  # windows from one that is kept to the next; windows seen whole
        self._renewed_at = 0  # samples heard when the transform was computed
        # of tokens under the transform, where they are made: a copy of each window's would make the host wait for a GPU
        adding = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
        self._sums = torch.zeros(3, model.frontend.n_features, dtype=torch.float64, device=adding)
        self._known = None if prior is None else _sums_of(prior.statistics).to(adding)
        self._placed: tuple[np.ndarray, Tensor] | None = None  # the transform, and the same on the device
        self._renewal: _Renewal | None = None
        self._transform: np.ndarray | None = None  # computed when the first window is whole
        if heard is not None:
            self._go_on_from(heard)

    def _go_on_from(self, heard: SessionStatistics) -> None:
        self._products, self._samples = heard.products.copy(), heard.samples
        self._past, self._every, self._decided = list(heard.kept), heard.every, heard.decided
        self._sums, self._transform = torch.from_numpy(heard.sums.copy()).to(self._sums.device), heard.transform
        self._renewed_at = heard.renewed_at

    @torch.inference_mode()
    def heard(self) -> SessionStatistics | None:
        """See `Normalization`. A transform that is being computed is finished first; None before the first window."""
        while self._renewal is not None:
            self.prepare()
        if not self._decided:
            return None
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
        """Add (n, C) filtered microvolts to what has been heard."""
        wide = block.astype(np.float64)
        self._products += wide.T @ wide
        self._samples += len(block)
        self._tail = np.concatenate([self._tail, block])[-self._window :]

    @property
    def transform(self) -> np.ndarray:
        """See `Normalization`."""
        if self._transform is None:
            self._transform, self._renewed_at = self._computed_transform(), self._samples
        return self._transform

    def normalized(self, features: Tensor) -> Tensor:
        """See `Normalization`; the window itself is part of what has been heard."""
        self._sums += self._model.feature_sums(features.to(self._sums.device))
        if self._decided % self._every == 0:
            self._past.append(self._tail)
            if len(self._past) > KEPT_WINDOWS:
                self._past, self._every = self._past[::2], 2 * self._every
        self._decided += 1
        return self._model.normalized(features, self.statistics())

    def prepare(self) -> None:
        """See `Normalization`: here, to put kept windows under a new transform."""
        if self._renewal is None and self._samples > RENEWAL_GROWTH * self._renewed_at:
            self._renewal = _Renewal(self._computed_transform(), list(self._past), self._decided, self._samples)
        renewal = self._renewal
        if renewal is None:
            return
        self._add_to(renewal)
        if not renewal.waiting:
            self._transform, self._renewed_at = renewal.transform, renewal.samples
            # the kept windows stand for all that were decided until then
            self._sums, self._renewal = renewal.sums * (renewal.decided / renewal.count), None

    def snapshot(self) -> Given:
        """See `Normalization`."""
        return Given(self._model, self.transform, self.statistics()[0], self._device)

    def _add_to(self, renewal: "_Renewal") -> None:
        few, renewal.waiting = renewal.waiting[:AT_ONCE], renewal.waiting[AT_ONCE:]
        transform = to_device(torch.from_numpy(renewal.transform), self._device)
        x = torch.stack([_transformed(window, transform) for window in few])
        features = self._model.features(x).to(self._sums.device)
        renewal.sums = renewal.sums.to(features.device) + self._model.feature_sums(features)

    def _computed_transform(self) -> np.ndarray:
        heard = self._products / max(1, self._samples)
        if self._prior is not None:
            heard = _blended(self._prior, heard, self._samples / self._window)
        return transform_from(heard, self._channel_normalization)

    def features(self, window: np.ndarray) -> Tensor:
        """(N, C) filtered microvolts -> (1, T, F), what `normalized` takes."""
        return self._model.features(self.scaled(window))

    def scaled(self, window: np.ndarray) -> Tensor:
        """(N, C) filtered microvolts -> (1, C', N) as the model takes them now; nothing is learnt from the window."""
        transform = self.transform
        if self._placed is None or self._placed[0] is not transform:
            self._placed = transform, to_device(torch.from_numpy(transform), self._device)
        return _transformed(window, self._placed[1])[None]

    def statistics(self) -> Tensor:
        """(1, 2, F) mean and standard deviation of the tokens so far, on the device."""
        sums = self._sums
        if self._known is not None and self._prior is not None:
            share = share_of(SLOWER * self._prior.half, self._samples / self._window)
            sums = (1 - share) * sums / sums[2].clamp(min=1) + share * self._known
        return self._model.finish_statistics(sums)[None].to(self._device)


@dataclass
class _Renewal:
    """A transform to come, and the sums of kept windows' tokens under it, as far as they are computed."""

    transform: np.ndarray
    waiting: list[np.ndarray]
    decided: int
    samples: int

    def __post_init__(self) -> None:
        self.count = len(self.waiting)
        self.sums: Tensor = torch.zeros(())


def _sums_of(statistics: Tensor) -> Tensor:
    """(2, F) mean and standard deviation of tokens -> (3, F) float64 sums of one token that has them."""
    mean, std = statistics.double()
    return torch.stack([mean, std.square() + mean.square(), torch.ones_like(mean)])


def _blended(prior: Prior, heard: np.ndarray, windows: float) -> np.ndarray:
    """(C, C) moment -> (C, C): correlations and logarithms of power, each with its own share of the prior."""
    moments = (prior.moment, heard)
    power = [np.maximum(np.diag(moment), SMALLEST_RMS**2) for moment in moments]
    correlation = [m / np.sqrt(p)[:, None] / np.sqrt(p) for m, p in zip(moments, power, strict=True)]
    share, loud = share_of(SLOWER * prior.half, windows), share_of(prior.half, windows)
    root = np.exp(0.5 * (loud * np.log(power[0]) + (1 - loud) * np.log(power[1])))
    return (share * correlation[0] + (1 - share) * correlation[1]) * root[:, None] * root


def _transformed(window: np.ndarray, transform: Tensor) -> Tensor:
    """(N, C) float16 microvolts -> (C', N) float32 on the transform's device."""
    # channels in rows, as the front-end reads them: it then has frames that lie in one piece of memory
    return transform.T @ to_device(torch.from_numpy(window), transform.device).float().T


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
        self.transform, self._by = transform, to_device(torch.from_numpy(transform), self._x.device)
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
        adaptation: Adapting | None = None,
    ) -> None:
        """A stream at its beginning.

        sections: of the filter; reference: (channels in, C) from the samples pushed to microvolts of the model's
        channels; stride: samples from window to window; warmup: samples before whose end nothing is decided.
        adaptation: of the network that decides; None: it stays the model's.
        """
        self._model = model if adaptation is None else adaptation.network
        self._normalization, self._adaptation = normalization, adaptation
        self._filter = CausalFilter(sections)
        self._reference, self._stride, self._warmup = reference, stride, warmup
        self._length = model.config.samples
        self._window = np.empty((0, reference.shape[1]), np.float16)
        self._ahead = Ahead(model, model.token_mean.device)
        self._missing = self._length  # samples until the next window is whole
        self._due = False  # whether a decision has been made since `prepare`
        self.seen = 0  # samples pushed

    @torch.inference_mode()
    def push(self, block: np.ndarray) -> list[Decision]:
        """(n, channels in) the next samples -> what can be decided now, in order.

        Raises DataError for amplitudes that no float16 holds, before anything is learnt of them.
        """
        begin = time.perf_counter()
        self.prepare()
        # float16, as signals are in shards: the model was trained on what is left of them
        with np.errstate(over="ignore", invalid="ignore"):
            new = self._filter(block.astype(np.float32) @ self._reference).astype(np.float16)
        if not np.isfinite(new).all():
            raise DataError("expected amplitudes below 65 mV, found more", hint="is {unit} right?")
        decisions = []
        while len(new):
            self.prepare()
            part, new = new[: self._missing], new[self._missing :]
            self._normalization.see(part)
            if self._adaptation is not None:
                self._adaptation.see(part)
            self._ahead.add(part)
            self._window = np.concatenate([self._window, part])[-self._length :]
            self._missing -= len(part)
            self.seen += len(part)
            if self._missing == 0:
                self._missing = self._stride
                decided = self._decide()
                if self.seen >= self._warmup:
                    decisions.append(Decision(self.seen, decided, time.perf_counter() - begin))
                self._due = True
        return decisions

    @torch.inference_mode()
    def prepare(self) -> None:
        """Do what a decision need not wait for: call it when there is time, or the next `push` does it."""
        if self._due:
            self._due = False
            self._normalization.prepare()
            if self._adaptation is not None:
                self._adaptation.prepare(self._normalization)
                self._model = self._adaptation.network
            self._ahead.begin(self._normalization.transform, self._window[self._stride :])

    def heard(self) -> SessionStatistics | None:
        """What the stream has learnt of the session, for a later one to go on from.

        None before the first whole window, and where the model is not normalised by session.
        """
        return self._normalization.heard()

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
        block_decisions = stream.push(samples[at : at + block])
        decisions += block_decisions
        delay += [(stream.seen - one.end) / rate + one.computing for one in block_decisions]
        stream.prepare()
    if not decisions:
        actual = f"{len(samples) / rate:.1f} s"
        raise DataError(f"expected more signal than the warm-up, found {actual}", hint="give a shorter {warmup}")
    return Predictions(
        np.array([one.end for one in decisions]),
        np.stack([one.probabilities for one in decisions]),
        np.array(delay),
        np.array([one.computing for one in decisions]),
    )
