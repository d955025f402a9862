"""The delay of a live decision over a real stream on this machine.

One process sends a simulated recording through the Lab Streaming Layer, at the model's rate in packets of 25 ms. This
process reads and decides as live.py does: once without --adapt, and once with it, where a third process adapts.

`computing` is the time from the arrival of a window's last sample in this process to the decision. `delay` starts when
the device had that sample, so it also includes the rest of the packet and the transfer. Both are compared with the time
between two decisions. `computing` is also compared with a single forward pass of the model, run halfway between two
decisions so that it too starts after some milliseconds of waiting. The model is the demo's,
checkpoints/best_model.ckpt. Decisions of the first five seconds are left out.

  python benchmarks/live.py           # about five minutes
"""

import math
import multiprocessing
import time
from pathlib import Path

import material
import numpy as np
import torch
from measuring import ROOT, Row, arguments, read, report
from streaming import forward_pass

from semg.common import cli
from semg.inference import lsl
from semg.inference.live_decoder import LiveDecoder
from semg.inference.lsl_replay import Playable, play
from semg.inference.trained_model import TrainedModel
from semg.training.online_adaptation import OnlineAdaptation

UNCOUNTED = 5.0  # seconds
SECONDS = 120.0  # in which live.py begins to adapt four times


def send(name: str, rate: float, channels: tuple[str, ...], seconds: float) -> None:
    """Be a device for so long."""
    samples = material.simulated(seconds)
    play(Playable("simulated", samples, rate, channels, "microvolts"), name, say=lambda _: None)


def measure(
    path: Path, seconds: float, uncounted: float, adaptation: OnlineAdaptation | None = None
) -> dict[str, np.ndarray]:
    """Seconds of computing, and of delay, of each decision but those of the first `uncounted` seconds; of lone passes.

    adaptation: of the model at `path` meanwhile.
    """
    model = TrainedModel.open(path, "cpu")
    name = f"live-delay-{time.time_ns()}"
    words = (name, model.rate, model.signal_path.electrode_names, seconds + uncounted)
    sender = multiprocessing.get_context("spawn").Process(target=send, args=words, daemon=True)
    sender.start()
    reader = lsl.StreamReader(name, lambda facts: lsl.layout_for(facts, model.signal_path, warn=print), 60)
    decoder = LiveDecoder(model, model.rate, 1.0, start_after=uncounted, adaptation=adaptation, warn=print)
    durations: dict[str, list[float]] = {"computing": [], "delay": [], "forward": []}
    alone, begun = forward_pass(model), time.monotonic()
    missing: float = math.inf  # samples until halfway from a decision that counts to the next
    while time.monotonic() - begun < seconds + uncounted - 1 or (not durations["forward"] and sender.is_alive()):
        if (chunk := reader.pull(0.1)) is not None:
            missing -= len(chunk.samples)
            for decision in decoder.push(chunk):
                durations["delay"].append(lsl.clock() - decision.stamp)
                durations["computing"].append(decision.computing)
                missing = model.stride / 2
        decoder.prepare()
        if missing <= 0:
            durations["forward"].append(alone())
            missing = math.inf
    reader.close()
    sender.join(30)
    return {name: np.array(values) for name, values in durations.items()} | {"lost": np.array(decoder.finish())}


def rows_of(durations: dict[str, np.ndarray], between: float, how: str, **facts: object) -> list[Row]:
    """Medians and 99th percentiles against the seconds between two decisions. how: `without` or `with`, adapting."""
    rows = []
    for name, share in (("median", 50), ("99th percentile", 99)):
        at = {what: float(np.percentile(durations[what], share)) for what in ("computing", "delay", "forward")}
        for what in ("computing", "delay"):
            label = f"a live decision's {what}, {name}, {how} --adapt"
            rows.append(
                Row(label, f"{1000 * between:g} ms", at[what] / between, 1, seconds={what: at[what]}, facts=facts)
            )
        label, reach = f"a live decision's computing, {name}, {how} --adapt", 1.25 if share == 99 else None
        rows.append(Row(label, "the forward pass's", at["computing"] / at["forward"], reach, seconds=at, facts=facts))
    return rows


def main() -> int:
    """Run the script; the number returned is its exit code."""
    parser = arguments(__doc__, "live", repeats=None)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints/best_model.ckpt", help="the model")
    args = read(parser)
    torch.set_num_threads(1)
    model = TrainedModel.open(args.checkpoint, "cpu")
    between = model.stride / model.rate
    seconds, uncounted = (3.0, 1.0) if args.quick else (SECONDS, UNCOUNTED)
    rows, decisions, lost = [], {}, {}
    for how in ("without", "with"):
        adaptation = OnlineAdaptation.in_background(model) if how == "with" else None
        durations = measure(args.checkpoint, seconds, uncounted, adaptation)
        facts = {}
        if adaptation is not None:
            adaptation.close()
            accepted = sum(bool(one["accepted"]) for one in adaptation.events)
            facts = {"adaptations": len(adaptation.events), "accepted": accepted}
        rows += rows_of(durations, between, how, **facts)
        decisions[how], lost[how] = len(durations["delay"]), int(durations["lost"])
    return report(args, rows, decisions=decisions, lost=lost, threads=1, simulated=True)


if __name__ == "__main__":
    cli.run(main)
