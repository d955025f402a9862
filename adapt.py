"""Adapt a trained model to one session of one person, and save it as a checkpoint.

  python adapt.py checkpoints/RUN/best_model.ckpt session/*.hdf5 --out checkpoints/person.ckpt
  python adapt.py checkpoints/RUN/best_model.ckpt morning.csv --rate 2000 --out checkpoints/person.ckpt
  python adapt.py checkpoints/RUN/best_model.ckpt morning.csv --rate 2000 --repetitions 1 --out checkpoints/person.ckpt
  python predict.py afternoon.csv --rate 2000 --checkpoint checkpoints/person.ckpt

Input: a best_model.ckpt, and the recordings of one session: one person, with the electrodes left in place. Recordings
are in the formats that predict.py reads and are given in the order in which they were made. Output: OUT, a checkpoint
that every script accepts. Its description says under `adapted` which recordings it was adapted to, and how. With
--classes or --no-idle the model decides between these gestures only, while it adapts and whenever it is used later, as
in predict.py.

Labels in the recordings are not used, except with --repetitions N: the model is then first calibrated on the labels of
the first N repetitions of each gesture, as calibrate.py does, and adapts from there on all of the signal. One
repetition of each gesture is enough to tell which is which, and gains a lot. Labels are in the column that the labels
of the training data were in, or in `label`, by the same names; the rest of the recordings needs none.

Adaptation works best with at least two minutes of signal in which every gesture is made several times, with the pauses
between them. If the model should not be adapted to a session (few gestures, one gesture nearly all the time, less than
half a minute), the adaptation is rejected with the reason: OUT then holds the unadapted model (with --repetitions, the
calibrated one), and a warning says so.

docs/scale.md says how long it takes.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from contextlib import closing
from functools import partial
from pathlib import Path

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.failures import Repeated
from semg.common.files import checksum, expect_place
from semg.common.provenance import how_made
from semg.data import gaps
from semg.flags import places, shared
from semg.inference.batch import INFERENCE_BATCH, Signal
from semg.inference.checkpoint import files_of, write_checkpoint
from semg.inference.recordings import in_one_unit, labels_of, recording_for, unknown_labels
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import Adaptation, Adapted, adapt, assumed_shares
from semg.training.calibration import Calibration, LabelledSignal, calibrated_to
from semg.training.config import TrainConfig
from semg.training.loop import DivergedError
from semg.training.optimization import OptimizerConfig
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
    cli.of_others(parser, "--checkpoint", "CHECKPOINT, without a flag")
    parser.add_argument(
        "recordings", type=Path, nargs="+", metavar="RECORDING", help="an .hdf5 file or a table of samples"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CKPT", help="the checkpoint to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    shared.add_classes(parser)
    parser.add_argument(
        "--repetitions",
        type=cli.whole(0),
        default=0,
        metavar="N",
        help="first calibrate on the labels of the first N repetitions of each gesture; 0: use no labels",
    )
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="random seed; the same seed gives the same result")
    shared.add_computing(parser)
    shared.add_tables(parser)
    calibration = parser.add_argument_group("calibration, with --repetitions")
    calibration.add_argument(
        "--epochs", type=cli.whole(1), default=Calibration.epochs, help="passes over the labelled windows"
    )
    calibration.add_argument("--lr", type=cli.number(0, above=True), default=TrainConfig.lr, help="peak learning rate")
    return parser


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for flags that cannot be combined, DataError if OUT exists and may not be replaced."""
    if twice := [path for path in args.recordings if args.recordings.count(path) > 1]:
        raise UsageError(f"{twice[0]}: expected each recording once, found it twice")
    shared.check_tables(args, args.recordings)
    if not args.repetitions and (idle := [name for name in ("epochs", "lr") if cli.given(name)]):
        raise UsageError(f"--{idle[0]}: expected --repetitions with it, whose labels are learnt so")
    expect_place(args.out, "the adapted model")
    places.expect_apart([(f"--out {args.out}", args.out)], [*files_of(args.checkpoint), *args.recordings])
    if args.out.exists() and not args.overwrite:
        raise DataError(f"{args.out}: expected no file there, found one; --overwrite replaces it")


def recipe_of(args: argparse.Namespace) -> Calibration | None:
    """How to calibrate; None without --repetitions."""
    if not args.repetitions:
        return None
    optimizer = OptimizerConfig(lr=args.lr)
    return Calibration(repetitions=args.repetitions, optimizer=optimizer, epochs=args.epochs, seed=args.seed)


def calibrated(model: TrainedModel, recordings: list[LabelledSignal], recipe: Calibration) -> TrainedModel:
    """The model calibrated to the recordings. DataError, with advice, if its training diverges."""
    try:
        return calibrated_to(model, recordings, recipe)
    except DivergedError as error:
        raise DataError(f"{error}; try a smaller --lr than {recipe.optimizer.lr:g}") from None


def read(model: TrainedModel, args: argparse.Namespace, console: cli.Console) -> list[LabelledSignal]:
    """The recordings, filtered and normalised together as one session, with their labels."""
    facts = (args.rate, args.unit, args.channels)
    samples, labels, others = [], [], []
    with closing(Repeated(console.warn, "recording")) as doubts:
        sources = {
            path: recording_for(model, path, *facts, of_session=True, warn=partial(doubts.add, path))
            for path in console.progress(args.recordings, unit="recording")
        }
        if args.repetitions:
            for path, source in sources.items():
                if unknown := unknown_labels(source.codes, model):
                    doubts.add(path, f"{path}: {unknown}")
    for path, source in in_one_unit(model, sources, args.unit, console.warn).items():
        try:
            samples.append(model.signal_path.apply(source.samples, source.scale))
        except DataError as error:
            raise DataError(f"{path}: {error.message}", error.hint) from None
        labels.append(labels_of(source.codes, model.classes))
        others.append((gaps.breaks(source.missing, source.rate), source.cuts))
    session = model.session_of(*samples)
    parts = zip(samples, labels, others, strict=True)
    return [LabelledSignal(Signal(own, session), label, *where) for own, label, where in parts]


def write(
    adapted: Adapted, model: TrainedModel, how: Adaptation, recipe: Calibration | None, args: argparse.Namespace
) -> None:
    """Write the adapted model as a checkpoint that records what it was adapted to. recipe: how it was calibrated
    before, if it was."""
    provenance = {
        "recordings": [path.name for path in args.recordings],
        "checkpoint": args.checkpoint.as_posix(),
        "checkpoint_sha256": model.checkpoint.sha256,
        "settings": how.to_dict(),
        **adapted.to_dict(),
        **({} if recipe is None else {"calibration": recipe.to_dict()}),
        "made": how_made("adapt.py", args),
    }
    weights = {f"model.{name}": value for name, value in adapted.model.network.state_dict().items()}
    tensors = {name: value for name, value in model.checkpoint.tensors.items() if not name.startswith("model.")}
    if (earlier := model.description.get("adapted")) is not None:
        provenance["earlier"] = earlier  # the model may have been adapted before
    description = {**model.description, "adapted": provenance}
    if recipe is not None:
        description["model"] = adapted.model.network.config.to_dict()  # calibration may have changed what trains
        names = {path.name for path in args.recordings}
        sums = {checksum(path) for path in args.recordings}  # files of several people may have the same names
        description["calibrated_on"] = sorted(names | model.origin.calibrated_on)  # for warnings of leaks
        description["calibrated_on_sha256"] = sorted(sums | set(description.get("calibrated_on_sha256") or ()))
    write_checkpoint(args.out, description, tensors | weights)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    args.recordings = cli.expanded(args.recordings)
    check(args)
    model = TrainedModel.open(args.checkpoint, args.device).restricted(args.classes, no_idle=args.no_idle)
    use_threads(args.threads, model.network, INFERENCE_BATCH)
    console.say(f"reading {cli.counted(len(args.recordings), 'recording')}")
    recordings = read(model, args, console)
    if restriction := model.restriction():
        console.say(restriction)
    if assumed := assumed_shares(model):
        console.warn(assumed)
    recipe = recipe_of(args)
    first, rings, before = model, None, "the unadapted model"
    if recipe is not None:
        console.say(f"calibrating with {cli.counted(args.repetitions, 'repetition')} of each gesture")
        first, before = calibrated(model, recordings, recipe), "the calibrated model"
        rings = ()  # the model has learnt how the band sits
    how = Adaptation(seed=args.seed)
    console.say("adapting")
    adapted = adapt(first, [one.signal for one in recordings], how, rings)
    write(adapted, model, how, recipe, args)
    if not adapted.accepted:
        console.warn(f"the model was not adapted: {adapted.reason}")
    if adapted.turn_refused:
        console.warn(f"rings of electrodes are {adapted.turn_refused}")
    done = f"adapted to {adapted.seconds:.0f} s of signal in {adapted.computing:.1f} s"
    if recipe is not None:
        done = f"calibrated, and {done}"
    console.finish(
        f"{args.out}: {done if adapted.accepted else before}; "
        + cli.next_command("predict.py", "RECORDING", "--checkpoint", args.out),
        out=args.out.as_posix(),
        accepted=adapted.accepted,
        reason=adapted.reason,
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
