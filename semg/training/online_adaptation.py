"""Adapting a model during a stream, to the signal received so far.

`adapt` (adaptation.py) takes seconds for a minute of signal. It therefore runs in parallel with the decisions, which
continue with the current weights; the stream switches to the adapted weights between two decisions, as soon as they are
available. The first adaptation begins after `first` seconds of signal, the next each time the signal has grown by the
factor `growth`. Each starts from the trained weights, so that errors do not accumulate. If the safeguard rejects an
adaptation (not all gestures heard yet, a pause), nothing changes: decisions continue with the last weights that were
accepted.

There are two kinds of workers. `InBackground` is for live streams and uses another process, because within one process
Python's global lock would delay decisions. `InSignalTime` is for recordings: an adaptation takes effect a set time of
signal after it began, regardless of the machine's speed, so that the same recording always gives the same decisions.
Neither looks ahead.
"""

import copy
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from model import GPT2Classifier
from semg.inference.batch import Signal
from semg.inference.checkpoint import Checkpoint
from semg.inference.online_normalization import Given, Normalization
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import Adaptation, Adapted, adapt

KEPT_SECONDS = 600.0  # of the latest signal are adapted to: 150 MB for 24 channels at 5120 Hz
SENT_SECONDS = 1.0  # of signal are sent to the other process at once


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When to adapt, in seconds of signal.

    first: signal received before the first adaptation begins; growth: factor by which the signal grows before the next.
    delay, delay_share: an adaptation takes effect delay + delay_share * (seconds adapted to) after it began. This holds
    for InSignalTime only; in the background, an adaptation takes effect when it is done.
    """

    first: float = 30.0
    growth: float = 1.5
    delay: float = 5.0
    delay_share: float = 0.2


class Worker(Protocol):
    """Computes adaptations, one at a time. Only `close` may wait for another process."""

    def hear(self, block: np.ndarray) -> None:
        """Receive the next (n, C) filtered microvolts."""

    def begin_recording(self) -> None:
        """Another recording of the session begins: no window may span the two."""

    def begin(self, session: Given) -> None:
        """Begin to adapt to the signal received so far, with this normalisation."""

    def result(self) -> "Result | None":
        """The result of the adaptation that was begun, returned once; None until it is available."""

    def close(self) -> None:
        """Stop anything that is still running."""


@dataclass(frozen=True)
class Result:
    """network: for all decisions from now on, or None if the model should not be adapted; facts: about the adaptation,
    as JSON types."""

    network: GPT2Classifier | None
    facts: dict[str, Any]


class OnlineAdaptation:
    """The network of a stream, adapted to the signal received so far. See the module; implements
    `semg.inference.streaming.Adapting`.

    network: the one that decides now. events: the outcome of each adaptation so far, as JSON types, each with `began`
    and `taken`, the seconds of signal received at these times.
    """

    def __init__(self, model: TrainedModel, worker: Worker, schedule: Schedule | None = None) -> None:
        """An adaptation at the beginning of a session; use `in_background` or `in_signal_time`."""
        self.network = model.network
        self.events: list[dict[str, Any]] = []
        self._worker, self._schedule, self._rate = worker, schedule or Schedule(), model.rate
        self._heard = 0  # samples received
        self._next = self._schedule.first * model.rate  # samples received when the next adaptation begins
        self._began: int | None = None  # samples received when the running adaptation began; None if none is running

    @classmethod
    def in_background(
        cls, model: TrainedModel, how: Adaptation | None = None, schedule: Schedule | None = None
    ) -> "OnlineAdaptation":
        """For a live stream, in another process, which imports the program's main module again. Call `close` at the
        end."""
        return cls(model, InBackground(model, how or Adaptation()), schedule)

    @classmethod
    def in_signal_time(
        cls, model: TrainedModel, how: Adaptation | None = None, schedule: Schedule | None = None
    ) -> "OnlineAdaptation":
        """For recordings: the same recording, settings and seed give the same decisions."""
        schedule = schedule or Schedule()
        return cls(model, InSignalTime(model, how or Adaptation(), schedule), schedule)

    def see(self, block: np.ndarray) -> None:
        """Receive the next (n, C) filtered microvolts."""
        self._heard += len(block)
        self._worker.hear(block)

    def begin_recording(self) -> None:
        """Another recording of the same session begins."""
        self._worker.begin_recording()

    def prepare(self, normalization: Normalization) -> None:
        """Call it between two decisions: switch to new weights if available, and begin an adaptation if it is time."""
        if self._began is not None and (result := self._worker.result()) is not None:
            if result.network is not None:
                self.network = result.network
            at = {"began": self._began / self._rate, "taken": self._heard / self._rate}
            self.events.append({**at, **result.facts})
            self._began = None
        if self._began is None and self._heard >= self._next:
            self._began, self._next = self._heard, self._schedule.growth * self._heard
            self._worker.begin(normalization.snapshot())

    def in_words(self) -> str:
        """The outcome of the adaptations so far, as text."""
        if not self.events:
            return f"not adapted: less than {self._schedule.first:g} s of signal and the time to adapt to them"
        times = [f"{one['taken']:.0f} s" for one in self.events if one["accepted"]]
        last = self.events[-1]
        suffix = "" if last["accepted"] else f"; the latest adaptation was rejected: {last['reason']}"
        return (f"adapted after {', '.join(times)} of signal" if times else "not adapted") + suffix

    def close(self) -> None:
        """Stop anything that is still running in the background."""
        self._worker.close()


@dataclass
class _Heard:
    """The latest KEPT_SECONDS of a session's signal, in the blocks in which it was received."""

    most: int  # samples
    recordings: deque[deque[np.ndarray]] = field(default_factory=lambda: deque([deque()]))
    samples: int = 0

    def add(self, block: np.ndarray) -> None:
        self.recordings[-1].append(np.array(block, np.float16))  # copied: the caller may reuse its memory
        self.samples += len(block)
        while self.samples > self.most:
            if not self.recordings[0]:
                self.recordings.popleft()
                continue
            self.samples -= len(self.recordings[0].popleft())

    def begin_recording(self) -> None:
        if self.recordings[-1]:
            self.recordings.append(deque())

    def signals(self, session: Given, window: int) -> list[Signal]:
        """The recordings with at least one window."""
        joined = [np.concatenate(list(own)) for own in self.recordings if own]
        return [Signal(own, session) for own in joined if len(own) >= window]


def _adapted(model: TrainedModel, signals: list[Signal], how: Adaptation) -> Adapted:
    with torch.inference_mode(False), torch.enable_grad():  # a stream decides without gradients
        return adapt(model, signals, how)


class InSignalTime:
    """A `Worker` that returns its result when a set time of signal has passed. See the module."""

    def __init__(self, model: TrainedModel, how: Adaptation, schedule: Schedule) -> None:
        self._model, self._how, self._schedule = model, how, schedule
        self._received = _Heard(round(KEPT_SECONDS * model.rate))
        self._waiting: list[Signal] | None = None
        self._left = 0.0  # samples until the adaptation takes effect

    def hear(self, block: np.ndarray) -> None:
        """See `Worker`."""
        self._received.add(block)
        self._left -= len(block)

    def begin_recording(self) -> None:
        """See `Worker`."""
        self._received.begin_recording()

    def begin(self, session: Given) -> None:
        """See `Worker`."""
        self._waiting = self._received.signals(session, self._model.window)
        seconds = sum(len(one.samples) for one in self._waiting) / self._model.rate
        self._left = (self._schedule.delay + self._schedule.delay_share * seconds) * self._model.rate

    def result(self) -> Result | None:
        """See `Worker`. The adaptation is computed here, so it costs nothing if the recording ends before."""
        if self._waiting is None or self._left > 0:
            return None
        adapted, self._waiting = _adapted(self._model, self._waiting, self._how), None
        return Result(adapted.model.network if adapted.accepted else None, adapted.to_dict())

    def close(self) -> None:
        """Nothing to do: nothing is running."""


class InBackground:
    """A `Worker` in another process of low priority, with a model of its own. See the module.

    The signal is sent there second by second during the stream, and the trained weights come back. If the process dies,
    for example for lack of memory, there is one result that says so, and none after it.
    """

    def __init__(self, model: TrainedModel, how: Adaptation) -> None:
        context = get_context("spawn")  # a fork of a process with threads may hang
        self._jobs = context.Queue()  # unbounded, and written by its own thread: `put` never waits
        self._jobs.cancel_join_thread()  # what the process has not read at the end is not needed
        ours, theirs = context.Pipe(duplex=False)
        args = (self._jobs, theirs, *_sent(model), how)
        self._process = context.Process(target=_serve, args=args, daemon=True)
        self._process.start()
        theirs.close()  # then our end is closed when the process ends
        self._sent: list[np.ndarray] = []
        self._many = round(SENT_SECONDS * model.rate)
        # two copies: one decides while the other takes new weights
        self._networks = deque(copy.deepcopy(model.network) for _ in range(2))
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._ended = threading.Event()
        threading.Thread(target=self._receive, args=(ours,), daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The id of the process."""
        return self._process.pid

    def hear(self, block: np.ndarray) -> None:
        """See `Worker`."""
        if self._ended.is_set():  # nobody would receive it
            return
        self._sent.append(np.array(block, np.float16))
        if sum(map(len, self._sent)) >= self._many:
            self._send()

    def begin_recording(self) -> None:
        """See `Worker`."""
        self._send()
        self._jobs.put(("recording", None))

    def begin(self, session: Given) -> None:
        """See `Worker`."""
        self._send()
        statistics = None if session.statistics is None else session.statistics.cpu().numpy()
        self._jobs.put(("adapt", (session.transform, statistics)))

    def result(self) -> Result | None:
        """See `Worker`."""
        try:
            return self._results.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._jobs.close()

    def _send(self) -> None:
        if self._sent:
            self._jobs.put(("heard", np.concatenate(self._sent)))
            self._sent = []

    def _receive(self, results: Connection) -> None:
        """Runs in a thread: load weights that arrive into the network that is not deciding at the moment."""
        with suppress(EOFError, OSError):
            while True:
                facts, weights = results.recv()
                self._results.put(Result(self._with(weights) if weights else None, facts))
        self._ended.set()
        self._results.put(Result(None, {"accepted": False, "reason": "the process that adapts has ended"}))

    def _with(self, weights: Mapping[str, np.ndarray]) -> GPT2Classifier:
        self._networks.rotate()
        network = self._networks[0]
        with torch.no_grad():
            own = network.state_dict()
            for name, value in weights.items():
                own[name].copy_(torch.from_numpy(value))
        return network


def _sent(model: TrainedModel) -> tuple[Path, Mapping[str, Any], dict[str, np.ndarray], str]:
    """The model as it is in memory, for another process: its file may have been deleted or replaced."""
    weights = {f"model.{name}": value for name, value in model.network.state_dict().items()}
    tensors = {name: value.cpu().numpy() for name, value in (model.checkpoint.tensors | weights).items()}
    return model.path, model.description, tensors, str(model.device)


def _serve(
    jobs: Any,
    results: Connection,
    path: Path,
    description: dict[str, Any],
    tensors: Mapping[str, np.ndarray],
    device: str,
    how: Adaptation,
) -> None:
    """Runs in the other process: keep the signal, and adapt when told to, until the stream's process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stream's process handles Ctrl-C
    threading.Thread(target=_end_with_the_stream, daemon=True).start()
    with suppress(AttributeError, OSError):
        os.nice(10)
    torch.set_num_threads(1)
    checkpoint = Checkpoint(path, description, {name: torch.from_numpy(value) for name, value in tensors.items()})
    model = TrainedModel(checkpoint, torch.device(device))
    heard = _Heard(round(KEPT_SECONDS * model.rate))
    while True:
        what, content = jobs.get()
        if what == "heard":
            heard.add(content)
        elif what == "recording":
            heard.begin_recording()
        else:
            transform, statistics = content
            known = None if statistics is None else torch.from_numpy(statistics)
            session = Given(model.network, transform, known, model.device)
            adapted = _adapted(model, heard.signals(session, model.window), how)
            results.send((adapted.to_dict(), _learnt_weights(adapted, model)))


def _end_with_the_stream() -> None:
    """Runs in a thread: end this process when the stream's process has ended, even if it was killed and could not end
    this one."""
    if (stream := parent_process()) is not None:
        stream.join()
        os._exit(1)


def _learnt_weights(adapted: Adapted, model: TrainedModel) -> dict[str, np.ndarray]:
    """The weights that differ from the model's; none if the adaptation was rejected."""
    if not adapted.accepted:
        return {}
    before = model.network.state_dict()
    after = adapted.model.network.state_dict()
    return {name: value.cpu().numpy() for name, value in after.items() if not torch.equal(value, before[name])}
