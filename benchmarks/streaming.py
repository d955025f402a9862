"""One decision on a live stream, batch 1, against only the model's forward pass: median and 99th percentile.

Output: a table of ratios and benchmarks/results/streaming.json. A decision is everything from the arrival of a block to
the probabilities: causal filter, window, online normalisation, front-end, model. The model is the demo's,
checkpoints/best_model.ckpt. The signal is noise in blocks of 25 ms, as in predict.py --stream; every fifth block brings
a decision (one each 125 ms). Decisions and forward passes alternate, so that slow spells of the machine affect both.
Which of the two comes first alternates too, because the second finds the model in the processor's caches. 1,000 of each
are measured, after 100 for warming up.

  python benchmarks/streaming.py            # about a minute
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import ROOT, Row, arguments, read, report

from semg.common import cli
from semg.data.putemg import MICROVOLTS_PER_COUNT
from semg.inference.trained_model import TrainedModel

DEMO_SECONDS = 0.005  # a decision of the demo's model at most
BLOCK = 0.025  # seconds


def forward_pass(trained: TrainedModel) -> Callable[[], float]:
    """What computes a lone forward pass of one window, and gives the seconds that it took."""
    model = trained.network
    x = torch.randn(1, model.config.channels, trained.window)
    statistics = model.finish_statistics(model.token_statistics(x))[None]

    def work() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            model(x, statistics).softmax(1)
        return time.perf_counter() - began

    return work


def measure(path: Path, count: int, skipped: int) -> dict[str, np.ndarray]:
    """Seconds of each decision and of each forward pass."""
    trained = TrainedModel.open(path, "cpu")
    random = np.random.default_rng(0)
    stream = trained.stream(scale=MICROVOLTS_PER_COUNT)
    alone = forward_pass(trained)
    durations: dict[str, list[float]] = {"decision": [], "forward": []}

    def decide() -> None:
        while not (decisions := stream.push(random.standard_normal(shape, np.float32) * 60)):
            pass
        durations["decision"] += [one.computing for one in decisions]

    def forward() -> None:
        durations["forward"].append(alone())

    shape = round(BLOCK * trained.rate), len(trained.signal_path.electrodes)
    while len(durations["decision"]) < count + skipped:
        for work in (decide, forward, forward, decide):
            work()
    return {name: np.array(values[-count:]) for name, values in durations.items()}


def main() -> int:
    """Run the script; the number returned is its exit code."""
    parser = arguments(__doc__, "streaming", repeats=None)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints/best_model.ckpt", help="the model")
    args = read(parser)
    torch.set_num_threads(1)
    durations = measure(args.checkpoint, *((100, 10) if args.quick else (1000, 100)))
    rows = []
    for name, share in (("median", 50), ("99th percentile", 99)):
        at = {what: float(np.percentile(values, share)) for what, values in durations.items()}
        reach = 1.25 if share == 99 else None
        ratio = at["decision"] / at["forward"]
        rows.append(Row(f"one decision in streaming, {name}", "the forward pass's", ratio, reach, seconds=at))
    slowest = rows[-1].seconds["decision"]
    rows.append(Row("the same, 99th percentile", f"{1000 * DEMO_SECONDS:g} ms", slowest / DEMO_SECONDS, 1))
    return report(args, rows, decisions=len(durations["decision"]), threads=1)


if __name__ == "__main__":
    cli.run(main)
