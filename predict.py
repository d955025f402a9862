"""Decide for any recording, window by window, which gesture is made: offline, or as a live device would.

  python predict.py data/raw/Data-HDF5/emg_gestures-03-*.hdf5 --checkpoint checkpoints/RUN/best_model.ckpt --plot
  python predict.py recording.hdf5 --stream                  # block by block, nothing looks ahead
  python predict.py mine.csv --rate 2000                     # one row per sample; or a .npy (time, channels)

Input: recordings in putEMG's layout, or tables (.csv, .txt or .tsv with or without a header, .npy) with --rate and
--unit. The columns of a table that are used are those that --channels names; otherwise those named like the model's
channels; otherwise all that are channels, by the rules in docs/data.md. They must be the model's channels in the
model's order. A recording of another rate is resampled to the model's. Output, in OUT, for each recording:
  <recording>.csv   one row per decision: its time in seconds (the end of the window), the gesture and the probability
                    of each class; with --vote the majority of the last K decisions; with --smooth the likeliest gesture
                    given all windows so far; the true gesture, if the recording has labels (in a table: in a column
                    named as in training) and one label covers the whole window; with --stream the delay
  <recording>.png   with --plot: some channels, truth, decisions and their probability over time
If two recordings have the same name, as trials in a folder for each gesture, names begin with the folders that tell
them apart: fist-trial1.csv.

--classes and --no-idle let the model decide between some of its gestures only: the CSV has only these, with
probabilities renormalised over them. A window with any other label then has no true gesture.

The signal goes through the checkpoint's own filter and is cut into windows as in training. Offline, a model trained
with --normalize session is normalised by the statistics of the whole recording, as evaluate.py uses those of the whole
session: even the first decision depends on the last sample. With --one-session, the recordings are taken as one session
of one person, in the order given, and are normalised together. That is needed if each holds one gesture, because
nothing in such a recording shows how strong its gesture is. For the same reason all their tables have one unit, which
without --unit is found from all of them.

--adapt adapts a copy of the model to each recording (or, with --one-session, to all of them) before it decides, without
labels, as evaluate.py --adapt session does. If the model should not be adapted, the unadapted model decides. adapt.py
saves such an adapted model. With --stream, --adapt adapts to the recording's signal so far, as evaluate.py --adapt
online does: first after 30 s of signal, then each time the signal has grown by half.

--stream feeds the signal in blocks of length --block through the causal filter. It normalises by the signal so far,
starting from the usual statistics of the training people; after about a minute it is nearly as good as with a whole
recording's statistics. --start-after makes no decisions in the first seconds. --save-statistics FILE stores the
statistics at the end of the recording, and --statistics FILE starts a later recording of the same session from them, if
the electrodes stayed in place. FILE contains some seconds of the person's signal. If the model was trained on
zero-phase filtered signals, it still gets causally filtered ones, and a warning says so; preprocess.py --causal makes
shards for models for live use. `delay_ms` is the time from the last sample of a window to its decision: waiting for the
end of the block, and computing. Most of the time that a new gesture needs to show in the decisions is due to the length
of the window itself.

A recording that cannot be read is reported and left out; the others are processed. If a file grows while it is read, a
warning says that what came later is left out. docs/scale.md says how long it takes.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.failures import Failures, Repeated
from semg.common.files import checksum, expect_place, expect_room, write_text
from semg.data.tables import RawRecording, is_simulated, is_table
from semg.data.windows import segments
from semg.evaluation import metrics, smoothing
from semg.flags import places, shared
from semg.inference.batch import INFERENCE_BATCH, Signal
from semg.inference.checkpoint import files_of
from semg.inference.online_normalization import Given
from semg.inference.recordings import in_one_unit, labels_of, recording_for, unknown_labels
from semg.inference.streaming import Predictions, replay
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import adapt, assumed_shares
from semg.training.online_adaptation import OnlineAdaptation
from semg.training.threads import use_threads

_OF_ONE = (DataError, OSError, MemoryError)  # errors that cost one recording
OF_STREAMS = ("statistics", "save_statistics", "start_after", "block")  # settings that have no use without --stream
PLOTTED = 4  # channels in a timeline: those with the strongest signal


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "recordings", type=Path, nargs="+", metavar="RECORDING", help="an .hdf5 file or a table of samples"
    )
    shared.add_checkpoint(parser)
    parser.add_argument("--out", type=Path, default=Path("results/predictions"), help="folder to write")
    shared.add_classes(parser)
    parser.add_argument("--adapt", action="store_true", help="adapt the model to each recording, without labels")
    cli.of_others(parser, "--repetitions", "a model of adapt.py, which takes it")
    parser.add_argument(
        "--one-session",
        action="store_true",
        help="the recordings are of one session: normalise and adapt to all together",
    )
    parser.add_argument("--plot", action="store_true", help="also draw a timeline of each recording")
    shared.add_vote(parser)
    shared.add_smooth(parser)
    shared.add_computing(parser)
    shared.add_tables(parser)
    live = parser.add_argument_group("live")
    live.add_argument("--stream", action="store_true", help="process the signal block by block, as from a device")
    live.add_argument("--block", type=cli.length, default="25ms", help="length of a block, samples or time")
    shared.add_statistics(live)
    return parser


# --- one recording ---------------------------------------------------------------------------------------------


def truth_of(codes: np.ndarray | None, classes: Sequence[str], end: np.ndarray, window: int) -> np.ndarray:
    """(n,) true class of each window that lies wholly within one label, otherwise -1."""
    truth = np.full(len(end), -1)
    labels = labels_of(codes, classes)
    if codes is None or labels is None:
        return truth
    changes = np.concatenate([[0], np.cumsum(codes[1:] != codes[:-1])])
    whole = changes[end - 1] == changes[end - window]
    truth[whole] = labels[end[whole] - 1]
    return truth


def vote_shares(prediction: np.ndarray, votes: np.ndarray, k: int) -> np.ndarray:
    """(n,) the fraction of the last k decisions (fewer at the beginning) that agree with the vote. prediction, votes:
    (n,)."""
    return np.array([np.mean(prediction[max(0, n - k + 1) : n + 1] == one) for n, one in enumerate(votes)])


def over_time(
    model: TrainedModel, predictions: Predictions, vote: int, hold: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Column of the CSV -> (n,) decisions smoothed over time, and (n,) their support: the fraction of votes, or the
    probability.

    vote, hold: as for --vote and --smooth of evaluate.py.
    """
    end, recording = predictions.end, np.zeros(len(predictions.end), np.int64)  # all of one recording
    decided: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if vote > 1:
        alone = predictions.probabilities.argmax(1)
        votes = metrics.majority_vote(alone, recording, end, vote, len(model.classes), max_step=np.inf)
        decided["voted"] = votes, vote_shares(alone, votes, vote)
    if hold:
        step = model.stride / model.rate
        smoothed = smoothing.filtered(predictions.probabilities, recording, end, step, hold, max_step=np.inf)
        decided["smoothed"] = smoothed.argmax(1), smoothed.max(1)
    return decided


def as_csv(
    model: TrainedModel, predictions: Predictions, truth: np.ndarray, beside: dict[str, np.ndarray], labelled: bool
) -> str:
    """One row per decision. beside: (n,) other decisions by the name of their column."""
    classes = model.classes
    columns: dict[str, list[Any]] = {
        "time_s": [f"{end / model.rate:.6f}" for end in predictions.end],
        "gesture": [classes[one] for one in predictions.probabilities.argmax(1)],
    }
    columns |= {name: [classes[one] for one in decided] for name, decided in beside.items()}
    columns |= {f"p_{name}": [f"{p:.6f}" for p in predictions.probabilities[:, k]] for k, name in enumerate(classes)}
    if labelled:
        columns["truth"] = [classes[one] if one >= 0 else "" for one in truth]
    if predictions.delay is not None:
        columns["delay_ms"] = [f"{1000 * delay:.2f}" for delay in predictions.delay]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def draw(
    path: Path,
    model: TrainedModel,
    source: RawRecording,
    signal: np.ndarray,
    predictions: Predictions,
    decisions: np.ndarray,
    confidence: np.ndarray,
    *,
    vote: int,
    hold: float,
    simulated: bool,
) -> None:
    """The timeline of one recording. decisions, confidence: (n,); with `vote` above 1, of the last `vote` windows; with
    `hold` above 0, smoothed."""
    from semg.evaluation import palette, signal_figures  # import matplotlib, which takes a quarter of a second

    rate = model.rate
    loud = np.sort(np.argsort(-signal.astype(np.float32).std(axis=0), kind="stable")[:PLOTTED])
    ends = np.append(predictions.end, min(len(signal), predictions.end[-1] + model.stride))
    runs = zip(*segments(decisions), strict=True)  # neighbouring decisions for one class
    decided = [(ends[first] / rate, ends[stop] / rate, int(one)) for first, stop, one in runs]
    truth = []
    if source.codes is not None:
        each = np.arange(1, len(source.codes) + 1)
        known = truth_of(source.codes, model.classes, each, 1)
        truth = [(a / rate, b / rate, int(k)) for a, b, k in zip(*segments(known), strict=True) if k >= 0]
    names = [model.channels[place] for place in loud]
    times = predictions.end / rate
    title = f"{source.name}: decisions {'streamed' if predictions.delay is not None else 'offline'}"
    title += f", smoothed ({hold:g} s)" if hold else f", majority of the last {vote}" if vote > 1 else ""
    title += " (SIMULATED)" if simulated else ""
    colours = palette.gestures(model.classes, model.rest_classes, model.classes_of_training)
    shown = (signal[:, loud], rate, names, truth, decided, times, confidence, model.classes, title, vote)
    signal_figures.timeline(path, *shown, colours=colours, unit=model.unit)


@dataclass(frozen=True)
class Recorded:
    """A recording that was read: its samples as recorded, and (T, C) filtered microvolts."""

    path: Path
    source: RawRecording
    signal: np.ndarray


def read(path: Path, model: TrainedModel, args: argparse.Namespace, doubts: Repeated) -> RawRecording:
    """Read a recording. DataError, which names the file, if that is impossible."""
    facts = (args.rate, args.unit, args.channels)
    how = {"causal": args.stream, "of_session": args.one_session}
    return recording_for(model, path, *facts, **how, warn=partial(doubts.add, path))


def filtered(path: Path, source: RawRecording, model: TrainedModel, args: argparse.Namespace) -> Recorded:
    """The recording with its filtered signal. DataError, which names the file, for impossible amplitudes."""
    try:
        return Recorded(path, source, model.signal_path.apply(source.samples, source.scale, causal=args.stream))
    except DataError as error:
        raise DataError(f"{path}: {error.message}", error.hint) from None


class Offline:
    """Decides on recordings that are complete.

    With --one-session, one model and one normalisation serve all of them; otherwise each recording has its own.
    """

    def __init__(self, model: TrainedModel, args: argparse.Namespace, doubts: Repeated) -> None:
        self._model, self._adapt, self._doubts = model, args.adapt, doubts
        self._of_all: tuple[TrainedModel, Given] | None = None

    def take_together(self, recorded: Sequence[Recorded]) -> None:
        """Normalise, and adapt if asked to, by all these recordings."""
        self._of_all = self._suited_to([one.signal for one in recorded], "")

    def decide(self, recorded: Recorded) -> Predictions:
        """The decisions on one recording."""
        model, session = self._of_all or self._suited_to([recorded.signal], f"{recorded.path}: ")
        return model.predict_filtered(recorded.signal, session)

    def _suited_to(self, signals: Sequence[np.ndarray], where: str) -> tuple[TrainedModel, Given]:
        """The model, with --adapt adapted to these recordings, and their normalisation. where: the beginning of
        messages."""
        session = self._model.session_of(*signals)
        if not self._adapt:
            return self._model, session
        adapted = adapt(self._model, [Signal(signal, session) for signal in signals])
        if not adapted.accepted:
            self._doubts.add(where, f"{where}the model was not adapted: {adapted.reason}")
        if adapted.turn_refused:
            self._doubts.add(where, f"{where}rings of electrodes are {adapted.turn_refused}")
        return adapted.model, session


class Streamed:
    """Decides on recordings as a live device would, each as a stream of its own."""

    def __init__(self, model: TrainedModel, args: argparse.Namespace, console: cli.Console) -> None:
        """DataError if the file of --statistics does not fit."""
        self._model, self._args, self._console = model, args, console
        # once, for all recordings
        self._heard = None if args.statistics is None else model.read_statistics(args.statistics)

    def decide(self, recorded: Recorded) -> Predictions:
        """The decisions on one recording; stores the session's statistics if asked to."""
        model, args, source = self._model, self._args, recorded.source
        adaptation = OnlineAdaptation.in_signal_time(model) if args.adapt else None
        stream = model.stream(
            start_after=args.start_after, scale=source.scale, statistics=self._heard, adaptation=adaptation
        )
        predictions = replay(stream, source.samples, args.block.samples(model.rate), model.rate)
        if args.save_statistics is not None and (learnt := stream.heard()) is not None:
            model.write_statistics(args.save_statistics, learnt)
        if adaptation is not None:
            self._console.say(f"{args.names[recorded.path]}: {adaptation.in_words()}")
        return predictions


def scores(truth: np.ndarray, decided: np.ndarray, model: TrainedModel) -> dict[str, float | None]:
    """The headline metrics of some decisions, by name. truth, decided: (n,) class indices."""
    counts = metrics.confusion(truth, decided, len(model.classes))
    return {one.name: one.score(counts, None) for one in metrics.headlines()}


def predict(
    recorded: Recorded,
    decider: Offline | Streamed,
    model: TrainedModel,
    args: argparse.Namespace,
    doubts: Repeated,
) -> dict[str, Any]:
    """Decide for one recording and write the results; returns a summary of them."""
    path, source = recorded.path, recorded.source
    try:
        predictions = decider.decide(recorded)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", error.hint) from None
    truth = truth_of(source.codes, model.classes, predictions.end, model.window)
    if unknown := unknown_labels(source.codes, model):
        doubts.add(path, f"{path}: {unknown}")
    prediction = predictions.probabilities.argmax(1)
    beside = over_time(model, predictions, args.vote, args.smooth)
    columns = {name: decided for name, (decided, _) in beside.items()}
    write_text(
        args.out / f"{args.names[path]}.csv", as_csv(model, predictions, truth, columns, source.codes is not None)
    )
    if args.plot:
        name, decided = (list(beside.items()) or [("", (prediction, predictions.probabilities.max(1)))])[-1]
        draw(
            args.out / f"{args.names[path]}.png",
            model,
            source,
            recorded.signal,
            predictions,
            *decided,
            vote=args.vote if name == "voted" else 1,
            hold=args.smooth,
            simulated=is_simulated(path),
        )
    summary: dict[str, Any] = {"decisions": len(predictions.end)}
    if (known := truth >= 0).any():
        if (seen := model.description.get("calibrated_on_sha256")) and checksum(path) in seen:
            learnt = "the model was calibrated on labels of this recording, so its score flatters it"
            doubts.add(path, f"{path}: {learnt}")
        summary |= {"with_truth": int(known.sum()), **scores(truth[known], prediction[known], model)}
        summary |= {name: scores(truth[known], decided[known], model) for name, decided in columns.items()}
    if predictions.delay is not None and predictions.computing is not None:
        p50, p99 = 1000 * np.percentile(predictions.computing, (50, 99))
        summary |= {"computing_ms_p50": round(p50, 2), "computing_ms_p99": round(p99, 2)}
        summary["delay_ms_max"] = round(1000 * float(predictions.delay.max()), 2)
    return summary


def scores_in_words(scores: Mapping[str, Any]) -> str:
    """`macro-F1 0.812 and accuracy 0.900`."""
    return " and ".join(one.labelled(scores[one.name], 3) for one in metrics.headlines())


def in_words(summary: dict[str, Any]) -> str:
    """The summary that `predict` returns, as text."""
    text = cli.counted(summary["decisions"], "decision")
    if "with_truth" in summary:
        text += f", {scores_in_words(summary)} of {summary['with_truth']} whose truth is known"
        text += "".join(
            f"; {name} {scores_in_words(summary[name])}" for name in ("voted", "smoothed") if name in summary
        )
    if "delay_ms_max" in summary:
        text += f"; computing {summary['computing_ms_p50']:g} ms (p50), {summary['computing_ms_p99']:g} ms (p99), "
        text += f"delay at most {summary['delay_ms_max']:g} ms after the window's end"
    return text


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for flags that cannot be combined."""
    shared.check_tables(args, args.recordings)
    if idle := [name for name in OF_STREAMS if cli.given(name) and not args.stream]:
        flag = f"--{idle[0].replace('_', '-')}"
        raise UsageError(f"{flag}: expected --stream with it; offline, the whole recording is known")
    if args.one_session and args.stream:
        raise UsageError("--one-session: expected no --stream with it; --statistics continues an earlier stream")
    if args.save_statistics is not None and len(args.recordings) > 1:
        count = len(args.recordings)
        raise UsageError(f"--save-statistics {args.save_statistics}: expected one recording, found {count}")


def names_of(recordings: Sequence[Path]) -> dict[Path, str]:
    """The name of what is made of each recording: that of its file; of files of which two have one name, it begins with
    the folders that tell them apart, such as `fist-trial1`.

    UsageError for a name that is there twice even so.
    """
    names = [path.stem for path in recordings]
    if len(set(names)) < len(names):
        folders = [path.absolute().parent.parts for path in recordings]
        common = len(list(takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))))
        names = ["-".join([*own[common:], name]) for own, name in zip(folders, names, strict=True)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{twice[0]}: expected recordings of different names, found two: they would share a file")
    return dict(zip(recordings, names, strict=True))


def check_places(args: argparse.Namespace) -> None:
    """UsageError or DataError if a file that would be written is one that is read, or if OUT cannot be written.

    A single file of OUT that cannot be written costs that recording alone.
    """
    endings = ("csv", "png") if args.plot else ("csv",)
    written = [(f"--out {args.out}", args.out / f"{name}.{e}") for name in args.names.values() for e in endings]
    expect_room(args.out, "the decisions")
    if args.save_statistics is not None:
        expect_place(args.save_statistics, "statistics")
        written.append((f"--save-statistics {args.save_statistics}", args.save_statistics))
    places.expect_apart(written, [*files_of(args.checkpoint), *args.recordings])


def say_what_differs(model: TrainedModel, args: argparse.Namespace, console: cli.Console) -> None:
    """Say how signals are treated differently here than in training; DataError if the checkpoint does not know how."""
    if restriction := model.restriction():
        console.say(restriction)
    if args.adapt and (assumed := assumed_shares(model)):
        console.warn(assumed)
    trained, session = model.signal_path.filter, model.channel_normalization.method == "session"
    if args.stream:
        shared.warn_of_zero_phase(trained, console)
    if args.stream and session:
        later = f"; no decision in the first {args.start_after:g} s" if args.start_after else ""
        earlier = "" if args.statistics is None else f", {args.statistics} included"
        console.say(f"normalised by what the stream has seen so far{earlier}{later}")
    elif session and not args.one_session:
        together = "; --one-session takes them together" if len(args.recordings) > 1 else ""
        if not together and is_table(args.recordings[0]):
            together = "; if this one holds a single gesture, give the session's others too, with --one-session"
        console.say(f"normalised by each whole recording's own statistics (offline){together}")


def with_pictures(args: argparse.Namespace, shown: Path) -> str:
    """The command that draws the decisions over time: for one of the recordings, or for all of one session."""
    first, others = str(shown), {str(path) for path in args.recordings if path != shown}
    words = [word for word in sys.argv[1:] if word not in others or args.one_session]
    return cli.next_command("predict.py", *words, "--plot") if first in words else "next: the same command with --plot"


def read_session(
    model: TrainedModel, args: argparse.Namespace, report: Failures, doubts: Repeated, console: cli.Console
) -> dict[Path, Recorded]:
    """All recordings that can be read, in one unit; they stay in memory, because their normalisation needs all of them.
    DataError if they are in different units."""
    sources: dict[Path, RawRecording] = {}
    for path in console.progress(args.recordings, unit="recording", desc="reading"):
        try:
            sources[path] = read(path, model, args, doubts)
        except _OF_ONE as error:
            report.failed(path, cli.in_words(error))
    recorded: dict[Path, Recorded] = {}
    for path, source in in_one_unit(model, sources, args.unit, console.warn).items():
        try:
            recorded[path] = filtered(path, source, model, args)
        except _OF_ONE as error:
            report.failed(path, cli.in_words(error))
    if recorded and model.channel_normalization.method == "session":
        count = cli.counted(len(recorded), "recording")
        console.say(f"normalised by the statistics of all {count}, as one session (offline)")
    return recorded


def predict_all(
    model: TrainedModel, args: argparse.Namespace, report: Failures, console: cli.Console
) -> dict[Path, dict[str, Any]]:
    """Decide on all recordings that can be read; returns a summary of each."""
    recordings, session = args.recordings, {}
    done: dict[Path, dict[str, Any]] = {}
    with closing(report), closing(Repeated(console.warn, "recording")) as doubts:
        decider = Streamed(model, args, console) if args.stream else Offline(model, args, doubts)
        if args.one_session and isinstance(decider, Offline):
            session = read_session(model, args, report, doubts, console)
            recordings = list(session)
            if session:
                decider.take_together(list(session.values()))
        for path in console.progress(recordings, unit="recording"):
            try:
                recorded = session.get(path) or filtered(path, read(path, model, args, doubts), model, args)
                done[path] = predict(recorded, decider, model, args, doubts)
            except _OF_ONE as error:
                report.failed(path, cli.in_words(error))
                continue
            console.say(f"{args.names[path]}: {in_words(done[path])}")
    return done


def finish(
    done: dict[Path, dict[str, Any]], model: TrainedModel, args: argparse.Namespace, failed: int, console: cli.Console
) -> None:
    """Print the last line."""
    message = f"{args.out}: predictions of {cli.counted(len(done), 'recording')}"
    if args.save_statistics is not None and done:
        message += f"; next: --statistics {args.save_statistics} with the session's next recording"
    if args.plot and done:
        message += f"; look at {args.out / args.names[next(iter(done))]}.png" + (" and others" if len(done) > 1 else "")
    elif done and args.save_statistics is None:
        message += f"; {with_pictures(args, next(iter(done)))}"
    message += f"; {failed} failed, see above" if failed else ""
    left_out = {"classes": model.classes, "classes_left_out": model.classes_left_out}
    summaries = {args.names[path]: summary for path, summary in done.items()}
    console.finish(message, out=args.out.as_posix(), failed=failed, recordings=summaries, **left_out)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    args.recordings = cli.expanded(args.recordings)
    check(args)
    args.names = names_of(args.recordings)
    check_places(args)
    model = TrainedModel.open(args.checkpoint, args.device).restricted(args.classes, no_idle=args.no_idle)
    use_threads(args.threads, model.network, 1 if args.stream else INFERENCE_BATCH)
    for name in ("save_statistics", "start_after"):
        if cli.given(name):
            model.expect_by_session(name)
    if args.one_session and not args.adapt:
        model.expect_by_session("one_session")
    say_what_differs(model, args, console)
    report = Failures(console, "recording")
    done = predict_all(model, args, report, console)
    finish(done, model, args, report.count, console)
    return 1 if report.count else 0


if __name__ == "__main__":
    cli.run(main)
