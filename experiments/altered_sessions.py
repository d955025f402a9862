"""Sessions altered as real sessions may differ from the training people's, for no_harm.py."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from semg.common.errors import DataError
from semg.data.rings import turned_by
from semg.data.shards import Shard, second_moment

KINDS = {
    "plain": "as it is",
    "first": "first recording alone",
    "three": "3 of the gestures, idle among them",
    "idle": "idle alone",
    "idle60": "idle 60 %",
    "idle80": "idle 80 %",
    "short": "20 s",
    "dead": "one dead channel, the third",
    "rotated": "rings turned by one place",
}
SECONDS = 20.0  # of `short`
DEAD = 2  # channel, counted from 0
Piece = tuple[int, int]  # of a recording: its first sample, and the sample after its last


def altered(session: Sequence[Shard], kind: str, idle: str) -> list[Shard]:
    """A session's labelled recordings, in order and in memory, altered as `kind` of KINDS says; always in the same way.

    idle: the class without a gesture. Recordings of which less than a window remains are left out. Raises DataError if
    there are fewer than two gestures to choose from.
    """
    rest = session[0].classes.index(idle)
    if kind in ("plain", "first"):
        return list(session)
    if kind == "dead":
        return [_with_signal(one, _silenced(np.array(one.signal))) for one in session]
    if kind == "rotated":
        return [_with_signal(one, one.signal[:, turned_by(one.rings, len(one.channels), 1)]) for one in session]
    if kind == "short":
        return [_middle(session[len(session) // 2])]
    share = float(kind[4:] or 100) / 100 if kind != "three" else 0.0
    kept = _of_idle_share(session, rest, share) if share else _of_three(session, rest)
    parts = [_joined(one, pieces) for one, pieces in zip(session, kept, strict=True) if pieces]
    return [one for one in parts if len(one.signal) >= one.window]


def runs(shard: Shard) -> list[tuple[int, Piece]]:
    """(class, piece) of each segment of one gesture from its first window to the end of its last, in time order."""
    windows = shard.windows
    ends = np.flatnonzero(np.diff(windows["label"]) | np.diff(windows["repetition"])) + 1
    parts = [part for part in np.split(windows, ends) if len(part)]
    return [(int(one["label"][0]), (int(one["start"][0]), int(one["start"][-1]) + shard.window)) for one in parts]


def _gestures(session: Sequence[Shard], rest: int) -> list[int]:
    """The session's classes except idle, in order."""
    return sorted({label for one in session for label, _ in runs(one)} - {rest})


def _of_three(session: Sequence[Shard], rest: int) -> list[list[Piece]]:
    """Each recording's pieces of idle and two gestures, drawn by the subject's number."""
    gestures = _gestures(session, rest)
    if len(gestures) < 2:
        raise DataError(f"{session[0].path}: expected two gestures beside idle in its session, found {len(gestures)}")
    number = int("".join(filter(str.isdecimal, session[0].subject)) or 0)
    kept = {rest, *np.random.default_rng(number).choice(gestures, 2, replace=False).tolist()}
    return [[piece for label, piece in runs(one) if label in kept] for one in session]


def _of_idle_share(session: Sequence[Shard], rest: int, share: float) -> list[list[Piece]]:
    """Each recording's pieces: all of idle, and of each gesture as much, from its first on, as idle's share asks."""
    gestures = _gestures(session, rest)
    idle = sum(end - begin for one in session for label, (begin, end) in runs(one) if label == rest)
    left = {label: idle * (1 - share) / share / len(gestures) for label in gestures}
    kept: list[list[Piece]] = []
    for one in session:
        pieces = []
        for label, (begin, end) in runs(one):
            length = end - begin if label == rest else int(min(left[label], end - begin))
            if length < one.window:
                left[label] = 0.0
                continue
            if label != rest:
                left[label] -= length
            pieces.append((begin, begin + length))
        kept.append(pieces)
    return kept


def _middle(shard: Shard) -> Shard:
    """SECONDS from the middle of a recording, or all of a shorter one."""
    length = int(SECONDS * shard.rate)
    begin = max(0, len(shard.signal) // 2 - length // 2)
    return _joined(shard, [(begin, min(begin + length, len(shard.signal)))])


def _joined(shard: Shard, pieces: Sequence[Piece]) -> Shard:
    """The recording's pieces one after another, with the windows that lie in one of them."""
    windows, at = [], 0
    for begin, end in pieces:
        start = shard.windows["start"]
        own = shard.windows[(start >= begin) & (start + shard.window <= end)].copy()
        for name in ("start", "low", "high"):
            own[name] += at - begin
        windows.append(own)
        at += end - begin
    signal = np.concatenate([shard.signal[begin:end] for begin, end in pieces])
    return _with_signal(shard, signal, np.concatenate(windows))


def _silenced(signal: np.ndarray) -> np.ndarray:
    signal[:, DEAD] = 0
    return signal


def _with_signal(shard: Shard, signal: np.ndarray, windows: np.ndarray | None = None) -> Shard:
    """The shard, in memory, with another signal (T, C) and its windows, and with the signal's length and power."""
    facts = {"n_samples": len(signal), "second_moment": second_moment(signal).tolist()}
    return replace(
        shard, source=signal, windows=shard.windows if windows is None else windows, meta={**shard.meta, **facts}
    )
