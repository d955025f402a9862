"""Flags that several scripts have; each means the same everywhere."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from semg.common import cli
from semg.common.console import Console, listed
from semg.common.errors import SettingError, UsageError
from semg.common.files import expect_file
from semg.data.filters import FilterSpec
from semg.data.tables import TABLES, UNITS, is_table
from semg.evaluation.smoothing import HOLD

CAREFUL = "1 for small models, otherwise all cores that the job may use"


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint."""
    example = Path("checkpoints/best_model.ckpt")
    parser.add_argument(
        "--checkpoint", type=Path, default=example, help="the trained model, a best_model.ckpt or a folder of export.py"
    )


def add_classes(group: argparse._ActionsContainer, default: str = "all") -> None:
    """Add --classes and --no-idle, the gestures to keep; semg/data/gestures.py applies them."""
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--classes", nargs="+", metavar="NAME", help=f"gestures to keep, in this order (default: {default})"
    )
    which.add_argument(
        "--no-idle", action="store_true", help="keep all gestures, but no class in which none is made (idle, rest)"
    )


def add_tables(parser: argparse.ArgumentParser) -> None:
    """Add --rate, --unit and --channels: facts that a table of samples does not contain."""
    tables = parser.add_argument_group("tables (.csv, .txt, .tsv, .npy)")
    tables.add_argument("--rate", type=cli.number(0, above=True), metavar="HZ", help="sampling rate")
    tables.add_argument(
        "--unit",
        choices=tuple(UNITS),
        help="unit of the samples; counts: ADC counts of putEMG's device (default: as in training, or another that the "
        "signal's strength shows, with a warning)",
    )
    tables.add_argument(
        "--channels",
        type=cli.number_ranges,
        help="columns to use, such as 2-9 (default: those named like the model's channels, otherwise all channels)",
    )


def check_tables(args: argparse.Namespace, recordings: Sequence[Path]) -> None:
    """UsageError for a table without --rate, and for flags of `add_tables` if no recording is a table.

    DataError if the table without --rate is not there: its name may be mistyped.
    """
    tables = [path for path in recordings if is_table(path)]
    if tables and args.rate is None:
        expect_file(tables[0], "a table of samples")
        raise UsageError(f"{tables[0]}: expected --rate, the sampling rate of a table in Hz, found none")
    given = [name for name in ("rate", "unit", "channels") if getattr(args, name) is not None]
    if given and not tables:
        kinds, files = ", ".join(TABLES), listed([path.name for path in recordings])
        raise UsageError(f"--{given[0]}: expected a table ({kinds}), which it is for, found {files}; leave it out")


def check_notch(notch: Sequence[float]) -> None:
    """SettingError for a frequency that --notch names twice: it would be filtered out twice."""
    if twice := [one for one in notch if list(notch).count(one) > 1]:
        raise SettingError("notch", "each frequency once", f"{twice[0]:g} Hz twice")


def expect_alone(args: argparse.Namespace, setting: str) -> None:
    """UsageError for any flag beside that of `setting`, except those for messages: it would have no effect."""
    allowed = (setting, "quiet", "json", "debug")
    if others := [name for name in vars(args) if name not in allowed and cli.given(name)]:
        flag = f"--{others[0].replace('_', '-')}"
        raise UsageError(f"--{setting}: expected no other flag beside it, found {flag}, which it does not use")


def add_windows(group: argparse._ActionsContainer) -> None:
    """Add --window, --stride and --transition-margin: how a recording is cut into windows."""
    group.add_argument("--window", type=cli.length, default="250ms", help="length of a window, in samples or time")
    group.add_argument(
        "--stride", type=cli.length, default="125ms", help="step from one window to the next, in samples or time"
    )
    group.add_argument(
        "--transition-margin",
        type=cli.number(0),
        default=0.25,
        metavar="SECONDS",
        help="time after a change of label in which no window starts",
    )
    cli.renamed(group, "--guard", "--transition-margin")


def add_threads(parser: argparse._ActionsContainer, default: str = CAREFUL) -> None:
    """Add --threads. default: words that describe the number used without it."""
    parser.add_argument(
        "--threads",
        type=cli.whole(1),
        help=f"CPU threads for computing; another number may change the last digits of a result (default: {default})",
    )


def add_computing(parser: argparse._ActionsContainer, threads: str = CAREFUL) -> None:
    """Add --device and --threads. threads: the default of `add_threads`."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="device to compute on")
    add_threads(parser, threads)


def add_statistics(parser: argparse._ActionsContainer) -> None:
    """Add --start-after, --statistics and --save-statistics: what a stream starts from and what it leaves behind."""
    parser.add_argument(
        "--start-after",
        type=cli.number(0),
        default=0.0,
        metavar="SECONDS",
        help="length of signal before the first decision",
    )
    cli.renamed(parser, "--warmup", "--start-after")
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="FILE",
        help="start from the statistics that --save-statistics stored for an earlier recording of the session",
    )
    parser.add_argument(
        "--save-statistics",
        type=Path,
        metavar="FILE",
        help="store the session's statistics in this .npz, for --statistics with a later recording",
    )


def warn_of_zero_phase(trained: FilterSpec, console: Console) -> None:
    """Warn if a stream is filtered differently than the signals that the model was trained on."""
    if not trained.causal:
        console.warn(
            "trained on zero-phase filtered signals, but a stream is filtered causally; decisions may be worse: "
            "for live use train on shards of preprocess.py --causal, or import_csv.py --causal"
        )


def add_vote(group: argparse._ActionsContainer) -> None:
    """Add --vote."""
    group.add_argument(
        "--vote",
        type=cli.whole(1),
        default=1,
        metavar="K",
        help="also decide by the majority of the last K windows; 1: off",
    )


def add_smooth(group: argparse._ActionsContainer, what: str = "also decide by") -> None:
    """Add --smooth. what: the beginning of its help."""
    group.add_argument(
        "--smooth",
        type=cli.number(0),
        default=0.0,
        metavar="SECONDS",
        help=f"{what} a hidden Markov model of all windows so far, in which a gesture lasts SECONDS on average "
        f"(adaptation uses {HOLD:g}); 0: off",
    )
