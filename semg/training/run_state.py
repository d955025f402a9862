"""How far a training run is: what last.ckpt keeps beside the tensors, and what resuming expects of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from semg.common.schema import OBJECT, TEXT, Field, is_finite, is_whole
from semg.training.band_rotation import STRENGTHS
from semg.training.loop import LoopState


@dataclass
class RunState:
    """With the tensors of last.ckpt, all that going on needs.

    training, pretraining: where the loops are. pretraining_losses: of its epochs that are done.
    pilots: the scores of those that are done, see semg/training/band_rotation.py.
    confusion: (K, K) counts of the windows trained on in the epoch that is under way; empty between epochs.
    best, best_epoch: the validation score that chooses, and whose it is; None and 0 before the first epoch's end.
    rows: metrics.jsonl.
    """

    training: LoopState = field(default_factory=LoopState)
    pretraining: LoopState = field(default_factory=LoopState)
    pretraining_losses: list[float] = field(default_factory=list)
    pilots: list[float] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunState":
        """The inverse of `to_dict`, of values that hold `expected_fields`."""
        loops = {name: LoopState(**values[name]) for name in ("training", "pretraining")}
        return cls(**{**values, **loops})


def expected_fields(classes: int) -> dict[str, Field]:
    """What the description of a last.ckpt holds, for `check_fields`."""
    count = Field("a whole number", lambda value: is_whole(value, 0))
    amount = Field("a number", is_finite)
    numbers = Field("numbers", lambda values: isinstance(values, list) and all(map(is_finite, values)))
    loop = Field(f"an object with {', '.join(LoopState().__dict__)}", _has_exactly(LoopState))
    steps = {one.name: count if one.type in (int, "int") else amount for one in fields(LoopState)}
    return {
        "config": OBJECT,
        "split": TEXT,
        "backbone": replace(OBJECT, needed=False),
        "state": Field(f"an object with {', '.join(RunState().__dict__)}", _has_exactly(RunState)),
        "state.training": loop,
        "state.pretraining": loop,
        **{f"state.{which}.{name}": kind for which in ("training", "pretraining") for name, kind in steps.items()},
        "state.pretraining_losses": numbers,
        "state.pilots": Field(
            f"at most {len(STRENGTHS)} numbers", lambda values: numbers.holds(values) and len(values) <= len(STRENGTHS)
        ),
        "state.confusion": Field(f"a table of {classes} x {classes} counts", lambda table: _is_table(table, classes)),
        "state.best": Field("a number", is_finite, needed=False),
        "state.best_epoch": count,
        "state.rows": Field("rows of metrics", lambda rows: isinstance(rows, list) and all(map(OBJECT.holds, rows))),
    }


def _has_exactly(kind: type[Any]) -> Any:
    names = {one.name for one in fields(kind)}
    return lambda value: isinstance(value, dict) and value.keys() == names


def _is_table(table: Any, size: int) -> bool:
    """A confusion matrix of so many classes, or none."""
    if not isinstance(table, list) or len(table) not in (0, size):
        return False
    square = all(isinstance(row, list) and len(row) == size for row in table)
    return square and all(is_whole(count, 0) for row in table for count in row)
