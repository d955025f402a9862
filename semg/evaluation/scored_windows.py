"""The windows that an evaluation scores: what is true of each, whose it is, and when it was."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from semg.data.shards import WindowSet


@dataclass(frozen=True, kw_only=True)
class ScoredWindows:
    """n windows with their truth.

    label: (n,) indices into classes, or UNLABELLED of windows that serve to smooth decisions alone; subject, record,
    start: (n,) whose window, of which recording, from which sample on. rest_classes: those of classes in which no
    gesture is made. rate: Hz. simulated: whether some recording was.
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

    @classmethod
    def of(cls, windows: WindowSet, rows: np.ndarray | slice = slice(None)) -> "ScoredWindows":
        """Those of some shards, all or those at the places `rows`."""
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
        )
