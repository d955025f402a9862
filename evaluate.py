"""Score a trained model on one part of a split: the test people, unless told otherwise.

Input: a checkpoint (train.py), shards made as its training data was (preprocess.py), a split. Output, in OUT:
  metrics.json           accuracy, balanced accuracy, macro-F1 and more, over all windows and person by person,
                         with means, standard deviations and 95 % intervals over people, and how it was made
  per_subject.csv        one row a person
  predictions.npz        each window's recording, start, label, prediction and probabilities
  confusion_matrix.png, per_subject.png

  python evaluate.py                                                   # the shipped example, after `make demo`
  python evaluate.py --checkpoint checkpoints/RUN/best_model.ckpt --shards data/shards --split splits/NAME
  python evaluate.py --checkpoint ... --vote 5                         # also the majority over the last 5 windows

Left out, --shards and --split are those that the checkpoint was trained with.

Normalisation looks at no label. With a model trained under `--normalize session`, each person's signals are scaled
by that session's own statistics, so a result says how well a new person is read once some minutes of their signal
have been seen. --normalize online scores such a model as a live device would decide: each window is normalised by
what had been heard of the session until its end, from the first second on; metrics.json says which it was.

Takes about 10 s for 10,000 windows of a small model on two CPU cores.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import GPT2Classifier
from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import checksum, folder_lock
from semg.common.provenance import how_made
from semg.data.batches import Batches
from semg.data.shards import Shard, WindowSet, open_shards
from semg.data.splits import SUBSETS, Split, read_split
from semg.evaluation.report import summary, write_results
from semg.inference.batch import (
    build_model,
    channel_normalization_of,
    check_same_data,
    choose_device,
    open_model,
    open_windows,
    probabilities,
    statistics_for,
    transform_for,
)
from semg.inference.checkpoint import Checkpoint, weights_file
from semg.inference.online_evaluation import online_probabilities


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("checkpoints/best_model.ckpt"), help="a best_model.ckpt"
    )
    parser.add_argument("--shards", type=Path, help="folder of shards (default: as in training)")
    parser.add_argument("--split", type=Path, help="folder of the split (default: as in training)")
    parser.add_argument("--subset", choices=SUBSETS, default="test", help="which subset of the split to score")
    parser.add_argument("--out", type=Path, help="folder to write (default: results/ and the run's name)")
    parser.add_argument("--batch-size", type=cli.whole(1), default=512, help="windows at once")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--amp", choices=("auto", "bf16", "fp32"), default="fp32", help="auto: bf16 on CUDA")
    parser.add_argument(
        "--workers", type=cli.whole(0), default=0, help="threads that read windows ahead, for shards on a slow disk"
    )
    parser.add_argument(
        "--normalize",
        type=cli.renamed_values(running="online"),
        choices=("trained", "online"),
        default="trained",
        help="as in training, or causally by what the session has shown so far",
    )
    parser.add_argument("--vote", type=cli.whole(1), default=1, metavar="K", help="also decide by the last K windows")
    return parser


def warn_of_leaks(checkpoint: Checkpoint, shards: list[Shard], subset: str, console: cli.Console) -> list[str]:
    """Say loudly which of the people scored were trained on; returns them."""
    seen = sorted(set(checkpoint.description["trained_on"]) & {shard.subject for shard in shards})
    if seen:
        console.warn(
            f"PEOPLE OF THE {subset.upper()} SET WERE TRAINED ON: {', '.join(seen)}. "
            "This result says nothing about people the model has not seen."
        )
    records = set(checkpoint.description["split"]["train"])
    if same := sorted(shard.record for shard in shards if shard.record in records):
        console.warn(f"RECORDINGS OF THE {subset.upper()} SET WERE TRAINED ON: {len(same)}, such as {same[0]}.")
    return seen


def decide(
    model: GPT2Classifier, checkpoint: Checkpoint, windows: WindowSet, args: argparse.Namespace, console: cli.Console
) -> np.ndarray:
    """(n, K) probabilities of the windows, normalised as --normalize says."""
    channel_normalization, device = channel_normalization_of(checkpoint), next(model.parameters()).device
    bf16 = args.amp == "bf16" or (args.amp == "auto" and device.type == "cuda")
    autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else None
    if args.normalize == "online":
        stride = windows.shards[0].arguments["stride"]

        def bar(sessions: Iterable[Any]) -> Iterable[Any]:
            return console.progress(sessions, unit="session")

        return online_probabilities(
            model, channel_normalization, windows, stride, device, args.batch_size, autocast, bar
        )
    transform = transform_for(checkpoint, windows.shards)
    statistics = statistics_for(model, channel_normalization.method, windows.shards, transform, device)
    total = -(-len(windows) // args.batch_size)
    return probabilities(
        model,
        Batches(windows, transform, device, args.workers),
        statistics,
        args.batch_size,
        autocast,
        lambda steps: console.progress(steps, total=total, unit="batch"),
    )


def score(
    model: GPT2Classifier,
    checkpoint: Checkpoint,
    shards: list[Shard],
    split: Split,
    args: argparse.Namespace,
    console: cli.Console,
) -> dict[str, Any]:
    """Run the model over all windows of the shards and write the results."""
    channel_normalization = channel_normalization_of(checkpoint)
    online = args.normalize == "online"
    if online and channel_normalization.method != "session":
        raise UsageError(
            f"--normalize online: expected a model trained by session, found {channel_normalization.method}"
        )
    windows = open_windows(shards)
    found = decide(model, checkpoint, windows, args, console)
    seen = warn_of_leaks(checkpoint, shards, args.subset, console)
    return write_results(
        args.out,
        label=windows.label,
        prediction=found.argmax(1),
        probabilities=found,
        subject=windows.subject,
        record=windows.record,
        start=windows.start,
        classes=shards[0].classes,
        rest_classes=shards[0].rest_classes,
        simulated=any(shard.simulated for shard in shards),
        vote=args.vote,
        rate=shards[0].rate,
        window_seconds=windows.window / shards[0].rate,
        stride_seconds=shards[0].arguments["stride"] / shards[0].rate,
        extra={
            "subset": args.subset,
            "checkpoint": args.checkpoint.as_posix(),
            "checkpoint_sha256": checksum(weights_file(args.checkpoint)),
            "split": args.split.as_posix(),
            "split_sha256": split.checksum,
            "normalize": "online" if online else channel_normalization.method,
            "whitening": channel_normalization.whitening,
            "trained_on_subjects_scored": seen,
            "made": how_made("evaluate.py", args),
        },
    )


def fill_defaults(args: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """Take what was not given from the checkpoint's own training."""
    trained = checkpoint.description
    args.shards = args.shards or Path(trained["shards"])
    args.split = args.split or Path(trained["split"]["folder"])
    args.out = args.out or Path("results") / trained["run"]
    if not args.shards.is_dir():
        raise DataError(
            f"{args.shards}: expected a folder of shards (--shards), found none; preprocess.py makes "
            "it, and `make demo` that of the shipped example"
        )


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    checkpoint = open_model(args.checkpoint)
    fill_defaults(args, checkpoint)
    split = read_split(args.split, args.shards)
    shards = open_shards(args.shards, split.records(args.subset), verify=True)
    check_same_data(checkpoint, shards[0])
    model = build_model(checkpoint).to(choose_device(args.device))
    with folder_lock(args.out):
        report = score(model, checkpoint, shards, split, args, console)
    console.say(summary(report))
    means = report["mean_over_subjects"]
    subjects = cli.counted(report["n_subjects"], "person", "people")
    console.finish(
        f"{args.out}: macro-F1 {means['macro_f1']:.4f}, accuracy {means['accuracy']:.4f} (means over {subjects} of the "
        f"{args.subset} set); pictures and metrics.json are there; next: python compare.py {args.out} ...",
        out=args.out.as_posix(),
        mean_over_subjects=means,
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
