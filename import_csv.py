"""Convert recordings of another device, as tables in CSV, into shards: for data sets other than putEMG.

  python import_csv.py mine/recordings.csv --rate 200 --shards data/shards-mine

Input: a list of recordings, a CSV with the header `file,subject,session,date,task,label` and one row per recording:
  file      the recording, a CSV; the path is relative to the list's folder
  subject   the person, such as 7 or P101. Splits are made by subject, so each person must have one name throughout
  session   a time in which the electrodes stayed in place: its recordings are normalised together. May be left out:
            then each day is a session, or, without dates, all of a person's recordings are one session
  date      YYYY-MM-DD, or with a time 2024-03-01T10:30, or with a time zone 2024-03-01T10:30+01:00. May be left out.
            Either all or none of a person's dates have a zone. A date without a time means the beginning of that day
  task      what was done; may be left out
  label     the gesture of the whole recording, if its table does not name its gestures. May be left out
Rows of one person that have no date, or the same date, must be in the order of recording. All recordings of a person
belong in one list, because it gives their order: to add some later, add rows to that list. docs/extending.md writes the
list from the names of files, for data sets of hundreds.

A recording is a text table with a header and one row per sample. It has one column per channel, and one column
(--labels) that names the gesture being made, unless the list does. An empty label means no gesture; such samples are
left out of all windows. If the table has no header, --labels gives the column's number, counted from 1. Delimiter,
decimal mark and encoding are detected. Columns that are not channels, such as a time, are recognised and reported. If a
column could be either, the script stops and asks for --channels, which counts columns from 1. docs/data.md has the
rules.

Output: one shard per recording in SHARDS, in the format of preprocess.py; create_dataset_files.py, train.py and the
later scripts use them like any others. A shard is named after its file. Folders in the list become part of the name:
P1/day2/fist.csv becomes P1-day2-fist.

Two facts about the device are assumed and printed unless you give them. --rings names the columns of each ring of
electrodes in their order around the arm, the ring nearest the elbow first, such as --rings 1-8 9-16, or `none`. By
default, 4 to 16 channels are one ring. Training may rotate the rings by one place (train.py --augment). --rest-classes
names the classes in which no gesture is made, because scores treat them separately. By default, these are all classes
called idle, rest, relax, neutral, no movement or no motion.

Three more facts are estimated from the recordings and printed, unless --unit, --low and --high, or --notch gives them:
  unit    without --unit, samples are multiplied by the power of ten that brings the median recording to an RMS of 32 to
          316. Shards thus hold signals of the usual size whatever unit the device has. They record that their unit is
          arbitrary, and the factor. Recordings added later to SHARDS are multiplied by the same factor.
  band    20 to 700 Hz, or up to 45 % of the sampling rate
  mains   50 or 60 Hz, whichever most of the recordings with mains hum have, is filtered out, together with those of its
          multiples that are present in most of them. 50 Hz if no recording has hum; nothing at rates up to 100 Hz.
          The same is filtered out of recordings added later

All recordings of one call have the same --rate, channels and gestures. Channels that have the same names in another
order are put in the order of shards that are in SHARDS already, otherwise in that of most recordings. Windows lie
wholly within one gesture and never span missing samples, which are detected by a time or counter column. --simulated
records that no people were recorded.

A recording with an error is reported and left out, the others are processed, and the exit code is 1. An existing shard
is kept if it was made from the same file in the same way. Warnings of one kind about many recordings are one line;
--json lists them all. Minutes of signal take seconds, see docs/scale.md.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from semg.common import cli
from semg.common.console import SHOWN, in_runs, listed
from semg.common.errors import DataError, SettingError, UsageError
from semg.common.failures import Failures, Warnings
from semg.common.files import checksum, expect_file, folder_lock, version
from semg.common.provenance import commit, plain, versions
from semg.common.schema import text
from semg.data import gaps
from semg.data.faults import find_faults
from semg.data.filters import FilterSpec, default_band
from semg.data.gestures import FEWEST, chosen, is_rest
from semg.data.preprocessing import (
    USUAL_RMS,
    common_scale,
    filtered_table,
    in_another_unit,
    signs_of_two_units,
)
from semg.data.recording_list import Entry, meant, read_list
from semg.data.shards import facts_in, first_difference, list_records, open_shard, read_meta, write_shard
from semg.data.spectrum import common_lines
from semg.data.table_recording import (
    Layout,
    Look,
    Reading,
    Readings,
    doubts,
    expect_another,
    look,
    same_channels,
)
from semg.data.tables import LABELS, UNITS, in_order, is_simulated, label
from semg.data.windows import segments, whole_windows, without_gaps
from semg.flags import shared
from semg.flags.rings import ONE_RING, check_rings, ring, ring_places

LONGEST_ADVICE = 400  # characters of gestures to type, which an error names one by one
KEPT_BYTES = 1 << 29  # memory for recordings already read whose shards are not yet written


@dataclass(frozen=True)
class Settled:
    """What holds for all recordings of one call. scale: the factor by which samples are multiplied; unit: the unit of
    the result; rms: the median of the recordings that have a signal, in the tables' own unit, 0 if none has one."""

    channels: tuple[str, ...]
    classes: list[str]
    scale: float
    unit: str
    notch: list[float]
    rms: float


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("list", type=Path, metavar="LIST", help="CSV that lists the recordings, see above")
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace shards made with other arguments")
    table = parser.add_argument_group("recordings")
    table.add_argument("--rate", type=cli.number(0, above=True), required=True, metavar="HZ", help="sampling rate")
    table.add_argument(
        "--unit",
        choices=tuple(UNITS),
        help="unit of the samples; counts: ADC counts of putEMG's device (default: arbitrary)",
    )
    table.add_argument(
        "--channels", type=cli.number_ranges, help="columns of the channels, such as 2-9 (default: see above)"
    )
    table.add_argument("--labels", default=LABELS, metavar="COLUMN", help="the column that names the gesture")
    shared.add_classes(table, default="all, rest first")
    table.add_argument(
        "--rest-classes", nargs="*", metavar="NAME", help="classes in which no gesture is made (default: see above)"
    )
    cli.renamed(table, "--rest", "--rest-classes")
    table.add_argument(
        "--rings",
        type=ring,
        nargs="+",
        metavar="COLUMNS",
        help="columns of each ring of electrodes, or none (see above)",
    )
    table.add_argument(
        "--simulated", action="store_true", help="no people were recorded; all later results will say so"
    )
    signal = parser.add_argument_group("signal and windows")
    signal.add_argument("--low", type=cli.number(0, above=True), help="lower edge of the band-pass, Hz (default: 20)")
    signal.add_argument(
        "--high",
        type=cli.number(0, above=True),
        help="upper edge of the band-pass, Hz (default: 700, or 45 %% of the rate if lower)",
    )
    signal.add_argument("--order", type=cli.whole(1, 12), default=4, help="Butterworth order of the band-pass")
    signal.add_argument(
        "--notch",
        type=cli.number(0, above=True),
        nargs="*",
        metavar="HZ",
        help="notch frequencies to filter out, Hz (default: mains, see above)",
    )
    signal.add_argument("--causal", action="store_true", help="filter causally (forward only), as in live use")
    shared.add_windows(signal)
    return parser


# --- reading ---------------------------------------------------------------------------------------------------


def look_at_all(
    entries: list[Entry], readings: Readings, args: argparse.Namespace, report: Failures, warnings: Warnings
) -> dict[Entry, Look]:
    """The first reading of all recordings; those with an error are reported and left out."""
    looks: dict[Entry, Look] = {}
    known: dict[str, Path] = {}
    report.console.say(f"reading {cli.counted(len(entries), 'recording')}")
    for entry in report.console.progress(entries, unit="recording", desc="reading", leave=False):
        try:
            reading = readings.get(entry)
            expect_another(entry.path, reading, known)
            seen = look(reading, args.rate, args.low, args.high)
            if not math.isfinite(seen.rms):
                raise DataError(f"{entry.path}: expected amplitudes of a signal, found an RMS of {seen.rms:g}")
            places_of_rings(entry, seen, args)
            looks[entry] = seen
            if args.unit is not None and reading.unit not in ("", args.unit):
                unit = f"its unit is {reading.unit} by the names of its channels, --unit says {args.unit}"
                warnings.add(entry.path, unit)
            for doubt in doubts(reading, entry.facts.subject):
                warnings.add(entry.path, doubt)
        except (DataError, OSError) as error:
            readings.drop(entry.path)
            report.failed(entry.path, cli.in_words(error))
    warnings.tell()
    return with_the_same_channels(looks, readings, args, report) if looks else looks


def with_the_same_channels(
    looks: dict[Entry, Look], readings: Readings, args: argparse.Namespace, report: Failures
) -> dict[Entry, Look]:
    """The recordings with the channels that most have, put in one order by their names. Those with other channels are
    reported and left out; if --rings names columns, also those with another order."""
    usual = Counter(one.channels for one in looks.values()).most_common(1)[0][0]
    by_columns = any(args.rings or ())  # which are other electrodes in each order
    if not by_columns:
        usual = next((one for one in channels_there(looks, args) if same_channels(one, usual)), usual)
        readings.put_in_order(usual)
    put_in_order, remaining = [], dict[Entry, Look]()
    for entry, seen in looks.items():
        own, same = seen.channels, same_channels(seen.channels, usual)
        if own == usual:
            remaining[entry] = seen
        elif same and not by_columns:
            places = tuple(seen.places[own.index(name)] for name in usual)
            remaining[entry] = replace(seen, places=places, channels=usual)
            put_in_order.append(entry.path.name)
        else:
            names = f"expected the channels {in_runs(usual)}, as most have, found {in_runs(own)}"
            advice = "; write its columns in that order" if same else ""
            report.failed(entry.path, f"{entry.path}: {names}{advice}")
            readings.drop(entry.path)
    if put_in_order:
        report.console.say(f"{listed(put_in_order)}: channels put in the order of the others, by their names")
    return remaining


def channels_there(entries: Iterable[Entry], args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The channels of each shard that is in the folder already and stays there."""
    replaced = {entry.facts.name for entry in entries} if args.overwrite else set()
    there = list_records(args.shards) if args.shards.is_dir() else []
    for name in [one for one in there if one not in replaced]:
        with suppress(DataError, OSError):  # a damaged shard has been reported
            yield tuple(read_meta(args.shards / name)["channels"])


# --- what holds for all ----------------------------------------------------------------------------------------


def settle(looks: dict[Entry, Look], args: argparse.Namespace, console: cli.Console) -> Settled:
    """Classes, unit and notches: from the flags, otherwise from the recordings. UsageError for flags that do not
    fit."""
    classes, channels = settled_classes(looks, args, console), next(iter(looks.values())).channels
    before = {} if args.overwrite else earlier_arguments(channels, args)
    notch = before.get("notch") if args.notch is None else args.notch
    if notch is None:
        notch = common_lines([(one.mains, one.lines) for one in looks.values()], args.rate)
    rms = float(np.median([one.rms for one in looks.values() if one.rms > 0] or [0.0]))
    if args.unit is not None:
        return Settled(channels, classes, UNITS[args.unit], "uV", notch, rms)
    return Settled(channels, classes, before.get("scale") or common_scale(rms), "arbitrary", notch, rms)


def settled_classes(looks: dict[Entry, Look], args: argparse.Namespace, console: cli.Console) -> list[str]:
    """The names of the gestures to keep: rest classes first, numbers in numerical order."""
    named = frozenset[str]().union(*(one.gestures for one in looks.values()))
    if wrong := [name for name in in_order(named) if not text(name)]:
        raise DataError(f"{args.list}: expected names of gestures in the column {args.labels!r}, found {wrong[0]!r}")
    if args.classes is None:
        classes = sorted(in_order(named), key=lambda name: not is_rest(name))
        if args.no_idle:
            classes = list(chosen(classes, rest_classes(classes, args.rest_classes), None, no_idle=True))
            args.rest_classes = []  # no rest class is left
    else:
        classes = args.classes
        if absent := [name for name in classes if name not in named]:
            has = ", ".join(in_order(named)) or "none"
            if absent == classes:
                raise DataError(f"{args.list}: expected one of the gestures {', '.join(classes)}, found {has}")
            console.warn(f"no recording has the gesture {', '.join(absent)} (--classes); they have {has}")
    if len(classes) < FEWEST:
        expected = f"expected recordings of at least {FEWEST} gestures in the column {args.labels!r}"
        raise DataError(
            f"{args.list}: {expected}, found {f'{classes[0]} alone' if classes else 'none'}",
            "{classes} names those of all recordings that belong together, here or in other lists" if classes else "",
        )
    folded = Counter(name.casefold() for name in classes)
    if alike := [name for name in classes if folded[name.casefold()] > 1]:
        console.warn(f"gestures that differ in capitals alone are classes of their own: {', '.join(alike)}")
    return classes


def earlier_arguments(channels: tuple[str, ...], args: argparse.Namespace) -> dict[str, Any]:
    """How a shard in the folder was made with which these recordings can be used; empty if there is none.

    It has the same rate, channels and unit: no factor or notch frequency is taken over from others.
    """
    for name in list_records(args.shards) if args.shards.is_dir() else []:
        try:
            meta = read_meta(args.shards / name)
        except (DataError, OSError):
            continue
        how = meta["arguments"]
        same = (meta["rate"], tuple(meta["channels"])) == (args.rate, channels)
        if same and "scale" in how and how.get("unit") == args.unit:
            return how
    return {}


def check_strengths(
    looks: dict[Entry, Look], settled: Settled, readings: Readings, args: argparse.Namespace, report: Failures
) -> None:
    """Leave out recordings whose unit differs from the others', and warn if there seem to be two units. SettingError if
    --unit cannot be the unit of any."""
    typical, microvolts, (low, high) = settled.rms, settled.rms * settled.scale, USUAL_RMS
    if args.unit and typical > 0 and not low <= microvolts <= high:
        expected = "a unit in which surface EMG has an RMS of {} to {} uV"
        raise SettingError(
            "unit", f"{expected}, found {microvolts:.3g} uV", None, (low, high), "without it any scale will do"
        )
    others = in_another_unit({entry.path: one.rms for entry, one in looks.items()}, typical)
    for entry in [entry for entry in looks if entry.path in others]:
        unit = f" {args.unit}" if args.unit else ""
        actual = f"found {looks[entry].rms:.3g}{unit}: it is in another unit"
        report.failed(entry.path, f"{entry.path}: expected an RMS near the others' {typical:.3g}{unit}, {actual}")
        readings.drop(entry.path)
        del looks[entry]
    for sign in signs_of_two_units({entry.path: one.rms for entry, one in looks.items()}):
        report.console.warn(f"{args.list}: {sign}")


def rest_classes(classes: list[str], named: list[str] | None) -> list[str]:
    """The classes in which no gesture is made. UsageError if one of them is not among the classes."""
    if unknown := [name for name in named or () if name not in classes]:
        raise UsageError(f"--rest-classes {unknown[0]}: expected one of the classes {', '.join(classes)}")
    return [name for name in classes if (is_rest(name) if named is None else name in named)]


# --- one shard -------------------------------------------------------------------------------------------------


def shard_arguments(args: argparse.Namespace, settled: Settled) -> dict[str, Any]:
    """Everything that a shard's content depends on, in the form that preprocess.py stores."""
    return {
        "channels": list(range(1, len(settled.channels) + 1)),
        "montage": "monopolar",
        "window": args.window.samples(args.rate),
        "stride": args.stride.samples(args.rate),
        **{key: getattr(args, key) for key in ("low", "high", "order", "causal", "labels")},
        "notch": settled.notch,
        "transition_margin": args.transition_margin,
        "rest": False,
        "label_rule": "whole-window",
        "unit": args.unit,
        "scale": settled.scale,
        "columns": plain(args.channels),
    }


def make_shard(
    entry: Entry, seen: Look, settled: Settled, readings: Readings, args: argparse.Namespace
) -> tuple[str, np.ndarray, list[str]]:
    """Write one recording's shard, or keep it. Returns `done` or `kept`, its number of windows of each class, and what
    is wrong with it."""
    path, classes = args.shards / entry.facts.name, settled.classes
    expected = expected_facts(entry, seen, settled, args)
    if path.exists() and not args.overwrite:
        expect_made_so(path, expected, read_meta(path))
        windows = open_shard(path, verify=True).windows
        return "kept", np.bincount(windows["label"], minlength=len(classes)), []
    reading = readings.get(entry)
    expect_same(entry.path, seen, reading.of)
    expect_same(entry.path, seen, version(entry.path))  # the checksum was computed from this version, too
    samples, missing = reading.samples, reading.missing
    try:
        windows = windows_of(reading, expected["arguments"], classes, args)
    except DataError as error:
        raise DataError(f"{entry.path}: {error}") from None
    if len(windows) == 0:
        raise without_a_window(entry.path, reading, classes, args)
    faults = find_faults(samples, expected["arguments"]["channels"], ends=None)
    if len(faults.dead) == samples.shape[1]:
        raise DataError(f"{entry.path}: expected a signal, found channels that never change")
    spec = FilterSpec(args.low, args.high, args.order, tuple(settled.notch), args.causal)
    signal = filtered_table(entry.path, samples, spec, args.rate, settled.scale, args.unit or "")
    still = gaps.still_stretches(samples, args.rate)
    meta = {
        "record": entry.facts.name,
        "unit": settled.unit,
        **expected,
        "faults": plain(asdict(faults)) | {"gaps": [[gap.start, gap.lost] for gap in missing], "still": plain(still)},
        "mains": seen.mains,
        "versions": versions("numpy", "scipy"),
        "commit": commit(),
    }
    write_shard(path, meta, signal, windows)
    faulty = faults.in_words(lambda number: settled.channels[number - 1])
    wrong = [faulty, gaps.in_words(missing, args.rate), gaps.still_in_words(still, args.rate)]
    return "done", np.bincount(windows["label"], minlength=len(classes)), list(filter(None, wrong))


def expected_facts(entry: Entry, seen: Look, settled: Settled, args: argparse.Namespace) -> dict[str, Any]:
    """What shard.json has to say for an existing shard to be kept. DataError if the recording has changed."""
    expect_file(entry.path, "a recording")
    expect_same(entry.path, seen, version(entry.path))
    rings = places_of_rings(entry, seen, args)
    source = {"name": entry.path.name, "bytes": entry.path.stat().st_size, "sha256": checksum(entry.path)}
    return facts_of(entry, settled, rest_classes(settled.classes, args.rest_classes), rings, args) | {"source": source}


def places_of_rings(entry: Entry, seen: Look, args: argparse.Namespace) -> list[list[int]]:
    """The places of the rings' channels. DataError for a ring's column that is no channel."""
    return ring_places(entry.path, [place + 1 for place in seen.places], args.rings)


def facts_of(
    entry: Entry, settled: Settled, rest: list[str], rings: list[list[int]], args: argparse.Namespace
) -> dict[str, Any]:
    """What the list, the flags and what is settled for all say of a shard. rest: the rest classes; rings: the places of
    their channels."""
    return {
        **{key: getattr(entry.facts, key) for key in ("subject", "session", "order", "task")},
        "rate": args.rate,
        "channels": list(settled.channels),
        "classes": settled.classes,
        "rest_classes": rest,
        "rings": rings,
        "simulated": args.simulated or is_simulated(entry.path),
        "gesture": entry.label or None,
        "arguments": shard_arguments(args, settled),
    }


def facts_before_reading(entry: Entry, meta: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """What `facts_of` will be, as far as the list and the flags say it; all else as `meta` of the existing shard.

    Nothing if --rest-classes names a class that the shard lacks: only the recordings show whether it is one. DataError
    for a ring's column that is no channel.
    """
    classes, how = args.classes or meta["classes"], meta["arguments"]
    if not set(args.rest_classes or ()) <= set(classes):
        return {}
    rest, rings, columns = rest_classes(classes, args.rest_classes), meta["rings"], args.channels
    if args.no_idle:
        classes, rest = [name for name in classes if name not in rest], []
    if columns or not any(args.rings or ()):
        rings = ring_places(entry.path, list(columns or range(1, len(meta["channels"]) + 1)), args.rings)
    scale = UNITS[args.unit] if args.unit else how.get("scale")
    notch = how.get("notch") if args.notch is None else args.notch
    there = Settled(tuple(meta["channels"]), classes, scale, meta["unit"], notch, rms=0.0)
    return facts_of(entry, there, rest, rings, args)


def expect_made_so(path: Path, expected: dict[str, Any], meta: dict[str, Any]) -> None:
    """DataError unless the existing shard at `path`, described by `meta`, has the facts expected."""
    if apart := first_difference(expected, meta):
        raise DataError(f"{path}: expected {apart}; --overwrite redoes it")


def without_a_window(path: Path, reading: Reading, classes: list[str], args: argparse.Namespace) -> DataError:
    """The error for a recording in which no labelled segment is long enough, or none is free of missing samples."""
    lasting = [stop - first for first, stop, name in zip(*segments(reading.labels), strict=True) if name in classes]
    lost = gaps.in_words(reading.missing, args.rate)
    actual = f"found none longer than {max(lasting, default=0) / args.rate:.3g} s" + (f" ({lost})" if lost else "")
    needed = args.transition_margin + args.window.samples(args.rate) / args.rate
    return DataError(
        f"{path}: expected segments of a gesture of at least a window, {actual}",
        hint=f"{{transition_margin}} and {{window}} take {needed:.3g} s",
    )


def expect_same(path: Path, seen: Look, file: tuple[int, int] | None) -> None:
    """DataError if `file` has changed since the first reading, which settled classes, scale and channels for all."""
    if file != seen.of:
        raise DataError(
            f"{path}: expected a recording at rest, found it changed while others were read; run this again"
        )


def windows_of(reading: Reading, how: dict[str, Any], classes: list[str], args: argparse.Namespace) -> np.ndarray:
    """The table of windows; none of them spans missing samples or two trials."""
    codes = np.select([reading.labels == name for name in classes], list(range(len(classes))), -1)
    margin = round(args.transition_margin * args.rate)
    windows = whole_windows(codes, range(len(classes)), how["window"], how["stride"], margin, reading.trials[1])
    return without_gaps(windows, gaps.breaks(reading.missing, args.rate), how["window"])


def in_words(look_of: dict[Entry, Look], settled: Settled, args: argparse.Namespace) -> list[str]:
    """What is known about the recordings, and what is assumed because no flag says it: one line each."""
    looks = list(look_of.values())
    facts = [f"channels {in_runs(settled.channels)}"]
    if left_out := {name: why for one in looks for name, why in one.left_out.items()}:
        facts[0] += "; no channels: " + ", ".join(f"{name} ({why})" for name, why in left_out.items())
    facts.append(how_long([one.samples / args.rate for one in looks], args.rate))
    if times := sorted({one.time for one in looks}):
        judged = ", ".join(filter(None, times))
        facts.append(f"missing samples are judged by {judged}" if judged else "no column shows missing samples")
    if trials := sorted({one.trials for one in looks} - {""}):
        facts[-1] += f"; no window spans two trials, which {', '.join(trials)} counts"
    out = ", ".join(f"{one:g}" for one in settled.notch) + " Hz out" if settled.notch else "no notch"
    hum = Counter(one.mains for one in looks if one.mains)
    heard = ", ".join(f"{mains:g} Hz in {count} of {len(looks)}" for mains, count in sorted(hum.items()))
    facts.append(f"{args.rate:g} Hz, {args.low:g}-{args.high:g} Hz kept, {out}; mains hum: {heard or 'not heard'}")
    if settled.unit != "uV":
        facts.append(f"samples in a unit of their own, multiplied by {settled.scale:g} (--unit)")
    facts.append(f"{cli.counted(len(settled.classes), 'gesture')}: {', '.join(settled.classes)}")
    return facts + assumptions(args, settled.classes)


def how_long(lengths: list[float], rate: float) -> str:
    """How long recordings last, from their lengths in seconds: without a time, nothing else shows a wrong rate."""

    def lasting(seconds: float) -> str:
        return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:,.3g} min"

    ends = dict.fromkeys(map(lasting, (min(lengths), max(lengths))))
    return f"at {rate:g} Hz, a recording lasts {' to '.join(ends)}, all together {lasting(sum(lengths))}"


def assumptions(args: argparse.Namespace, classes: list[str]) -> list[str]:
    """What is assumed about the device because no flag says it: one line, or none."""
    rest = rest_classes(classes, args.rest_classes)
    facts = []
    if args.rings is None:
        facts.append(f"{ONE_RING[0]} to {ONE_RING[-1]} channels are one ring of electrodes, others none (--rings)")
    if args.rest_classes is None:
        told = f"no gesture is made in {', '.join(rest)}" if rest else "every class is a gesture, none is rest"
        facts.append(f"{told} (--rest-classes)")
        if "0" in classes and args.classes is None:  # in many data sets it is rest, in others it stands for no label
            no_label = "--classes with the others if it is no label"
            facts.append(f"0 is a gesture too: --rest-classes 0 if it is rest, {no_label}")
    return ["assumed: " + "; ".join(facts)] if facts else []


def check(args: argparse.Namespace) -> None:
    """Fill in the band, and write classes as labels are; UsageError for impossible flags."""
    low, high = default_band(args.rate)
    args.low, args.high = args.low or low, args.high or high
    shared.check_notch(args.notch or ())
    FilterSpec(args.low, args.high, args.order, tuple(args.notch or ()), args.causal).check(args.rate)
    check_rings(args.rings or [], args.channels)
    for flag, names in (("--classes", args.classes), ("--rest-classes", args.rest_classes)):
        if wrong := [name for name in names or () if not label(name)]:
            raise UsageError(f"{flag}: expected names of gestures, found {wrong[0]!r}, which stands for none")
    if args.classes is not None:
        args.classes = [label(name) for name in args.classes]
        if len(set(args.classes)) < len(args.classes):
            raise UsageError(f"--classes: expected each gesture once, found {' '.join(args.classes)}")
        if len(args.classes) < FEWEST:  # all shards of a folder have the same classes, so no other import can help
            actual = f"found {args.classes[0]} alone, and nothing can be trained with it"
            raise UsageError(f"--classes: expected at least {FEWEST} gestures, {actual}")
    args.rest_classes = None if args.rest_classes is None else [label(name) for name in args.rest_classes]
    if args.classes is not None:
        rest_classes(args.classes, args.rest_classes)
    if args.stride.samples(args.rate) > args.window.samples(args.rate):
        raise UsageError(f"--stride {args.stride}: expected at most the window, {args.window}")


def expect_classes_of_others(entries: Iterable[Entry], classes: list[str], args: argparse.Namespace) -> None:
    """DataError if shards that are there already have other gestures: with new shards beside them, no split could be
    made."""
    for path in [] if args.overwrite else [args.shards / entry.facts.name for entry in entries]:
        try:
            there = read_meta(path)["classes"] if path.exists() else classes
        except (DataError, OSError):  # a damaged shard is reported when its turn comes
            continue
        if there != classes:
            actual = f"found {listed(there)} in {path.name}, which is there already{_difference(classes, there)}"
            words = shlex.join(there)
            kept = words if len(words) < LONGEST_ADVICE else f"with the classes in {path / 'shard.json'}"
            advice = f"{{classes}} {kept} keeps to these, {{overwrite}} makes all anew"
            raise DataError(f"{args.shards}: expected the gestures {listed(classes)}, {actual}", advice)


def _difference(expected: Sequence[str], there: Sequence[str]) -> str:
    """How two lists of gestures differ, where they are too long to show; otherwise empty."""
    if max(len(expected), len(there)) <= SHOWN:
        return ""
    lacking = [name for name in expected if name not in there]
    more = [name for name in there if name not in expected]
    parts = [*([f"without {listed(lacking)}"] if lacking else []), *([f"with {listed(more)}"] if more else [])]
    return f" ({' and '.join(parts) or 'the same in another order'})"


def warn_of_classes_without_windows(classes: list[str], windows: np.ndarray, console: cli.Console) -> None:
    """Warn of labels without a window: often a typing error, but it would be a class in all later steps."""
    if not windows.any():
        return
    if without := [name for name, count in zip(classes, windows, strict=True) if not count]:
        names = ", ".join(without)
        console.warn(f"no window is of {names}: no such label lasts for a window; --classes keeps the others alone")


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    check(args)
    report = Failures(console, "recording")
    with folder_lock(args.shards):
        return import_all(read_list(args.list), args, report)


def with_all_of_a_person(entries: list[Entry], args: argparse.Namespace, report: Failures) -> list[Entry]:
    """The recordings without those to be written of people of whom the folder has others that the list lacks.

    Their order in time is that of the list: a second list would begin at 1 again, and the sessions be mixed up.
    """
    listed = {entry.facts.name for entry in entries}
    others = {meant(facts.subject): facts for facts in facts_in(args.shards) if facts.name not in listed}
    remaining = []
    for entry in entries:
        path, other = args.shards / entry.facts.name, others.get(meant(entry.facts.subject))
        if other is None or (path.exists() and not args.overwrite):  # of a shard that is there, the order is compared
            remaining.append(entry)
            continue
        expected = f"expected all recordings of subject {entry.facts.subject} in one list, for it gives their order"
        actual = f"found also {args.shards / other.name} of subject {other.subject}"
        advice = "add it to the list, or remove that folder"
        report.failed(entry.path, f"{entry.path}: {expected}, {actual}; {advice}")
    return remaining


def made_otherwise(entries: list[Entry], args: argparse.Namespace, report: Failures) -> list[Entry]:
    """The recordings whose shards are there and made otherwise than the list and the flags say, or damaged. Each is
    reported at once: to read all recordings can take minutes."""
    others = []
    for entry in [] if args.overwrite else entries:
        path = args.shards / entry.facts.name
        try:
            if path.exists():
                meta = read_meta(path)
                expect_made_so(path, facts_before_reading(entry, meta, args), meta)
        except (DataError, OSError) as error:
            report.failed(entry.path, cli.in_words(error))
            others.append(entry)
    return others


def write_shards(
    looks: dict[Entry, Look],
    settled: Settled,
    readings: Readings,
    args: argparse.Namespace,
    report: Failures,
    warnings: Warnings,
) -> tuple[Counter[str], np.ndarray]:
    """Write or keep the shards. Returns how many are `done` and how many `kept`, and their windows of each class."""
    counts, windows = Counter[str](), np.zeros(len(settled.classes), np.int64)
    try:
        for entry in report.console.progress(list(looks), unit="recording", desc="filtering"):
            try:
                state, of_class, wrong = make_shard(entry, looks[entry], settled, readings, args)
            except (DataError, OSError) as error:
                report.failed(entry.path, cli.in_words(error))
                continue
            finally:
                readings.drop(entry.path)
            counts[state] += 1
            windows += of_class
            for what in wrong:
                warnings.add(entry.facts.name, what)
    finally:  # also if it is stopped: the shards that are written are kept from then on, without a warning
        warnings.tell()
    return counts, windows


def import_all(entries: list[Entry], args: argparse.Namespace, report: Failures) -> int:
    """Read all recordings, settle what holds for all of them, and write their shards."""
    entries = with_all_of_a_person(entries, args, report)
    counts, windows = Counter[str](), np.zeros(1, np.int64)
    readings = Readings(Layout(args.rate, args.labels, args.channels), KEPT_BYTES)
    warnings = Warnings(report.console, "recording", "--json lists all")
    if args.classes is not None:
        expect_classes_of_others(entries, args.classes, args)
    others = made_otherwise(entries, args, report)  # they are read, too: what holds for all depends on all
    if len(others) < len(entries) and (looks := look_at_all(entries, readings, args, report, warnings)):
        settled = settle(looks, args, report.console)
        check_strengths(looks, settled, readings, args, report)
        expect_classes_of_others(looks, settled.classes, args)
        for line in in_words(looks, settled, args):
            report.console.say(line)
        counts, windows = write_shards(looks, settled, readings, args, report, warnings)
        if not report.count:  # otherwise a class may be in those that failed
            warn_of_classes_without_windows(settled.classes, windows, report.console)
    report.close()
    written, held = cli.counted(counts["done"], "shard"), cli.counted(int(windows.sum()), "window")
    summary = f"{args.shards}: {written} written, {counts['kept']} kept, {held}"
    failed = f"; {cli.counted(report.count, 'recording')} failed, see above" if report.count else ""
    command = cli.next_command("create_dataset_files.py", "--shards", args.shards)
    after = f"; {command}" if counts["done"] + counts["kept"] else ""
    facts = {"done": counts["done"], "kept": counts["kept"], "failed": report.count, "windows": int(windows.sum())}
    report.console.finish(f"{summary}{failed}{after}", **facts, warnings=warnings.all)
    return 1 if report.count else 0


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
