"""Flags that smooth decisions over time: the same in every script that decides."""

import argparse

from semg.common import cli
from semg.evaluation.smoothing import HOLD


def add_vote(group: argparse._ActionsContainer, what: str = "also decide by") -> None:
    """--vote."""
    group.add_argument("--vote", type=cli.whole(1), default=1, metavar="K", help=f"{what} the majority of the last K")


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
