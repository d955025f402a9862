"""Tables of features for classical methods: of a fold's labelled windows, and of a session's windows regardless of
labels.

Features are hand-crafted ones (semg/evaluation/hand_crafted_features.py), the network's own (token_features.py), or
tangent vectors of covariance matrices (tangent_features.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semg.common.console import Console
from semg.common.errors import DataError
from semg.data.normalization import sessions
from semg.data.preprocessing import COMMON_RMS
from semg.data.rings import turned_by, turned_pairs
from semg.data.shards import Shard, WindowSet, open_shard
from semg.data.windows import SESSION_WINDOWS, evenly_spaced, of_session
from semg.evaluation.baseline_results import Baseline
from semg.evaluation.hand_crafted_features import FeatureExtractor, feature_names, stand_in_for_microvolt
from semg.training import classical

TOKENS = "tokens"  # the network's own features
RIEMANN = "riemann"  # tangent vectors of covariance matrices, recentred by session
BY_SESSION = (TOKENS, RIEMANN)  # features that do their own normalisation by session
ADAPTING_WINDOWS = 1000  # per recording, at most; fewer in a session of many recordings
GATHERED = 256  # windows read at once
STATISTICS_WINDOWS = 256  # per recording, for the mean and standard deviation of its session
SMALLEST_STD = 1e-6  # a feature that does not vary in a session becomes 0


@dataclass(frozen=True)
class SessionWindows:
    """A session's unlabelled windows in time order.

    x: (n, F) features; values of the same feature for all channels are adjacent; recording: (n,) the recording of each
    window; spacing: seconds from one window to the next; seconds: length of the signal. electrodes: their number;
    rings: as in a shard; copies: how many times each electrode is among the channels of x. pairs: whether features
    belong to pairs of channels, in the order of `turned_pairs`.
    """

    x: np.ndarray
    recording: np.ndarray
    spacing: float
    seconds: float
    electrodes: int
    rings: tuple[tuple[int, ...], ...]
    copies: int = 1
    pairs: bool = False

    def turned(self, x: np.ndarray, places: int) -> np.ndarray:
        """(n, F) features with every ring of electrodes rotated by `places`."""
        origin = turned_by(self.rings, self.electrodes, places, self.copies)
        if self.pairs:
            origin = turned_pairs(origin)
        return x.reshape(len(x), -1, len(origin))[:, :, origin].reshape(len(x), -1)


class HandCrafted:
    """Hand-crafted features; if `by_session`, standardised by each session's mean and standard deviation."""

    def __init__(self, shards: Sequence[Shard], extract: FeatureExtractor, by_session: bool) -> None:
        self._shards, self._extract = list(shards), extract
        self._scale: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for places in sessions(shards).values() if by_session else ():
            spread = [evenly_spaced(len(shards[p].signal), shards[p].window, STATISTICS_WINDOWS) for p in places]
            values = np.concatenate([self.of(*seen) for seen in zip(places, spread, strict=True)])
            self._scale |= dict.fromkeys(places, (values.mean(0), np.maximum(values.std(0), SMALLEST_STD)))

    def of(self, place: int, starts: np.ndarray, done: Callable[[int], object] = int) -> np.ndarray:
        """(n, k, C) float32: features of the windows that begin at the samples `starts` (n,) of the shard at
        `place`."""
        own = self._shards[place]
        shard = open_shard(own.path)  # mapped again, so that what is read is released with it
        if shard.meta["checksum"] != own.meta["checksum"]:
            raise DataError(f"{own.path}: expected the shard as it was, found it replaced; start this run again")
        table = np.empty((len(starts), self._extract.width, len(shard.channels)), np.float32)
        for at in range(0, len(starts), GATHERED):
            few = starts[at : at + GATHERED]
            batch = np.stack([shard.signal[first : first + shard.window] for first in few])
            table[at : at + len(few)] = self._extract(batch).reshape(len(few), self._extract.width, -1)
            done(len(few))
        if place in self._scale:
            mean, std = self._scale[place]
            table = (table - mean) / std
        return table


def kind_of(features: str) -> str:
    """The kind of a feature set; tables of one kind are made together: TOKENS, RIEMANN, or empty for all hand-crafted
    ones."""
    return features if features in BY_SESSION else ""


def feature_table(windows: WindowSet, source: Any, bar: Any) -> np.ndarray:
    """(n_windows, k, C) float32: the features of all windows in order. Signals are read a few windows at a time.

    source: HandCrafted, TokenFeatures or TangentFeatures of the windows' shards.
    """
    table: np.ndarray | None = None
    for place in range(len(windows.shards)):
        rows = np.flatnonzero(windows.shard == place)
        if not len(rows):
            continue
        part = source.of(place, windows.start[rows], bar.update)
        if table is None:
            table = np.empty((len(windows), *part.shape[1:]), np.float32)
        table[rows] = part
    assert table is not None  # noqa: S101  sets of windows are not empty
    return table


def _extractor(baselines: Sequence[Baseline], shard: Shard, microvolt: float) -> FeatureExtractor:
    """What computes the hand-crafted features of all baselines from recordings like `shard`.

    microvolt: the amount that is used as a microvolt in their unit.
    """
    return FeatureExtractor(
        names=tuple(dict.fromkeys(name for one in baselines for name in feature_names(one.settings["features"]))),
        rate=shard.rate,
        authors=baselines[0].settings["definitions"] == "authors",
        low=shard.arguments["low"],
        high=shard.arguments["high"],
        microvolt=microvolt,
    )


class Tables:
    """The features of a fold's windows, for all results that use the same kind of features."""

    def __init__(
        self, windows: dict[str, WindowSet], baselines: Sequence[Baseline], console: Console, threads: int
    ) -> None:
        self._windows = windows
        self._kind, self.microvolt = kind_of(baselines[0].settings["features"]), 1.0
        self._columns: tuple[str, ...] = ()
        self._sources: dict[str, Any] = {}
        if self._kind == TOKENS:
            from semg.training.threads import use_threads  # imports torch, which the other features do not need
            from semg.training.token_features import TokenFeatures

            use_threads(threads)
            self._sources = {name: TokenFeatures(own.shards) for name, own in windows.items()}
            self._turned = self._sources["train"].turned
        elif self._kind == RIEMANN:
            from semg.training.tangent_features import TangentFeatures

            self._sources = {name: TangentFeatures(own.shards) for name, own in windows.items()}
            self._turned = self._sources["train"].turned
        else:
            train, by_session = windows["train"].shards, baselines[0].settings["normalize"] == "session"
            self.microvolt = stand_in_for_microvolt(train)
            if self.microvolt != 1:
                rms = f"the training people's RMS, {COMMON_RMS * self.microvolt:.4g}, stands for {COMMON_RMS:g} uV"
                console.say(f"  features of recordings in a unit of their own: {rms}")
            extract = _extractor(baselines, train[0], self.microvolt)
            self._columns = extract.columns
            self._sources = {name: HandCrafted(own.shards, extract, by_session) for name, own in windows.items()}
            rings, electrodes = train[0].rings, len(train[0].channels)
            self._turned = np.stack([turned_by(rings, electrodes, step) for step in (-1, 0, 1)])
        with console.progress(total=sum(map(len, windows.values())), unit="window", desc="features") as bar:
            self._tables = {name: feature_table(own, self._sources[name], bar) for name, own in windows.items()}

    def of(self, name: str, features: str) -> np.ndarray:
        """(n, k, C) features of the windows called `name`: the columns of a feature set; for RIEMANN, bands by pairs of
        channels."""
        return self._tables[name][:, self._columns_of(features)]

    def train(self, features: str, rotations: bool) -> tuple[np.ndarray, np.ndarray]:
        """(n, F) features and (n,) labels for training."""
        table, label = self.of("train", features), self._windows["train"].label
        if rotations:
            table, label = classical.with_rotations(table, self._turned), np.tile(label, len(self._turned))
        return table.reshape(len(table), -1), label

    def unlabelled(self, name: str, places: Sequence[int], features: str) -> np.ndarray:
        """(n, F) features of windows spread over whole recordings, regardless of their labels."""
        shards, source = self._windows[name].shards, self._sources[name]
        most = min(ADAPTING_WINDOWS, max(1, SESSION_WINDOWS // len(places)))
        starts = [evenly_spaced(len(shards[p].signal), shards[p].window, most) for p in places]
        table = np.concatenate([source.of(*seen) for seen in zip(places, starts, strict=True)])
        return table[:, self._columns_of(features)].reshape(len(table), -1)

    def session(self, name: str, places: Sequence[int], features: str) -> SessionWindows:
        """The windows that the network, too, would adapt to a session on, see `of_session`."""
        shards, source = self._windows[name].shards, self._sources[name]
        own = [shards[p] for p in places]
        stride = own[0].arguments["stride"]
        starts, step = of_session([len(shard.signal) for shard in own], own[0].window, stride)
        tables = [source.of(p, at)[:, self._columns_of(features)] for p, at in zip(places, starts, strict=True)]
        table, pairs = np.concatenate(tables), self._kind == RIEMANN
        return SessionWindows(
            x=table.reshape(len(table), -1),
            recording=np.repeat(np.arange(len(starts)), [len(at) for at in starts]),
            spacing=step / own[0].rate,
            seconds=sum(len(shard.signal) for shard in own) / own[0].rate,
            electrodes=len(own[0].channels),
            rings=own[0].rings,
            copies=1 if pairs else table.shape[2] // len(own[0].channels),
            pairs=pairs,
        )

    def _columns_of(self, features: str) -> Any:
        if self._kind in BY_SESSION:
            return slice(None)
        names = feature_names(features)
        return [i for i, column in enumerate(self._columns) if column.partition("_")[0] in names]
