"""The results of experiments/context.py as a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semg.common.errors import DataError
from semg.common.files import read_json

WHAT = "results of experiments/context.py"
ORDERS = ("recorded", "shuffled", "cut")


def mean(found: dict[str, float], ending: str = "") -> float:
    """The mean over the people of one condition: of the names with, or without, an `ending`."""
    return float(np.mean([value for name, value in found.items() if name.endswith(" onset") == bool(ending)]))


def table(files: Sequence[Path]) -> str:
    """Means over the people of all files, in Markdown. A person in several files (seeds) counts once, by the mean."""
    values: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for path in files:
        methods = read_json(path, WHAT).get("found")
        if not isinstance(methods, dict):
            raise DataError(f"{path}: expected {WHAT}, found another file")
        for method, by_smoother in methods.items():
            for smoother, by_order in by_smoother.items():
                row = values.setdefault((method, smoother), {how: {} for how in ORDERS})
                for how, people in by_order.items():
                    for name, value in people.items():
                        row[how].setdefault(name, []).append(value)
    lines = [f"| network | smoothed by | {' | '.join(ORDERS)} | onsets, shuffled |", "|---|---|" + "---|" * 4]
    for (method, smoother), row in values.items():
        people = {how: {name: float(np.mean(own)) for name, own in row[how].items()} for how in ORDERS}
        cells = [*(mean(people[how]) for how in ORDERS), mean(people["shuffled"], "onset")]
        lines.append(f"| {method} | {smoother} | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |")
    return "\n".join(lines)
