"""The flag --rings: which columns of a table are rings of electrodes."""

from collections.abc import Sequence
from pathlib import Path

from semg.common import cli
from semg.common.errors import DataError, UsageError

ONE_RING = range(4, 17)  # numbers of channels that are one ring by default: those of an armband


def ring(text: str) -> tuple[int, ...]:
    """The columns of a ring, such as `1-8`; `none` means no ring."""
    return () if text == "none" else cli.number_ranges(text)


def ring_places(path: Path, columns: list[int], named: list[tuple[int, ...]] | None) -> list[list[int]]:
    """For each ring of electrodes, the places of its columns among the channels. DataError for a column that is not a
    channel."""
    if named is None:
        return [list(range(len(columns)))] if len(columns) in ONE_RING else []
    if wrong := [column for one in named for column in one if column not in columns]:
        raise DataError(f"{path}: expected a channel in column {wrong[0]} (--rings), found none there")
    return [[columns.index(column) for column in one] for one in named if one]


def check_rings(rings: list[tuple[int, ...]], channels: Sequence[int] | None) -> None:
    """UsageError for impossible rings. channels: the columns of --channels, None without it."""
    columns = [column for one in rings for column in one]
    if () in rings and len(rings) > 1:
        raise UsageError("--rings none: expected no rings beside it")
    if any(len(one) == 1 for one in rings) or len(set(columns)) < len(columns):
        raise UsageError("--rings: expected rings of two columns or more, each column in one ring")
    if wrong := [column for column in columns if channels is not None and column not in channels]:
        raise UsageError(f"--rings: expected columns that --channels names, found {wrong[0]}")
