"""Turn recordings of another device, tables in CSV, into shards: the way in for other data sets than putEMG.

  python import_csv.py mine/recordings.csv --rate 200 --shards data/shards-mine

Input: a list of recordings, a CSV with the header `file,subject,session,date,task` and one row a recording:
  file      the recording, a CSV; a path from the list's folder
  subject   the person, such as 7 or P101: splits are made by it, so one person must have one name
  session   while it lasted the electrodes stayed on: its recordings are normalised together. Left out: the day;
            without a date either, all of a person's recordings are one session
  date      YYYY-MM-DD, or with a time 2024-03-01T10:30; may be left out
  task      what was done; may be left out
Of rows without a date, or of one date, those of one person must stand in the order of recording.

A recording has a header, one row a sample, and commas between columns: the channels, and one column (--labels) that
names the gesture made; an empty cell is in no gesture, and such samples are left out of every window. Other columns,
such as a time, are left out with --channels, which counts columns from 1.

Output: one shard a recording in SHARDS, as preprocess.py makes them; create_dataset_files.py, train.py and all that
follows take them as they are. A shard has the name of its file; folders in the list become a part of it, so that
P1/day2/fist.csv becomes P1-day2-fist.

Two facts of the device are assumed unless told, and what was assumed is said. --rings names the columns of each ring
of electrodes in their order around the arm, such as --rings 1-8 9-16, or `none`; by default 4 to 16 channels are one
ring. Training may turn rings by a place (train.py --augment). --rest names the classes in which no gesture is made,
which scores tell apart; by default those called idle, rest, relax, neutral or no movement.

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
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import checksum, folder_lock
from semg.common.provenance import commit, plain, versions
from semg.common.schema import text
from semg.data import records
from semg.data.filters import FilterSpec
from semg.data.preprocessing import filtered
from semg.data.records import Record
from semg.data.shards import difference, open_shard, read_meta, write_shard
from semg.data.tables import UNITS, is_simulated, read_table
from semg.data.windows import whole_windows

NYQUIST_SHARE = 0.9  # of half the rate: where the band ends unless told otherwise
HIGHEST = 700.0  # Hz; surface EMG has little above
REST_NAMES = ("idle", "rest", "resting", "relax", "relaxed", "neutral", "no movement", "nomovement", "no gesture")
ONE_RING = range(4, 17)  # channels that are one ring of electrodes unless told: an armband has so many


@dataclass(frozen=True)
class Entry:
    """A row of the list: the recording and its facts."""

    path: Path
    facts: Record


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
    table.add_argument("--classes", nargs="+", metavar="NAME", help="gestures to keep (default: all, rest first)")
    table.add_argument("--rest", nargs="*", metavar="NAME", help="classes without a gesture (default: see above)")
    table.add_argument(
        "--rings", type=ring, nargs="+", metavar="COLUMNS", help="of each ring of electrodes, or none (see above)"
    )
    table.add_argument("--simulated", action="store_true", help="no people were recorded: all that follows says so")
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


def ring(text: str) -> tuple[int, ...]:
    """The columns of a ring, `1-8`; `none` is no ring."""
    return () if text == "none" else cli.number_ranges(text)


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
    listed = [_row(path, place, row) for place, row in enumerate(rows)]
    _check_names(path, listed)
    return [_entry(path, row, listed) for row in listed]


@dataclass(frozen=True)
class Row:
    """What a row of the list says. name: the record's; when: the date, if there is one."""

    place: int
    path: Path
    name: str
    subject: str
    session: str
    when: datetime | None
    task: str


def _row(path: Path, place: int, row: dict[str, Any]) -> Row:
    cells = {key: (row.get(key) or "").strip() for key in ("file", "subject", "session", "date", "task")}
    where = f"{path}, recording {place + 1}"
    if not text(cells["file"]):
        raise DataError(f"{where}: expected a file's path, found {cells['file']!r}")
    if not cells["file"]:
        raise DataError(f"{where}: expected a file, found none")
    try:
        when = datetime.fromisoformat(cells["date"]) if cells["date"] else None
    except ValueError:
        raise DataError(f"{where}: expected a date such as 2024-03-01, found {cells['date']!r}") from None
    session = cells["session"] or (when.date().isoformat() if when else "1")
    for what, name in (("subject", cells["subject"]), ("session", session), ("task", cells["task"] or "task")):
        if not records.is_name(name):
            raise DataError(f"{where}: expected a {what} of {records.NAME_FORM}, found {name!r}")
    file = path.parent / cells["file"]
    return Row(place, file, _name(cells["file"]), cells["subject"], session, when, cells["task"])


def _name(file: str) -> str:
    """A recording's name from its path: P1/day 2/fist.csv -> P1-day_2-fist."""
    path = PurePath(file.replace("\\", "/"))
    parts = [part for part in (*path.parent.parts, path.stem) if part not in (path.anchor, ".", "..")]
    return re.sub(r"^\W+", "", re.sub(r"[^\w.+=@~-]", "_", "-".join(parts)))


def _check_names(path: Path, rows: list[Row]) -> None:
    """DataError for two recordings of one name, and for what may be one person under two names."""
    seen: dict[str, Row] = {}
    numbered: dict[str, str] = {}
    for row in rows:
        where = f"{path}, recording {row.place + 1}"
        if not records.is_name(row.name):
            raise DataError(f"{where}: expected a file whose name can be a folder's, found {row.path.name!r}")
        if other := seen.get(row.name.casefold()):
            raise DataError(
                f"{where}: expected recordings of different names, found {row.path.name} after {other.path.name}, "
                f"which both become {row.name}"
            )
        seen[row.name.casefold()] = row
        number = row.subject.casefold().lstrip("0")
        if (known := numbered.setdefault(number, row.subject)) != row.subject:
            raise DataError(f"{where}: expected one name for one person, found {row.subject} after {known}")


def _entry(path: Path, row: Row, rows: list[Row]) -> Entry:
    """With the row's place in time among its subject's. DataError if dates tell only some of those apart."""
    own = [other for other in rows if other.subject == row.subject]
    dated = [(other.when, other.place) for other in own if other.when]
    if dated and len(dated) < len(own):
        raise DataError(f"{path}: expected a date for all of subject {row.subject}'s recordings or for none of them")
    order = sorted(dated).index((row.when, row.place)) if row.when else own.index(row)
    return Entry(row.path, Record(row.name, row.subject, row.session, order + 1, row.task))


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
    return sorted(found - {""}, key=lambda name: (not is_rest(name), name))


def is_rest(name: str) -> bool:
    """Whether a class of that name is taken for one without a gesture."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold() in REST_NAMES


def rest_classes(classes: list[str], named: list[str] | None) -> list[str]:
    """The classes in which no gesture is made. UsageError for one that is none of the classes."""
    if unknown := [name for name in named or () if name not in classes]:
        raise UsageError(f"--rest {unknown[0]}: expected one of the classes {', '.join(classes)}")
    return [name for name in classes if (is_rest(name) if named is None else name in named)]


def ring_places(path: Path, columns: list[int], named: list[tuple[int, ...]] | None) -> list[list[int]]:
    """The places among the channels that each ring of electrodes has. DataError for columns that are no channels."""
    if named is None:
        return [list(range(len(columns)))] if len(columns) in ONE_RING else []
    if wrong := [column for one in named for column in one if column not in columns]:
        raise DataError(f"{path}: expected a channel in column {wrong[0]} (--rings), found none there")
    return [[columns.index(column) for column in one] for one in named if one]


# --- one shard -------------------------------------------------------------------------------------------------


def shard_arguments(args: argparse.Namespace, n_channels: int) -> dict[str, Any]:
    """What a shard's content depends on, as preprocess.py stores it. UsageError for what cannot be."""
    made = {
        "channels": list(range(1, n_channels + 1)),
        "montage": "monopolar",
        "window": args.window.samples(args.rate),
        "stride": args.stride.samples(args.rate),
        **{key: getattr(args, key) for key in ("low", "high", "order", "notch", "causal", "labels")},
        "transition_margin": args.transition_margin,
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
    asked = {
        **{key: getattr(entry.facts, key) for key in ("subject", "session", "order", "task")},
        "rate": args.rate,
        "classes": classes,
        "rest_classes": rest_classes(classes, args.rest),
        "rings": ring_places(entry.path, list(columns), args.rings),
        "simulated": args.simulated or is_simulated(entry.path),
        "arguments": how,
        "source": source,
    }
    path = args.shards / entry.facts.name
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
        "record": entry.facts.name,
        "unit": "uV",
        "channels": [header[n - 1] for n in columns],
        **asked,
        "versions": versions("numpy", "scipy"),
        "commit": commit(),
    }
    write_shard(path, meta, signal, windows)
    return "done", len(windows)


def check_rings(rings: list[tuple[int, ...]]) -> None:
    """UsageError for rings that cannot be."""
    columns = [column for one in rings for column in one]
    if () in rings and len(rings) > 1:
        raise UsageError("--rings none: expected no rings beside it")
    if any(len(one) == 1 for one in rings) or len(set(columns)) < len(columns):
        raise UsageError("--rings: expected rings of two columns or more, each column in one ring")


def assumptions(args: argparse.Namespace, rest: list[str]) -> str:
    """What is taken for granted as the flags don't say it; nothing where they do."""
    said = []
    if args.rings is None:
        said.append(f"{ONE_RING[0]} to {ONE_RING[-1]} channels are one ring of electrodes, others none (--rings)")
    if args.rest is None:
        said.append(f"no gesture is made in {', '.join(rest) or 'none of the classes'} (--rest)")
    return "assumed: " + "; ".join(said) if said else ""


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    args.high = args.high or min(HIGHEST, NYQUIST_SHARE * args.rate / 2)
    FilterSpec(args.low, args.high, args.order, tuple(args.notch), args.causal).check(args.rate)
    check_rings(args.rings or [])
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
    if said := assumptions(args, rest_classes(classes, args.rest)):
        console.say(said)
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
