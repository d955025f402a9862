"""Turn recordings of another device, tables in CSV, into shards: the way in for other data sets than putEMG.

  python import_csv.py mine/recordings.csv --rate 200 --shards data/shards-mine

Input: a list of recordings, a CSV with the header `file,subject,date,task` and one row a recording:
  file      the recording, a CSV; a path from the list's folder
  subject   the person, 1 to 99: splits are made by it, so one person must have one number
  date      YYYY-MM-DD: a person's recordings of one day are one session, normalised together
  task      what was done, small letters, digits and _; may be left out
Rows of one person and day must stand in the order of recording.

A recording has a header, one row a sample, and commas between columns: the channels, and one column (--labels) that
names the gesture made; an empty cell is in no gesture, and such samples are left out of every window. Other columns,
such as a time, are left out with --channels, which counts columns from 1.

Output: one shard a recording in SHARDS, as preprocess.py makes them; create_dataset_files.py, train.py and all that
follows take them as they are. Records are named emg_gestures-<subject>-<task>-<date>-00-00-00-<place in the list>,
for splits are checked on such names.

The signal is band-passed from --low to --high, by default to 45 % of the rate where that is below 700 Hz, and windows
lie wholly in one gesture. All recordings of one call have the same --rate, channels and gestures. --unit says what a
sample is; where the device does not tell, leave it: normalisation by session takes any scale out again.

A recording that is wrong is named and left out, the others are done, and the exit code is 1. What is there already,
made from the same file in the same way, is kept. Takes about 1 s for each minute of recording.
"""

import argparse
import csv
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import checksum, folder_lock
from semg.common.provenance import commit, plain, versions
from semg.common.schema import text
from semg.data.filters import FilterSpec
from semg.data.preprocessing import filtered
from semg.data.shards import difference, open_shard, read_meta, write_shard
from semg.data.tables import UNITS, read_table
from semg.data.windows import whole_windows
from semg.evaluation.metrics import INACTIVE

NYQUIST_SHARE = 0.9  # of half the rate: where the band ends unless told otherwise
HIGHEST = 700.0  # Hz; surface EMG has little above


@dataclass(frozen=True)
class Entry:
    """A row of the list. name: the record's."""

    path: Path
    name: str
    subject: str
    date: str
    time: str
    task: str


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("list", type=Path, metavar="LIST", help="the list of recordings, see above")
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="redo shards made with other arguments")
    table = parser.add_argument_group("recordings")
    table.add_argument("--rate", type=cli.number(0, above=True), required=True, metavar="HZ", help="sampling rate")
    table.add_argument("--unit", choices=tuple(UNITS), default="uV", help="of the samples")
    table.add_argument("--channels", type=cli.number_ranges, help="columns, such as 1-8 (default: all but the label's)")
    table.add_argument("--labels", default="label", metavar="COLUMN", help="the column that names the gesture")
    table.add_argument("--classes", nargs="+", metavar="NAME", help="gestures to keep (default: all, idle first)")
    signal = parser.add_argument_group("signal and windows")
    signal.add_argument("--low", type=cli.number(0, above=True), default=20.0, help="band-pass from, Hz")
    signal.add_argument("--high", type=cli.number(0, above=True), help="band-pass to, Hz (default: 700, or below)")
    signal.add_argument("--order", type=cli.whole(1, 12), default=4, help="Butterworth order of the band-pass")
    signal.add_argument(
        "--notch", type=cli.number(0, above=True), nargs="*", default=[50.0], metavar="HZ", help="bands to take out, Hz"
    )
    signal.add_argument("--causal", action="store_true", help="filter forward only, as in live use")
    signal.add_argument("--window", type=cli.length, default="250ms", help="length, samples or time")
    signal.add_argument("--stride", type=cli.length, default="125ms", help="window to window, samples or time")
    signal.add_argument(
        "--transition-margin",
        type=cli.number(0),
        default=0.25,
        metavar="SECONDS",
        help="after a label change in which no window starts",
    )
    cli.renamed(signal, "--guard", "--transition-margin")
    return parser


# --- reading ---------------------------------------------------------------------------------------------------


def read_list(path: Path) -> list[Entry]:
    """The recordings that the list names. DataError, naming the line, for a row that is wrong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise DataError(f"{path}: expected a list of recordings, found no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a list of recordings, found none ({error})") from None
    if not rows:
        raise DataError(f"{path}: expected a header file,subject,date,task and a row a recording, found no row")
    return [_entry(path, place, row) for place, row in enumerate(rows)]


def _entry(path: Path, place: int, row: dict[str, Any]) -> Entry:
    told = {key: (row.get(key) or "").strip() for key in ("file", "subject", "date", "task")}
    where = f"{path}, recording {place + 1}"
    task = told["task"] or "task"
    if not text(told["file"]):
        raise DataError(f"{where}: expected a file's path, found {told['file']!r}")
    if not told["file"]:
        raise DataError(f"{where}: expected a file, found none")
    if not re.fullmatch(r"0?[1-9]|[1-9][0-9]", told["subject"]):
        raise DataError(f"{where}: expected a subject from 1 to 99, found {told['subject']!r}")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", task):
        raise DataError(f"{where}: expected a task in small letters, digits and _, found {task!r}")
    try:
        day = date.fromisoformat(told["date"]).isoformat()
    except ValueError:
        raise DataError(f"{where}: expected a date such as 2024-03-01, found {told['date']!r}") from None
    subject, time = f"{int(told['subject']):02d}", f"00-00-{place // 1000:02d}-{place % 1000:03d}"
    name = f"emg_gestures-{subject}-{task}-{day}-{time}"
    return Entry(path.parent / told["file"], name, subject, day, time, task)


def read_labels(path: Path, column: str) -> tuple[list[str], np.ndarray]:
    """The table's header, and (T,) the gesture of each sample as text, empty where there is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [cell.strip() for cell in next(rows, [])]
            if column not in header:
                raise DataError(f"{path}: expected a column {column!r} (--labels), found {', '.join(header) or 'none'}")
            place = header.index(column)
            labels = [row[place].strip() for row in rows if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a recording in CSV, found none ({error})") from None
    except IndexError:
        raise DataError(f"{path}: expected a cell for {column!r} in every row, found a shorter row") from None
    return header, np.array(labels, dtype=str)


def gestures(entries: list[Entry], column: str, console: cli.Console) -> list[str]:
    """All gestures that the recordings name, idle ones first. Unreadable recordings are named later."""
    found: set[str] = set()
    for entry in console.progress(entries, unit="recording", desc="gestures", leave=False):
        try:
            found |= set(read_labels(entry.path, column)[1].tolist())
        except DataError:
            continue
    return sorted(found - {""}, key=lambda name: (name not in INACTIVE, name))


# --- one shard -------------------------------------------------------------------------------------------------


def shard_arguments(args: argparse.Namespace, n_channels: int) -> dict[str, Any]:
    """What a shard's content depends on, as preprocess.py stores it. UsageError for what cannot be."""
    made = {
        "channels": list(range(1, n_channels + 1)),
        "montage": "monopolar",
        "window": args.window.samples(args.rate),
        "stride": args.stride.samples(args.rate),
        **{key: getattr(args, key) for key in ("low", "high", "order", "notch", "causal", "labels")},
        "guard": args.transition_margin,
        "rest": False,
        "label_rule": "whole-window",
        "unit": args.unit,
        "columns": plain(args.channels),
    }
    if made["stride"] > made["window"]:
        raise UsageError(f"--stride {args.stride}: expected at most the window, {args.window}")
    return made


def make_shard(entry: Entry, classes: list[str], args: argparse.Namespace) -> tuple[str, int]:
    """Write one recording's shard, or keep it; says which, and how many windows it has."""
    header, labels = read_labels(entry.path, args.labels)
    columns = args.channels or [n + 1 for n, name in enumerate(header) if name != args.labels]
    if wrong := [n for n in columns if n > len(header) or header[n - 1] == args.labels]:
        raise DataError(f"{entry.path}: expected a channel in column {wrong[0]}, found none there (--channels)")
    how = shard_arguments(args, len(columns))
    source = {"name": entry.path.name, "bytes": entry.path.stat().st_size, "sha256": checksum(entry.path)}
    asked = {"arguments": how, "source": source, "classes": classes, "rate": args.rate}
    path = args.shards / entry.name
    if path.exists() and not args.overwrite:
        meta = read_meta(path)
        for key in asked:
            if meta.get(key) != asked[key]:
                raise DataError(f"{path}: expected {difference(asked, meta, key)}; --overwrite redoes it")
        return "kept", len(open_shard(path, verify=True).windows)
    table = read_table(entry.path, args.rate, args.unit, columns, len(columns))
    codes = np.select([labels == name for name in classes], list(range(len(classes))), -1)
    margin = round(args.transition_margin * args.rate)
    windows = whole_windows(codes, range(len(classes)), how["window"], how["stride"], margin)
    if len(windows) == 0:
        raise DataError(f"{entry.path}: expected segments of a gesture of at least a window, found none")
    spec = FilterSpec(args.low, args.high, args.order, tuple(args.notch), args.causal)
    with np.errstate(over="ignore", invalid="ignore"):
        signal = filtered(table.samples, np.eye(len(columns), dtype=np.float32), spec, args.rate, table.scale)
    if not np.isfinite(signal).all():
        raise DataError(f"{entry.path}: expected amplitudes below 65 mV, found more; is --unit right?")
    meta = {
        "record": entry.name,
        "subject": entry.subject,
        "date": entry.date,
        "time": entry.time,
        "trajectory": entry.task,
        "unit": "uV",
        "channels": [header[n - 1] for n in columns],
        **asked,
        "versions": versions("numpy", "scipy"),
        "commit": commit(),
    }
    write_shard(path, meta, signal, windows)
    return "done", len(windows)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    args.high = args.high or min(HIGHEST, NYQUIST_SHARE * args.rate / 2)
    FilterSpec(args.low, args.high, args.order, tuple(args.notch), args.causal).check(args.rate)
    if args.classes and len(set(args.classes)) < len(args.classes):
        raise UsageError(f"--classes: expected each gesture once, found {' '.join(args.classes)}")
    entries = read_list(args.list)
    classes = args.classes or gestures(entries, args.labels, console)
    if not classes:
        raise DataError(f"{args.list}: expected recordings with a column {args.labels!r} (--labels), found none")
    console.say(
        f"{cli.counted(len(entries), 'recording')}, {args.rate:g} Hz, {args.low:g}-{args.high:g} Hz kept, "
        f"{len(classes)} gestures: {', '.join(classes)}"
    )
    counts, windows = {"done": 0, "kept": 0, "failed": 0}, 0
    with folder_lock(args.shards):
        for entry in console.progress(entries, unit="recording"):
            try:
                state, made = make_shard(entry, classes, args)
            except (DataError, OSError) as error:
                state, made = "failed", 0
                console.error(cli.in_words(error))
            counts[state] += 1
            windows += made
    told = f"{args.shards}: {counts['done']} shards written, {counts['kept']} kept, {windows} windows"
    failed = f"; {cli.counted(counts['failed'], 'recording')} failed, see above" if counts["failed"] else ""
    console.finish(
        f"{told}{failed}; next: python create_dataset_files.py --shards {args.shards}", **counts, windows=windows
    )
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    cli.run(main)
