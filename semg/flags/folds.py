"""For scripts that work through a folder of folds and can run each fold as a separate job."""

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from semg.common import cli
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.common.files import read_json
from semg.common.launching import Job, Launcher, sole_writer
from semg.data.shards import WindowSet, verify, without_windows
from semg.data.splits import SUBSETS, Split, read_folds
from semg.evaluation import baseline_results, metrics
from semg.evaluation.baseline_results import Baseline
from semg.flags import shared

Windows = Mapping[str, dict[str, WindowSet]]  # fold -> name -> windows
# results of one fold, its windows -> the leading metric of each result
RunFold = Callable[[Sequence[Baseline], dict[str, WindowSet], argparse.Namespace, Console], Mapping[str, float]]


def add_data(parser: argparse.ArgumentParser, out: Path) -> None:
    """Add the flags that say what is scored and where results go. out: the default folder."""
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    parser.add_argument("--split", type=Path, default=Path("splits/default"), help="folder of a split, or of folds")
    parser.add_argument("--out", type=Path, default=out, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="make existing results again")
    parser.add_argument("--subset", choices=SUBSETS, default="test", help="which subset of the split to score")
    shared.add_classes(parser)


def add_launch(parser: argparse.ArgumentParser, gpus: int = 0) -> None:
    """Add the flags that choose folds and run them as separate jobs."""
    parser.add_argument("--only-folds", nargs="+", metavar="FOLD", help="only these folds of the split, such as fold0")
    cli.renamed(parser, "--folds", "--only-folds")
    cli.launch_flags(parser, "each fold", gpus)


def chosen(args: argparse.Namespace) -> dict[str, Split]:
    """The folds of the split, or only those that --only-folds names. UsageError for a fold that does not exist."""
    folds = read_folds(args.split, args.shards)
    if args.launch and "" in folds:
        raise UsageError(f"--launch: expected a folder of folds as --split, found one split, {args.split}")
    if missing := [name for name in args.only_folds or () if name not in folds]:
        there = ", ".join(folds) if "" not in folds else "one split without folds"
        raise UsageError(f"--only-folds {missing[0]}: expected folds of {args.split}, which has {there}")
    return {name: split for name, split in folds.items() if not args.only_folds or name in args.only_folds}


def work_through(
    script: str,
    args: argparse.Namespace,
    baselines: Sequence[Baseline],
    windows: Windows,
    run_fold: RunFold,
    many: Launcher | None,
    console: Console,
) -> int:
    """Make the missing results, fold by fold or with `many` as separate jobs; returns the exit code."""
    if many:
        return _launch(Path(script).resolve(), args, baselines, windows, many, console)
    done: dict[str, float] = {}
    with sole_writer(args.out):
        left = baseline_results.unfinished(baselines, args.overwrite)
        if len(left) < len(baselines):
            console.say(f"{len(baselines) - len(left)} of {len(baselines)} results are there already and kept")
        _verify(left, windows, console)
        for fold, own in windows.items():
            if now := [baseline for baseline in left if baseline.fold == fold]:
                console.say(baseline_results.describe(fold, own, args.subset, args.normalize))
                if absent := without_windows(own["scored"].shards):
                    where = f"{fold}: " if fold else ""
                    console.warn(f"{where}nothing to score of {', '.join(absent)}: left out")
                done |= run_fold(now, own, args, console)
    return baseline_results.finish(console, args.out, baselines, left, done)


def _launch(
    script: Path,
    args: argparse.Namespace,
    baselines: Sequence[Baseline],
    windows: Windows,
    many: Launcher,
    console: Console,
) -> int:
    """Make the missing results with one job per fold."""
    left = baseline_results.unfinished(baselines, args.overwrite)
    _verify(left, windows, console)
    folds = dict.fromkeys(baseline.fold for baseline in left)
    jobs = [Job(fold, cli.part_of_this(script, ["only_folds"], "--only-folds", fold)) for fold in folds]
    failed = set()
    for job, wrong in many.run(jobs, "folds"):
        if wrong:
            failed.add(job.name)
            console.error(f"{job.name}: {wrong}")
    code = baseline_results.finish(console, args.out, baselines, left, _scores(left, failed, console))
    return 1 if failed else code


def _verify(left: Sequence[Baseline], windows: Windows, console: Console) -> None:
    """Compare the checksums of the shards that results are still to be made of: all others need not be read."""
    folds = dict.fromkeys(baseline.fold for baseline in left)
    if shards := [shard for fold in folds for own in windows[fold].values() for shard in own.shards]:
        verify(shards, console)


def _scores(baselines: Sequence[Baseline], failed: Collection[str], console: Console) -> Mapping[str, float]:
    """The leading metric of each baseline that has a result.

    Reports results made from other data, for example if shards were made again before the job began. failed: the folds
    whose jobs failed; results that should have been overwritten may still be there.
    """
    scores = {}
    for baseline in baselines:
        try:
            if baseline_results.unfinished([baseline], overwrite=False):
                continue
        except DataError as error:
            if baseline.fold not in failed:
                console.error(f"{baseline.name}: {cli.in_words(error)}")
            continue
        report = read_json(baseline.folder / "metrics.json", "metrics of this run")
        scores[baseline.name] = report["mean_over_subjects"][metrics.leading().name]
    return scores
