"""The cost of verification: a shard and a checkpoint of realistic size, opened with and without their checksums.

Output: a table, and benchmarks/results/checksums.json with the machine and the commit. Times are medians. Files are
in the page cache, where checksums are slowest in comparison. Content does not change how long a checksum takes.

  python benchmarks/checksums.py
"""

import argparse
import tempfile
from pathlib import Path

import material
import numpy as np
import torch
from measuring import Row, arguments, in_turns, read, report

from model import GPT2Classifier, ModelConfig
from semg.common import cli
from semg.data.putemg import RATE
from semg.data.shards import WindowSet, open_shard
from semg.inference.checkpoint import open_checkpoint, write_checkpoint


def read_windows(path: Path) -> None:
    """What an epoch reads of a shard: every window, copied out of the map and made float32."""
    windows = WindowSet([open_shard(path)])
    for index in np.array_split(np.arange(len(windows)), max(1, len(windows) // 256)):
        windows.gather(index).astype(np.float32)


def make_checkpoint(folder: Path) -> Path:
    """A checkpoint of the size of GPT-2 small's, with weights drawn at random."""
    edges = tuple(edge / RATE for edge in (20.0, 36.0, 65.0, 118.0, 213.0, 386.0, 700.0))
    model = GPT2Classifier(ModelConfig(band_edges=edges, layers=12, width=768, heads=12))
    path = folder / "best_model.ckpt"
    write_checkpoint(path, {}, {f"model.{name}": value for name, value in model.state_dict().items()})
    return path


def measure(folder: Path, args: argparse.Namespace) -> list[Row]:
    """The rows of the table."""
    shard = material.shard(folder, 30 if args.quick else material.SECONDS)
    path = make_checkpoint(folder)
    seconds = in_turns(
        {
            "verify": lambda: open_shard(shard, verify=True),
            "epoch": lambda: read_windows(shard),
            "load": lambda: torch.load(path, weights_only=True),
            "open": lambda: open_checkpoint(path),
        },
        args.repeats,
    )
    ratio = (seconds["epoch"] + seconds["verify"]) / seconds["epoch"]
    return [
        Row("a shard verified, then its windows read once", "reading them", ratio, seconds=seconds),
        Row("a checkpoint opened and verified", "torch.load", seconds["open"] / seconds["load"], seconds=seconds),
    ]


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = read(arguments(__doc__, "checksums"))
    with tempfile.TemporaryDirectory() as folder:
        return report(args, measure(Path(folder), args))


if __name__ == "__main__":
    cli.run(main)
