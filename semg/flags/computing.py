"""The flag that says with how many threads a script computes: the same in every script that uses PyTorch or NumPy."""

import argparse

from semg.common import cli

CAREFUL = "1 for small models, else the cores that the job may use"


def add_threads(parser: argparse._ActionsContainer, default: str = CAREFUL) -> None:
    """Add --threads; `default` says in words how many there are without it."""
    parser.add_argument(
        "--threads",
        type=cli.whole(1),
        help=f"threads that compute on the CPU; another number may change the last digits of a result (default: "
        f"{default})",
    )
