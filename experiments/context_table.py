"""The results of experiments/context.py as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.errors import DataError
from semg.common.files import read_json
from semg.common.schema import is_finite

WHAT = "results of experiments/context.py"
ORDERS = ("recorded", "shuffled", "cut")
ONSET = " onset"  # end of a person's name, for the score just after the beginning of gestures


def mean(scores: dict[str, float], *, onset: bool = False) -> float:
    """The mean over people in one order of the recording. scores: by person; onset: those of ONSET instead."""
    return float(np.mean([value for name, value in scores.items() if name.endswith(ONSET) == onset]))


def table(files: Sequence[Path]) -> str:
    """Means over the people of all files, in Markdown. A person in several files (seeds) counts once, by the mean.
    DataError for a file of something else."""
    values: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for path in files:
        for method, by_smoother in methods_of(path).items():
            for smoother, by_order in by_smoother.items():
                row = values.setdefault((method, smoother), {how: {} for how in ORDERS})
                for how in ORDERS:
                    for name, value in by_order[how].items():
                        row[how].setdefault(name, []).append(value)
    lines = [f"| network | smoothed by | {' | '.join(ORDERS)} | onsets, shuffled |", "|---|---|" + "---|" * 4]
    for (method, smoother), row in values.items():
        people = {how: {name: float(np.mean(own)) for name, own in row[how].items()} for how in ORDERS}
        cells = [*(mean(people[how]) for how in ORDERS), mean(people["shuffled"], onset=True)]
        lines.append(f"| {method} | {smoother} | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |")
    return "\n".join(lines)


def methods_of(path: Path) -> dict[str, Any]:
    """Method -> smoother -> order -> person -> score. DataError for a file of something else."""
    methods = read_json(path, WHAT).get("found")
    smoothers = [by_smoother for _, by_smoother in _items(methods)]
    orders = [by_order for by_smoother in smoothers for _, by_order in _items(by_smoother)]
    if not orders or not all(map(_items, smoothers)) or not all(map(_has_all_orders, orders)):
        raise DataError(f"{path}: expected {WHAT}, found another file")
    return dict(_items(methods))


def _items(value: object) -> list[tuple[str, Any]]:
    """The items of a JSON object; none for another value."""
    return list(value.items()) if isinstance(value, dict) else []


def _has_all_orders(by_order: object) -> bool:
    """Whether people have scores in each of ORDERS, in general and after the beginning of gestures."""
    people = [dict(_items(dict(_items(by_order)).get(how))) for how in ORDERS]
    both = all({name.endswith(ONSET) for name in one} == {False, True} for one in people)
    return both and all(map(is_finite, (value for one in people for value in one.values())))
