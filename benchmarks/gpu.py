"""A training step on one GPU, predicted and measured: its time, its matrix throughput, and how long it waits for data.

Output: a table and benchmarks/results/gpu.json. The models are the small one (2 blocks of width 64) and GPT-2 small
(12 blocks of width 768), with several batch sizes, --tune modes and precisions, with and without --compile. Band powers
are in the GPU's memory; windows are gathered, normalised and augmented there, as in train.py. Each time is from at
least 30 steps. The last row is train.py under torchrun on all GPUs of the machine (with one GPU: the cost of DDP).
Weights are random and signals noise: neither changes the time.

The prediction beside each time comes from prediction.py: the step's operations, and this GPU's matrix rate, bandwidth
and launch time, measured in the same run. "Waiting" is the time to read a batch while nothing else runs.

With --plan nothing is measured. The script prints the same predictions for each component of a step, from the data
sheet of --card, on any machine. A real step is slower: no kernel reaches a data sheet's rates.

  python benchmarks/gpu.py                         # some minutes on one GPU
  python benchmarks/gpu.py --plan --card a100      # predictions, on any machine; half a minute
  python benchmarks/gpu.py --plan --markdown       # one row for each step: the table of docs/scale.md

Without CUDA and without --plan, the script prints a message and ends.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from measuring import ROOT, Row, arguments, read, report, run_python, save
from operations import Counter
from prediction import CARDS, Card, Work, counts, predict
from torch import nn
from training_step import AUGMENT, a_run, epoch, noise

from semg.common import cli
from semg.common.console import Console, counted
from semg.common.errors import DataError, UsageError
from semg.training.trainer import Trainer

PUTEMG_WINDOWS = 600_000
REACH, WAITING = 0.45, 0.02
LARGE_BATCH = 1024  # from which on REACH is wished for
STEPS = 30  # of each time, at least
SECONDS = 600  # of each recording
SIDE = 8192  # of the square matrices that show what the device can do
COPIED = 1 << 30  # bytes
LAYERS = 20  # of the small network whose kernels are launched

SMALL, GPT2 = Work(2, 64, 4), Work(12, 768, 12)
WORKS = (
    *(replace(SMALL, batch=batch) for batch in (128, 1024, 2048)),
    *(replace(SMALL, compile=how) for how in ("default", "graphs")),
    *(replace(GPT2, batch=batch) for batch in (128, 1024, 2048)),
    replace(GPT2, batch=1024, compile="default"),
    *(replace(GPT2, batch=batch, compile="graphs") for batch in (128, 1024, 2048, 4096)),
    replace(GPT2, batch=1024, amp="fp32"),
    *(replace(GPT2, batch=1024, tune=tune) for tune in ("fpt", "lora", "frozen")),
)
NOTICE = "PREDICTED from operations counted on this machine and the data sheet of one {}; nothing was measured on a GPU"


def epoch_seconds(work: Work, step: float) -> float:
    """An epoch of all of putEMG's windows, in steps of so many seconds."""
    return PUTEMG_WINDOWS / work.batch * step


# --- predictions --------------------------------------------------------------------------------------------------


def plan(card: Card, console: Console) -> None:
    """Say what is predicted, component by component."""
    console.say(NOTICE.format(card.name))
    for work in WORKS:
        costs = predict(work, card)
        console.say(f"{work}: putEMG's epoch in {epoch_seconds(work, costs['step'].seconds):.1f} s")
        for name, cost in costs.items():
            console.say(
                f"  {name:<10}{cost.launches:6,} launches{cost.bytes / 1e9:9.2f} GB{cost.flops / 1e12:9.3f} TFLOP"
                f"{1000 * cost.launch:9.2f} ms to launch{1000 * cost.memory:9.2f} ms by memory"
                f"{1000 * cost.compute:9.2f} ms by arithmetic{1000 * cost.seconds:9.2f} ms: {cost.bound}"
            )


def markdown(card: Card) -> str:
    """The same as a table, a row a step."""
    head = f"a step on one {card.name}, **predicted** | launches | GB | TFLOP | ms | bound | windows/s | an epoch"
    return "\n".join([f"| {head} |", f"|{8 * '---|'}", *(row(work, card) for work in WORKS)])


def row(work: Work, card: Card) -> str:
    """A step's line in the table."""
    step = predict(work, card)["step"]
    cells = [step.bytes / 1e9, step.flops / 1e12, 1000 * step.seconds]
    moved, flops, took = map(_two, cells)
    rate, whole = _two(work.batch / step.seconds), _two(epoch_seconds(work, step.seconds))
    return f"| {work} | {step.launches:,} | {moved} | {flops} | {took} | {step.bound} | {rate} | {whole} s |"


def _two(value: float) -> str:
    """With two digits: predictions are good for no more."""
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"


# --- measurements -------------------------------------------------------------------------------------------------


def synchronized(work: Callable[[], object]) -> float:
    """Seconds of a callable, the GPU's own work included."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def this_card() -> Card:
    """This GPU, measured: its matrix rates, its bandwidth, and the host's time for a kernel of a small network's step;
    each the best of ten."""

    def rate(kind: torch.dtype) -> float:
        left, right = (torch.randn(SIDE, SIDE, device="cuda", dtype=kind) for _ in range(2))
        return 2 * SIDE**3 / min(synchronized(lambda: left @ right) for _ in range(10))

    source = torch.empty(COPIED, device="cuda", dtype=torch.uint8)
    copy = min(synchronized(source.clone) for _ in range(10))
    layers = [nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU()) for _ in range(LAYERS)]
    network, x = nn.Sequential(*layers).to("cuda"), torch.randn(8, 64, device="cuda")

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = network(x).square().mean()
        loss.backward()

    with Counter() as counter:
        step()
    launched = sum(one.launches for one in counter.operations["other"])
    launch = min(synchronized(step) for _ in range(10)) / launched
    return Card(torch.cuda.get_device_name(), rate(torch.bfloat16), rate(torch.float32), 2 * COPIED / copy, launch)


def read_all(run: Trainer) -> None:
    """Read an epoch's batches, and do nothing with them."""
    for _ in run.task.batches(0, 0):
        pass


def _repeatedly(work: Callable[[Trainer], None], run: Trainer, times: int) -> None:
    for _ in range(times):
        work(run)


def measure(run: Trainer, repeats: int) -> dict[str, float]:
    """Seconds of a step and of reading its batch, and peak memory, after an epoch that does not count."""
    epochs = -(-STEPS // run.task.steps_per_epoch)
    steps = epochs * run.task.steps_per_epoch
    epoch(run)
    torch.cuda.reset_peak_memory_stats()
    taken = {}
    for name, work in (("step", epoch), ("reading", read_all)):
        some = partial(_repeatedly, work, run, epochs)
        taken[name] = statistics.median(synchronized(some) for _ in range(repeats)) / steps
    return {**taken, "steps": steps, "bytes": torch.cuda.max_memory_allocated()}


def one(args: argparse.Namespace, work: Work, card: Card, data: list[str | Path]) -> list[Row]:
    """The rows of one model at one batch size. data: flags, as `noise` returns them."""
    torch._dynamo.reset()  # else what is compiled would be for the batches of the rows before it, too
    with tempfile.TemporaryDirectory() as name:
        taken = measure(a_run(data, Path(name), work.words, device="cuda"), args.repeats)
    step, predicted = taken["step"], predict(work, card)["step"]
    # windows that lie in one row cost attention more than each of them needs: attention, 1 or 2 %, is left out
    operations = [one for own in counts(work).values() for one in own]
    achieved = sum(one.flops for one in operations if "attention" not in one.name) / step
    cli.console(args).say(
        f"{work!s:<52}{1000 * step:9.2f} ms a step, predicted {1000 * predicted.seconds:9.2f} ({predicted.bound})"
        f"   putEMG's epoch {epoch_seconds(work, step):6.0f} s"
    )
    facts = taken | {"teraflops": achieved / 1e12, "windows_per_second": work.batch / step, "bound": predicted.bound}
    large = work.tune == "full" and work.amp == "bf16" and work.layers == GPT2.layers and work.batch >= LARGE_BATCH
    both = {"measured": step, "predicted": predicted.seconds}
    return [
        Row(f"{work}: a step", "its prediction", step / predicted.seconds, seconds=both),
        Row(f"{work}: arithmetic", "a matrix product's", achieved / card.rate(work.amp), REACH if large else None, True,
            facts=facts),
        Row(f"{work}: reading", "the step", taken["reading"] / step, WAITING, facts=facts),
    ]  # fmt: skip


def several(data: list[str | Path], work: Work, processes: int, rate: float, device: str = "cuda") -> Row:
    """The speed of train.py in processes with a GPU each, as torchrun starts them, by its own epochs behind the first.

    data: flags, as `noise` returns them. work: of each process. rate: windows a second of one alone, without torchrun.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, ROOT / "train.py"]
    whole = replace(work, batch=processes * work.batch)
    with tempfile.TemporaryDirectory() as name:
        how = ["--out", Path(name) / "run", "--init", "random", "--epochs", 3, "--device", device, "--quiet"]
        run_python(*launcher, *data, *how, *AUGMENT, *whole.words)
        rows = [json.loads(line) for line in (Path(name) / "run/metrics.jsonl").read_text().splitlines()]
    speed = statistics.mean(row["speed/windows_per_second"] for row in rows[1:])
    facts = {"windows_per_second": speed, "steps": rows[-1]["step"] - rows[0]["step"]}
    return Row(f"{whole}, DDP on {counted(processes, 'GPU')}: rate", "one alone", speed / rate / processes, facts=facts)


def measurements(args: argparse.Namespace, card: Card) -> Iterator[list[Row]]:
    """The rows of each model and batch size, and then those of DDP."""
    with tempfile.TemporaryDirectory() as name:
        data, alone, rate = noise(Path(name), SECONDS), replace(GPT2, batch=LARGE_BATCH), 0.0
        for work in WORKS[:1] if args.quick else WORKS:
            rows = one(args, work, card, data)
            rate = rows[-1].facts["windows_per_second"] if work == alone else rate
            yield rows
        if args.quick:
            return
        try:
            yield [several(data, alone, torch.cuda.device_count(), rate)]
        except DataError as error:
            cli.console(args).warn(f"train.py under torchrun: {error}")


def main() -> int:
    """Run the script; the number returned is its exit code."""
    parser = arguments(__doc__, "gpu")
    parser.add_argument("--plan", action="store_true", help="say what is predicted, and measure nothing")
    parser.add_argument("--card", choices=list(CARDS), default="h100", help="whose data sheet --plan takes")
    parser.add_argument("--markdown", action="store_true", help="with --plan: a table in Markdown, a row a step")
    args = read(parser)
    idle = ("out", "repeats", "quick") if args.plan else ("card", "markdown")
    if given := [name for name in idle if cli.given(name)]:
        raise UsageError(f"--{given[0]}: expected {'no --plan' if args.plan else '--plan'} beside it")
    if args.plan:
        card, console = CARDS[args.card], cli.console(args)
        if args.markdown:
            sys.stdout.write(markdown(card) + "\n")
        else:
            plan(card, console)
            console.finish("nothing was written; next, on a GPU: python benchmarks/gpu.py")
        return 0
    if not torch.cuda.is_available():
        raise DataError(
            "benchmarks/gpu.py: expected a CUDA device, found none; run it on a machine with an NVIDIA GPU, or with "
            "--plan, which predicts"
        )
    card, rows = this_card(), list[Row]()
    measured = {"bf16": card.bf16, "fp32": card.fp32, "bandwidth": card.bandwidth, "launch": card.launch}
    facts = {"device": card.name, "devices": torch.cuda.device_count(), "card": measured}
    for more in measurements(args, card):
        rows += more
        save(args, rows, **facts)  # each took a minute or more, and is kept if the run is cut off
    return report(args, rows, **facts)


if __name__ == "__main__":
    cli.run(main)
