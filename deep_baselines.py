"""Train braindecode's networks on raw windows and score them on exactly the windows that evaluate.py scores.

Input: shards (preprocess.py) and a split, or a folder of folds (create_dataset_files.py). Output, as in evaluate.py:
OUT/<network>-raw/ (with folds: OUT/<network>-raw/<fold>/) with metrics.json, per_subject.csv, predictions.npz,
confusion_matrix.png and per_subject.png. Needs `pip install braindecode`.

  python deep_baselines.py --split splits/putemg-unseen-users                           # all three networks
  python deep_baselines.py --split splits/putemg-kfold5 --networks eegnet --epochs 20 --seed 1
  python deep_baselines.py --split splits/putemg-kfold5 --launch slurm          # folds at once; docs/many_runs.md
  python compare.py results/gpt2 results/deep-baselines

Networks: ShallowFBCSPNet (shallow), EEGNet (eegnet) and EEGConformer (conformer), with braindecode's own settings.
Whole recordings are decimated after an anti-alias filter. Each channel is divided by its root mean square over the
session (--normalize none: over the training recordings), which needs no labels. Optimiser, learning-rate schedule,
augmentation and training loop are those of train.py. The epoch with the best macro-F1 on the validation people is kept.
--classes and --no-idle work as in baselines.py: networks are trained and scored on these gestures only. See
docs/baselines.md.

A network whose training was stopped starts from the beginning. Finished ones are kept if they were made from the same
windows with the same arguments; otherwise the script stops and names the result. --overwrite makes them again.

Needs 48 / DECIMATE bytes of memory per sample of signal, and for all of putEMG a GPU. On one CPU core an epoch takes
minutes; an epoch of EEGNet takes twice as long as one of ShallowFBCSPNet, and one of EEGConformer six times as long.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semg.common import cli
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.common.files import expect_room
from semg.common.provenance import how_made, versions
from semg.data.shards import WindowSet
from semg.evaluation import baseline_results
from semg.evaluation.baseline_results import Baseline
from semg.flags import folds, shared

if TYPE_CHECKING:
    from semg.training.deep_baselines import Recipe

NETWORKS = ("shallow", "eegnet", "conformer")  # semg.training.deep_baselines imports torch; --help need not wait for it


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    p = cli.parser(__doc__)
    folds.add_data(p, out=Path("results/deep-baselines"))
    p.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to train")
    p.add_argument("--epochs", type=cli.whole(1), default=8, help="passes over the training windows")
    p.add_argument("--lr", type=cli.number(0, above=True), default=1e-3, help="peak learning rate")
    p.add_argument(
        "--decimate",
        type=cli.whole(1),
        metavar="N",
        help="keep every N-th sample, after an anti-alias filter (default: so that at least 1280 Hz remain; 4 for "
        "putEMG, 1 below 2560 Hz)",
    )
    p.add_argument(
        "--normalize",
        choices=("session", "none"),
        default="session",
        help="scale channels by their RMS over the session, or (none) over the training recordings",
    )
    p.add_argument("--seed", type=cli.whole(0), default=0, help="random seed; the same seed gives the same result")
    shared.add_computing(p, threads="1")
    folds.add_launch(p, gpus=1)
    return p


def plan(args: argparse.Namespace, windows: dict[str, dict[str, WindowSet]], splits: dict[str, str]) -> list[Baseline]:
    """The results asked for, fold by fold. splits: the checksum of each fold's split. DataError if braindecode lacks a
    network."""
    from semg.training import deep_baselines

    names = list(dict.fromkeys(args.networks))
    for name in names:
        deep_baselines.network_class(name)  # before any work
    return [
        Baseline(
            method=f"{name}-raw",
            fold=fold,
            folder=args.out / f"{name}-raw" / fold,
            settings={
                "classifier": name,
                "features": "raw",
                "network": deep_baselines.NETWORKS[name],
                "braindecode": versions("braindecode")["braindecode"],
                "recipe": recipe_of(args).to_dict(),
                "decimate": args.decimate,
                "normalize": args.normalize,
                "subset": args.subset,
                "split_sha256": splits[fold],
                "shards_sha256": baseline_results.checksum_of(windows_of_fold.values()),
                **baseline_results.restriction(windows),
            },
        )
        for fold, windows_of_fold in windows.items()
        for name in names
    ]


def recipe_of(args: argparse.Namespace) -> "Recipe":
    """The training recipe that the flags ask for."""
    from semg.training import deep_baselines
    from semg.training.optimization import OptimizerConfig

    return deep_baselines.Recipe(epochs=args.epochs, seed=args.seed, optimizer=OptimizerConfig(lr=args.lr))


def run_fold(
    baselines: Sequence[Baseline], windows: dict[str, WindowSet], args: argparse.Namespace, console: Console
) -> dict[str, float]:
    """Train and score the networks on one fold; returns the leading metric of each. A failure is reported, and the
    other networks still run."""
    from semg.inference.batch import choose_device
    from semg.training import deep_baselines
    from semg.training.loop import DivergedError
    from semg.training.threads import use_threads

    use_threads(args.threads)
    device = choose_device(args.device)
    train, val, scored = (
        deep_baselines.prepare(
            windows[name].shards,
            args.decimate,
            deep_baselines.scaled_by(windows[name].shards, args.normalize, windows["train"].shards),
            device,
            console.progress,
        )
        for name in ("train", "val", "scored")
    )
    done: dict[str, float] = {}
    for baseline in baselines:
        try:
            model = deep_baselines.build(
                baseline.settings["classifier"],
                channels=windows["train"].n_channels,
                samples=train.windows.window,
                classes=len(windows["train"].shards[0].classes),
                seed=args.seed,
            )
            epochs = deep_baselines.fit(model, train, val, recipe_of(args), console.progress, console.say)
        except DivergedError as error:
            advice = DataError(f"{baseline.name}: {error}", hint=f"give a smaller {{lr}} than {args.lr:g}")
            console.error(cli.in_words(advice))
            continue
        except DataError as error:
            console.error(cli.in_words(error))
            continue
        facts = {
            "n_train_windows": len(train.windows),
            "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "best_epoch": deep_baselines.best_epoch(epochs)["epoch"],
            "epochs": epochs,
        }
        probabilities = deep_baselines.probabilities(model, scored)
        done[baseline.name] = write(baseline, windows, probabilities, facts, args, console)
    return done


def write(
    baseline: Baseline,
    windows: dict[str, WindowSet],
    probabilities: np.ndarray,
    training: dict[str, Any],
    args: argparse.Namespace,
    console: Console,
) -> float:
    """Write a network's decisions on the scored windows; returns the leading metric. training: what metrics.json says
    about how it was trained."""
    from semg.training import deep_baselines

    facts = {
        "subset": args.subset,
        "split": (args.split / baseline.fold).as_posix(),
        "split_sha256": baseline.settings["split_sha256"],
        "normalize": args.normalize,
        **training,
        **baseline_results.restriction({baseline.fold: windows}),
        **baseline_results.known_people(windows, args.subset),
        "made": how_made("deep_baselines.py", args),
    }
    report = baseline_results.write(baseline, windows["scored"], probabilities.argmax(1), probabilities, facts)
    leading, best = deep_baselines.LEADING, deep_baselines.best_epoch(training["epochs"])
    score: float = report["mean_over_subjects"][leading.name]
    chosen = f"epoch {best['epoch']}, validation {deep_baselines.validated(best):.4f}"
    console.say(f"  {baseline.name:<28} {leading.labelled(score)} ({chosen})")
    return score


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    if args.subset == "train":
        raise UsageError("--subset train: expected a subset that is not trained on; give test")
    expect_room(args.out, "the results")
    from semg.training import deep_baselines  # imports torch, which the checks above need not wait for

    many = cli.launcher(args, args.out, console)
    split_folds = folds.chosen(args)
    subsets = {"train": ("train",), "val": ("val",), "scored": (args.subset,)}
    windows = baseline_results.open_folds(args.shards, split_folds, subsets, args.classes, no_idle=args.no_idle)
    rate = next(iter(windows.values()))["train"].shards[0].rate
    args.decimate = args.decimate or deep_baselines.usual_decimation(rate)
    console.say(f"recordings decimated by {args.decimate}, to {rate / args.decimate:g} Hz")
    baselines = plan(args, windows, {fold: split.checksum for fold, split in split_folds.items()})
    return folds.work_through(__file__, args, baselines, windows, run_fold, many, console)


if __name__ == "__main__":
    cli.run(main, again=cli.STARTS_ANEW if "--overwrite" in sys.argv else cli.GOES_ON)
