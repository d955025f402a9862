"""Train a GPT-2 backbone with a patch embedding and a classification head on sEMG windows.

Input: shards (preprocess.py) and a split (create_dataset_files.py). Output, in OUT:
  best_model.ckpt   the model of the best validation epoch; opens by itself, see evaluate.py
  last.ckpt         where training stands, for --resume
  config.json       all settings, versions, commit, and what was derived from them
  metrics.jsonl     one line an epoch
  events.out..., projector/, projector_config.pbtxt     for `tensorboard --logdir checkpoints`

  python train.py --split splits/putemg-unseen-users                       # pretrained GPT-2, from the Hub
  python train.py --backbone ~/models/gpt2 --tune fpt                      # from a folder; LayerNorms and positions
  python train.py --init random --layers 12 --width 768 --heads 12         # the control: no pretraining
  python train.py --backbone none                                          # the control: no backbone
  python train.py --resume --out checkpoints/RUN ...                       # go on after a stop, exactly
  torchrun --nproc-per-node 8 train.py ...                                 # several GPUs; --batch-size is for all
  python train.py --init-from checkpoints/RUN/best_model.ckpt --calibrate 1   # adapt to each new person, see below

Models are chosen on the validation people alone; the test subset of the split is not opened here, with one exception.
--calibrate N adapts the model of --init-from to each test person apart, with the first N repetitions of every gesture
that this person made, and scores all later ones. It writes results as evaluate.py does into OUT (default:
results/RUN-calibrated-N), with the unadapted model's scores on the very same windows beside them. Such results know
labels of the people scored: report them apart from zero-shot results.

On two CPU cores a small random GPT-2 (the default of --init random) takes about a minute for 10,000 windows and
epoch; GPT-2 small wants a GPU.
"""

import argparse
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from torch import distributed

from model import FRONTENDS, POOLINGS, GPT2Classifier
from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import folder_lock, write_json
from semg.common.provenance import how_made
from semg.common.schema import folder_name
from semg.data import normalization
from semg.data.batches import Batches
from semg.data.putemg import RING_SIZE
from semg.data.shards import Shard, open_shards
from semg.data.splits import read_split
from semg.evaluation import metrics
from semg.evaluation.report import summary, write_results
from semg.evaluation.tensorboard import Board, remove_old
from semg.inference.batch import (
    build_model,
    check_same_data,
    choose_device,
    mixing_for,
    open_model,
    open_windows,
    scaling_of,
    statistics_for,
)
from semg.inference.checkpoint import Checkpoint, open_checkpoint
from semg.training.augmentation import Augmentation, TokenLayout
from semg.training.calibration import Fit, adapt, by_subject, check_enough, decide
from semg.training.trainer import Run, World, join_world, settings

DEFAULT_BANDS = (20.0, 36.0, 65.0, 118.0, 213.0, 386.0, 700.0)  # Hz; even steps on a logarithmic scale


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    parser.add_argument("--split", type=Path, default=Path("splits/default"), help="folder of the split")
    parser.add_argument("--out", type=Path, help="folder to write (default: checkpoints/ and the split's name)")
    parser.add_argument("--init-from", type=Path, metavar="CKPT", help="the model that --calibrate adapts")
    parser.add_argument("--calibrate", type=cli.whole(1), metavar="N", help="repetitions of each gesture to adapt with")
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="same seed, same result")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--amp", choices=("auto", "bf16", "fp32"), default="auto", help="auto: bf16 on CUDA")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument(
        "--no-precompute",
        dest="precompute",
        action="store_false",
        help="compute band powers in every step; else once, and windows start on a grid of some ms",
    )
    parser.add_argument("--workers", type=cli.whole(0), default=1, help="threads that read windows ahead")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.ckpt")
    parser.add_argument("--overwrite", action="store_true", help="start anew over a run that is there")
    _model_flags(parser.add_argument_group("model"))
    _training_flags(parser.add_argument_group("training"))
    return parser


def _model_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--backbone", default="gpt2", help="gpt2, a folder in Hugging Face layout, none, or attention")
    group.add_argument("--init", choices=("pretrained", "random"), default="pretrained", help="GPT-2's weights")
    group.add_argument("--layers", type=cli.whole(1), help="first N blocks kept (default: all; random: 2)")
    group.add_argument("--width", type=cli.whole(1), help="of a random GPT-2 (default: 64)")
    group.add_argument("--heads", type=cli.whole(1), help="of a random GPT-2 (default: 4)")
    group.add_argument("--tune", default="full", help="what trains: full, last:N, fpt, lora or frozen")
    group.add_argument("--frontend", choices=FRONTENDS, default="bands", help="samples, log band powers, or both")
    group.add_argument("--patch", type=cli.Length, default="128", help="length of a token, samples or time")
    group.add_argument("--frame", type=cli.Length, default="50ms", help="length over which band powers are taken")
    group.add_argument(
        "--bands", type=cli.number(0), nargs="+", default=list(DEFAULT_BANDS), metavar="HZ", help="edges of the bands"
    )
    group.add_argument("--pooling", choices=POOLINGS, default="mean", help="of the tokens")
    group.add_argument(
        "--normalize", choices=normalization.METHODS, default="session", help="label-free, by session; by training data"
    )
    group.add_argument(
        "--whitening",
        choices=normalization.WHITENING,
        help="channels made uncorrelated by the session's own correlations: none, only these, or beside the scaled "
        "ones (default: beside with --normalize session, else none)",
    )
    group.add_argument(
        "--ridge", type=cli.number(0, 10, above=True), default=normalization.RIDGE, help="added to those correlations"
    )


def _training_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epochs", type=cli.whole(1), default=8, help="passes over the training windows")
    group.add_argument(
        "--pretrain",
        type=cli.whole(0),
        default=0,
        metavar="N",
        help="before that, passes over the training people's whole recordings in which the next patch is predicted "
        "(self-supervised: no label is looked at); 0: none",
    )
    group.add_argument("--batch-size", type=cli.whole(1), default=128, help="windows a step, over all processes")
    group.add_argument("--lr", type=cli.number(0, above=True), help="(default: 1e-3; pretrained full or last:N 1e-4)")
    group.add_argument("--weight-decay", type=cli.number(0), default=0.05, help="of matrices, not of biases or norms")
    group.add_argument("--warmup", type=cli.number(0, 1), default=0.1, help="share of the steps; then a cosine to 0")
    group.add_argument("--clip", type=cli.number(0, above=True), default=1.0, help="largest gradient norm")
    group.add_argument("--label-smoothing", type=cli.number(0, 0.9), default=0.1, help="share given to all classes")
    group.add_argument("--dropout", type=cli.number(0, 0.9), default=0.1, help="in the backbone and before the head")
    group.add_argument("--ema", type=cli.number(0, 0.99999), default=0.0, help="decay of a mean of weights; 0: none")
    group.add_argument(
        "--augment",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help=f"none, or changes and their strength (default: {Augmentation()}); names: roll, mask, time_mask, "
        "band_mask, gain, noise, mixup, jitter; see docs/model.md",
    )
    group.add_argument("--balance", choices=("none", "loss", "sampler"), default="none", help="classes, by what")
    group.add_argument(
        "--select",
        choices=("macro_f1", "accuracy", "loss"),
        default="macro_f1",
        help="what makes an epoch the best on the validation people (mean over people)",
    )
    group.add_argument("--patience", type=cli.whole(0), default=0, help="epochs without a better one; 0: no stop")


# --- from the shell ----------------------------------------------------------------------------------------------


def to_resume(args: argparse.Namespace) -> Checkpoint | None:
    """See that OUT is free or may be overwritten, or with --resume open its last.ckpt. DataError for anything else."""
    last = args.out / "last.ckpt"
    if args.resume:
        if not last.is_file():
            raise DataError(f"{last}: expected a run to resume, found none; start it without --resume")
        return open_checkpoint(last)
    if last.is_file() and not args.overwrite:
        raise DataError(f"{args.out}: expected no run there, found one; --resume goes on, --overwrite starts anew")
    best = args.out / "best_model.ckpt"
    if best.exists() and not args.overwrite:
        raise DataError(f"{best}: expected no run there, found this; choose another --out, or --overwrite it")
    return None


def remove_old_run(out: Path) -> None:
    """Remove what a run before has left in OUT."""
    for name in ("last.ckpt", "config.json", "best_model.ckpt", "metrics.jsonl"):
        (out / name).unlink(missing_ok=True)
    remove_old(out)


def open_board(run: Run, facts: dict[str, Any]) -> Board:
    """What TensorBoard shows of this run."""
    return Board(
        run.args.out,
        run.classes,
        settings=settings(run.args),
        facts=facts | {"model": run.config.to_dict()},
        split=run.split,
        warn=run.console.warn,
        purge_from=run.state.epoch + 1,
    )


def catch_signals(run: Run) -> list[int]:
    """Let Ctrl-C and SIGTERM end training after the step under way; a second one ends it at once."""
    caught: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if caught:
            raise cli.Terminated if number == signal.SIGTERM else KeyboardInterrupt
        caught.append(number)
        run.stop_asked = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return caught


def describe(run: Run, facts: dict[str, Any]) -> None:
    """What a person wants to know before a long run."""
    counts, say = facts["parameters"], run.console.say
    for subset in ("train", "val"):
        f = facts[subset]
        told = f"{subset:6s}{f['subjects']:4d} people {f['recordings']:5d} recordings {f['windows']:8d} windows"
        say(told + ("   SIMULATED" if f["simulated"] else ""))
    say(
        f"model  {run.config.frontend} front-end, {run.config.tokens} tokens, backbone {run.args.backbone} "
        f"({run.args.init}), tune {run.config.tune}: {counts['total']:,} parameters, {counts['trainable']:,} trainable "
        f"({counts['backbone_trainable']:,} of {counts['backbone']:,} in the backbone)"
    )
    say(
        f"steps  {run.args.epochs} epochs x {run.steps_per_epoch} steps of {run.args.batch_size} windows, "
        f"lr {run.lr:g}, augment {facts['augment']}, {facts['device']} {facts['dtype']}, seed {run.args.seed}"
    )


def train(args: argparse.Namespace, world: World, console: cli.Console) -> int:
    """Prepare and train one run."""
    last = to_resume(args) if world.main or args.resume else None
    run = Run(args, world, console)
    if last is not None:
        run.restore(last)
    elif world.main:  # not before: wrong inputs must not cost the run that is there
        remove_old_run(args.out)
    caught = catch_signals(run) if world.size == 1 else []
    if world.main:
        facts = run.facts()
        describe(run, facts)
        write_json(
            args.out / "config.json",
            how_made("train.py", settings(args)) | {"model": run.config.to_dict(), "derived": facts},
        )
        if last is None:
            run.save()
        else:
            run.write_rows()
        run.board = open_board(run, facts)
    try:
        run.epochs()
    finally:
        if run.board is not None:
            run.board.close()
    if run.stop_asked:
        run.save()
        told = f"training stands in {args.out / 'last.ckpt'}; the same command with --resume goes on"
        raise cli.Terminated(told) if caught[0] == signal.SIGTERM else KeyboardInterrupt(told)
    if world.main:
        best = args.out / "best_model.ckpt"
        console.finish(
            f"{best}: best epoch {run.state.best_epoch} of {run.state.epoch}, validation {args.select} "
            f"{abs(run.state.best):.4f} (mean over people); next: python evaluate.py --checkpoint {best} "
            f"--shards {args.shards} --split {args.split}",
            checkpoint=best.as_posix(),
            best_epoch=run.state.best_epoch,
            epochs=run.state.epoch,
            score=run.state.best,
        )
    return 0


# --- calibration -------------------------------------------------------------------------------------------------


def calibrate(args: argparse.Namespace, console: cli.Console) -> int:
    """Adapt --init-from to each test person and score the rest of their windows."""
    checkpoint = open_model(args.init_from)
    split = read_split(args.split)
    shards = open_shards(args.shards, split.test, verify=True)
    check_same_data(checkpoint, shards[0])
    device = choose_device(args.device)
    model = build_model(checkpoint).to(device)
    try:
        replace(model.config, tune=args.tune)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    fit = Fit(tune=args.tune, epochs=args.epochs, lr=args.lr or 1e-3, weight_decay=args.weight_decay, seed=args.seed)
    subjects = by_subject(shards)
    parts = []
    for subject, places in console.progress(subjects.items(), total=len(subjects), unit="person"):
        parts.append(calibrate_subject(model, checkpoint, [shards[i] for i in places], subject, fit, args.calibrate))
    label, subject, record, start, before, after = (np.concatenate(column) for column in zip(*parts, strict=True))
    scored: dict[str, Any] = {
        "label": label,
        "subject": subject,
        "record": record,
        "start": start,
        "classes": shards[0].classes,
    }
    rate, stride = shards[0].rate, shards[0].arguments["stride"]
    lengths: dict[str, Any] = {"rate": rate, "window_seconds": shards[0].window / rate, "stride_seconds": stride / rate}
    zero_shot = metrics.report(prediction=before.argmax(1), **scored, **lengths)
    extra = {
        "subset": "test",
        "calibrate": args.calibrate,
        "zero_shot_on_the_same_windows": {key: zero_shot[key] for key in ("mean_over_subjects", "per_subject")},
        "checkpoint": args.init_from.as_posix(),
        "split": args.split.as_posix(),
        "split_sha256": split.checksum,
        "normalize": scaling_of(checkpoint).method,
        "whitening": scaling_of(checkpoint).whitening,
        "made": how_made("train.py", args),
    }
    told = write_results(
        args.out,
        prediction=after.argmax(1),
        probabilities=after,
        simulated=any(shard.simulated for shard in shards),
        extra=extra,
        **scored,
        **lengths,
    )
    console.say(summary(told))
    now, then = told["mean_over_subjects"]["macro_f1"], zero_shot["mean_over_subjects"]["macro_f1"]
    known = cli.counted(args.calibrate, "repetition")
    console.finish(
        f"{args.out}: macro-F1 {now:.4f} with {known} of each gesture, {then:.4f} without (the same windows of "
        f"{cli.counted(told['n_subjects'], 'person', 'people')}); next: python compare.py {args.out} ...",
        out=args.out.as_posix(),
        macro_f1=now,
        zero_shot_macro_f1=then,
    )
    return 0


def calibrate_subject(
    model: GPT2Classifier, checkpoint: Checkpoint, shards: list[Shard], subject: str, fit: Fit, repetitions: int
) -> tuple[np.ndarray, ...]:
    """Label, subject, record, start, and probabilities before and after, of one person's windows to score."""
    device = next(model.parameters()).device
    scaling = scaling_of(checkpoint)
    mixing = mixing_for(checkpoint, shards)
    statistics = statistics_for(model, scaling.method, shards, mixing, device)
    windows = open_windows(shards)
    batches = Batches(windows, mixing, device)
    first = check_enough(windows, repetitions, subject, shards[0].classes)
    layout = TokenLayout.of(model.config, RING_SIZE, scaling.views)
    adapted = adapt(model, batches, statistics, np.flatnonzero(first), fit, layout)
    rest = np.flatnonzero(~first)
    found = [decide(which, batches, statistics, rest) for which in (model, adapted)]
    return windows.label[rest], windows.subject[rest], windows.record[rest], windows.start[rest], *found


def check_flags(args: argparse.Namespace) -> None:
    """Fill in where to write; UsageError for flags that belong together."""
    if bool(args.init_from) != bool(args.calibrate):
        raise UsageError("--init-from, --calibrate: expected both or neither")
    if args.calibrate:
        run = args.init_from.resolve().parent.name
        args.out = args.out or Path("results") / f"{run}-calibrated-{args.calibrate}"
    args.out = args.out or Path("checkpoints") / args.split.resolve().name
    if not folder_name(args.out.resolve().name):  # the checkpoint says it, and evaluate.py writes under it
        raise UsageError(f"--out {args.out}: expected a folder with a name of its own, such as checkpoints/RUN")


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    check_flags(args)
    if args.calibrate:
        with folder_lock(args.out):
            return calibrate(args, cli.Console(args))
    world = join_world(args)
    args.quiet = args.quiet or not world.main
    console = cli.Console(args)
    try:
        with folder_lock(args.out) if world.main else nullcontext():
            return train(args, world, console)
    finally:
        if world.size > 1:
            distributed.destroy_process_group()


if __name__ == "__main__":
    cli.run(main)
