"""Decisions while the signal is still coming in: block by block, as from a live device, never looking ahead.

A stream filters each block causally, cuts a window whenever there are enough samples, and decides.
online_normalization.py says how windows are normalised.
"""

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.common.errors import DataError
from semg.data.batches import to_device
from semg.data.filters import CausalFilter
from semg.inference.online_normalization import LatestSamples, Normalization, transformed
from semg.inference.session_statistics import SessionStatistics
from semg.inference.signal_path import as_samples


@dataclass(frozen=True)
class Decision:
    """The outcome for one window. end: the sample after the window's last; computing: seconds since its block came
    in."""

    end: int
    probabilities: np.ndarray  # (K,) float32
    computing: float


@dataclass(frozen=True)
class Predictions:
    """Decisions on one recording. end: (n,) the samples after the windows' last; probabilities: (n, K).

    For a stream also delay: (n,) seconds from a window's last sample to its decision, and computing: (n,) the part of
    it that was spent on computing.
    """

    end: np.ndarray
    probabilities: np.ndarray
    delay: np.ndarray | None = None
    computing: np.ndarray | None = None


class Adapting(Protocol):
    """Adapts a stream's network to the signal so far, during the stream."""

    @property
    def network(self) -> GPT2Classifier:
        """The network that decides now; its front-end is the model's."""

    def see(self, block: np.ndarray) -> None:
        """Receive the next (n, C) filtered microvolts."""

    def begin_recording(self) -> None:
        """Another recording of the same session begins."""

    def prepare(self, normalization: Normalization) -> None:
        """Called between two decisions; `network` changes only here. It does not wait for another thread or process."""


class Ahead:
    """The front-end's features of the window that is coming in.

    Each frame's features are computed as soon as its samples are there, so that little remains to be done when the
    window is complete and its decision is due.
    """

    def __init__(self, model: GPT2Classifier, device: torch.device) -> None:
        self._model = model
        self._frontend = model.frontend
        self.transform: np.ndarray | None = None  # (C, C') of this window; None before the first `begin`
        self._by = torch.empty(0, device=device)  # the transform as a tensor
        self._x = torch.empty(1, model.config.channels, model.config.samples, device=device)
        self._have = 0  # samples of the window received
        self._computed: list[Tensor] = []  # (1, frames, F) each

    def begin(self, transform: np.ndarray, known: np.ndarray) -> None:
        """Begin a window whose first (n, C) filtered microvolts are known."""
        self.transform, self._by = transform, to_device(torch.from_numpy(transform), self._x.device)
        self._have, self._computed = 0, []
        self.add(known)

    def add(self, block: np.ndarray) -> None:
        """Receive the next (n, C) filtered microvolts; ignored before the first `begin`, which gets them again."""
        if self.transform is None or not len(block):
            return
        end = self._have + len(block)
        self._x[0, :, self._have : end] = transformed(block, self._by)
        if (frames := self._frontend.frames) is not None:
            begins = [at for at in frames.starts if self._have < at + frames.length <= end]
            if begins:
                self._computed.append(self._frontend.at_starts(self._x, begins))
        self._have = end

    def features(self) -> Tensor:
        """(1, T, F), when the window is complete."""
        known = self._frontend.tokens_of(torch.cat(self._computed, 1)) if self._computed else None
        return self._frontend(self._x, known)


class Stream:
    """A recording that is still going on: `push` samples as they arrive, and get decisions as soon as they are
    possible."""

    def __init__(
        self,
        model: GPT2Classifier,
        normalization: Normalization,
        sections: np.ndarray,
        reference: np.ndarray,
        stride: int,
        start_after: int = 0,
        adaptation: Adapting | None = None,
        channels: Sequence[str] = (),
    ) -> None:
        """A stream at its beginning.

        sections: of the filter; reference: (channels in, C) from the samples pushed to microvolts of the model's
        channels; stride: samples from one window to the next; start_after: number of samples before the first decision.
        adaptation: adapts the network that decides; None: the model's network stays. channels: names of the channels
        in, by which the columns of a data frame are taken; none: numbers from 1.
        """
        self._model = model if adaptation is None else adaptation.network
        self._normalization, self._adaptation = normalization, adaptation
        self._filter = CausalFilter(sections)
        self._reference, self._stride, self._start_after = reference, stride, start_after
        self._channels = channels or [str(place + 1) for place in range(len(reference))]
        self._length = model.config.samples
        self._latest = LatestSamples(self._length, reference.shape[1])
        self._ahead = Ahead(model, model.token_mean.device)
        self._missing = self._length  # samples until the next window is complete
        self._due = False  # whether a decision has been made since `prepare`
        self.seen = 0  # samples pushed

    @torch.inference_mode()
    def push(self, block: np.ndarray) -> list[Decision]:
        """Process the next samples, (n, channels in), n from 0; returns the decisions that they complete, in order.

        Raises DataError for anything but finite numbers of that shape, and for amplitudes that float16 cannot hold.
        Such a block is left out: nothing is learnt from it, and the next one may follow.
        """
        begin = time.perf_counter()
        samples = as_samples(block, self._channels, "n")
        self.prepare()
        after = copy(self._filter)  # the state before is kept: a number that is too large would never leave it
        # float16, as in shards: the model was trained on signals of this precision
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            new = after(samples @ self._reference).astype(np.float16)
        if not np.isfinite(new).all():
            raise DataError("expected amplitudes below 65 mV, found more", hint="is {unit} right?")
        self._filter = after
        decisions = []
        while len(new):
            self.prepare()
            part, new = new[: self._missing], new[self._missing :]
            self._normalization.see(part)
            if self._adaptation is not None:
                self._adaptation.see(part)
            self._ahead.add(part)
            self._latest.add(part)
            self._missing -= len(part)
            self.seen += len(part)
            if self._missing == 0:
                self._missing = self._stride
                decided = self._decide()
                if self.seen >= self._start_after:
                    decisions.append(Decision(self.seen, decided, time.perf_counter() - begin))
                self._due = True
        return decisions

    @torch.inference_mode()
    def prepare(self) -> None:
        """Do work that no decision needs to wait for. Call it when there is time; otherwise the next `push` does it."""
        if self._due:
            self._due = False
            self._normalization.prepare()
            if self._adaptation is not None:
                self._adaptation.prepare(self._normalization)
                self._model = self._adaptation.network
            self._ahead.begin(self._normalization.transform, self._latest.joined()[self._stride :])

    def heard(self) -> SessionStatistics | None:
        """The statistics of the session that the stream has learnt, for a later stream to start from.

        None before the first complete window, and for a model that is not normalised by session.
        """
        return self._normalization.heard()

    def _decide(self) -> np.ndarray:
        transform = self._normalization.transform
        if transform is not self._ahead.transform:  # it has changed since the window began
            self._ahead.begin(transform, self._latest.joined())
        tokens = self._normalization.normalized(self._ahead.features())
        return self._model.classify(tokens).float().softmax(1)[0].cpu().numpy()


def replay(stream: Stream, samples: np.ndarray, block: int, rate: float) -> Predictions:
    """Push a recording, (T, channels in) at `rate` Hz, in blocks of `block` samples, as a device would send them.

    DataError if it ends before the first decision is due, and as from `Stream.push`.
    """
    decisions: list[Decision] = []
    delay: list[float] = []
    for at in range(0, len(samples), block):
        block_decisions = stream.push(samples[at : at + block])
        decisions += block_decisions
        delay += [(stream.seen - one.end) / rate + one.computing for one in block_decisions]
        stream.prepare()
    if not decisions:
        actual = f"{len(samples) / rate:.1f} s"
        raise DataError(
            f"expected a recording that goes on after its first decision is due, found one of {actual}",
            hint="give a shorter {start_after}",
        )
    return Predictions(
        np.array([one.end for one in decisions]),
        np.stack([one.probabilities for one in decisions]),
        np.array(delay),
        np.array([one.computing for one in decisions]),
    )
