"""How long a live decision takes: from a sample's arrival to the decision, over a real stream on this machine.

Another process sends noise, at the model's rate in packets of 25 ms, through the Lab Streaming Layer; this one reads
and decides as live.py does. `computing` is from the arrival of a window's last sample in this process to the decision,
`delay` from the moment at which the device had the sample: the rest of its packet, the stream, computing. Both are
compared with the time between two decisions, which is what there is of it. The model is the demo's,
checkpoints/best_model.ckpt. Decisions of the first five seconds do not count.

  python benchmarks/live.py           # about a minute
"""

import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
from measuring import ROOT, Row, arguments, report

from semg.common import cli
from semg.inference import lsl
from semg.inference.live_decoder import LiveDecoder
from semg.inference.lsl_replay import Playable, play
from semg.inference.trained_model import TrainedModel

UNCOUNTED = 5.0  # seconds


def send(name: str, rate: float, channels: tuple[str, ...], seconds: float) -> None:
    """Be a device for so long."""
    random = np.random.default_rng(0)
    samples = random.standard_normal((round(seconds * rate), len(channels)), np.float32) * 60
    play(Playable("noise", samples, rate, channels, "microvolts"), name, say=lambda _: None)


def measure(path: Path, seconds: float) -> dict[str, np.ndarray]:
    """Seconds of computing, and of delay, of each decision."""
    model = TrainedModel.open(path, "cpu")
    name = f"live-delay-{time.time_ns()}"
    words = (name, model.rate, lsl.electrode_names(model.signal_path), seconds + UNCOUNTED)
    sender = multiprocessing.get_context("spawn").Process(target=send, args=words, daemon=True)
    sender.start()
    reader = lsl.StreamReader(name, lambda facts: lsl.layout_for(facts, model.signal_path, warn=print), 60)
    decoder = LiveDecoder(model, model.rate, 1.0, warmup=UNCOUNTED, warn=print)
    durations: dict[str, list[float]] = {"computing": [], "delay": []}
    begun = time.monotonic()
    while time.monotonic() - begun < seconds + UNCOUNTED - 1:
        if (chunk := reader.pull(0.1)) is not None:
            for decision in decoder.push(chunk):
                durations["delay"].append(lsl.clock() - decision.stamp)
                durations["computing"].append(decision.computing)
        decoder.prepare()
    reader.close()
    sender.join(30)
    return {name: np.array(values) for name, values in durations.items()} | {"lost": np.array(decoder.finish())}


def main() -> int:
    """Run the script; the number returned is its exit code."""
    parser = arguments(__doc__, "live")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints/best_model.ckpt", help="the model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = TrainedModel.open(args.checkpoint, "cpu")
    between = model.stride / model.rate
    durations = measure(args.checkpoint, 5 if args.quick else 60)
    rows = []
    for what in ("computing", "delay"):
        for name, share in (("median", 50), ("99th percentile", 99)):
            at = float(np.percentile(durations[what], share))
            rows.append(
                Row(f"a live decision's {what}, {name}", f"{1000 * between:g} ms", at / between, 1, seconds={what: at})
            )
    return report(args, rows, decisions=len(durations["delay"]), lost=int(durations["lost"]), threads=1)


if __name__ == "__main__":
    cli.run(main)
