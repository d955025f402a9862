"""The cost of adapting the default model to a session without labels, as a share of the session's length.

Output: a table and benchmarks/results/adaptation.json. The session is a simulated recording, because on noise the
safeguard stops adaptation early. The model is the demo's, checkpoints/best_model.ckpt.

"Whole" rows: what adapt.py and predict.py --adapt compute once the whole session is there. "While they come in" rows:
all adaptations that live.py --adapt begins during the session, on its own schedule. The share is largest just after an
adaptation has ended; the last row is the largest share at any time in a stream that is long enough to show it. Times
are processor time of one thread, divided by the signal's length.

  python benchmarks/adaptation.py           # about four minutes
"""

import time
from collections.abc import Callable
from pathlib import Path

import material
import numpy as np
import torch
from measuring import ROOT, Row, arguments, in_turns, read, report

from semg.common import cli
from semg.common.errors import DataError
from semg.inference.batch import Signal
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import Adaptation, adapt
from semg.training.online_adaptation import InSignalTime, OnlineAdaptation, Result, Schedule

LENGTHS = (60.0, 300.0)  # seconds of a session
# Seconds of a stream: as long as an adaptation takes all that was heard (KEPT_SECONDS), each brings the share nearer to
# its limit; later ones come as seldom and cost no more. The last of the first kind begins after 513 s.
STREAMED = 520.0
BLOCK = 128  # samples that a device sends at once: 25 ms
REACH = 0.05


class Timed(InSignalTime):
    """Adapts as soon as it is told to; `seconds` has what each adaptation took of the processor."""

    def __init__(self, model: TrainedModel) -> None:
        super().__init__(model, Adaptation(), Schedule(delay=0, delay_share=0))
        self.seconds: list[float] = []

    def result(self) -> Result | None:
        """See `Worker`."""
        began = time.process_time()
        result = super().result()
        if result is not None:
            self.seconds.append(time.process_time() - began)
        return result


def whole(model: TrainedModel, samples: np.ndarray) -> Callable[[], object]:
    """What adapts to all of a session. DataError, before it is measured, if the safeguard refuses it."""
    signal = model.signal_path.apply(samples)

    def work() -> object:
        return adapt(model, [Signal(signal, model.session_of(signal))])

    first = adapt(model, [Signal(signal, model.session_of(signal))])
    if not first.accepted:
        raise DataError(f"a session of {len(samples) / model.rate:g} s: expected one to adapt to, found {first.reason}")
    return work


def streamed(model: TrainedModel, samples: np.ndarray, repeats: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(n,) seconds of signal heard when each adaptation of a stream began, (n,) seconds that each took, medians; and
    how many were accepted."""
    taken = []
    for _ in range(repeats):
        worker = Timed(model)
        adaptation = OnlineAdaptation(model, worker)
        stream = model.stream(adaptation=adaptation)
        for at in range(0, len(samples), BLOCK):
            stream.push(samples[at : at + BLOCK])
            stream.prepare()
        taken.append(worker.seconds)
    began = np.array([event["began"] for event in adaptation.events])
    return began, np.median(taken, 0), sum(bool(event["accepted"]) for event in adaptation.events)


def rows_of(model: TrainedModel, lengths: tuple[float, ...], stream: float, repeats: int) -> list[Row]:
    """Shares for sessions of these lengths, and the most in a stream; all in seconds."""
    samples = material.simulated(stream)
    began, taken, accepted = streamed(model, samples, repeats)
    sums = taken.cumsum()
    rows = []
    for length in lengths:
        part = samples[: round(length * model.rate)]
        seconds = in_turns({"adapt": whole(model, part)}, repeats, time.process_time)
        rows.append(Row(f"adapting to a session of {length:g} s, whole", "its length", seconds["adapt"] / length, REACH,
                        seconds=seconds))  # fmt: skip
        until = float(taken[began <= length].sum())
        rows.append(Row(f"adapting to {length:g} s while they come in", "their length", until / length, REACH,
                        seconds={"adapt": until}, facts={"adaptations": int((began <= length).sum())}))  # fmt: skip
    facts = {"began": began.tolist(), "seconds": taken.tolist(), "accepted": accepted}
    most = float((sums / (began + taken)).max())
    return [*rows, Row("adapting while a session comes in, the most", "what was heard", most, REACH, facts=facts)]


def main() -> int:
    """Run the script; the number returned is its exit code."""
    parser = arguments(__doc__, "adaptation", repeats=3)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints/best_model.ckpt", help="the model")
    args = read(parser)
    torch.set_num_threads(1)
    model = TrainedModel.open(args.checkpoint, "cpu")
    lengths, stream = (LENGTHS[:1], LENGTHS[0]) if args.quick else (LENGTHS, STREAMED)
    return report(args, rows_of(model, lengths, stream, args.repeats), threads=1, simulated=True)


if __name__ == "__main__":
    cli.run(main)
