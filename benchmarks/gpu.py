"""Training on one GPU: windows a second, arithmetic against a matrix product's, waiting for data, memory, an epoch.

Output: a table and benchmarks/results/gpu.json. GPT-2 small (12 blocks of width 768) and its first 6, trained fully and
as FPT, on batches of 256 to 4096, in bf16 as train.py does it: signals resident in the GPU's memory as float16, windows
gathered, normalised and augmented there. Weights are random and signals noise: neither changes how long this takes.

The arithmetic counted is that of matrix products (`flops`), twice as many backwards where weights train and once where
only gradients pass; what the device can do is measured by one large product in the same run. Waiting is what reading
a batch takes when nothing else runs. Without CUDA it says so and ends.

  python benchmarks/gpu.py            # a few minutes on one GPU
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import Row, arguments, report
from training_step import a_run, epoch

from model import ModelConfig
from semg.common import cli
from semg.common.errors import DataError
from semg.frontends import FrontEnd
from semg.training.trainer import Trainer

PUTEMG_WINDOWS = 600_000
BATCHES = (256, 1024, 4096)
REACH, WAITING = 0.45, 0.02
SIDE = 8192  # of the square matrices that show what the device can do


def flops(config: ModelConfig) -> float:
    """Multiplications and additions of a window's matrix products, forwards and backwards, by what trains."""
    tokens, width = config.tokens, config.width
    inner = (config.architecture or {}).get("n_inner") or 4 * width
    embedding = 2 * tokens * FrontEnd(config).n_features * width
    weights = 2 * tokens * width * (4 * width + 2 * inner)  # of one block: attention's four, the two of its MLP
    attention = 4 * tokens**2 * width  # of one block: scores, and their mean of values
    head = 2 * width * config.classes
    # backwards: a weight's product comes once for the gradient that passes and once for the weight's own, if it trains
    block = weights * (3 if config.tune == "full" else 2) + 3 * attention
    return 2 * embedding + config.layers * block + 3 * head


def synchronized(work: Callable[[], object]) -> float:
    """Seconds of a callable, the GPU's own work included."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def peak() -> float:
    """FLOP/s of a large bf16 matrix product: the best of ten."""
    left, right = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = min(synchronized(lambda: left @ right) for _ in range(10))
    return 2 * SIDE**3 / seconds


def read_all(run: Trainer) -> None:
    """Read an epoch's batches, and do nothing with them."""
    for _ in run.task.batches(0, 0):
        pass


def measure(run: Trainer, repeats: int) -> dict[str, float]:
    """An epoch's seconds, its reading's seconds and its peak memory, after one that does not count."""
    epoch(run)
    torch.cuda.reset_peak_memory_stats()
    whole = sorted(synchronized(lambda: epoch(run)) for _ in range(repeats))[repeats // 2]
    reading = sorted(synchronized(lambda: read_all(run)) for _ in range(repeats))[repeats // 2]
    return {"epoch": whole, "reading": reading, "bytes": torch.cuda.max_memory_allocated()}


def one(args: argparse.Namespace, layers: int, tune: str, batch: int, most: float) -> list[Row]:
    """The rows of one model at one batch size."""
    words = ["--layers", layers, "--width", 768, "--heads", 12, "--tune", tune, "--batch-size", batch]
    with tempfile.TemporaryDirectory() as name:
        run = a_run(Path(name), 150, list(map(str, words)), device="cuda")
        figures = measure(run, args.repeats)
    rate = run.task.steps_per_epoch * batch / figures["epoch"]
    achieved = rate * flops(run.model.config)
    facts = {
        **figures,
        "windows_per_second": rate,
        "teraflops": achieved / 1e12,
        "putemg_epoch_seconds": PUTEMG_WINDOWS / rate,
        "resident": run.data.train.batches.resident,
    }
    label = f"{layers} blocks, {tune}, batch {batch}"
    waiting = figures["reading"] / figures["epoch"]
    cli.console(args).say(
        f"{label:<28}{rate:9,.0f} windows/s{achieved / 1e12:8.1f} TFLOP/s{figures['bytes'] / 1e9:7.1f} GB"
        f"   putEMG's epoch {PUTEMG_WINDOWS / rate:6.0f} s"
    )
    reach = REACH if tune == "full" else None
    return [
        Row(f"{label}: arithmetic", "a matrix product's", achieved / most, reach, True, facts=facts),
        Row(f"{label}: reading", "the epoch", waiting, WAITING, facts=facts),
    ]


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments(__doc__, "gpu").parse_args()
    if not torch.cuda.is_available():
        raise DataError("benchmarks/gpu.py: expected a CUDA device, found none; run it on a machine with an NVIDIA GPU")
    args.repeats = 1 if args.quick else args.repeats
    most = peak()
    rows = []
    for layers in (6, 12):
        for tune in ("full", "fpt"):
            for batch in BATCHES[:1] if args.quick else BATCHES:
                rows += one(args, layers, tune, batch, most)
    return report(args, rows, device=torch.cuda.get_device_name(), peak_teraflops=most / 1e12)


if __name__ == "__main__":
    cli.run(main)
