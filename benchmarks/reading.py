"""Batches of windows from shards against a plain copy of the same number of bytes; opening 264 shards of full length.

Output: a table of ratios and benchmarks/results/reading.json. The shards are noise, 300 s each. The 264 shards share
one signal file by hard links, because opening depends only on names, descriptions and sizes. Batches are shuffled
windows: first as stored (float16), then as the model takes them (float32, scaled; and scaled plus whitened, with twice
as many channels). Files are in the page cache. The plain copy cycles through more data than fits into the processor's
cache, so that it measures memory.

  python benchmarks/reading.py            # about a minute
"""

import json
import tempfile
from itertools import product
from pathlib import Path

import material
import numpy as np
import torch
from measuring import ROOT, Row, arguments, in_turns, read, report, run_python

from semg.common import cli
from semg.common.files import read_json, write_json
from semg.data import normalization
from semg.data.batches import Batches
from semg.data.putemg import TRAJECTORIES
from semg.data.shards import WindowSet, list_records, meta_checksum, open_shards
from simulate_putemg import record_name

BATCH, MANY = 128, 264
COPIED = 8  # batches that are copied in turn: 63 MB at least
OPENED_SECONDS, OPENED_BYTES = 2.0, 300e6


def linked(first: Path) -> None:
    """Beside a shard, all others that putEMG would have: 44 people, 2 days, 3 trajectories, with the same samples."""
    for subject, day, trajectory in product(range(1, 45), (1, 2), TRAJECTORIES):
        path = first.with_name(record_name(subject, day, trajectory))
        if path == first:
            continue
        path.mkdir()
        for name in ("signal.npy", "windows.npy"):
            (path / name).hardlink_to(first / name)
        meta = read_json(first / "shard.json", "a shard's description") | material.meta(path.name)
        meta["checksum"] = meta_checksum(meta)
        write_json(path / "shard.json", meta)


# in a process of its own that imports nothing else
OPENING = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from semg.data.shards import WindowSet, list_records, open_shards
folder, began = Path(sys.argv[2]), time.perf_counter()
windows = WindowSet(open_shards(folder, list_records(folder)))
print(json.dumps({"seconds": time.perf_counter() - began, "windows": len(windows)}))
"""


def open_many(folder: Path) -> list[Row]:
    """How long opening takes, and how much memory the process has then, all it imported included."""
    done = run_python("-c", OPENING, ROOT, folder)
    facts = json.loads(done.output) | {"bytes": done.memory}
    memory = done.memory / OPENED_BYTES
    return [
        Row(f"opening {MANY} shards", f"{OPENED_SECONDS:g} s", facts["seconds"] / OPENED_SECONDS, 1, facts=facts),
        Row("memory of a process that did", f"{OPENED_BYTES / 1e6:g} MB", memory, 1, facts=facts),
    ]


def batches(folder: Path, repeats: int, count: int) -> list[Row]:
    """Shuffled batches as stored and as the model takes them. count: of each kind in a round."""
    windows = WindowSet(open_shards(folder, list_records(folder)))
    random = np.random.default_rng(0)
    order = [random.integers(0, len(windows), BATCH) for _ in range(count)]
    random = np.random.default_rng(1)
    stored = random.standard_normal((COPIED, BATCH, windows.window, windows.n_channels), np.float32).astype(np.float16)
    cpu = torch.device("cpu")
    scaled = Batches(
        windows, normalization.transform_of(windows.shards, normalization.ChannelNormalization()), cpu, workers=0
    )
    whitening = normalization.transform_of(windows.shards, normalization.ChannelNormalization(whitening="append"))
    whitened = Batches(windows, whitening, cpu, workers=0)
    ready = {"scaled": stored.astype(np.float32), "whitened": np.tile(stored.astype(np.float32), 2)}

    def copies(source: np.ndarray) -> list[np.ndarray]:
        return [source[at % COPIED].copy() for at in range(len(order))]

    seconds = in_turns(
        {
            "gather": lambda: [windows.gather(index) for index in order],
            "copy_float16": lambda: copies(stored),
            "scaled": lambda: [scaled.load(index) for index in order],
            "copy_scaled": lambda: copies(ready["scaled"]),
            "whitened": lambda: [whitened.load(index) for index in order],
            "copy_whitened": lambda: copies(ready["whitened"]),
        },
        repeats,
    )
    pairs: list[tuple[str, str, str, float | None]] = [
        ("as stored", "gather", "copy_float16", 0.5),
        ("scaled", "scaled", "copy_scaled", None),
        ("scaled and whitened", "whitened", "copy_whitened", None),
    ]
    return [
        Row(f"shuffled batches, {what}: rate", "a plain copy's", seconds[plain] / seconds[ours], reach, True, seconds)
        for what, ours, plain, reach in pairs
    ]


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = read(arguments(__doc__, "reading"))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = material.shard(folder / "many", 30 if args.quick else material.SECONDS)
        linked(first)
        rows = open_many(first.parent)
        for subject in range(4):
            material.shard(folder / "few", 30 if args.quick else material.SECONDS, subject + 1)
        rows += batches(folder / "few", args.repeats, COPIED if args.quick else 40)
    return report(args, rows, batch=BATCH, threads=1)


if __name__ == "__main__":
    cli.run(main)
