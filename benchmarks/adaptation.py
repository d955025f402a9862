"""Adapting the default model to a session without labels: the share of the session's length that one core computes.

Output: a table and benchmarks/results/adaptation.json. The session is a simulated recording, for on noise the safeguard
ends an adaptation early; the model is the demo's, checkpoints/best_model.ckpt. Whole: what adapt.py and predict.py
--adapt compute, once all of the session is there. While it comes in: all adaptations that live.py --adapt begins, on
its schedule; the rest of that stream's work, measured without them, is taken off. Processor time of one thread, divided
by the signal's length.

  python benchmarks/adaptation.py           # about three minutes
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import material
import numpy as np
import torch
from measuring import ROOT, Row, arguments, in_turns, report

from semg.common import cli
from semg.common.errors import DataError
from semg.inference.batch import Signal
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import adapt
from semg.training.online_adaptation import OnlineAdaptation

LENGTHS = (60.0, 300.0)  # seconds of a session
BLOCK = 128  # samples that a device sends at once: 25 ms
REACH = 0.05


def streamed(model: TrainedModel, samples: np.ndarray, adaptation: OnlineAdaptation | None) -> None:
    """Decide over a session as it comes in."""
    stream = model.stream(adaptation=adaptation)
    for at in range(0, len(samples), BLOCK):
        stream.push(samples[at : at + BLOCK])
        stream.prepare()


def whole(model: TrainedModel, samples: np.ndarray) -> Callable[[], object]:
    """What adapts to all of a session. DataError, before it is measured, if the safeguard refuses it."""
    signal = model.signal_path.apply(samples)

    def work() -> object:
        return adapt(model, [Signal(signal, model.session_of(signal))])

    first = adapt(model, [Signal(signal, model.session_of(signal))])
    if not first.accepted:
        raise DataError(f"a session of {len(samples) / model.rate:g} s: expected one to adapt to, found {first.reason}")
    return work


def online(model: TrainedModel, samples: np.ndarray, repeats: int) -> tuple[float, dict[str, float]]:
    """Seconds that all adaptations of a stream take, and how many there were."""
    adaptations: list[OnlineAdaptation] = []

    def adapted() -> None:
        adaptations.append(OnlineAdaptation.in_signal_time(model))
        streamed(model, samples, adaptations[-1])

    ways: dict[str, Callable[[], object]] = {"with": adapted, "without": lambda: streamed(model, samples, None)}
    seconds = in_turns(ways, repeats, time.process_time)
    events = adaptations[-1].events
    facts = {"adaptations": len(events), "accepted": sum(bool(one["accepted"]) for one in events), **seconds}
    return seconds["with"] - seconds["without"], facts


def rows_of(args: argparse.Namespace, model: TrainedModel, length: float) -> list[Row]:
    """Both shares for a session of so many seconds."""
    samples = material.simulated(length)
    seconds = in_turns({"adapt": whole(model, samples)}, args.repeats, time.process_time)
    stream, facts = online(model, samples, args.repeats)
    return [
        Row(f"adapting to a session of {length:g} s, whole", "its length", seconds["adapt"] / length, REACH,
            seconds=seconds),
        Row(f"adapting to {length:g} s while they come in", "their length", stream / length, REACH,
            seconds={"adapt": stream}, facts=facts),
    ]  # fmt: skip


def main() -> int:
    """Run the script; the number returned is its exit code."""
    parser = arguments(__doc__, "adaptation", repeats=3)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints/best_model.ckpt", help="the model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.repeats = 1 if args.quick else args.repeats
    model = TrainedModel.open(args.checkpoint, "cpu")
    rows = [row for length in LENGTHS[: 1 if args.quick else None] for row in rows_of(args, model, length)]
    return report(args, rows, threads=1, simulated=True)


if __name__ == "__main__":
    cli.run(main)
