"""The windows that an evaluation scores: the true class, the person and the time of each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from semg.data.shards import Shard, WindowSet


@dataclass(frozen=True, kw_only=True)
class ScoredWindows:
    """n windows with their true classes.

    label: (n,) indices into classes, or UNLABELLED for windows that are used for smoothing only; subject, record,
    start: (n,) person, recording and first sample of each window. rest_classes: the classes in which no gesture is
    made. rate: Hz. simulated: whether any recording was. data: how the shards were made (rate, unit, arguments) and the
    checksum of each recording's contents, for results to state.
    """

    label: np.ndarray
    subject: np.ndarray
    record: np.ndarray
    start: np.ndarray
    classes: Sequence[str]
    rest_classes: Collection[str]
    rate: float
    window_seconds: float
    stride_seconds: float
    simulated: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, windows: WindowSet, rows: np.ndarray | slice = slice(None), used: Sequence[Shard] | None = None
    ) -> "ScoredWindows":
        """The windows of some shards, all of them or those at the places `rows`.

        used: all shards that the scores depend on, such as a session's first recording, which was adapted to and is not
        scored; default: those of `windows`.
        """
        shard = windows.shards[0]
        return cls(
            label=windows.label[rows],
            subject=windows.subject[rows],
            record=windows.record[rows],
            start=windows.start[rows],
            classes=shard.classes,
            rest_classes=shard.rest_classes,
            rate=shard.rate,
            window_seconds=windows.window / shard.rate,
            stride_seconds=shard.arguments["stride"] / shard.rate,
            simulated=windows.simulated,
            data={
                "rate": shard.rate,
                "unit": shard.meta["unit"],
                "arguments": shard.arguments,
                "checksums": {one.record: one.content for one in used or windows.shards},
            },
        )
