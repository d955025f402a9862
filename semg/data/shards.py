"""Shards: one filtered recording each, with its table of windows; and the windows of many shards together.

A shard is a folder of three files that must agree:
  signal.npy    (time, channels) float16, microvolts, memory-mapped when read
  windows.npy   one row a window, see WINDOW_FIELDS
  shard.json    how it was made, what it holds, the checksums of the other two
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.errors import DataError
from semg.common.files import atomic_folder, checksum, read_json, write_json
from semg.common.schema import COUNT, POSITIVE, TEXT, TEXTS, Field, check_fields, number, text, whole
from semg.data.windows import WINDOW_FIELDS

FORMAT_VERSION = 1
_OLD = ".old.tmp"  # ends the name under which atomic_folder keeps an old folder for a moment
REDO = "run preprocess.py {overwrite}"
_ATTEMPTS = 50  # of opening a shard that is being rewritten; a second in all


# --- one shard ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """One opened shard. `signal` (T, C) is memory-mapped, float16 microvolts; `windows` of WINDOW_FIELDS."""

    path: Path
    meta: dict[str, Any]
    signal: np.ndarray
    windows: np.ndarray

    @property
    def record(self) -> str:
        """The recording's name."""
        return self.meta["record"]

    @property
    def subject(self) -> str:
        """The person, two digits."""
        return self.meta["subject"]

    @property
    def date(self) -> str:
        """The day of recording, YYYY-MM-DD."""
        return self.meta["date"]

    @property
    def session(self) -> str:
        """One person on one day: the electrodes stayed on."""
        return f"{self.subject}/{self.date}"

    @property
    def trajectory(self) -> str:
        """What the person was asked to do: repeats_long, sequential or repeats_short."""
        return self.meta["trajectory"]

    @property
    def rate(self) -> float:
        """Sampling rate in Hz."""
        return self.meta["rate"]

    @property
    def simulated(self) -> bool:
        """Whether simulate_putemg.py made the recording: whatever comes of it has to say so."""
        return self.meta.get("simulated", False)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the signal's columns."""
        return tuple(self.meta["channels"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Gesture names; a window's label is an index into them."""
        return tuple(self.meta["classes"])

    @property
    def arguments(self) -> dict[str, Any]:
        """The filter and window arguments the shard was made with."""
        return self.meta["arguments"]

    @property
    def window(self) -> int:
        """Samples of a window."""
        return self.arguments["window"]

    @property
    def second_moment(self) -> np.ndarray:
        """(C, C) mean over the recording of x x^T, in uV^2: what label-free normalisation needs."""
        return np.array(self.meta["second_moment"], np.float64)


def write_shard(path: Path, meta: dict[str, Any], signal: np.ndarray, windows: np.ndarray) -> None:
    """Write a shard in place of whatever is at `path`.

    meta: at least record, subject, date, time, trajectory, rate, channels, classes, arguments; counts, statistics and
    checksums are added here. signal: (T, C) float16 microvolts. windows: WINDOW_FIELDS.
    """
    counts = np.bincount(windows["label"], minlength=len(meta["classes"]))
    with atomic_folder(path) as folder:
        np.save(folder / "signal.npy", signal, allow_pickle=False)
        np.save(folder / "windows.npy", windows, allow_pickle=False)
        whole = {
            "format_version": FORMAT_VERSION,
            **meta,
            "n_samples": len(signal),
            "n_windows": len(windows),
            "class_counts": {name: int(n) for name, n in zip(meta["classes"], counts, strict=True)},
            "second_moment": _second_moment(signal).tolist(),
            "files": {name: _file_facts(folder / name) for name in ("signal.npy", "windows.npy")},
        }
        whole["checksum"] = meta_checksum(whole)
        write_json(folder / "shard.json", whole)


def _second_moment(signal: np.ndarray) -> np.ndarray:
    """(C, C) mean of x x^T, summed in blocks so that no float64 copy of the signal is made."""
    total = np.zeros((signal.shape[1], signal.shape[1]))
    for start in range(0, len(signal), 1 << 16):
        block = signal[start : start + (1 << 16)].astype(np.float32)
        total += block.T @ block
    return total / max(1, len(signal))


def _file_facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": checksum(path)}


def meta_checksum(meta: dict[str, Any]) -> str:
    """Checksum of shard.json's content but for the checksum itself."""
    rest = {key: value for key, value in meta.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def list_records(folder: Path) -> list[str]:
    """Names of the shards in a folder, sorted."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of shards, found none; run preprocess.py first")
    found = _shard_names(folder)
    while (again := _shard_names(folder)) != found:  # a folder may be renamed while its neighbours' names are read
        found = again
    return sorted(found)


def _shard_names(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        found = {entry.name for entry in entries if entry.is_dir()}
    # a shard that is being rewritten has for a moment only the name its old folder was put under
    moved = {name[1:].removesuffix(_OLD) for name in found if name.startswith(".") and name.endswith(_OLD)}
    return {name for name in found if not name.startswith(".")} | moved


def read_meta(path: Path) -> dict[str, Any]:
    """A shard's shard.json, checked against its own checksum and this code's format version."""
    meta = read_json(path / "shard.json", "a shard's description")
    if meta.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path}: expected shard format {FORMAT_VERSION}, found {meta.get('format_version')}",
            REDO,
        )
    if meta.get("checksum") != meta_checksum(meta):
        raise DataError(f"{path / 'shard.json'}: expected its checksum, found another", REDO)
    check_fields(path / "shard.json", meta, _FIELDS, "a shard's description", REDO)
    return meta


def open_shard(path: Path, *, verify: bool = False) -> Shard:
    """Open one shard; `verify` also compares the files' checksums. DataError if the three files disagree.

    While preprocess.py puts another folder in its place, the old shard or the new one is opened.
    """
    for attempt in range(_ATTEMPTS):
        folder = _identity(path)
        try:
            shard = _open_once(path, verify)
        except (DataError, OSError):
            swapped = _identity(path) != folder or _being_rewritten(path)
            if attempt == _ATTEMPTS - 1 or not swapped:
                raise
            time.sleep(0.02)
        else:
            if _identity(path) == folder:  # else some files may be the old folder's and some the new one's
                return shard
    raise DataError(f"{path}: expected a shard at rest, found one that is rewritten all the time; try later")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which folder bears the name `path` now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _being_rewritten(path: Path) -> bool:
    """Whether preprocess.py is at it, between its two renames perhaps."""
    return any(path.with_name(f".{path.name}{end}").exists() for end in (".tmp", _OLD))


def _open_once(path: Path, verify: bool) -> Shard:
    if not path.is_dir():
        raise DataError(f"{path}: expected a shard, found no such folder; run preprocess.py")
    meta = read_meta(path)
    if meta["record"] != path.name:
        raise DataError(f"{path}: expected the shard of {path.name}, found that of {meta['record']}")
    for name, facts in meta["files"].items():
        _check_file(path / name, facts, verify)
    signal = _load(path / "signal.npy", memory_map=True)
    windows = _load(path / "windows.npy", memory_map=False)
    _check_arrays(path, meta, signal, windows)
    return Shard(path, meta, signal, windows)


def _check_file(path: Path, facts: dict[str, Any], verify: bool) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != facts["bytes"]:
        found = "no such file" if size is None else f"{size} bytes"
        raise DataError(f"{path}: expected {facts['bytes']} bytes, found {found}", REDO)
    if verify and checksum(path) != facts["sha256"]:
        raise DataError(f"{path}: expected the checksum in shard.json, found another", REDO)


def _load(path: Path, *, memory_map: bool) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False)
        return array.view(np.ndarray)  # of a np.memmap, each slice would take microseconds: as long as copying a window
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise DataError(f"{path}: expected a NumPy array, found {error}", REDO) from None


def _check_arrays(path: Path, meta: dict[str, Any], signal: np.ndarray, windows: np.ndarray) -> None:
    shape = (meta["n_samples"], len(meta["channels"]))
    if signal.shape != shape or signal.dtype != np.float16:
        raise DataError(f"{path}: expected a float16 signal of shape {shape}, found {signal.dtype} {signal.shape}")
    if [len(row) for row in meta["second_moment"]] != [shape[1]] * shape[1]:
        raise DataError(f"{path}: expected a second_moment of {shape[1]} x {shape[1]} numbers, found another shape")
    if windows.dtype != WINDOW_FIELDS or len(windows) != meta["n_windows"]:
        raise DataError(f"{path}: expected {meta['n_windows']} windows, found another table; run preprocess.py")
    if len(windows) == 0:
        return
    inside = windows["low"].min() >= 0 and windows["high"].max() + meta["arguments"]["window"] <= shape[0]
    ordered = np.all((windows["low"] <= windows["start"]) & (windows["start"] <= windows["high"]))
    known = windows["label"].min() >= 0 and windows["label"].max() < len(meta["classes"])
    if not (inside and ordered and known):
        raise DataError(f"{path}: expected windows inside the recording with known labels, found others")


def _are_facts(files: Any) -> bool:
    """Whether shard.json's `files` names both files, and no other that would be read for it."""
    if not isinstance(files, dict) or set(files) != {"signal.npy", "windows.npy"}:
        return False
    return all(isinstance(one, dict) and whole(one.get("bytes")) and text(one.get("sha256")) for one in files.values())


def _are_numbers(row: Any) -> bool:
    return isinstance(row, list) and all(map(number, row))


_FIELDS = {  # whoever wrote it: a checksum alone can be made for anything
    **dict.fromkeys(("record", "subject", "date", "time", "trajectory"), TEXT),
    **dict.fromkeys(("channels", "classes"), TEXTS),
    **dict.fromkeys(("arguments.window", "arguments.stride"), COUNT),
    "rate": POSITIVE,
    "simulated": Field("true or false", lambda value: isinstance(value, bool), needed=False),
    "n_samples": COUNT,
    "n_windows": Field("a whole number", lambda value: whole(value, 0)),
    "files": Field("sizes and checksums of signal.npy and windows.npy", _are_facts),
    "second_moment": Field("rows of numbers", lambda rows: isinstance(rows, list) and all(map(_are_numbers, rows))),
}
_MUST_AGREE = ("rate", "channels", "classes", "arguments")


def open_shards(folder: Path, records: Sequence[str], *, verify: bool = False) -> list[Shard]:
    """Open the shards of `records` in that order. DataError if one is missing or was made differently."""
    missing = [name for name in records if not (folder / name).is_dir() and not _being_rewritten(folder / name)]
    if missing:
        raise DataError(
            f"{folder}: expected a shard for each of {len(records)} records, "
            f"found none for {len(missing)} of them, such as {missing[0]}; run preprocess.py"
        )
    opened = [open_shard(folder / name, verify=verify) for name in records]
    check_alike(opened)
    return opened


def check_alike(shards: Sequence[Shard]) -> None:
    """DataError, naming the first difference, unless all shards were made with the same arguments."""
    for shard in shards[1:]:
        for key in _MUST_AGREE:
            if shard.meta[key] != shards[0].meta[key]:
                raise DataError(
                    f"{shard.path}: expected the {difference(shards[0].meta, shard.meta, key)}, as in "
                    f"{shards[0].record}",
                    REDO,
                )


def difference(expected: dict[str, Any], found: dict[str, Any], key: str) -> str:
    """`window 1280, found 2500`: the first thing in which two descriptions differ under `key`."""
    left, right = expected.get(key), found.get(key)
    if isinstance(left, dict) and isinstance(right, dict):
        for name in [*left, *right]:
            if left.get(name) != right.get(name):
                return f"{name} {left.get(name)}, found {right.get(name)}"
    return f"{key} {left}, found {right}"


# --- the windows of many shards ----------------------------------------------------------------------------


class WindowSet:
    """All windows of some shards, in the shards' order.

    shard, start, label, repetition, low, high: (n,) arrays over the windows.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        if not shards:
            raise DataError("expected at least one shard, found none")
        self.shards = list(shards)
        self.window = shards[0].window
        self.n_channels = len(shards[0].channels)
        tables = [shard.windows for shard in shards]
        whole = np.concatenate(tables)
        self.shard = np.repeat(np.arange(len(shards)), [len(table) for table in tables])
        self.start, self.label, self.repetition = (
            whole["start"],
            whole["label"].astype(np.int64),
            whole["repetition"],
        )
        self.low, self.high = whole["low"], whole["high"]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def subject(self) -> np.ndarray:
        """(n,) the person of each window."""
        return np.array([shard.subject for shard in self.shards])[self.shard]

    @property
    def record(self) -> np.ndarray:
        """(n,) the recording of each window."""
        return np.array([shard.record for shard in self.shards])[self.shard]

    def jittered(self, index: np.ndarray, share: float, random: np.random.Generator, hop: int = 1) -> np.ndarray:
        """(B,) places of windows -> (B,) first samples, a `share` of them moved at random.

        A moved window starts anywhere from a stride before to a stride after its own start, on a multiple of `hop`,
        and stays within its label's segment.
        """
        starts = self.start[index]
        if not share:
            return starts
        reach = self.shards[0].arguments["stride"]
        low = np.maximum(self.low[index], starts - reach)
        high = np.minimum(self.high[index], starts + reach)
        first, last = -(-low // hop), high // hop
        # a segment between two multiples of the hop has none inside: the one before is a few ms early
        moved = random.integers(np.minimum(first, last), last + 1) * hop
        return np.where(random.random(len(index)) < share, moved, starts)

    def gather(self, index: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """(B,) places of windows -> (B, window, channels) float16, microvolts.

        start: (B,) first samples to read from, in place of the windows' own.
        """
        starts = self.start[index] if start is None else start
        batch = np.empty((len(index), self.window, self.n_channels), np.float16)
        for row, shard, at in zip(batch, self.shard[index].tolist(), starts.tolist(), strict=True):
            row[:] = self.shards[shard].signal[at : at + self.window]
        return batch
