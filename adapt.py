"""Adapt a trained model to one session of one person, without labels, and save it as a checkpoint.

  python adapt.py checkpoints/RUN/best_model.ckpt session/*.hdf5 --out checkpoints/person.ckpt
  python adapt.py checkpoints/RUN/best_model.ckpt morning.csv --rate 2000 --out checkpoints/person.ckpt
  python predict.py afternoon.csv --rate 2000 --checkpoint checkpoints/person.ckpt

Input: a best_model.ckpt, and the recordings of one session: one person, with the electrodes left in place. Recordings
are in the formats that predict.py reads and are given in the order in which they were made. Labels in them are not
used. Output: OUT, a checkpoint that every script accepts. Its description says under `adapted` which recordings it was
adapted to, and how. With --classes or --no-idle the model decides between these gestures only, while it adapts and
whenever it is used later, as in predict.py.

Adaptation works best with at least two minutes of signal in which every gesture is made several times, with the pauses
between them. If the model should not be adapted to a session (few gestures, one gesture nearly all the time, less than
half a minute), the adaptation is rejected with the reason: OUT then holds the unadapted model, and a warning says so.

docs/scale.md says how long it takes.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from pathlib import Path

from semg.common import cli
from semg.common.errors import DataError
from semg.common.files import expect_place
from semg.common.provenance import how_made
from semg.flags import places, shared
from semg.inference.batch import INFERENCE_BATCH, Signal
from semg.inference.checkpoint import files_of, write_checkpoint
from semg.inference.recordings import expect_one_unit, recording_for
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import Adaptation, Adapted, adapt
from semg.training.threads import use_threads


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="the trained model, a best_model.ckpt or a folder of export.py",
    )
    parser.add_argument(
        "recordings", type=Path, nargs="+", metavar="RECORDING", help="an .hdf5 file or a table of samples"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CKPT", help="the checkpoint to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    shared.add_classes(parser)
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="random seed; the same seed gives the same result")
    shared.add_computing(parser)
    shared.add_tables(parser)
    return parser


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for flags that cannot be combined, DataError if OUT exists and may not be replaced."""
    shared.check_tables(args, args.recordings)
    expect_place(args.out, "the adapted model")
    places.expect_apart([(f"--out {args.out}", args.out)], [*files_of(args.checkpoint), *args.recordings])
    if args.out.exists() and not args.overwrite:
        raise DataError(f"{args.out}: expected no file there, found one; --overwrite replaces it")


def signals_of(model: TrainedModel, args: argparse.Namespace, console: cli.Console) -> list[Signal]:
    """The recordings, filtered and normalised together as one session."""
    samples, scales = [], {}
    for path in console.progress(args.recordings, unit="recording"):
        source = recording_for(model, path, args.rate, args.unit, args.channels, warn=console.warn)
        try:
            samples.append(model.signal_path.apply(source.samples, source.scale))
        except DataError as error:
            raise DataError(f"{path}: {error.message}", error.hint) from None
        scales[path] = source.scale
    expect_one_unit(scales)
    session = model.session_of(*samples)
    return [Signal(own, session) for own in samples]


def write(adapted: Adapted, model: TrainedModel, how: Adaptation, args: argparse.Namespace) -> None:
    """Write the adapted model as a checkpoint that records what it was adapted to."""
    provenance = {
        "recordings": [path.name for path in args.recordings],
        "checkpoint": args.checkpoint.as_posix(),
        "checkpoint_sha256": model.checkpoint.sha256,
        "settings": how.to_dict(),
        **adapted.to_dict(),
        "made": how_made("adapt.py", args),
    }
    weights = {f"model.{name}": value for name, value in adapted.model.network.state_dict().items()}
    tensors = {name: value for name, value in model.checkpoint.tensors.items() if not name.startswith("model.")}
    write_checkpoint(args.out, {**model.description, "adapted": provenance}, tensors | weights)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    args.recordings = cli.expanded(args.recordings)
    check(args)
    model = TrainedModel.open(args.checkpoint, args.device).restricted(args.classes, no_idle=args.no_idle)
    use_threads(args.threads, model.network, INFERENCE_BATCH)
    console.say(f"reading {cli.counted(len(args.recordings), 'recording')}")
    signals = signals_of(model, args, console)
    how = Adaptation(seed=args.seed)
    console.say("adapting")
    if restriction := model.restriction():
        console.say(restriction)
    adapted = adapt(model, signals, how)
    write(adapted, model, how, args)
    if not adapted.accepted:
        console.warn(f"the model was not adapted: {adapted.reason}")
    if adapted.turn_refused:
        console.warn(f"rings of electrodes are {adapted.turn_refused}")
    done = f"adapted to {adapted.seconds:.0f} s of signal in {adapted.computing:.1f} s"
    console.finish(
        f"{args.out}: {done if adapted.accepted else 'the unadapted model'}; "
        + cli.next_command("predict.py", "RECORDING", "--checkpoint", args.out),
        out=args.out.as_posix(),
        accepted=adapted.accepted,
        reason=adapted.reason,
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
