"""Calibrate a trained model to each new person on that person's first repetitions of each gesture, and score the rest.

Input: a checkpoint (train.py), shards made like those of its training data (preprocess.py), and a split. Each person of
the subset is handled separately: a copy of the model is trained on the first N repetitions of every gesture that the
person made, counted over all of the person's recordings in the order in which they were made, and all later windows are
scored. With --adapt, the calibrated copy is then adapted to each of the person's sessions without further labels, as
evaluate.py --adapt does: the labels tell which gesture is which, the unlabelled signal how the gestures vary. Output,
in OUT, as in evaluate.py:
  metrics.json           the calibrated scores, and under zero_shot_on_the_same_windows those of the uncalibrated model;
                         with --adapt the calibrated and adapted scores, and the calibrated ones under
                         calibrated_on_the_same_windows
  per_subject.csv        one row per person
  predictions.npz        recording, start, label, prediction and probabilities of each scored window
  confusion_matrix.png, per_subject.png

  python calibrate.py --checkpoint checkpoints/RUN/best_model.ckpt --repetitions 1
  python calibrate.py --checkpoint ... --repetitions 1 --adapt session
  python calibrate.py --checkpoint ... --subset val --epochs 10 --out results/tried    # settings, on validation people
  python plot.py calibration results/RUN-calibrated-?                                  # scores against repetitions

These scores use labels of the people who are scored: report them separately from zero-shot scores. --adapt session also
uses the unlabelled signals of the windows that are scored; --adapt first adapts on each session's first recording and
scores the later ones only. adapt.py --repetitions keeps such a model as a checkpoint. By default, --shards
and --split are those that the checkpoint was trained with. --classes and --no-idle work as in evaluate.py. Optimiser,
learning-rate schedule and mixed precision are those of train.py; dropout is that with which the model was trained.
Recordings are normalised as in training, without labels.

One person takes seconds with a small model on one CPU core, and several times as long with --adapt. Nearly all of the
time is training, so it depends on the number of windows and epochs.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from model import GPT2Classifier, ModelConfig
from semg import frontends
from semg.common import cli
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.common.files import expect_place, folder_lock
from semg.common.provenance import how_made
from semg.data.shards import Shard, WindowSet, open_verified
from semg.data.splits import SUBSETS, Split, read_split
from semg.evaluation import metrics
from semg.evaluation.report import replaced, summary, write_results
from semg.evaluation.scored_windows import ScoredWindows
from semg.flags import shared, training
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import Adaptation, assumed_shares
from semg.training.adapted_scores import MODES, sessions_adapted
from semg.training.augmentation import NO_RINGS, OF_BAND_POWERS, Augmentation
from semg.training.calibration import (
    AUGMENTATION,
    CalibratedSubject,
    Calibration,
    by_subject,
    calibrate_subject,
    parts_of_each,
)
from semg.training.loop import DivergedError
from semg.training.optimization import OptimizerConfig
from semg.training.precision import autocast
from semg.training.threads import use_threads


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    add = parser.add_argument
    shared.add_checkpoint(parser)
    add("--repetitions", type=cli.whole(1), default=1, metavar="N", help="repetitions of each gesture to calibrate on")
    add("--shards", type=Path, help="folder of shards (default: as in training)")
    add("--split", type=Path, help="folder of the split (default: as in training)")
    add("--subset", choices=SUBSETS, default="test", help="the subset whose people are calibrated to and scored")
    shared.add_classes(parser)
    add(
        "--adapt",
        choices=("none", *MODES),
        default="none",
        help="adapt the calibrated model to each session without further labels: on all its recordings, or on its "
        "first one (and score the later ones)",
    )
    add(
        "--out",
        type=Path,
        help="folder to write (default: results/RUN-calibrated-N, with --adapt results/RUN-calibrated-N-adapted)",
    )
    add("--seed", type=cli.whole(0), default=0, help="random seed; the same seed gives the same result")
    shared.add_computing(parser)
    add("--amp", choices=("auto", "bf16", "fp32"), default="auto", help="precision; auto: bf16 on CUDA")
    _training_flags(parser.add_argument_group("training"))
    return parser


def _training_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--tune",
        default=Calibration.tune,
        help="which part of the backbone is trained: full, last:N, fpt, lora or frozen",
    )
    add("--epochs", type=cli.whole(1), default=Calibration.epochs, help="passes over a person's calibration windows")
    add("--batch-size", type=cli.whole(1), default=Calibration.batch_size, help="windows per step")
    training.add_optimizer(group)
    add(
        "--label-smoothing",
        type=cli.number(0, 0.9),
        default=Calibration.label_smoothing,
        help="fraction of the target that is spread over all classes",
    )
    add(
        "--augment",
        nargs="*",
        default=str(AUGMENTATION).split(),
        metavar="NAME=VALUE",
        help="none, or augmentations and their strengths, as in train.py except jitter and band_rotation=auto; see "
        "docs/model.md",
    )


def expect_used(args: argparse.Namespace, config: ModelConfig) -> None:
    """UsageError for flags that would change nothing in a model of this kind."""
    if cli.given("tune") and config.family is None:
        actual = f"found one of --backbone {config.backbone}, which always trains in full"
        raise UsageError(f"--tune: expected a model whose backbone is a decoder, {actual}")
    if cli.given("backbone_lr") and (config.backbone == "none" or args.tune == "frozen"):
        raise UsageError("--backbone-lr: expected a backbone that trains, found none")


def recipe_of(args: argparse.Namespace, model: GPT2Classifier) -> Calibration:
    """The calibration settings from the flags. Raises UsageError for an augmentation or a part to train that this model
    does not have."""
    expect_used(args, model.config)
    augmentation = Augmentation.parse(args.augment) if args.augment else AUGMENTATION
    for name in OF_BAND_POWERS:
        if getattr(augmentation, name) and not frontends.has_log_powers(model.config.frontend):
            actual = f"found one of {model.config.frontend}"
            raise UsageError(f"--augment {name}: expected a model of band powers, {actual}")
    replace(model.config, tune=args.tune)  # raises SettingError if this model has no such part
    return Calibration(
        repetitions=args.repetitions,
        tune=args.tune,
        optimizer=OptimizerConfig(
            lr=args.lr, backbone_lr=args.backbone_lr, weight_decay=args.weight_decay, warmup=args.warmup, clip=args.clip
        ),
        epochs=args.epochs,
        batch_size=args.batch_size,
        label_smoothing=args.label_smoothing,
        augmentation=augmentation,
        seed=args.seed,
    )


def write(
    people: Sequence[CalibratedSubject],
    model: TrainedModel,
    shards: list[Shard],
    split: Split,
    settings: dict[str, Any],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Score the decisions before and after calibration and write the results; returns the contents of metrics.json.

    shards: of all people, person after person. settings: what metrics.json says about how it was done.
    """
    windows = WindowSet(shards)
    scored = ScoredWindows.of(windows, np.concatenate([one.scored for one in people]))
    before, calibrated, after = (
        np.concatenate([getattr(one, which) for one in people]) for which in ("before", "calibrated", "after")
    )
    extra: dict[str, Any] = {"zero_shot_on_the_same_windows": metrics.in_short(scored, before.argmax(1))}
    if args.adapt != "none":
        extra["calibrated_on_the_same_windows"] = metrics.in_short(scored, calibrated.argmax(1))
    extra |= {
        "subset": args.subset,
        "calibrate": args.repetitions,
        **settings,
        "split": args.split.as_posix(),
        "split_sha256": split.checksum,
        **model.facts(),
        "made": how_made("calibrate.py", args),
    }
    return write_results(args.out, scored, after.argmax(1), after, extra=extra)


def adaptation_record(
    people: Sequence[CalibratedSubject], how: Adaptation, args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """What metrics.json says about adapting; says which sessions were not adapted to, and why."""
    sessions = [one for person in people for one in person.sessions]
    left_out = [name for person in people for name in person.left_out]
    for one in sessions:
        if not one["accepted"]:
            console.say(f"{one['session']}: the calibrated model was not adapted: {one['reason']}")
        if one["turn_refused"]:
            console.say(f"{one['session']}: rings of electrodes are {one['turn_refused']}")
    if left_out:
        where = "after the first recording of" if args.adapt == "first" else "in"
        console.warn(f"nothing to score {where} {', '.join(left_out)}: left out")
    console.say(f"adapted to {sessions_adapted(sessions)}")
    return {"mode": args.adapt, "settings": how.to_dict(), "sessions": sessions, "left_out": left_out}


def default_name(run: str, args: argparse.Namespace) -> str:
    """The folder of the results, without --out."""
    return f"{run}-calibrated-{args.repetitions}" + ("" if args.adapt == "none" else "-adapted")


def warn_of_people(model: TrainedModel, leaks: dict[str, list[str]], console: Console) -> None:
    """Warn if the model knows people to whom it is to be calibrated."""
    if seen := leaks["trained_on_subjects_scored"]:
        console.warn(f"PEOPLE TO CALIBRATE TO WERE TRAINED ON: {', '.join(seen)}. They are not new to the model.")
    if chosen := leaks["chosen_on_subjects_scored"]:
        console.warn(f"THE MODEL WAS CHOSEN ON PEOPLE TO CALIBRATE TO: {', '.join(chosen)}. This flatters it.")
    for line in model.origin.warnings():
        console.warn(line)


def announce(
    model: TrainedModel, shards: Sequence[Shard], recipe: Calibration, args: argparse.Namespace, console: Console
) -> None:
    """Say what is about to be done, and what it assumes."""
    n_people = len({shard.subject for shard in shards})
    console.say(
        f"calibrating to {cli.counted(n_people, 'person', 'people')} ({args.subset}) with "
        f"{cli.counted(recipe.repetitions, 'repetition')} of each gesture: tune {recipe.tune}, "
        f"{cli.counted(recipe.epochs, 'epoch')}, lr {recipe.optimizer.lr:g}, "
        f"augment {recipe.augmentation}, seed {recipe.seed}"
    )
    if args.adapt != "none" and (assumed := assumed_shares(model)):
        console.warn(assumed)
    if recipe.augmentation.band_rotation and not shards[0].rings:
        console.say(NO_RINGS)


def finish(report: dict[str, Any], args: argparse.Namespace, console: Console) -> None:
    """The table, and the last line."""
    console.say(summary(report))
    leading = metrics.leading()
    after = report["mean_over_subjects"][leading.name]
    before = report["zero_shot_on_the_same_windows"]["mean_over_subjects"][leading.name]
    adapted = ""
    if args.adapt != "none":
        unadapted = report["calibrated_on_the_same_windows"]["mean_over_subjects"][leading.name]
        where = sessions_adapted(report["adaptation"]["sessions"])
        adapted = f" and adapted in {where} ({unadapted:.4f} before)"
    how = f"with {cli.counted(args.repetitions, 'repetition')} of each gesture{adapted}"
    console.finish(
        f"{args.out}: {leading.labelled(after)} {how}, "
        f"{before:.4f} without (the same windows of {cli.counted(report['n_subjects'], 'person', 'people')}); "
        + cli.next_command("plot.py", "calibration", args.out),
        out=args.out.as_posix(),
        **{leading.name: after, f"zero_shot_{leading.name}": before},
    )


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    model = TrainedModel.open(args.checkpoint, args.device).restricted(args.classes, no_idle=args.no_idle)
    use_threads(args.threads, model.network, args.batch_size)
    args.out = args.out or Path("results") / default_name(model.origin.run, args)
    expect_place(args.out / "metrics.json", "the results")
    args.shards, args.split = model.origin.folders(args.shards, args.split)
    split = read_split(args.split, args.shards)
    shards = model.own_windows(open_verified(args.shards, split.records(args.subset), console))
    recipe = recipe_of(args, model.network)
    precision = autocast(args.amp, model.device)
    subjects = by_subject(shards)
    parts = parts_of_each(subjects, recipe.repetitions, args.adapt)
    with folder_lock(args.out):
        if lost := replaced(args.out, how_made("calibrate.py", args)):
            console.warn(f"{lost}; --out keeps both")
        leaks = model.origin.leaks(subjects, args.subset)
        warn_of_people(model, leaks, console)
        announce(model, shards, recipe, args, console)
        adaptation = None if args.adapt == "none" else Adaptation(amp=args.amp, seed=args.seed)
        bar = console.progress(subjects.items(), total=len(subjects), unit="person")
        try:
            people = [calibrate_subject(model, own, parts[who], recipe, precision, adaptation) for who, own in bar]
        except DivergedError as error:
            others = " or --amp fp32" if precision else ""
            raise DataError(f"{error}; try a smaller --lr than {recipe.optimizer.lr:g}{others}") from None
        settings: dict[str, Any] = {"calibration": recipe.to_dict(), **leaks}
        if adaptation is not None:
            settings["adaptation"] = adaptation_record(people, adaptation, args, console)
        in_order = [shard for own in subjects.values() for shard in own]
        report = write(people, model, in_order, split, settings, args)
    finish(report, args, console)
    return 0


if __name__ == "__main__":
    cli.run(main)
