"""Draw pictures that answer questions: about the network, recordings, a split, or a run.

  python plot.py architecture [CKPT]          how does a window become a gesture? GPT-2 small, or a checkpoint's network
  python plot.py recording RECORDING          what was recorded? channels over time, gestures as coloured bands
  python plot.py spectrum RECORDING.hdf5      what does the filter remove? power before and after
  python plot.py electrodes RECORDING...      where are the muscles? RMS for each gesture, relative to that at rest
  python plot.py classes SPLIT                how many windows of each gesture are in each subset of a split?
  python plot.py curves RUN                   how did training go? loss and macro-F1 by epoch
  python plot.py calibration RESULTS...       do a new person's first repetitions help? scores against their number
  python plot.py errors RESULTS               what are the most confident errors? windows with their signals

RECORDING is an HDF5 recording (drawn as recorded, with its mean subtracted) or a shard (drawn filtered). RUN is a
folder that train.py wrote. RESULTS are folders that calibrate.py wrote, for one or more numbers of repetitions and one
or more folds, whose people are pooled; for errors, one folder of calibrate.py, evaluate.py or a baseline. A picture is
written to --out, by default results/plots/<picture>.png.

  python plot.py recording data/shards/emg_gestures-03-... --begin 20 --seconds 10 --channels 1-8
  python plot.py electrodes data/shards/emg_gestures-03-*    # one person, all recordings together
  python plot.py architecture --tune fpt --out docs/images/architecture.png

Pictures of simulated recordings, and of results made from them, say so in the title. Each picture takes seconds.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import expect_place, read_json
from semg.data import putemg
from semg.data.filters import FilterSpec
from semg.data.normalization import ChannelNormalization
from semg.data.preprocessing import filtered
from semg.data.preprocessing import rings as whole_rings
from semg.data.putemg_recording import Recording
from semg.data.shards import Shard, open_shard, open_shards
from semg.data.splits import SUBSETS, read_split
from semg.data.tables import is_simulated
from semg.data.windows import segments
from semg.evaluation import metrics, palette, score_figures, signal_figures
from semg.evaluation.predictions import excerpt, predictions_of, surest_errors
from semg.evaluation.result_record import ResultRecord, chance_of, read_result
from semg.evaluation.run_record import read_epochs, says_simulated
from semg.flags import places

ERRORS, ERROR_CHANNELS = 9, 6  # misclassified windows shown, and how many of their strongest channels
USED_BY = {  # setting -> the pictures that it changes
    "begin": ("recording", "spectrum"),
    "seconds": ("recording", "spectrum"),
    "channels": ("recording", "spectrum"),
    "labels": ("recording", "electrodes"),
    "causal": ("spectrum",),
    "shards": ("classes", "errors"),
    "tune": ("architecture",),
}
ALL_CHANNELS = tuple(range(1, putemg.N_CHANNELS + 1))


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("picture", choices=tuple(PICTURES), help="what to draw")
    parser.add_argument(
        "source", type=Path, nargs="*", metavar="SOURCE", help="what the picture is drawn from, see above"
    )
    parser.add_argument("--out", type=Path, help="the PNG to write (default: results/plots/PICTURE.png)")
    parser.add_argument("--note", help="text to add to the title, such as: simulated")
    signal = parser.add_argument_group("recording, spectrum")
    signal.add_argument(
        "--begin", type=cli.number(0), default=0.0, help="start, in seconds from the beginning of the recording"
    )
    signal.add_argument(
        "--seconds", type=cli.number(0, above=True), help="length of signal to draw (default: all of it)"
    )
    signal.add_argument("--channels", type=cli.number_ranges, help="channels by number, such as 1-8 (default: all)")
    signal.add_argument(
        "--labels",
        choices=putemg.LABEL_COLUMNS,
        default="TRAJ_GT",
        help="recording, electrodes: HDF5 recordings' labels as seen on video, or as prompted",
    )
    signal.add_argument("--causal", action="store_true", help="spectrum: filter causally, as in live use")
    other = parser.add_argument_group("classes, architecture, errors")
    other.add_argument(
        "--shards", type=Path, help="folder of shards (default: data/shards; errors: the one that RESULTS names)"
    )
    other.add_argument(
        "--tune",
        default="full",
        help="without a checkpoint: which part of GPT-2 small is trained: full, last:N, fpt, lora or frozen",
    )
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """UsageError for a flag that would not change the picture."""
    given = [name for name in USED_BY if cli.given(name)]
    for name in given:
        if args.picture not in USED_BY[name]:
            raise UsageError(f"--{name}: expected {' or '.join(USED_BY[name])}, which it changes, found {args.picture}")
    if "tune" in given and args.source:
        raise UsageError(
            f"--tune: expected no checkpoint beside it, found {args.source[0]}, which says what is trained"
        )
    if "labels" in given and (made := [path for path in args.source if path.suffix != ".hdf5"]):
        raise UsageError(
            f"--labels: expected HDF5 recordings, found {made[0]}; a shard has only the labels of its making"
        )


# --- what is drawn, as arrays ----------------------------------------------------------------------------------


class Signal:
    """A recording or a shard as arrays: (T, C) in `unit`, channel names, classes, and the segments of each class."""

    def __init__(self, path: Path, labels: str) -> None:
        self.name = path.stem if path.suffix == ".hdf5" else path.name
        self.raw = path.suffix == ".hdf5"
        if self.raw:
            self.simulated = is_simulated(path)
            with Recording(path, check_name=False) as recording:
                counts, codes = recording.read(ALL_CHANNELS, labels)
            self.values, self.unit = counts * np.float32(putemg.MICROVOLTS_PER_COUNT), "uV"
            self.rate, self.channels = putemg.RATE, putemg.CHANNEL_COLUMNS
            self.rings = tuple(tuple(ring) for ring in whole_rings(ALL_CHANNELS, "monopolar"))
            self.classes = tuple(putemg.GESTURES.values())
            self.rest_classes = tuple(putemg.REST_CLASSES)
            gestures, runs = list(putemg.GESTURES), zip(*segments(codes), strict=True)
            self.segments = [(int(a), int(b), gestures.index(int(code))) for a, b, code in runs if code in gestures]
        else:
            if path.is_file():
                expected = "expected an HDF5 recording or the folder of a shard"
                raise DataError(f"{path}: {expected}, found another file; import_csv.py makes shards of tables")
            shard = open_shard(path)
            self.simulated = shard.simulated
            self.values, self.rate, self.channels = shard.signal, shard.rate, shard.channels
            self.unit = shard.meta["unit"]
            self.classes, self.rings = shard.classes, shard.rings
            self.rest_classes = tuple(shard.rest_classes)
            self.segments = _windowed(shard)

    def part(self, begin: float, seconds: float | None, channels: tuple[int, ...] | None) -> np.ndarray:
        """(T, C) the excerpt asked for. Raises UsageError if the recording does not have it."""
        length = len(self.values) / self.rate
        first = round(begin * self.rate)
        if len(self.values) - first < 2:
            problem = f"expected at least 2 samples before the recording's end, {length:.1f} s"
            raise UsageError(f"--begin {begin:g}: {problem}")
        if wrong := [n for n in channels or () if not 1 <= n <= len(self.channels)]:
            raise UsageError(f"--channels: expected numbers from 1 to {len(self.channels)}, found {wrong[0]}")
        stop = len(self.values) if seconds is None else min(len(self.values), first + round(seconds * self.rate))
        if stop - first < 2:
            raise UsageError(f"--seconds {seconds:g}: expected at least 2 samples, found {stop - first}")
        part = self.values[first:stop]
        return part if channels is None else part[:, [n - 1 for n in channels]]

    def seconds(self) -> list[signal_figures.Segment]:
        """The labelled segments in seconds."""
        return [(first / self.rate, stop / self.rate, label) for first, stop, label in self.segments]


def _windowed(shard: Shard) -> list[tuple[int, int, int]]:
    """(first sample, end, class) of the samples that a shard's windows cover, segment by segment."""
    ends: dict[tuple[int, int], tuple[int, int]] = {}
    for row in shard.windows:
        key = (int(row["label"]), int(row["repetition"]))
        low, high = int(row["low"]), int(row["high"]) + shard.window
        first, stop = ends.get(key, (low, high))
        ends[key] = (min(first, low), max(stop, high))
    return sorted((first, stop, label) for (label, _), (first, stop) in ends.items())


def gesture_rms(signals: list[Signal]) -> np.ndarray:
    """(K, C) in the signals' unit: root mean square of each channel over all samples of each class; NaN for an
    absent one."""
    first = signals[0]
    power = np.zeros((len(first.classes), len(first.channels)))
    samples = np.zeros(len(first.classes))
    for signal in signals:
        mean = signal.values.mean(axis=0, dtype=np.float64) if signal.raw else 0.0
        for start, stop, label in signal.segments:
            power[label] += np.square(signal.values[start:stop].astype(np.float64) - mean).sum(axis=0)
            samples[label] += stop - start
    with np.errstate(invalid="ignore"):
        return np.sqrt(power / samples[:, None])


# --- the pictures ----------------------------------------------------------------------------------------------


def _one(args: argparse.Namespace, what: str) -> Path:
    if len(args.source) != 1:
        raise UsageError(f"plot.py {args.picture}: expected one SOURCE, {what}, found {len(args.source)}")
    return args.source[0]


def _title(args: argparse.Namespace, text: str, simulated: bool = False) -> str:
    note = args.note or ""
    notes = [*(["SIMULATED"] if simulated and "simulated" not in note.lower() else []), *([note] if note else [])]
    return f"{text} ({', '.join(notes)})" if notes else text


def _run_name(folder: Path) -> str:
    """A run's folder, with the folders above it as long as a name is that of a fold or a seed: default/fold0/seed0."""
    parts = folder.resolve().parts[1:]
    first = next((k for k in range(len(parts) - 1, 0, -1) if not re.match(r"(fold|seed)\d+$", parts[k])), 0)
    return "/".join(parts[first:])


def draw_architecture(args: argparse.Namespace) -> str:
    """The network of a checkpoint, or of GPT-2 small."""
    from model import GPT2Classifier, ModelConfig  # slow to import, and the other pictures need no torch
    from semg.evaluation.architecture_figure import architecture
    from semg.inference.trained_model import TrainedModel
    from semg.training.config import BANDS, TrainConfig

    rate, classes, unit = putemg.RATE, list(putemg.GESTURES.values()), "uV"
    if args.source:
        trained = TrainedModel.open(_one(args, "a checkpoint"), "cpu")
        model, rate, classes, unit = trained.network, trained.rate, list(trained.classes), trained.unit
        channel_normalization = trained.channel_normalization
    else:
        edges = tuple(edge / rate for edge in BANDS)
        channel_normalization = ChannelNormalization(TrainConfig.normalize, TrainConfig.whitening)
        seen = channel_normalization.copies * putemg.N_CHANNELS
        config = ModelConfig(channels=seen, band_edges=edges, tune=args.tune, layers=12, width=768, heads=12)
        model = GPT2Classifier(config)
    counts = model.parameter_counts()
    title = _title(args, "How a window of sEMG becomes a gesture")
    groups = [asdict(group) for group in model.frontend.groups]
    architecture(args.out, model.config.to_dict(), groups, channel_normalization, rate, classes, counts, title, unit)
    return f"{counts['trainable']:,} of {counts['total']:,} parameters train"


def draw_recording(args: argparse.Namespace) -> str:
    """Channels over time."""
    signal = Signal(_one(args, "a recording or a shard"), args.labels)
    part = signal.part(args.begin, args.seconds, args.channels)
    if signal.raw:
        part = part - part.mean(axis=0)
    names = [signal.channels[n - 1] for n in args.channels] if args.channels else signal.channels
    state = "as recorded" if signal.raw else "filtered"
    title = _title(args, f"{signal.name}, {state}", signal.simulated)
    place = (signal.rate, names, signal.seconds(), signal.classes, title, args.begin)
    colours = palette.gestures(signal.classes, signal.rest_classes)
    signal_figures.recording(args.out, part, *place, colours=colours, unit=signal.unit)
    return f"{cli.counted(part.shape[1], 'channel')}, {len(part) / signal.rate:.3g} s"


def draw_spectrum(args: argparse.Namespace) -> str:
    """Power before and after the default filter of preprocess.py."""
    from scipy.signal import welch

    path = _one(args, "an HDF5 recording")
    if path.suffix != ".hdf5":
        raise UsageError(f"{path}: expected an HDF5 recording: a shard no longer holds what the filter took out")
    signal = Signal(path, args.labels)
    before = signal.part(args.begin, args.seconds, args.channels)
    spec = FilterSpec(notch=putemg.NOTCH, causal=args.causal)
    after = filtered(before, np.eye(before.shape[1], dtype=np.float32), spec, signal.rate, scale=1.0)
    segment = min(len(before), round(signal.rate))
    spectra = [welch(x.astype(np.float32), signal.rate, nperseg=segment, axis=0) for x in (before, after)]
    kind = "causal" if args.causal else "zero-phase"
    title = _title(args, f"{signal.name}, {spec.low:g}-{spec.high:g} Hz, {kind}", signal.simulated)
    signal_figures.spectrum(args.out, spectra[0][0][1:], spectra[0][1][1:], spectra[1][1][1:], title)
    return f"{cli.counted(before.shape[1], 'channel')}, {len(before) / signal.rate:.3g} s"


def draw_electrodes(args: argparse.Namespace) -> str:
    """A map of the electrodes for each gesture, over all recordings given."""
    if not args.source:
        raise UsageError("plot.py electrodes: expected at least one SOURCE, a recording or a shard, found none")
    signals = [Signal(path, args.labels) for path in args.source]
    first, rings = signals[0], signals[0].rings
    for path, signal in zip(args.source, signals, strict=True):
        own = (signal.channels, signal.rings, signal.classes, signal.unit)
        if own != (first.channels, rings, first.classes, first.unit):
            raise DataError(f"{path}: expected the same channels, rings, gestures and unit everywhere, found others")
    if not _has_map(rings):
        raise DataError(f"{args.source[0]}: expected electrodes in rings of one size, found none (rings in shard.json)")
    if not any(signal.segments for signal in signals):
        raise DataError(f"{args.source[0]}: expected some gesture in the recording, found none")
    subject_line = first.name if len(signals) == 1 else f"{len(signals)} recordings"
    title = _title(args, f"RMS at each electrode, {subject_line}", any(signal.simulated for signal in signals))
    places = [place for ring in rings for place in ring]
    rms = gesture_rms(signals)[:, places]
    signal_figures.electrodes(args.out, rms, first.classes, len(rings), title, _rest(first, rms), unit=first.unit)
    return subject_line


def _has_map(rings: Sequence[Sequence[int]]) -> bool:
    """Whether electrodes have a place on a map: they are in rings, all of one size."""
    return len({len(ring) for ring in rings}) == 1


def _rest(signal: Signal, rms: np.ndarray) -> int | None:
    """The rest class, if gestures can be compared with it: there is exactly one, with some signal, and some gesture.

    signal: names the classes; rms: (K, C) from `gesture_rms`.
    """
    made = ~np.isnan(rms).all(axis=1)
    rest = [k for k, name in enumerate(signal.classes) if name in signal.rest_classes and made[k]]
    return rest[0] if len(rest) == 1 and made.sum() > 1 and rms[rest[0]].any() else None


def draw_classes(args: argparse.Namespace) -> str:
    """Windows of each gesture in each subset of a split."""
    folder = args.shards or Path("data/shards")
    split = read_split(_one(args, "the folder of a split"), folder)
    _expect_shards(folder, args)
    everything = [record for subset in SUBSETS for record in split.records(subset)]
    shards = dict(zip(everything, open_shards(folder, everything), strict=True))
    classes = shards[everything[0]].classes
    counts: dict[str, np.ndarray] = {}
    about: dict[str, str] = {}
    for subset in SUBSETS:
        records = split.records(subset)
        if not records:
            continue
        tables = [np.bincount(shards[record].windows["label"], minlength=len(classes)) for record in records]
        counts[subset] = np.sum(tables, axis=0)
        subjects = len(split.subjects(subset))
        about[subset] = f"{cli.counted(subjects, 'person', 'people')}, {counts[subset].sum():,} windows"
    simulated = any(shard.simulated for shard in shards.values())
    title = _title(args, f"Windows of each gesture in {split.name}", simulated)
    signal_figures.class_counts(args.out, counts, classes, about, title)
    return ", ".join(f"{subset}: {about_subset}" for subset, about_subset in about.items())


def draw_curves(args: argparse.Namespace) -> str:
    """Learning curves from metrics.jsonl."""
    run = _one(args, "the folder of a training run")
    path = run / "metrics.jsonl" if run.is_dir() else run
    rows = read_epochs(path)
    config = path.parent / "config.json"
    simulated = config.is_file() and says_simulated(read_json(config, "a run's configuration"))
    title = _title(args, f"Learning curves of {_run_name(path.parent)}", simulated)
    score_figures.learning_curves(args.out, rows, title)
    return cli.counted(len(rows), "epoch")


def _read(source: Path) -> ResultRecord:
    """The result in a folder, or in its metrics.json."""
    return read_result(source if source.is_file() else source / "metrics.json", metrics.headlines())


def _calibrated(source: Path) -> ResultRecord:
    """A result of calibrate.py. DataError unless it has the same people with and without calibration."""
    result = _read(source)
    if result.repetitions is None or result.before is None:
        raise DataError(f"{result.path}: expected results of calibrate.py, found others")
    if _scores([result], "calibrated").keys() != _scores([result], "uncalibrated").keys():
        raise DataError(f"{result.path}: expected the same people with and without calibration, found others")
    return result


def _scores(results: Sequence[ResultRecord], which: str, metric: metrics.Metric | None = None) -> dict[str, float]:
    """Person -> score of the `calibrated` or `uncalibrated` model, by the leading metric unless `metric` is given."""
    befores = [one.before.evaluations for one in results if one.before]
    evaluations = befores if which == "uncalibrated" else [one.evaluations for one in results]
    name = (metric or metrics.leading()).name
    return {who: score for one in evaluations for who, score in one[name].subjects.items()}


def _models(results: Sequence[ResultRecord]) -> dict[str, tuple[str, ...]]:
    """Person -> which model was calibrated to that person."""
    return {who: one.model for one in results for who in _scores([one], "calibrated")}


def _by_repetitions(sources: Sequence[Path]) -> dict[int, list[ResultRecord]]:
    """Results of calibrate.py by their number of repetitions. DataError unless each number has the same people, each of
    them once by the same model, and all results have the same gestures and the same --adapt."""
    by_count: dict[int, list[ResultRecord]] = {}
    first: ResultRecord | None = None
    for source in sources:
        result = _calibrated(source)
        first = first or result
        if result.classes != first.classes:
            raise DataError(f"{source}: expected the same gestures as in {first.path}, found others")
        if result.adapted_on != first.adapted_on:
            kinds = [f"--adapt {one.adapted_on or 'none'}" for one in (first, result)]
            raise DataError(
                f"{source}: expected a result of calibrate.py {kinds[0]}, as {first.path}, found {kinds[1]}"
            )
        others = by_count.setdefault(result.repetitions or 0, [])
        if twice := _scores(others, "calibrated").keys() & _scores([result], "calibrated").keys():
            raise DataError(f"{source}: expected each person once, found {min(twice)} again; is it another run's?")
        others.append(result)
    people = {count: sorted(_scores(results, "calibrated")) for count, results in by_count.items()}
    fewest = min(people)
    if other := [count for count, names in people.items() if names != people[fewest]]:
        words = cli.counted(other[0], "repetition")
        raise DataError(f"{words}: expected the same people as with {fewest}; is a fold missing?")
    models = {count: _models(results) for count, results in by_count.items()}
    if other := [count for count, own in models.items() if own != models[fewest]]:
        several, few = (cli.counted(count, "repetition") for count in (other[0], fewest))
        raise DataError(f"{several}: expected the models that {few} {'has' if fewest == 1 else 'have'}, found others")
    return dict(sorted(by_count.items()))


def draw_calibration(args: argparse.Namespace) -> str:
    """Scores against repetitions, from the results of calibrate.py."""
    if not args.source:
        raise UsageError("plot.py calibration: expected at least one SOURCE, found none; calibrate.py makes it")
    by_count = _by_repetitions(args.source)
    table = {
        count: {
            which: {
                metric.name: np.array([score for _, score in sorted(_scores(results, which, metric).items())])
                for metric in metrics.headlines()
            }
            for which in ("calibrated", "uncalibrated")
        }
        for count, results in by_count.items()
    }
    chance = {
        count: {metric.name: chance_of(results, metric) for metric in metrics.headlines()}
        for count, results in by_count.items()
    }
    everything = [one for results in by_count.values() for one in results]
    simulated = any(run.simulated for one in everything for run in one.evaluations.values())
    title = _title(args, "What a new person's first repetitions gain", simulated)
    score_figures.calibration(args.out, table, chance, title, adapted=bool(everything[0].adapted_on))
    people = len(_scores(everything, "calibrated"))
    return f"{cli.counted(people, 'person', 'people')}, repetitions {', '.join(map(str, by_count))}"


def _expect_shards(folder: Path, args: argparse.Namespace) -> None:
    """DataError if shards that no flag named are not there: results and splits are often taken to another machine."""
    if args.shards is None and not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of shards, found none; --shards names another")


def draw_errors(args: argparse.Namespace) -> str:
    """Wrong decisions with the highest confidence, from one result and its shards."""
    result = _read(_one(args, "a folder of results"))
    folder = result.path.parent
    predictions = predictions_of(result)
    if predictions.confidence is None:
        raise DataError(f"{folder}: expected probabilities in predictions.npz, by which errors are sorted, found none")
    if not (places := surest_errors(predictions, ERRORS)):
        raise DataError(f"{folder}: expected some wrong decision, found none")
    shards = args.shards or result.shards
    if shards is None:
        raise DataError(f"{folder}: expected the folder of its shards in metrics.json, found none; give --shards")
    _expect_shards(shards, args)
    parts = []
    for k in places:
        record = str(predictions.record[k])
        part = excerpt(shards, record, int(predictions.start[k]), ERROR_CHANNELS, result.content_of(record))
        caption = f"{result.classes[predictions.label[k]]} taken for {result.classes[predictions.prediction[k]]}"
        caption += f", {predictions.confidence[k]:.0%} sure\n"
        caption += f"person {predictions.subject[k]}, {part.begin:.2f} s\n{record}"
        parts.append((caption, part))
    simulated = any(run.simulated for run in result.evaluations.values())
    signal_figures.errors(args.out, parts, _title(args, f"Most confident errors of {_run_name(folder)}", simulated))
    return cli.counted(len(parts), "window")


PICTURES: dict[str, Callable[[argparse.Namespace], str]] = {
    "architecture": draw_architecture,
    "recording": draw_recording,
    "spectrum": draw_spectrum,
    "electrodes": draw_electrodes,
    "classes": draw_classes,
    "curves": draw_curves,
    "calibration": draw_calibration,
    "errors": draw_errors,
}


def _data_of(run: Path) -> list[str]:
    """The flags for the shards and the split of a training run; none if it does not say."""
    config = run / "config.json"
    arguments = read_json(config, "a run's configuration").get("arguments") if config.is_file() else {}
    named = arguments if isinstance(arguments, dict) else {}
    return [word for key in ("shards", "split") if isinstance(named.get(key), str) for word in (f"--{key}", named[key])]


def next_step(args: argparse.Namespace) -> str:
    """The command to run next, given what the picture shows."""
    source = args.source[0] if args.source else Path()
    raw, run = source.suffix == ".hdf5", source if source.is_dir() else source.parent
    shards_of = ("preprocess.py", "--raw") if raw else ("create_dataset_files.py", "--shards")
    of_a_model = ("predict.py", "RECORDING", "--checkpoint", source)
    data = _data_of(run) if args.picture == "curves" else []
    commands: dict[str, tuple[object, ...]] = {
        "architecture": of_a_model if args.source else ("train.py", "--split", "SPLIT"),
        "recording": ("plot.py", "spectrum" if raw else "electrodes", source),
        "spectrum": ("preprocess.py", "--raw", source.parent),
        "electrodes": (*shards_of, source.parent),
        "classes": ("train.py", "--split", source, "--shards", args.shards or "data/shards"),
        "curves": ("evaluate.py", "--checkpoint", run / "best_model.ckpt", *data),
        "calibration": ("report.py", *args.source),
        "errors": ("report.py", *args.source),
    }
    if args.picture == "recording" and not raw and not _has_map(open_shard(source).rings):
        commands["recording"] = ("create_dataset_files.py", "--shards", source.parent)
    script, *words = commands[args.picture]
    return cli.next_command(str(script), *words)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    args.source = cli.expanded(args.source)
    check_flags(args)
    args.out = args.out or Path("results/plots") / f"{args.picture}.png"
    if args.out.suffix.lower() != ".png":
        raise UsageError(f"--out {args.out}: expected a name that ends in .png")
    expect_place(args.out, "the picture")
    places.expect_apart([(f"--out {args.out}", args.out)], args.source)
    facts = PICTURES[args.picture](args)
    console.finish(f"{args.out}: {args.picture}, {facts}; {next_step(args)}", out=args.out.as_posix())
    return 0


if __name__ == "__main__":
    cli.run(main)
