"""What verifying costs: a shard and a checkpoint of real size, opened with and without their checksums.

Output: a table, and benchmarks/results/checksums.json with the machine and the commit. Medians of 5; files are in the
page cache, where checksums cost most. Nothing is simulated: content does not change how long a checksum takes.

  python benchmarks/checksums.py
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from the checkout, nothing is installed

import numpy as np
import torch

from model import GPT2Classifier, ModelConfig
from semg import cli
from semg.checkpoint import open_checkpoint, write_checkpoint
from semg.files import write_json
from semg.provenance import commit, versions
from semg.putemg import CHANNEL_COLUMNS, GESTURES, RATE
from semg.shards import WindowSet, open_shard, whole_windows, write_shard

SECONDS = 300  # of a long recording
WINDOW, STRIDE = 1280, 640


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/checksums.json"), help="file to write")
    parser.add_argument("--repeats", type=cli.whole(1), default=5, help="the median of so many")
    return parser


def median(work: Callable[[], object], repeats: int) -> float:
    """Seconds, median of `repeats` after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def make_shard(folder: Path) -> Path:
    """A shard as long as one of putEMG's longer recordings."""
    random = np.random.default_rng(0)
    samples = SECONDS * int(RATE)
    signal = (random.standard_normal((samples, 24), np.float32) * 50).astype(np.float16)
    labels = np.repeat(np.arange(len(GESTURES), dtype=np.int8), -(-samples // len(GESTURES)))[:samples]
    windows = whole_windows(labels, range(len(GESTURES)), WINDOW, STRIDE, guard=0)
    record = "emg_gestures-03-repeats_long-2018-05-11-11-05-00-695"
    meta = {
        "record": record,
        "subject": "03",
        "date": "2018-05-11",
        "time": "11-05-00-695",
        "trajectory": "repeats_long",
        "rate": RATE,
        "channels": list(CHANNEL_COLUMNS),
        "classes": list(GESTURES.values()),
        "arguments": {"window": WINDOW, "stride": STRIDE},
    }
    write_shard(folder / record, meta, signal, windows)
    return folder / record


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


def compared(what: str, size: int, plain: float, checked: float) -> dict[str, Any]:
    """One row: seconds without and with, and their ratio."""
    row = {"what": what, "megabytes": round(size / 1e6, 1), "seconds": plain, "seconds_checked": checked}
    return row | {"ratio": checked / plain}


def measure(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """The rows of the table."""
    shard = make_shard(folder)
    size = sum(file.stat().st_size for file in shard.iterdir())
    verify = median(lambda: open_shard(shard, verify=True), repeats)
    epoch = median(lambda: read_windows(shard), repeats)
    path = make_checkpoint(folder)
    load = median(lambda: torch.load(path, weights_only=True), repeats)
    return [
        compared("a shard: verified, then all its windows read once", size, epoch, epoch + verify),
        compared("a checkpoint: opened", path.stat().st_size, load, median(lambda: open_checkpoint(path), repeats)),
    ]


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.Console(args)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args.repeats)
    for row in rows:
        console.say(
            f"{row['what']:<52}{row['megabytes']:8.1f} MB{1000 * row['seconds']:9.1f} ms without"
            f"{1000 * row['seconds_checked']:9.1f} ms with checksums, x {row['ratio']:.2f}"
        )
    machine = {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
    busy = {"load_average": round(os.getloadavg()[0], 1)} if hasattr(os, "getloadavg") else {}
    facts = {"machine": machine | busy, "versions": versions("numpy", "torch"), "commit": commit()}
    write_json(args.out, {"repeats": args.repeats, "rows": rows, **facts})
    console.finish(f"{args.out}: written", rows=rows)
    return 0


if __name__ == "__main__":
    cli.run(main)
