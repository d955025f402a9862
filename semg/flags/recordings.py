"""Flags about recordings that several scripts have: each means the same everywhere."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from semg.common import cli
from semg.common.errors import UsageError
from semg.data.tables import UNITS, is_table


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
