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

Models are chosen on the validation people alone; the test people are not looked at here. calibrate.py adapts a trained
model to a new person.

On two CPU cores a small random GPT-2 (the default of --init random) takes about a minute for 10,000 windows and
epoch; GPT-2 small wants a GPU.
"""

import argparse
import signal
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from torch import distributed

from model import POOLINGS
from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import folder_lock, write_json
from semg.common.provenance import how_made
from semg.common.schema import folder_name
from semg.data import normalization
from semg.evaluation.tensorboard import Board, remove_old
from semg.inference.checkpoint import Checkpoint, open_checkpoint
from semg.training.augmentation import NAMES, Augmentation
from semg.training.trainer import Run, World, join_world, settings

DEFAULT_BANDS = (20.0, 36.0, 65.0, 118.0, 213.0, 386.0, 700.0)  # Hz; even steps on a logarithmic scale


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    parser.add_argument("--split", type=Path, default=Path("splits/default"), help="folder of the split")
    parser.add_argument("--out", type=Path, help="folder to write (default: checkpoints/ and the split's name)")
    for flag in ("--calibrate", "--init-from"):
        cli.moved(parser, flag, "python calibrate.py --checkpoint CKPT --repetitions N")
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
    group.add_argument(
        "--backbone",
        default="gpt2",
        help="gpt2, a folder in Hugging Face layout, OWNER/NAME[@REVISION] on the Hub, none, or attention; see "
        "docs/backbones.md",
    )
    group.add_argument("--init", choices=("pretrained", "random"), default="pretrained", help="the backbone's weights")
    group.add_argument("--layers", type=cli.whole(1), help="first N blocks kept (default: all; random: 2)")
    group.add_argument("--width", type=cli.whole(1), help="of a random GPT-2 (default: 64)")
    group.add_argument("--heads", type=cli.whole(1), help="of a random GPT-2 (default: 4)")
    group.add_argument("--tune", default="full", help="what trains: full, last:N, fpt, lora or frozen")
    group.add_argument(
        "--frontend",
        default="bands",
        metavar="FEATURES",
        help="what tokens are made of: bands (log band powers), raw (samples), or both, which is bands+raw",
    )
    group.add_argument("--patch", type=cli.length, default="128", help="length of a token, samples or time")
    group.add_argument("--frame", type=cli.length, default="50ms", help="length over which band powers are taken")
    group.add_argument(
        "--bands", type=cli.number(0), nargs="+", default=list(DEFAULT_BANDS), metavar="HZ", help="edges of the bands"
    )
    group.add_argument("--pooling", choices=POOLINGS, default="mean", help="of the tokens")
    group.add_argument(
        "--normalize", choices=normalization.METHODS, default="session", help="label-free, by session; by training data"
    )
    group.add_argument(
        "--whitening",
        type=cli.renamed_values(beside="append", only="replace"),
        choices=normalization.WHITENING,
        help="channels made uncorrelated by the session's own correlations: none, in place of the scaled channels "
        "(replace) or after them (append) (default: append with --normalize session, else none)",
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
        help=f"none, or changes and their strength (default: {Augmentation()}); names: {', '.join(NAMES)}; "
        "see docs/model.md",
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
    if counts["positions_reached"] < counts["positions_trainable"]:
        say(
            f"       of the {counts['positions_trainable']:,} positions that train, a window's tokens reach the first "
            f"{counts['positions_reached']}; the others never get a gradient"
        )
    if (weights := facts["backbone"].get("weights_sha256")) is not None:
        say(f"       the backbone's first weights: SHA-256 {weights[:16]}")
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


def check_flags(args: argparse.Namespace) -> None:
    """Fill in where to write; UsageError for a folder without a name."""
    args.out = args.out or Path("checkpoints") / args.split.resolve().name
    if not folder_name(args.out.resolve().name):  # the checkpoint says it, and evaluate.py writes under it
        raise UsageError(f"--out {args.out}: expected a folder with a name of its own, such as checkpoints/RUN")


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    check_flags(args)
    world = join_world(args)
    args.quiet = args.quiet or not world.main
    console = cli.console(args)
    try:
        with folder_lock(args.out) if world.main else nullcontext():
            return train(args, world, console)
    finally:
        if world.size > 1:
            distributed.destroy_process_group()


if __name__ == "__main__":
    cli.run(main)
