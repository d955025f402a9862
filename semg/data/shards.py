"""Shards: one filtered recording each, with its table of windows; and the windows of many shards together.

A shard is a folder of three files that must agree:
  signal.npy    (time, channels) float16, microvolts, memory-mapped while it is read
  windows.npy   one row per window, see WINDOW_FIELDS in semg/data/windows.py
  shard.json    what it contains, who was recorded, how it was made, the checksums of the other two

Facts of the data set are in shard.json, written by the program that made the shard: subject, session, order and task of
the recording (semg/data/records.py); `rings`, the rings of electrodes, each a list of channel places counted from 0, in
order around the arm; `rest_classes`, the classes in which no gesture is made; `unit`; `simulated`.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.console import Console, Progress, counted
from semg.common.errors import DataError
from semg.common.files import atomic_folder, checksum, is_system_file, read_json, text_checksum, version, write_json
from semg.common.schema import COUNT, POSITIVE, TEXT, TEXTS, Field, check_fields, flag, is_finite, is_whole, text
from semg.data import records
from semg.data.records import Record
from semg.data.signal_file import MAKE, REDO, SignalFile, npy_errors
from semg.data.windows import WINDOW_FIELDS, continuous

FORMAT_VERSION = 2
_OLD = ".old.tmp"  # suffix of the name under which atomic_folder briefly keeps an old folder
_SUBJECTS_SHOWN = 20  # most subjects listed in a message
_OF_NO_MATTER = ("checksum", "versions", "commit")  # fields that do not affect results


# --- one shard ---------------------------------------------------------------------------------------------


@dataclass
class Shard:
    """An opened shard and the contents of its shard.json; immutable.

    windows: of WINDOW_FIELDS; source: the signal, a file or an array.
    record: the recording's name; subject: who was recorded; session: subject and session, during which the electrodes
    stayed in place; order: increases with time over a subject's recordings; task: what the subject was asked to do, for
    putEMG the trajectory, such as repeats_long; facts: all of these.
    rate: Hz. simulated: whether the recording was simulated; everything derived from it has to say so.
    channels: names of the signal's columns. rings: for each ring of electrodes, their places among the channels in
    order around the arm; empty: no complete ring. classes: gestures; a window's label is an index into them.
    rest_classes: those in which no gesture is made, possibly none. arguments: of filter and windows. window: samples.
    content: checksum of everything that results can depend on, from when the shard was read; empty if it was not read.
    """

    path: Path
    meta: dict[str, Any]
    source: np.ndarray | SignalFile
    windows: np.ndarray
    content: str = ""

    def __post_init__(self) -> None:
        meta = self.meta
        self.facts = records.from_meta(meta)
        self.record, self.subject, self.session = self.facts.name, self.facts.subject, self.facts.session_key
        self.order, self.task = self.facts.order, self.facts.task
        self.rate: float = meta["rate"]
        self.simulated: bool = meta["simulated"]
        self.channels: tuple[str, ...] = tuple(meta["channels"])
        self.rings: tuple[tuple[int, ...], ...] = tuple(map(tuple, meta["rings"]))
        self.classes: tuple[str, ...] = tuple(meta["classes"])
        self.rest_classes: tuple[str, ...] = tuple(meta["rest_classes"])
        self.arguments: dict[str, Any] = meta["arguments"]
        self.window: int = self.arguments["window"]

    @property
    def signal(self) -> np.ndarray:
        """(T, C) float16, microvolts; memory-mapped for a shard on disk, so keep it only while reading."""
        return self.source.array() if isinstance(self.source, SignalFile) else self.source

    @property
    def second_moment(self) -> np.ndarray:
        """(C, C) mean over the recording of x x^T, in uV^2; label-free normalisation is computed from it."""
        return np.array(self.meta["second_moment"], np.float64)

    def continuous(self) -> "Shard":
        """The shard with unlabelled windows added where there are none, one stride apart: those on which a stream
        decides."""
        return replace(self, windows=continuous(self.windows, self.arguments["stride"]))


def write_shard(path: Path, meta: dict[str, Any], signal: np.ndarray, windows: np.ndarray) -> None:
    """Write a shard, replacing anything at `path`.

    meta: at least record, subject, session, order, task, rate, unit, channels, rings, classes, rest_classes, simulated
    and arguments; counts, statistics and checksums are added here. signal: (T, C) float16 microvolts. windows: of
    WINDOW_FIELDS. DataError if a fact is missing or impossible, the recording is shorter than a window, or a sample is
    not finite.
    """
    _check_facts(path, meta, "")
    _check_length(path, len(signal), meta["arguments"]["window"], "leave it out")
    if not np.isfinite(signal).all():
        raise DataError(f"{path}: expected amplitudes below 65 mV, which float16 can hold, found others")
    counts = np.bincount(windows["label"], minlength=len(meta["classes"]))
    with atomic_folder(path) as folder:
        np.save(folder / "signal.npy", signal, allow_pickle=False)
        np.save(folder / "windows.npy", windows, allow_pickle=False)
        description = {
            "format_version": FORMAT_VERSION,
            **meta,
            "n_samples": len(signal),
            "n_windows": len(windows),
            "class_counts": {name: int(n) for name, n in zip(meta["classes"], counts, strict=True)},
            "second_moment": second_moment(signal).tolist(),
            "files": {name: _file_facts(folder / name) for name in ("signal.npy", "windows.npy")},
        }
        description["checksum"] = meta_checksum(description)
        write_json(folder / "shard.json", description)


def second_moment(signal: np.ndarray) -> np.ndarray:
    """(C, C) mean of x x^T, summed in blocks to avoid a float64 copy of the signal."""
    total = np.zeros((signal.shape[1], signal.shape[1]))
    for start in range(0, len(signal), 1 << 16):
        block = signal[start : start + (1 << 16)].astype(np.float32)
        total += block.T @ block
    return total / max(1, len(signal))


def _file_facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": checksum(path)}


def meta_checksum(meta: Mapping[str, Any]) -> str:
    """Checksum of the contents of a shard.json or split.json, except for the checksum itself."""
    return text_checksum(json.dumps({key: value for key, value in meta.items() if key != "checksum"}, sort_keys=True))


def content_checksum(meta: Mapping[str, Any]) -> str:
    """The same without fields that do not affect results: a shard that is made again from the same recording in the
    same way is equal, even by another version."""
    return meta_checksum({key: value for key, value in meta.items() if key not in _OF_NO_MATTER})


def data_checksum(shards: Iterable[Shard]) -> str:
    """One checksum over everything in some shards, in their order, that results can depend on."""
    return text_checksum("".join(shard.content for shard in shards))


# --- reading -----------------------------------------------------------------------------------------------


def list_records(folder: Path) -> list[str]:
    """Names of the shards in a folder, sorted. DataError if there is no such folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of shards, found none; {MAKE}")
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries if entry.is_dir()}
    # a shard that is being rewritten briefly exists only under the name of its old folder
    moved = {name[1:].removesuffix(_OLD) for name in names if name.startswith(".") and name.endswith(_OLD)}
    return sorted({name for name in names if not is_system_file(name)} | moved)


def read_meta(path: Path) -> dict[str, Any]:
    """The contents of a shard's shard.json, checked against its own checksum."""
    where = path / "shard.json"
    meta = read_json(where, "a shard's description")
    actual = meta.get("format_version")
    if actual != FORMAT_VERSION:
        raise DataError(f"{path}: expected shard format {FORMAT_VERSION}, found {actual}", REDO)
    if meta.get("checksum") != meta_checksum(meta):
        raise DataError(f"{where}: expected its checksum, found another", REDO)
    _check_facts(where, meta, REDO)
    check_fields(where, meta, _FIELDS, "a shard's description", REDO)
    return meta


def _check_facts(where: Path, meta: Mapping[str, Any], advice: str) -> None:
    """DataError, beginning with `where`, unless the facts are complete and consistent."""
    check_fields(where, meta, _FACTS, "a shard's description", advice)
    if beyond := [place for ring in meta["rings"] for place in ring if place >= len(meta["channels"])]:
        channels = f"places below {len(meta['channels'])}, the number of channels"
        raise DataError(f"{where}: expected {channels}, in rings, found {beyond[0]}", advice)
    if len(set(meta["classes"])) < len(meta["classes"]):
        raise DataError(f"{where}: expected each of the classes once, found {', '.join(meta['classes'])}", advice)
    if unknown := [name for name in meta["rest_classes"] if name not in meta["classes"]]:
        raise DataError(f"{where}: expected rest_classes among the classes, found {unknown[0]!r}", advice)


def open_shard(path: Path, *, verify: bool = False) -> Shard:
    """Open one shard; `verify` also compares the files' checksums. DataError if the three files disagree.

    A shard that is rewritten at the same time is refused, because the files read could be a mix of old and new.
    """
    folder = version(path)
    try:
        shard = _open_once(path, verify)
    except (DataError, FileNotFoundError):
        # check twice: a writer between its two renames may finish between two checks
        if not any(version(path) != folder or _is_moved(path) for _ in range(2)):
            raise
    else:
        if version(path) == folder:
            return shard
    raise DataError(
        f"{path}: expected a shard at rest, found one that is being rewritten; run this again when that is "
        "done; if it was stopped, run preprocess.py or import_csv.py again"
    )


def _is_moved(path: Path) -> bool:
    """Whether the shard's writer is between its two renames, or was stopped there."""
    return not path.exists() and path.with_name(f".{path.name}{_OLD}").exists()


def _open_once(path: Path, verify: bool) -> Shard:
    if not path.is_dir():
        raise DataError(f"{path}: expected a shard, found no such folder; {MAKE}")
    meta = read_meta(path)
    if meta["record"] != path.name:
        raise DataError(f"{path}: expected the shard of {path.name}, found that of {meta['record']}")
    for name, facts in meta["files"].items():
        _check_file(path / name, facts, verify)
    signal = SignalFile(path / "signal.npy")
    with npy_errors(path / "windows.npy"):
        windows = np.load(path / "windows.npy", allow_pickle=False)
    _check_arrays(path, meta, signal, windows)
    return Shard(path, meta, signal, windows, content_checksum(meta))


def _check_file(path: Path, facts: dict[str, Any], verify: bool) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != facts["bytes"]:
        actual = "no such file" if size is None else f"{size} bytes"
        raise DataError(f"{path}: expected {facts['bytes']} bytes, found {actual}", REDO)
    if verify and checksum(path) != facts["sha256"]:
        raise DataError(f"{path}: expected the checksum in shard.json, found another", REDO)


def _check_arrays(path: Path, meta: dict[str, Any], signal: SignalFile, windows: np.ndarray) -> None:
    shape = (meta["n_samples"], len(meta["channels"]))
    if signal.shape != shape:
        raise DataError(f"{path}: expected a signal of shape {shape}, found {signal.shape}", REDO)
    if [len(row) for row in meta["second_moment"]] != [shape[1]] * shape[1]:
        raise DataError(
            f"{path}: expected a second_moment of {shape[1]} x {shape[1]} numbers, found another shape", REDO
        )
    if windows.dtype != WINDOW_FIELDS or windows.ndim != 1 or len(windows) != meta["n_windows"]:
        raise DataError(f"{path}: expected {meta['n_windows']} windows, found another table", REDO)
    window = meta["arguments"]["window"]
    _check_length(path, shape[0], window, REDO)
    if len(windows) == 0:
        return
    last = shape[0] - window  # last sample at which a window may start
    inside = windows["low"].min() >= 0 and windows["high"].max() <= last
    ordered = np.all((windows["low"] <= windows["start"]) & (windows["start"] <= windows["high"]))
    known = windows["label"].min() >= 0 and windows["label"].max() < len(meta["classes"])
    if not (inside and ordered and known):
        raise DataError(f"{path}: expected windows inside the recording with known labels, found others", REDO)


def _check_length(path: Path, samples: int, window: int, advice: str) -> None:
    """DataError for a recording that no window fits into: statistics are of windows spread over each recording."""
    if samples < window:
        raise DataError(f"{path}: expected a recording of at least a window, {window} samples, found {samples}", advice)


def _are_files(files: Any) -> bool:
    """Whether `files` in shard.json names both files, and no others that could be read instead."""
    if not isinstance(files, dict) or set(files) != {"signal.npy", "windows.npy"}:
        return False
    return all(
        isinstance(one, dict) and is_whole(one.get("bytes")) and text(one.get("sha256")) for one in files.values()
    )


def _are_numbers(row: Any) -> bool:
    return isinstance(row, list) and all(map(is_finite, row))


def _are_rings(rings: Any) -> bool:
    """Whether `rings` are lists of places without repetitions."""
    if not isinstance(rings, list) or not all(isinstance(ring, list) and len(ring) > 1 for ring in rings):
        return False
    places = [place for ring in rings for place in ring]
    return all(is_whole(place, 0) for place in places) and len(set(places)) == len(places)


RINGS = Field("lists of the channels' places, counted from 0, each place once", _are_rings)
_NAME = Field(f"a name of {records.NAME_FORM}", records.is_name)
_FACTS = {  # facts that every program that makes shards must state
    **dict.fromkeys(("record", "subject", "session"), _NAME),
    "order": Field("a whole number", lambda value: is_whole(value, 0)),
    **dict.fromkeys(("task", "unit"), TEXT),
    "rate": POSITIVE,
    "mains": Field("a frequency", lambda value: is_finite(value, above=0), needed=False),
    **dict.fromkeys(("channels", "classes"), TEXTS),
    "rings": RINGS,
    "rest_classes": Field("a list of classes", lambda names: isinstance(names, list) and all(map(text, names))),
    "simulated": Field("true or false", flag),
    **dict.fromkeys(("arguments.window", "arguments.stride"), COUNT),
}
_FIELDS = {  # checked for every writer: a checksum can be computed for any contents
    "n_samples": COUNT,
    "n_windows": Field("a whole number", lambda value: is_whole(value, 0)),
    "files": Field("sizes and checksums of signal.npy and windows.npy", _are_files),
    "second_moment": Field("rows of numbers", lambda rows: isinstance(rows, list) and all(map(_are_numbers, rows))),
}
_MUST_AGREE = ("rate", "unit", "channels", "rings", "classes", "rest_classes", "arguments")


def open_shards(folder: Path, names: Sequence[str], *, verify: bool = False, progress: Progress = iter) -> list[Shard]:
    """Open the shards of the recordings `names` in that order. DataError if one is missing or was made differently.

    verify: compare checksums, which reads all files; progress: wraps the shards.
    """
    check_all_there(folder, names)
    opened = [open_shard(folder / name, verify=verify) for name in progress(names)]
    check_alike(opened)
    return opened


def open_verified(folder: Path, names: Sequence[str], console: Console) -> list[Shard]:
    """Open shards and compare their checksums, which reads all files, with messages and a progress bar."""
    console.say(f"opening {counted(len(names), 'shard')}")
    settings = {"desc": "opened", "unit": "shard", "leave": False}
    return open_shards(folder, names, verify=True, progress=lambda items: console.progress(items, **settings))


def verify(shards: Iterable[Shard], console: Console) -> None:
    """Compare the checksums of opened shards, each once, which reads all files, with messages and a progress bar.

    DataError for a shard that is damaged, or has been made again since.
    """
    distinct = {shard.path: shard for shard in shards}
    console.say(f"comparing the checksums of {counted(len(distinct), 'shard')}")
    for path, shard in console.progress(distinct.items(), desc="compared", unit="shard", leave=False):
        if open_shard(path, verify=True).content != shard.content:
            raise DataError(f"{path}: expected the shard as it was, found it made again; run this again")


def _is_there(path: Path) -> bool:
    """Whether a shard is at `path`, or is being put there: checked twice, because it may arrive between two checks."""
    return path.is_dir() or _is_moved(path) or path.is_dir()


def check_all_there(folder: Path, names: Sequence[str]) -> None:
    """DataError unless each recording has a shard; it says whose shards there are, and what can be done."""
    missing = [name for name in names if not _is_there(folder / name)]
    if not missing:
        return
    expected = (
        f"{folder}: expected a shard for each of {len(names)} records, found none for {len(missing)} of them, such as "
        f"{missing[0]}"
    )
    subjects = sorted({one.subject for one in facts_in(folder)}, key=records.counting_order)
    if not subjects:
        raise DataError(f"{expected}; {MAKE}")
    examples = " ".join(subjects[:_SUBJECTS_SHOWN]) + (" ..." if len(subjects) > _SUBJECTS_SHOWN else "")
    raise DataError(
        f"{expected}; shards of {len(subjects)} subjects are there ({examples}): make those missing with preprocess.py "
        "or import_csv.py, or a split of those that are there with create_dataset_files.py"
    )


def facts_in(folder: Path) -> list[Record]:
    """The facts of every readable shard in a folder; empty if there is no folder."""
    facts = []
    for name in list_records(folder) if folder.is_dir() else []:
        with suppress(DataError, OSError):
            facts.append(records.from_meta(read_meta(folder / name)))
    return facts


def check_alike(shards: Sequence[Shard]) -> None:
    """DataError, naming the first difference, unless all shards were made with the same arguments."""
    for shard in shards[1:]:
        if apart := first_difference({key: shards[0].meta[key] for key in _MUST_AGREE}, shard.meta):
            raise DataError(
                f"{shard.path}: expected the {apart}, as in {shards[0].record}; make all shards of a run with the same "
                "arguments"
            )


def difference(expected: Mapping[str, Any], actual: Mapping[str, Any], key: str) -> str:
    """`window 1280, found 2500`: the first difference between two descriptions under `key`."""
    left, right = expected.get(key), actual.get(key)
    if isinstance(left, dict) and isinstance(right, dict):
        for name in [*left, *right]:
            if left.get(name) != right.get(name):
                return f"{name} {_or_none(left.get(name))}, found {_or_none(right.get(name))}"
    return f"{key} {_or_none(left)}, found {_or_none(right)}"


def first_difference(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    """`difference` of the first key of `expected` under which the two differ; empty if there is none."""
    return next((difference(expected, actual, key) for key in expected if actual.get(key) != expected[key]), "")


def _or_none(value: Any) -> Any:
    return "none" if value is None else value


# --- the windows of many shards ----------------------------------------------------------------------------


def without_windows(shards: Iterable[Shard]) -> list[str]:
    """The people none of whose recordings has a window: they made none of the gestures that are kept."""
    counts: dict[str, int] = {}
    for shard in shards:
        counts[shard.subject] = counts.get(shard.subject, 0) + len(shard.windows)
    return sorted(subject for subject, count in counts.items() if not count)


class WindowSet:
    """All windows of some shards, in the shards' order.

    shard, start, label, repetition, low, high: (n,) arrays over the windows. simulated: whether any recording was.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        if not shards:
            raise DataError("expected at least one shard, found none")
        self.shards = list(shards)
        self.window = shards[0].window
        # (K,) which classes are rest
        self.rest = np.array([name in shards[0].rest_classes for name in shards[0].classes], bool)
        self.simulated = any(shard.simulated for shard in shards)
        self.n_channels = len(shards[0].channels)
        tables = [shard.windows for shard in shards]
        whole = np.concatenate(tables)
        self.shard = np.repeat(np.arange(len(shards)), [len(table) for table in tables])
        self.start, self.label, self.repetition = (whole["start"], whole["label"].astype(np.int64), whole["repetition"])
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
        """(B,) places of windows -> (B,) first samples, with a fraction `share` of them shifted at random.

        A shifted window starts at most one stride before or after its own start, on a multiple of `hop`, and stays
        within its label's segment.
        """
        starts = self.start[index]
        if not share:
            return starts
        reach = self.shards[0].arguments["stride"]
        low = np.maximum(self.low[index], starts - reach)
        high = np.minimum(self.high[index], starts + reach)
        first, last = -(-low // hop), high // hop
        # if no multiple of the hop is in range, use the one before, which is a few ms early
        moved = random.integers(np.minimum(first, last), last + 1) * hop
        return np.where(random.random(len(index)) < share, moved, starts)

    def gather(self, index: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """(B,) places of windows -> (B, window, channels) float16, microvolts.

        start: (B,) first samples to read from, instead of the windows' own.
        """
        starts = self.start[index] if start is None else start
        batch = np.empty((len(index), self.window, self.n_channels), np.float16)
        for row, shard, at in zip(batch, self.shard[index].tolist(), starts.tolist(), strict=True):
            row[:] = self.shards[shard].signal[at : at + self.window]
        return batch
