"""Decide live which gesture is made, from a stream of the Lab Streaming Layer (LSL), which many device programs can
send.

  python live.py --lsl NAME --checkpoint checkpoints/RUN/best_model.ckpt
  python live.py --lsl NAME --udp 127.0.0.1:5005 --record today.csv       # for a game, a prosthesis, a log
  python live.py --replay recording.hdf5 --name trial                     # without a device: this in one terminal,
  python live.py --lsl trial                                              # and this in another

Input: the stream whose name, source id or type is NAME. Its sampling rate must be the model's, unless --resample is
given; resampling is causal too. Channels are matched by their labels if these are the model's channel names, otherwise
by their order, or selected by --channels, which counts from 1. The unit comes from --unit, otherwise from the stream.
If neither states it, the first two seconds of signal show whether the unit differs from that of training.

Output for each decision, until Ctrl-C or for --seconds:
  terminal      the gesture, the model's confidence, the delay and the samples lost; redrawn in place
  OUT/NAME-<time>.csv   time (seconds since the stream's first sample, and LSL's clock), gesture, probability of each
                class, delay_ms, computing_ms, samples lost so far
  LSL           a stream NAME-gestures of type Gestures with the gesture's number and the probabilities; its time
                stamps are those of the windows' last samples
  --udp         the same as JSON, one line per datagram
  --record      the incoming samples, as a CSV that predict.py reads; import_csv.py and adapt.py --repetitions read it
                once its column `label` is filled in

`delay_ms` is the time from the time stamp of a window's last sample to its decision, `computing_ms` the time from the
arrival of that sample in this script. If the stream stops, the script waits for it. When it returns, filter and windows
start afresh, but the session's statistics are kept. Signals are processed as in predict.py --stream, and the decisions
are the same. As there, --statistics continues from the statistics that --save-statistics stored for an earlier
recording of the session, and --start-after makes no decisions in the first seconds. --adapt adapts a copy of the model
without labels, in another process: after 30 s of signal, then each time the signal has grown by half. --smooth SECONDS
decides by a hidden Markov model of all windows so far, in which a gesture lasts SECONDS on average. All probabilities
in the output are then the smoothed ones, and smoothing starts afresh after an interruption of the stream. docs/live.md
says more. Loading the model takes some seconds.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
import re
import sys
import time
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from semg.common import cli
from semg.common.console import Bar, counted, printable
from semg.common.errors import DataError, UsageError
from semg.common.files import expect_place, expect_room, watched
from semg.common.stopping import StopRequest, stop_at_a_safe_place
from semg.common.terminal_view import TerminalView, bar, can_redraw
from semg.data.tables import UNITS
from semg.flags import places, shared
from semg.inference import lsl
from semg.inference.checkpoint import files_of
from semg.inference.live_decoder import LiveDecoder
from semg.inference.live_outputs import Datagrams, DecisionTable, Outputs, Recorder
from semg.inference.lsl_replay import play, read_playable
from semg.inference.online_normalization import Normalization
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import assumed_shares
from semg.training.online_adaptation import OnlineAdaptation
from semg.training.threads import use_threads

REDRAW = 0.1  # seconds
LONGEST_NAME = 150  # bytes of a stream's name that are used in a file name
SHOWN = 3  # gestures listed in the terminal
OF_DECISIONS = (  # settings that --replay has no use for
    *("checkpoint", "out", "record", "udp", "wait", "start_after", "statistics", "save_statistics"),
    *("adapt", "smooth", "device", "threads", "resample"),
)


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("--lsl", metavar="NAME", help="decide on this stream: its name, source id or type")
    parser.add_argument(
        "--replay", type=Path, metavar="RECORDING", help="instead of deciding, play a recording into a new stream"
    )
    shared.add_checkpoint(parser)
    parser.add_argument("--out", type=Path, default=Path("results/live"), help="folder to write")
    parser.add_argument("--record", type=Path, metavar="FILE", help="CSV to write the incoming samples to")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --record")
    parser.add_argument("--udp", type=address, metavar="HOST:PORT", help="where to send decisions as JSON lines")
    parser.add_argument(
        "--seconds",
        type=cli.number(0, above=True),
        help="stop this long after the first sample (default: at Ctrl-C); with --replay, play only this much",
    )
    parser.add_argument("--wait", type=cli.number(0), default=10.0, help="seconds to wait for the stream to appear")
    shared.add_statistics(parser)
    parser.add_argument("--adapt", action="store_true", help="adapt the model during the stream, without labels")
    shared.add_smooth(parser, "decide by")
    shared.add_computing(parser)
    stream = parser.add_argument_group("the stream, or the table that --replay plays")
    stream.add_argument(
        "--rate", type=cli.number(0, above=True), metavar="HZ", help="sampling rate (default: as the stream says)"
    )
    stream.add_argument("--resample", action="store_true", help="accept a stream of another rate than the model's")
    stream.add_argument(
        "--unit",
        choices=tuple(UNITS),
        help="unit of the samples; counts: ADC counts of putEMG's device (default: as the stream says)",
    )
    stream.add_argument("--channels", type=cli.number_ranges, help="channels to use, such as 1-8 (default: see above)")
    stream.add_argument("--name", help="name of the stream that --replay makes (default: the recording's name)")
    return parser


def address(text: str) -> tuple[str, int]:
    """`127.0.0.1:5005`, or `[::1]:5005`."""
    match = re.fullmatch(r"\[?([^\[\]]+)\]?:(\d{1,5})", text)
    if not match or not 0 < int(match[2]) < 65536:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT such as 127.0.0.1:5005, found {text!r}")
    return match[1], int(match[2])


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for flags that cannot be combined."""
    if (args.lsl is None) == (args.replay is None):
        actual = "neither" if args.lsl is None else "both"
        raise UsageError(f"expected --lsl NAME or --replay RECORDING, found {actual}")
    if args.name is not None and args.replay is None:
        raise UsageError("--name: expected --replay with it; --lsl says which stream to read")
    for name in ("lsl", "name"):
        if getattr(args, name) == "":
            raise UsageError(f"--{name}: expected the name of a stream, found an empty text")
    if args.replay is not None:
        if idle := [name for name in OF_DECISIONS if cli.given(name)]:
            raise UsageError(f"--{idle[0].replace('_', '-')}: expected --lsl with it; --replay decides nothing")
        shared.check_tables(args, [args.replay])
    if args.overwrite and args.record is None:
        raise UsageError("--overwrite: expected --record with it, whose file it replaces")


def check_places(args: argparse.Namespace) -> None:
    """UsageError or DataError if two outputs are one, if one is the checkpoint, or if one cannot be written."""
    written = []
    for name, what in (("record", "the incoming samples"), ("save_statistics", "statistics")):
        if (path := getattr(args, name)) is not None:
            expect_place(path, what)
            written.append((f"--{name.replace('_', '-')} {path}", path))
    expect_room(args.out, "the decisions")
    places.expect_apart(written, files_of(args.checkpoint), [(f"--out {args.out}", args.out)])
    if args.record is not None and args.record.exists() and not args.overwrite:
        raise DataError(f"{args.record}: expected no recording there, found one", "{overwrite} replaces it")


# --- the terminal ----------------------------------------------------------------------------------------------


class Watched:
    """Shows the state from `begin` on: lines redrawn on a terminal, otherwise one line per minute."""

    def __init__(self, console: cli.Console, classes: tuple[str, ...]) -> None:
        self._console, self._classes = console, classes
        self._view = TerminalView() if can_redraw(sys.stderr) and not console.quiet else None
        self._lines: Bar[None] | None = None
        self._drawn, self._counted, self._begun = 0.0, 0, 0.0

    def begin(self) -> None:
        """Call it when there is a stream."""
        self._begun = time.monotonic()
        self._lines = None if self._view else self._console.progress(unit="decision")

    def warn(self, text: str) -> None:
        """Print a warning above the redrawn lines."""
        if self._view:
            self._view.clear()
        self._console.warn(text)

    def show(self, outputs: Outputs, reader: lsl.StreamReader, decoder: LiveDecoder) -> None:
        """Show the current state."""
        if self._lines is not None:
            self._lines.update(len(outputs.delays) - self._counted)
            self._counted = len(outputs.delays)
        now = time.monotonic()
        if self._view and now - self._drawn >= REDRAW:
            self._drawn = now
            self._view.draw(self._panel(outputs, reader, decoder))

    def close(self) -> None:
        """Remove the redrawn lines, before the script's last line is printed."""
        if self._view:
            self._view.clear()
        if self._lines is not None:
            self._lines.close()

    def _panel(self, outputs: Outputs, reader: lsl.StreamReader, decoder: LiveDecoder) -> list[str]:
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        lines = [
            f"{printable(reader.facts.name)}   {minutes:02d}:{seconds:02d}   {counted(len(outputs.delays), 'decision')}"
        ]
        if outputs.latest is None:
            lines += ["  warming up", *[""] * (SHOWN - 1)]
        else:
            shares = outputs.latest.probabilities
            best = np.argsort(-shares, kind="stable")[:SHOWN]
            width = max(map(len, self._classes))
            lines += [f"  {self._classes[k]:<{width}} {bar(shares[k], 30)} {shares[k]:4.0%}" for k in best]
        delay = f"delay {1000 * outputs.delays[-1]:.0f} ms   " if outputs.delays else ""
        state = f"{delay}lost {counted(decoder.lost, 'sample')}   interruptions {reader.interruptions}"
        if reader.silent > lsl.SILENCE:
            state += f"   no sample for {reader.silent:.0f} s: waiting for the stream to come back"
        return [*lines, state]


# --- the two things that this script does ------------------------------------------------------------------------


def play_recording(args: argparse.Namespace, console: cli.Console) -> int:
    """--replay: play a recording into a stream."""
    with watched(args.replay, "a recording", console.warn):
        recording = read_playable(args.replay, args.rate, args.unit, args.channels, console.warn)
    if args.seconds is not None:
        recording = recording.beginning(args.seconds)
    name, count = args.name or recording.name, len(recording.samples)
    with console.progress(total=count, unit="sample") as progress:
        play(recording, name, say=console.say, progress=progress.update)
    console.finish(f"{name}: played {count / recording.rate:.1f} s of {args.replay}", name=name, samples=count)
    return 0


def decide(args: argparse.Namespace, console: cli.Console) -> int:
    """--lsl: decide on a stream."""
    lsl.pylsl()
    model = TrainedModel.open(args.checkpoint, args.device)
    use_threads(args.threads, model.network)
    if restriction := model.restriction():
        console.say(restriction)
    shared.warn_of_zero_phase(model.signal_path.filter, console)
    if args.adapt and (assumed := assumed_shares(model)):
        console.warn(assumed)
    normalization = model.online(model.read_statistics(args.statistics) if args.statistics else None)
    for setting in ("save_statistics", "start_after"):
        if cli.given(setting):
            model.expect_by_session(setting)
    # before the stream is opened: to start its process takes seconds, and of an open stream only BUFFER are kept
    with closing(OnlineAdaptation.in_background(model)) if args.adapt else nullcontext() as adaptation:
        return decide_on_stream(model, normalization, adaptation, args, console)


def decide_on_stream(
    model: TrainedModel,
    normalization: Normalization,
    adaptation: OnlineAdaptation | None,
    args: argparse.Namespace,
    console: cli.Console,
) -> int:
    """Find the stream and decide on it to the end; returns the exit code."""
    datagrams = Datagrams(args.udp, model.classes) if args.udp else None
    chosen = partial(lsl.layout_for, rate=args.rate, channels=args.channels, resample=args.resample)
    monitor = Watched(console, model.classes)
    layout_of = partial(chosen, signals=model.signal_path, warn=monitor.warn)  # again when the stream returns
    reader = lsl.StreamReader(args.lsl, layout_of, args.wait)
    layout, name = reader.layout, reader.facts.name
    scale = UNITS[args.unit] if args.unit else UNITS[layout.unit] if layout.unit else None
    console.say(
        f"{reader.facts}: its unit is {args.unit or layout.unit or 'not known: determined from its first samples'}"
    )
    monitor.begin()
    decoder = LiveDecoder(
        model,
        layout.rate,
        scale,
        name=name,
        channels=layout.names,
        start_after=args.start_after,
        normalization=normalization,
        adaptation=adaptation,
        hold=args.smooth,
        warn=monitor.warn,
    )
    if decoder.latency:
        console.say(f"resampled from {layout.rate:g} to {model.rate:g} Hz: {1000 * decoder.latency:.1f} ms later")
    started = time.strftime("%Y-%m-%d-%H-%M-%S")
    safe = re.sub(r"[^\w.-]+", "_", name).encode()[:LONGEST_NAME].decode(errors="ignore")
    with ExitStack() as stack:
        if args.save_statistics:  # however the session ends
            stack.callback(save_statistics, model, decoder, args.save_statistics, console)
        recorder = None
        if args.record:
            recorder = Recorder(args.record, layout.names, overwrite=args.overwrite)
            stack.callback(recorder.close)
        table = DecisionTable(args.out / f"{safe}-{started}.csv", model.classes)
        outputs = stack.enter_context(Outputs(table, model.classes, reader.facts, datagrams))
        stack.callback(monitor.close)
        with stop_at_a_safe_place() as stop:  # a stop is how a session usually ends
            session(reader, decoder, outputs, recorder, monitor, args.seconds, stop)
    if adaptation is not None:
        console.say(adaptation.in_words())
    saved = args.save_statistics is not None and decoder.heard() is not None
    tell(args, console, reader, decoder, outputs, recorder, saved=saved)
    return stop.exit_code if stop else 0


def save_statistics(model: TrainedModel, decoder: LiveDecoder, path: Path, console: cli.Console) -> None:
    """Store the session's statistics, or warn that there is too little signal for any."""
    heard = decoder.heard()
    if heard is None:
        console.warn(f"{path}: expected at least a window of signal for statistics, found less")
        return
    model.write_statistics(path, heard)


def session(
    reader: lsl.StreamReader,
    decoder: LiveDecoder,
    outputs: Outputs,
    recorder: Recorder | None,
    monitor: Watched,
    seconds: float | None,
    stop: StopRequest,
) -> None:
    """Read and decide, for `seconds` from the first sample on, or until the user stops it."""
    interruptions, first = reader.interruptions, None
    while not stop and (seconds is None or first is None or time.monotonic() - first < seconds):
        chunk = reader.pull(0.1)
        if chunk is not None:
            first = first or time.monotonic()
            if reader.interruptions > interruptions:
                interruptions = reader.interruptions
                decoder.begin_anew()
                monitor.warn(f"{reader.facts.name}: is back; filter and windows start afresh")
            for decision in decoder.push(chunk):
                outputs.send(decision)
            if recorder:
                recorder.write(chunk)
        elif recorder:
            recorder.flush()
        decoder.prepare()
        monitor.show(outputs, reader, decoder)


def tell(
    args: argparse.Namespace,
    console: cli.Console,
    reader: lsl.StreamReader,
    decoder: LiveDecoder,
    outputs: Outputs,
    recorder: Recorder | None,
    *,
    saved: bool,
) -> None:
    """Print the last line: what was written, and how the session went. saved: whether its statistics were stored."""
    facts: dict[str, Any] = {"decisions": len(outputs.delays), "lost": decoder.finish()}
    facts |= {"interruptions": reader.interruptions, "csv": outputs.path.as_posix()}
    text = f"{outputs.path}: {counted(len(outputs.delays), 'decision')}"
    if outputs.delays:
        for key, values in (("delay", outputs.delays), ("computing", outputs.computing)):
            p50, p99 = 1000 * np.percentile(values, (50, 99))
            facts |= {f"{key}_ms_p50": round(p50, 2), f"{key}_ms_p99": round(p99, 2)}
        text += f", delay {facts['delay_ms_p50']:g} ms (p50), {facts['delay_ms_p99']:g} ms (p99)"
    text += f"; lost {counted(facts['lost'], 'sample')}, {counted(reader.interruptions, 'interruption')}"
    if outputs.failed:
        facts["unsent"] = outputs.failed
        text += f"; {counted(outputs.failed, 'datagram')} could not be sent"
    if saved:
        text += f"; next: --statistics {args.save_statistics} with the session's next recording"
    if recorder:
        facts["record"] = recorder.path.as_posix()
        rate = reader.layout.rate
        text += f"; {recorder.path}: {recorder.samples / rate:.1f} s"
        if recorder.samples:
            unit = args.unit or reader.layout.unit
            words = ["--rate", f"{rate:g}", *(["--unit", unit] if unit else []), "--checkpoint", args.checkpoint]
            text += f", {cli.next_command('predict.py', recorder.path, *words)}"
    console.finish(text, **facts)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    check(args)
    console = cli.console(args)
    if args.replay is not None:
        return play_recording(args, console)
    check_places(args)
    return decide(args, console)


if __name__ == "__main__":
    cli.run(main)
