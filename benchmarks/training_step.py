"""A whole training step of train.py against the same model, optimiser and batch in a bare loop.

Output: a table of ratios and benchmarks/results/training_step.json. The bare loop does the forward and backward passes
and the optimiser's step on one batch in memory. train.py's step also draws and reads windows, augments them, clips
gradients, checks for NaN and keeps the scores. Both run for a whole epoch, on shards of noise.

  python benchmarks/training_step.py            # about a minute
"""

import tempfile
from pathlib import Path

import material
import numpy as np
import torch
import torch.nn.functional as F
from measuring import Row, arguments, in_turns, read, report

import train
from semg.common import cli
from semg.data.splits import Split, write_split
from semg.flags import training
from semg.training.distributed import World
from semg.training.loop import LoopState
from semg.training.trainer import Machine, Trainer

# train.py's own, but a fixed rotation: for one that is chosen, short pilots would be trained first
AUGMENT = ["--augment", "band_rotation=0.5", "channel_dropout=0.1", "jitter=1"]


def noise(folder: Path, seconds: float) -> list[str | Path]:
    """Write shards of noise, of so many seconds each, and their split: four people train, one validates, one would be
    tested. Returns the flags that name them."""
    records = [material.shard(folder / "shards", seconds, subject).name for subject in range(1, 7)]
    split = Split("noise", "subject", tuple(records[:4]), (records[4],), (records[5],))
    write_split(folder / "split", split, {})
    return ["--shards", folder / "shards", "--split", folder / "split"]


def a_run(data: list[str | Path], out: Path, words: list[str], device: str = "cpu") -> Trainer:
    """A run of train.py on what `noise` wrote."""
    flags = [*data, "--out", out, "--init", "random", "--device", device, "--quiet", *AUGMENT, *words]
    args = train.arguments().parse_args([*map(str, flags)])
    machine = Machine(args.device, args.workers, args.compile)
    return Trainer(training.config_of(args), args.out, machine, World(), cli.console(args))


def epoch(run: Trainer) -> None:
    """An epoch of the run, its first, again and again."""
    run.state.training = LoopState()
    next(run.epochs())


def measure(run: Trainer, repeats: int) -> dict[str, float]:
    """Seconds of an epoch, train.py's and bare."""
    run.model.train()
    train_set, optimizer = run.data.train, run.optimizer.adamw
    index = np.arange(run.config.batch_size)
    hop = train_set.batches.cached.hop if train_set.batches.cached else 1
    starts = train_set.windows.start[index] // hop * hop  # cached frames lie on a grid
    batch = train_set.batches.load(index, starts)
    statistics = train_set.statistics_of(batch)

    def bare() -> None:
        for _ in range(run.task.steps_per_epoch):
            loss = F.cross_entropy(run.model(batch.x, statistics, None, batch.cached), batch.label)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return in_turns({"train.py": lambda: epoch(run), "bare": bare}, repeats)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = read(arguments(__doc__, "training_step"))
    torch.set_num_threads(1)
    rows = []
    for what, words in (("the default model", []), ("raw samples", ["--frontend", "raw"])):
        with tempfile.TemporaryDirectory() as name:
            run = a_run(noise(Path(name), 30 if args.quick else 150), Path(name) / "run", words)
            seconds = measure(run, args.repeats)
        reach = 1.10 if not words else None
        facts = {"steps": run.task.steps_per_epoch, "batch": run.config.batch_size}
        rows.append(Row(f"a training step, {what}", "the bare loop", seconds["train.py"] / seconds["bare"], reach,
                        seconds=seconds, facts=facts))  # fmt: skip
    return report(args, rows, threads=1)


if __name__ == "__main__":
    cli.run(main)
