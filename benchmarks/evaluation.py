"""Evaluating all windows, from shards to probabilities, against only the forward passes at the same batch size.

Output: a table of ratios and benchmarks/results/evaluation.json. The windows of the forward passes are already scaled
and whitened in memory. The model is the default one of --init random, untrained; the shards are noise, in the page
cache.

  python benchmarks/evaluation.py            # about a minute
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import material
import torch
from measuring import Row, arguments, in_turns, read, report

from model import GPT2Classifier, ModelConfig
from semg.common import cli
from semg.data import normalization
from semg.data.batches import Batches, in_order
from semg.data.shards import WindowSet, list_records, open_shards
from semg.inference.batch import INFERENCE_BATCH, probabilities, session_statistics


def ways(folder: Path, workers: int) -> dict[str, Callable[[], object]]:
    """The two ways, as functions."""
    shards = open_shards(folder, list_records(folder))
    cpu, windows = torch.device("cpu"), WindowSet(shards)
    transform = normalization.transform_of(shards, normalization.ChannelNormalization(whitening="append"))
    model = GPT2Classifier(ModelConfig(channels=2 * windows.n_channels)).eval()
    statistics = session_statistics(model, shards, transform, cpu)
    batches = Batches(windows, transform, cpu, workers)
    ready = [batches.load(index) for index in in_order(len(windows), INFERENCE_BATCH)]

    @torch.inference_mode()
    def forward() -> None:
        for batch in ready:
            model(batch.x, statistics[batch.shard]).softmax(1)

    return {"evaluation": lambda: probabilities(model, batches, statistics, INFERENCE_BATCH), "forward": forward}


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = read(arguments(__doc__, "evaluation"))
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for subject in (1, 2):
            material.shard(Path(name), 30 if args.quick else 150, subject)
        for workers in (0, 1):
            seconds = in_turns(ways(Path(name), workers), args.repeats)
            ratio = seconds["evaluation"] / seconds["forward"]
            what = f"evaluating all windows, {workers} reading ahead"
            rows.append(Row(what, "forward passes alone", ratio, 1.15, seconds=seconds))
    return report(args, rows, batch=INFERENCE_BATCH, threads=1)


if __name__ == "__main__":
    cli.run(main)
