"""Flags that several scripts have: each means the same everywhere."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from semg.common import cli
from semg.common.console import Console
from semg.common.errors import UsageError
from semg.data.filters import FilterSpec
from semg.data.tables import UNITS, is_table
from semg.evaluation.smoothing import HOLD

CAREFUL = "1 for small models, else the cores that the job may use"


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """--checkpoint."""
    example = Path("checkpoints/best_model.ckpt")
    parser.add_argument("--checkpoint", type=Path, default=example, help="a best_model.ckpt")


def add_classes(group: argparse._ActionsContainer, default: str = "all") -> None:
    """--classes and --no-idle: the gestures to keep; semg/data/gestures.py makes the choice."""
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--classes", nargs="+", metavar="NAME", help=f"gestures to keep, in this order (default: {default})"
    )
    which.add_argument("--no-idle", action="store_true", help="keep all gestures, and no class without one")


def add_tables(parser: argparse.ArgumentParser) -> None:
    """--rate, --unit and --channels: what a table of samples does not say of itself."""
    tables = parser.add_argument_group("tables (.csv, .txt, .tsv, .npy)")
    tables.add_argument("--rate", type=cli.number(0, above=True), metavar="HZ", help="their sampling rate")
    tables.add_argument(
        "--unit", choices=tuple(UNITS), help="of their samples; counts: putEMG's (default: as in training)"
    )
    tables.add_argument(
        "--channels", type=cli.number_ranges, help="columns to take, such as 2-9 (default: all channels)"
    )


def check_rate(rate: float | None, recordings: Iterable[Path]) -> None:
    """UsageError where there are tables among the recordings, and no rate."""
    if rate is None and (tables := [path for path in recordings if is_table(path)]):
        raise UsageError(f"{tables[0]}: expected --rate, the sampling rate of a table in Hz, found none")


def add_windows(group: argparse._ActionsContainer) -> None:
    """--window, --stride and --transition-margin: how a recording is cut into windows."""
    group.add_argument("--window", type=cli.length, default="250ms", help="length, samples or time")
    group.add_argument("--stride", type=cli.length, default="125ms", help="window to window, samples or time")
    group.add_argument(
        "--transition-margin",
        type=cli.number(0),
        default=0.25,
        metavar="SECONDS",
        help="after a label change in which no window starts",
    )
    cli.renamed(group, "--guard", "--transition-margin")


def add_threads(parser: argparse._ActionsContainer, default: str = CAREFUL) -> None:
    """--threads; `default` says in words how many there are without it."""
    parser.add_argument(
        "--threads",
        type=cli.whole(1),
        help=f"threads that compute on the CPU; another number may change the last digits of a result (default: "
        f"{default})",
    )


def add_computing(parser: argparse._ActionsContainer, threads: str = CAREFUL) -> None:
    """--device and --threads; `threads` as the default of `add_threads`."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    add_threads(parser, threads)


def add_statistics(parser: argparse._ActionsContainer) -> None:
    """--warmup, --statistics and --save-statistics: what a stream begins with and leaves behind."""
    parser.add_argument("--warmup", type=cli.number(0), default=0.0, help="seconds heard before the first decision")
    parser.add_argument(
        "--statistics", type=Path, metavar="FILE", help="go on from what an earlier recording of the session left"
    )
    parser.add_argument(
        "--save-statistics", type=Path, metavar="FILE", help="keep what was heard, a .npz, for a later recording"
    )


def warn_of_zero_phase(trained: FilterSpec, console: Console) -> None:
    """Say that a stream is filtered otherwise than a model's training was, if it is."""
    if not trained.causal:
        console.warn(
            "trained on zero-phase filtered signals, but a stream is filtered causally; decisions may be worse: "
            "for live use train on shards of preprocess.py --causal"
        )


def add_vote(group: argparse._ActionsContainer) -> None:
    """--vote."""
    group.add_argument(
        "--vote", type=cli.whole(1), default=1, metavar="K", help="also decide by the majority of the last K"
    )


def add_smooth(group: argparse._ActionsContainer, what: str = "also decide by") -> None:
    """--smooth."""
    group.add_argument(
        "--smooth",
        type=cli.number(0),
        default=0.0,
        metavar="SECONDS",
        help=f"{what} all that came before, a hidden Markov model in which a gesture lasts SECONDS on average; "
        f"{HOLD:g} is what adapting takes (0: not)",
    )
