"""Filter putEMG recordings and cut them into windows, as NumPy shards.

Each recording RAW/<record>.hdf5 becomes a folder SHARDS/<record>/ with the filtered signal (float16, microvolts), the
table of its windows, and shard.json, which says how it was made. Overlapping windows take no extra space on disk.

  python preprocess.py                                    # data/raw/Data-HDF5 -> data/shards
  python preprocess.py --channels 9-16                    # the middle ring of electrodes only
  python preprocess.py --preset paper --shards data/shards-paper      # the putEMG authors' protocol
  python preprocess.py --no-idle --shards data/shards-7    # the seven gestures, windows of idle left out
  python preprocess.py --subjects 03 04 05                # these people only
  python preprocess.py --launch slurm --parallel 44 --hours 1    # one Slurm job per person; see docs/many_runs.md

Steps: ADC counts -> re-referencing (--montage) -> microvolts -> band-pass and notch filters, zero-phase unless --causal
-> windows that lie wholly within one label and start at least --transition-margin after a change of label. Segments
labelled -1 (no gesture) are left out, or with --rest kept as a ninth class "rest". The codes 0,1,2,3,6,7,8,9 of the
eight gestures become the labels 0-7. --classes keeps only the windows of the gestures it names, as classes in this
order; --no-idle keeps those of all gestures except idle. Names: idle, fist, flexion, extension, 'pinch index', 'pinch
middle', 'pinch ring', 'pinch small'.

--preset paper is the protocol of the data set's authors: windows of 2500 samples every 1250, a band-pass of order 5,
notches at 30, 49.99, 60, 90 and 150 Hz, each window labelled by its last sample, and windows near transitions left out.
Flags given in addition override its values; --rest and --transition-margin do not go with its rule for labels.

Missing samples, which show as steps of more than 1.5 samples in the index, are reported and recorded in shard.json. No
window spans a gap of more than 2.5 ms. A recording with an error is reported and left out; the others are processed. An
existing shard is kept if it was made from the same file with the same arguments; otherwise it is reported as an error.
--overwrite makes it again.

--launch processes each person's recordings in a separate job, several at once. Ctrl-C leaves the jobs running; the same
command then waits for them and starts the rest.

docs/scale.md says how much time, memory and disk space it takes.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from semg.common import cli, launching
from semg.common.errors import DataError, UsageError
from semg.common.failures import Repeated
from semg.common.files import checksum, expect_file, expect_unchanged, remove_leftovers
from semg.common.launching import Launcher
from semg.common.process_pool import as_ready, usable_cores
from semg.common.provenance import commit, plain, versions
from semg.data import gaps, putemg
from semg.data.faults import find_faults
from semg.data.filters import HIGH, LOW, FilterSpec
from semg.data.gestures import chosen, windows_of
from semg.data.preprocessing import MONTAGES, filtered, montage, rings
from semg.data.putemg_recording import Recording
from semg.data.records import from_name
from semg.data.shards import first_difference, open_shard, read_meta, write_shard
from semg.data.spectrum import Spectrum
from semg.data.tables import is_simulated
from semg.data.windows import paper_windows, whole_windows, without_gaps
from semg.flags import shared

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "window": cli.length("2500"),
        "stride": cli.length("1250"),
        "order": 5,
        "notch": [30.0, 49.99, 60.0, 90.0, 150.0],
        "label_rule": "last-sample",
    }
}


@dataclass(frozen=True)
class Arguments:
    """Everything that a shard's content depends on, in samples and Hz; stored in shard.json."""

    channels: tuple[int, ...]
    montage: str
    window: int
    stride: int
    low: float
    high: float
    order: int
    notch: tuple[float, ...]
    causal: bool
    labels: str
    rest: bool
    transition_margin: float  # seconds
    label_rule: str

    @property
    def filter(self) -> FilterSpec:
        """The filter that these arguments describe."""
        return FilterSpec(self.low, self.high, self.order, self.notch, self.causal)

    def as_json(self) -> dict[str, Any]:
        """As plain JSON types, as they are read back from shard.json."""
        return plain(asdict(self))


@dataclass(frozen=True)
class Conversion:
    """One recording to convert into one shard."""

    source: Path
    shard: Path
    arguments: Arguments
    overwrite: bool
    classes: tuple[str, ...] = tuple(putemg.GESTURES.values())


@dataclass(frozen=True)
class Outcome:
    """What became of a conversion: `done`, `kept` or `failed`, with a message if there is something to report."""

    record: str
    state: str
    message: str = ""
    windows: int = 0
    mains: float | None = None  # Hz of the mains hum in it


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("--raw", type=Path, default=Path("data/raw/Data-HDF5"), help="folder of recordings")
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder to write")
    parser.add_argument("--subjects", type=cli.subjects, nargs="+", metavar="NN", help="process these people only")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="use the settings of a published protocol")
    parser.add_argument("--workers", type=cli.whole(1), default=usable_cores(), help="recordings processed at once")
    parser.add_argument("--overwrite", action="store_true", help="replace shards made with other arguments")
    signal = parser.add_argument_group("signal")
    signal.add_argument("--channels", type=cli.number_ranges, default="1-24", help="channels, such as 9-16 or 1,3,5")
    signal.add_argument(
        "--montage",
        choices=MONTAGES,
        default="monopolar",
        help="bipolar: differences between neighbouring rings, along the arm; car: common average reference",
    )
    signal.add_argument("--low", type=cli.number(0, above=True), default=LOW, help="lower edge of the band-pass, Hz")
    signal.add_argument("--high", type=cli.number(0, above=True), default=HIGH, help="upper edge of the band-pass, Hz")
    signal.add_argument("--order", type=cli.whole(1, 12), default=4, help="Butterworth order of the band-pass")
    notch = signal.add_mutually_exclusive_group()
    notch.add_argument(
        "--notch",
        type=cli.number(0, above=True),
        nargs="+",
        default=list(putemg.NOTCH),
        metavar="HZ",
        help="notch frequencies to filter out, Hz",
    )
    notch.add_argument("--no-notch", dest="notch", action="store_const", const=[], help="use no notch filter")
    signal.add_argument(
        "--causal",
        action="store_true",
        help="filter causally (forward only), as in live use; band edges are then at -3 dB",
    )
    windows = parser.add_argument_group("windows")
    shared.add_windows(windows)
    windows.add_argument(
        "--labels", choices=putemg.LABEL_COLUMNS, default="TRAJ_GT", help="labels as seen on video, or as prompted"
    )
    shared.add_classes(windows)
    windows.add_argument("--rest", action="store_true", help="keep label -1 as a ninth class, 'rest'")
    cli.launch_flags(parser, "each person")
    parser.set_defaults(label_rule="whole-window")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The flags: those given, otherwise a preset's values, otherwise the defaults."""
    preset = parser.parse_args().preset
    if preset:
        parser.set_defaults(**PRESETS[preset])
    return parser.parse_args()


def shard_arguments(args: argparse.Namespace) -> Arguments:
    """Check the flags against each other. Raises UsageError."""
    window, stride = args.window.samples(putemg.RATE), args.stride.samples(putemg.RATE)
    if stride > window:
        raise UsageError(f"--stride {args.stride}: expected at most the window, {args.window}")
    if wrong := [n for n in args.channels if not 1 <= n <= putemg.N_CHANNELS]:
        raise UsageError(f"--channels: expected numbers from 1 to {putemg.N_CHANNELS}, found {wrong[0]}")
    if args.label_rule == "last-sample":
        if args.rest:
            raise UsageError("--rest: --preset paper leaves label -1 out as its authors did; give one of the two")
        if cli.given("transition_margin"):
            problem = "--preset paper leaves windows near transitions out by a rule of its own; give one of the two"
            raise UsageError(f"--transition-margin: {problem}")
    given = {field.name: getattr(args, field.name) for field in fields(Arguments)}
    parsed = Arguments(**given | {"window": window, "stride": stride, "notch": tuple(args.notch)})
    shared.check_notch(parsed.notch)
    parsed.filter.check(putemg.RATE)
    montage(parsed.channels, parsed.montage)
    return parsed


def class_names(args: argparse.Namespace) -> tuple[str, ...]:
    """The classes to keep, in their order. Raises UsageError if they are not at least two valid ones."""
    if args.rest and args.no_idle:
        raise UsageError("--no-idle: expected no --rest with it, which keeps a class without a gesture")
    known = (*putemg.GESTURES.values(), *(["rest"] if args.rest else []))
    return chosen(known, putemg.REST_CLASSES, args.classes, no_idle=args.no_idle)


def window_table(labels: np.ndarray, how: Arguments) -> tuple[list[str], np.ndarray]:
    """Class names, and the windows of a recording with labels (T,)."""
    codes, names = list(putemg.GESTURES), list(putemg.GESTURES.values())
    if how.label_rule == "last-sample":
        return names, paper_windows(labels, codes, how.window, how.stride, putemg.REST)
    if how.rest:
        codes, names = [*codes, putemg.REST], [*names, "rest"]
    margin = round(how.transition_margin * putemg.RATE)
    return names, whole_windows(labels, codes, how.window, how.stride, margin)


def process(conversion: Conversion) -> Outcome:
    """Make one shard unless it exists. An error in the recording is returned as an outcome, not raised."""
    name = conversion.source.stem
    try:
        # one thread, so that sums do not depend on the machine's load, and workers do not compete for cores
        with threadpool_limits(1):
            return _process(conversion, name)
    except (DataError, UsageError) as error:
        return Outcome(name, "failed", cli.in_words(error))
    except MemoryError:
        return Outcome(name, "failed", f"{conversion.source}: found too little memory; use fewer --workers")
    except OSError as error:
        if error.filename == str(conversion.source):
            return Outcome(name, "failed", cli.in_words(error))
        return Outcome(name, "failed", f"{conversion.shard}: could not be written ({error}); is the disk full?")


def _process(conversion: Conversion, name: str) -> Outcome:
    record = from_name(name)
    expect_file(conversion.source, "a recording")
    path, how = conversion.source, conversion.arguments
    with expect_unchanged(path, "a recording"):
        source = {"name": path.name, "bytes": path.stat().st_size, "sha256": checksum(path)}
        if conversion.shard.exists() and not conversion.overwrite:
            return _keep(conversion, name, source)
        with Recording(path) as recording:
            counts, labels = recording.read(how.channels, how.labels)
            measured, missing = recording.rate, recording.gaps()
    try:
        named, windows = window_table(labels, how)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    classes, windows = list(conversion.classes), windows_of(windows, [named.index(name) for name in conversion.classes])
    windows = without_gaps(windows, gaps.breaks(missing, putemg.RATE), how.window)
    if len(windows) == 0:
        lost = gaps.in_words(missing, putemg.RATE)
        actual = f"found none ({lost})" if lost else "found none"
        raise DataError(f"{conversion.source}: expected segments of a gesture of at least a window, {actual}")
    faults, still = find_faults(counts, how.channels), gaps.still_stretches(counts, putemg.RATE)
    mains = Spectrum.of(counts, putemg.RATE).mains()
    channels, reference = montage(how.channels, how.montage)
    meta = {
        "record": record.name,
        **{key: getattr(record, key) for key in ("subject", "session", "order", "task")},
        "rate": putemg.RATE,
        "measured_rate": round(measured, 3),
        "unit": "uV",
        "channels": channels,
        "rings": rings(how.channels, how.montage),
        "classes": classes,
        "rest_classes": [one for one in classes if one in putemg.REST_CLASSES],
        "arguments": how.as_json(),
        "faults": plain(asdict(faults)) | {"gaps": [[gap.start, gap.lost] for gap in missing], "still": plain(still)},
        "mains": mains,
        "source": source,
        "simulated": is_simulated(conversion.source),
        "versions": versions("numpy", "scipy", "h5py"),
        "commit": commit(),
    }
    write_shard(conversion.shard, meta, filtered(counts, reference, how.filter, putemg.RATE), windows)
    said = [str(faults), gaps.in_words(missing, putemg.RATE), gaps.still_in_words(still, putemg.RATE)]
    wrong = ", ".join(filter(None, said))
    return Outcome(name, "done", f"{name}: {wrong}" if wrong else "", len(windows), mains)


def _keep(conversion: Conversion, name: str, source: dict[str, Any]) -> Outcome:
    """Keep the existing shard if it was made from this file in this way; DataError otherwise."""
    meta = read_meta(conversion.shard)
    _expect_made_so(conversion, meta, {**_asked(conversion), "source": source})
    shard = open_shard(conversion.shard, verify=True)
    remove_leftovers(conversion.shard)
    return Outcome(name, "kept", windows=len(shard.windows), mains=meta.get("mains"))


def _asked(conversion: Conversion) -> dict[str, Any]:
    """What shard.json says if the shard was made in this way."""
    return {"classes": list(conversion.classes), "arguments": conversion.arguments.as_json()}


def _expect_made_so(conversion: Conversion, meta: dict[str, Any], expected: dict[str, Any]) -> None:
    if apart := first_difference(expected, meta):
        raise DataError(f"{conversion.shard}: expected {apart}; --overwrite redoes it")


def made_otherwise(conversions: Iterable[Conversion]) -> dict[Conversion, Outcome]:
    """The conversions whose shards are there and were made in another way, or are damaged, and how they fail: found
    before anything is filtered, which can take an hour."""
    failed = {}
    for one in conversions:
        try:
            if one.shard.exists() and not one.overwrite:
                _expect_made_so(one, read_meta(one.shard), _asked(one))
        except (DataError, OSError) as error:
            failed[one] = Outcome(one.source.stem, "failed", cli.in_words(error))
    return failed


def find_recordings(raw: Path, subjects: list[str] | None) -> list[Path]:
    """The gesture recordings in `raw`; if `subjects` is given, only theirs."""
    if not raw.is_dir():
        raise DataError(
            f"{raw}: expected a folder (--raw), found none; download_putemg.py or simulate_putemg.py makes it"
        )
    files = sorted(
        path
        for path in raw.iterdir()
        if path.suffix.lower() == ".hdf5" and not path.name.startswith((".", "emg_force-"))
    )
    if not files:
        raise DataError(f"{raw}: expected recordings named emg_gestures-*.hdf5, found none")
    named: dict[str, Path] = {}
    for path in files:
        if (twin := named.setdefault(path.stem, path)) != path:
            raise DataError(f"{raw}: expected each recording once, found {twin.name} and {path.name}; delete one")
    if not subjects:
        return files
    subject_of = {path: putemg.parse_record(path.stem).subject for path in files if putemg.is_record(path.stem)}
    if missing := sorted(set(subjects) - set(subject_of.values())):
        there = " ".join(sorted(set(subject_of.values()))) or "none of any subject"
        raise DataError(f"{raw}: expected recordings of subject {', '.join(missing)}, found none; there are {there}")
    return [path for path, subject in subject_of.items() if subject in subjects]


def killed(conversion: Conversion) -> Outcome:
    """The outcome of a conversion whose worker ended before it was done."""
    problem = f"{conversion.source}: the worker was killed, perhaps for want of memory; use fewer --workers"
    return Outcome(conversion.source.stem, "failed", problem)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = parse(arguments())
    console = cli.console(args)
    how, classes = shard_arguments(args), class_names(args)
    conversions = [
        Conversion(path, args.shards / path.stem, how, args.overwrite, classes)
        for path in find_recordings(args.raw, args.subjects)
    ]
    if many := cli.launcher(args, args.shards, console):
        return launch(conversions, args, many, console)
    with launching.sole_writer(args.shards):
        return make_shards(conversions, args, console)


def launch(conversions: list[Conversion], args: argparse.Namespace, many: Launcher, console: cli.Console) -> int:
    """Have each person's recordings converted by a run of its own, unless all of them are known to fail."""
    files = [one.source for one in conversions]
    failed = [path for path in files if not putemg.is_record(path.stem)]
    for path in failed:
        console.error(f"{path}: expected a recording's name such as emg_gestures-03-...hdf5, found another")
    with closing(Repeated(console.error, "recording")) as failures:
        for one, outcome in made_otherwise(one for one in conversions if one.source not in failed).items():
            failures.add(outcome.record, outcome.message)
            failed.append(one.source)
    people = sorted({putemg.parse_record(path.stem).subject for path in files if path not in failed})
    script, wrongs = Path(__file__).resolve(), 0
    jobs = [
        launching.Job(f"subject {who}", cli.part_of_this(script, ["subjects"], "--subjects", who)) for who in people
    ]
    for job, wrong in many.run(jobs, "preprocess"):
        wrongs += bool(wrong)
        if wrong:
            console.error(f"{job.name}: {wrong}")
    there = sum((args.shards / path.stem / "shard.json").is_file() for path in files)
    summary = f"{args.shards}: {there} of {cli.counted(len(files), 'recording')} have their shards"
    after = "some failed, see above; the same command tries them again"
    if not (failed or wrongs):
        after = cli.next_command("create_dataset_files.py", "--shards", args.shards)
    console.finish(f"{summary}; {after}", shards=there, failed=len(failed) + wrongs)
    return 1 if failed or wrongs else 0


def make_shards(conversions: list[Conversion], args: argparse.Namespace, console: cli.Console) -> int:
    """Convert the recordings into shards and report the outcome of each."""
    how, classes = conversions[0].arguments, conversions[0].classes
    console.say(
        f"{cli.counted(len(conversions), 'recording')} in {args.raw}: {cli.counted(len(how.channels), 'channel')}, "
        f"{how.low:g}-{how.high:g} Hz, windows of {how.window} samples every {how.stride}, labels {how.labels}, "
        f"{cli.counted(len(classes), 'class', 'classes')}: {', '.join(classes)}"
    )
    counts = {"done": 0, "kept": 0, "failed": 0}
    windows, hum = 0, Counter[float]()
    known = made_otherwise(conversions)
    remaining = [one for one in conversions if one not in known]
    outcomes = chain(known.values(), as_ready(process, remaining, args.workers, killed, console.warn))
    with closing(Repeated(console.error, "recording")) as failures:
        for outcome in console.progress(outcomes, total=len(conversions), unit="recording"):
            counts[outcome.state] += 1
            windows += outcome.windows
            hum.update([outcome.mains] if outcome.mains else [])
            if outcome.state == "failed":
                failures.add(outcome.record, outcome.message)
            elif outcome.message:
                console.warn(outcome.message)
    if hum:
        heard = ", ".join(f"{mains:g} Hz in {cli.counted(n, 'recording')}" for mains, n in sorted(hum.items()))
        left = [mains for mains in hum if all(abs(mains - notch) > 1 for notch in how.notch)]
        console.say(f"mains hum: {heard}" + (f", {left[0]:g} Hz is left in (--notch)" if left else "; taken out"))
    written, held = cli.counted(counts["done"], "shard"), cli.counted(windows, "window")
    summary = f"{args.shards}: {written} written, {counts['kept']} kept, {held}"
    after = cli.next_command("create_dataset_files.py", "--shards", args.shards)
    if counts["failed"]:
        after = f"{cli.counted(counts['failed'], 'recording')} failed, see above"
    console.finish(f"{summary}; {after}", **counts, windows=windows)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
