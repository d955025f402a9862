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
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

from model import CONTROLS, POOLINGS
from semg import backbones
from semg.common import cli
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.common.files import folder_lock, write_json
from semg.common.provenance import how_made
from semg.common.schema import folder_name
from semg.data import normalization
from semg.evaluation import metrics
from semg.evaluation.tensorboard import Board, remove_old
from semg.inference.checkpoint import Checkpoint, open_checkpoint
from semg.training import run_files
from semg.training.augmentation import NAMES, Augmentation
from semg.training.config import BANDS, PATCH, TrainConfig
from semg.training.distributed import World, join_world
from semg.training.optimization import default_learning_rate
from semg.training.trainer import Machine, Trainer


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    parser.add_argument("--split", type=Path, default=Path("splits/default"), help="folder of the split")
    parser.add_argument("--out", type=Path, help="folder to write (default: checkpoints/ and the split's name)")
    for flag in ("--calibrate", "--init-from"):
        cli.moved(parser, flag, "python calibrate.py --checkpoint CKPT --repetitions N")
    parser.add_argument("--seed", type=cli.whole(0), default=TrainConfig.seed, help="same seed, same result")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument(
        "--amp", choices=("auto", "bf16", "fp32"), default=TrainConfig.amp, help="precision; auto: bf16 on CUDA"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument(
        "--no-precompute",
        dest="precompute",
        action="store_false",
        help="compute band powers in every step; else once, and windows start on a grid of some ms",
    )
    parser.add_argument("--workers", type=cli.whole(0), default=1, help="threads that read windows ahead")
    parser.add_argument(
        "--threads",
        type=cli.whole(1),
        help="threads that compute on the CPU; another number may change the last digits of a result (default: 1 for "
        "small models, else the cores that the job may use)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.ckpt")
    parser.add_argument("--overwrite", action="store_true", help="start anew over a run that is there")
    _network_flags(parser.add_argument_group("network"))
    _input_flags(parser.add_argument_group("what the network reads"))
    _training_flags(parser.add_argument_group("training"))
    _choice_flags(parser.add_argument_group("training, further choices"))
    return parser


def _network_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backbone",
        default=TrainConfig.backbone,
        help="gpt2, a folder in Hugging Face layout, OWNER/NAME[@REVISION] on the Hub, none, or attention; see "
        "docs/backbones.md",
    )
    group.add_argument(
        "--init", choices=("pretrained", "random"), default=TrainConfig.init, help="the backbone's first weights"
    )
    group.add_argument("--layers", type=cli.whole(1), help="first N blocks kept (default: all; random: 2)")
    group.add_argument("--width", type=cli.whole(1), help="of a random GPT-2 (default: 64)")
    group.add_argument("--heads", type=cli.whole(1), help="of a random GPT-2 (default: 4)")
    group.add_argument("--tune", default=TrainConfig.tune, help="what trains: full, last:N, fpt, lora or frozen")
    group.add_argument(
        "--pooling", choices=POOLINGS, default=TrainConfig.pooling, help="the head sees the tokens' mean, or the last"
    )


def _input_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--frontend",
        default=TrainConfig.frontend,
        metavar="FEATURES",
        help="what tokens are made of: bands (log band powers), raw (samples), or both, which is bands+raw",
    )
    group.add_argument(
        "--patch",
        type=cli.length,
        help=f"length of a token, samples or time; divides the window (default: the divisor nearest to {PATCH})",
    )
    group.add_argument(
        "--frame",
        type=cli.length,
        default=TrainConfig.frame,
        help="length over which a token's band powers are taken, samples or time",
    )
    group.add_argument(
        "--bands",
        type=cli.number(0),
        nargs="+",
        metavar="HZ",
        help=f"edges of the bands (default: {' '.join(f'{edge:g}' for edge in BANDS)}, up to half the sampling rate)",
    )
    group.add_argument(
        "--normalize",
        choices=normalization.METHODS,
        default=TrainConfig.normalize,
        help="channels and tokens are scaled by each session's own statistics (no label is looked at), by those of the "
        "training data, or not at all",
    )
    group.add_argument(
        "--whitening",
        type=cli.renamed_values(beside="append", only="replace"),
        choices=normalization.WHITENING,
        help="channels made uncorrelated by the session's own correlations: none, in place of the scaled channels "
        "(replace) or after them (append) (default: append with --normalize session, else none)",
    )
    group.add_argument(
        "--ridge",
        type=cli.number(0, 10, above=True),
        default=TrainConfig.ridge,
        help="share of a channel's power that whitening adds to its own, so that weak directions stay weak",
    )


def _training_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--epochs", type=cli.whole(1), default=TrainConfig.epochs, help="passes over the training windows"
    )
    group.add_argument(
        "--pretrain",
        type=cli.whole(0),
        default=TrainConfig.pretrain,
        metavar="N",
        help="before that, passes over the training people's whole recordings in which the next patch is predicted "
        "(self-supervised: no label is looked at); 0: none",
    )
    group.add_argument(
        "--batch-size", type=cli.whole(1), default=TrainConfig.batch_size, help="windows a step, over all processes"
    )
    group.add_argument(
        "--lr",
        type=cli.number(0, above=True),
        help="highest learning rate (default: 1e-4 where pretrained blocks train as a whole, else 1e-3)",
    )
    group.add_argument(
        "--weight-decay",
        type=cli.number(0),
        default=TrainConfig.weight_decay,
        help="of matrices, not of biases or norms",
    )
    group.add_argument(
        "--warmup", type=cli.number(0, 1), default=TrainConfig.warmup, help="share of the steps; then a cosine to 0"
    )
    group.add_argument(
        "--clip", type=cli.number(0, above=True), default=TrainConfig.clip, help="largest norm of the gradient"
    )


def _choice_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--label-smoothing",
        type=cli.number(0, 0.9),
        default=TrainConfig.label_smoothing,
        help="share of the target that is spread over all classes",
    )
    group.add_argument(
        "--dropout", type=cli.number(0, 0.9), default=TrainConfig.dropout, help="in the backbone and before the head"
    )
    group.add_argument(
        "--ema",
        type=cli.number(0, 0.99999),
        default=TrainConfig.ema,
        help="decay of a moving average of the weights, which is validated and kept in their place; 0: none",
    )
    group.add_argument(
        "--augment",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help=f"none, or changes and their strength (default: {Augmentation()}); names: {', '.join(NAMES)}; "
        "see docs/model.md",
    )
    group.add_argument(
        "--balance",
        choices=("none", "loss", "sampler"),
        default=TrainConfig.balance,
        help="give rare classes the weight of common ones, in the loss or by drawing their windows more often",
    )
    group.add_argument(
        "--select",
        choices=list(metrics.criteria()),
        default=TrainConfig.select,
        help="score on the validation people (mean over people) by which the best epoch is chosen",
    )
    group.add_argument(
        "--patience",
        type=cli.whole(0),
        default=TrainConfig.patience,
        help="stop after so many epochs in a row that were not better than the best; 0: never",
    )


# --- from the shell ----------------------------------------------------------------------------------------------


def config_of(args: argparse.Namespace) -> TrainConfig:
    """The run's settings, made from the flags once: each has its flag's name."""
    given = {field.name: getattr(args, field.name) for field in fields(TrainConfig)}
    pretrained = args.init == "pretrained" and args.backbone not in CONTROLS
    return TrainConfig(
        **given
        | {
            "augment": Augmentation.parse(args.augment),
            "bands": tuple(args.bands) if args.bands else None,
            "lr": args.lr or default_learning_rate(args.tune, pretrained=pretrained),
            "whitening": args.whitening or ("append" if args.normalize == "session" else "none"),
        }
    )


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


def open_board(run: Trainer, facts: dict[str, Any]) -> Board:
    """What TensorBoard shows of this run."""
    return Board(
        run.out,
        run.classes,
        settings=run.config.to_dict(),
        facts=facts | {"model": run.model.config.to_dict()},
        split=run.split,
        simulated=run.data.train.simulated or run.data.val.simulated,
        warn=run.console.warn,
        purge_from=run.state.training.epoch + 1,
    )


def catch_signals(run: Trainer) -> list[int]:
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


def describe(run: Trainer, facts: dict[str, Any]) -> None:
    """What a person wants to know before a long run."""
    config, model, counts, say = run.config, run.model.config, facts["parameters"], run.console.say
    for subset in ("train", "val"):
        f = facts[subset]
        line = f"{subset:6s}{f['subjects']:4d} people {f['recordings']:5d} recordings {f['windows']:8d} windows"
        say(line + ("   SIMULATED" if f["simulated"] else ""))
    say(
        f"model  {model.frontend} front-end, {model.tokens} tokens, backbone {config.backbone} "
        f"({config.init}), tune {model.tune}: {counts['total']:,} parameters, {counts['trainable']:,} trainable "
        f"({counts['backbone_trainable']:,} of {counts['backbone']:,} in the backbone)"
    )
    if counts["positions_reached"] < counts["positions_trainable"]:
        say(
            f"       of the {counts['positions_trainable']:,} positions that train, a window's tokens reach the first "
            f"{counts['positions_reached']}; the others never get a gradient"
        )
    if (weights := facts["backbone"].get("weights_sha256")) is not None:
        say(f"       the backbone's first weights: SHA-256 {weights[:16]}")
    if config.augment.band_rotation and not run.layout.rings:
        say("       band rotation changes nothing here: the recordings' channels lie in no rings of electrodes")
    say(
        f"steps  {config.epochs} epochs x {run.task.steps_per_epoch} steps of {config.batch_size} windows, "
        f"lr {config.lr:g}, augment {config.augment}, {facts['device']} {facts['dtype']}, "
        f"{cli.counted(facts['threads'], 'thread')}, seed {config.seed}"
    )


def begin(run: Trainer, last: Checkpoint | None) -> None:
    """Write down what this run is, in place of a run that was there before, or go on from `last`."""
    facts = run_files.facts_of(run)
    describe(run, facts)
    made = how_made("train.py", run.config.to_dict()) | {"model": run.model.config.to_dict(), "derived": facts}
    if last is None:  # not before: wrong inputs must not cost the run that is there
        remove_old_run(run.out)
    write_json(run.out / "config.json", made)
    if last is None:
        run_files.save(run)
    else:
        run_files.write_rows(run)
    run.board = open_board(run, facts)


def train(args: argparse.Namespace, config: TrainConfig, world: World, console: Console) -> int:
    """Prepare and train one run."""
    last = to_resume(args) if world.main or args.resume else None
    run = Trainer(config, args.out, Machine(args.device, args.workers, args.compile, args.threads), world, console)
    if last is not None:
        run_files.restore(run, last)
    caught = catch_signals(run) if world.size == 1 else []
    if world.main:
        begin(run, last)
    try:
        run.run()
    finally:
        if run.board is not None:
            run.board.close()
    if run.stop_asked:
        run_files.save(run)
        message = f"training stands in {args.out / 'last.ckpt'}; the same command with --resume goes on"
        raise cli.Terminated(message) if caught[0] == signal.SIGTERM else KeyboardInterrupt(message)
    if world.main:
        finish(run)
    return 0


def finish(run: Trainer) -> None:
    """The last line."""
    best, state, config = run.out / "best_model.ckpt", run.state, run.config
    score = state.best or 0.0
    run.console.finish(
        f"{best}: best epoch {state.best_epoch} of {state.training.epoch}, validation {config.select} "
        f"{abs(score):.4f} (mean over people); next: python evaluate.py --checkpoint {best} "
        f"--shards {config.shards} --split {config.split}",
        checkpoint=best.as_posix(),
        best_epoch=state.best_epoch,
        epochs=state.training.epoch,
        score=score,
    )


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    args.out = args.out or Path("checkpoints") / args.split.resolve().name
    if not folder_name(args.out.resolve().name):  # the checkpoint says it, and evaluate.py writes under it
        raise UsageError(f"--out {args.out}: expected a folder with a name of its own, such as checkpoints/RUN")
    if args.quiet or args.json:
        backbones.hide_progress()
    config = config_of(args)
    world = join_world(config.batch_size, args.device)
    args.quiet = args.quiet or not world.main
    try:
        with folder_lock(args.out) if world.main else nullcontext():
            return train(args, config, world, cli.console(args))
    finally:
        world.leave()


if __name__ == "__main__":
    cli.run(main)
