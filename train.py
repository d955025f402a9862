"""Train a GPT-2 backbone with a patch embedding and a classification head on sEMG windows.

Input: shards (preprocess.py) and a split (create_dataset_files.py). Output, in OUT:
  best_model.ckpt   the model of the best validation epoch, with all that evaluate.py and predict.py need to open it
  last.ckpt         the latest state of training, for --resume
  config.json       all settings, versions, commit, and what was derived from them
  metrics.jsonl     one line per epoch
  events.out..., projector/, projector_config.pbtxt     for `tensorboard --logdir checkpoints`

  python train.py --split splits/putemg-unseen-users                       # pretrained GPT-2, from the Hub
  python train.py --backbone ~/models/gpt2 --tune fpt                      # from a folder; LayerNorms and positions
  python train.py --init random --layers 12 --width 768 --heads 12         # the control: no pretraining
  python train.py --backbone none                                          # the control: no backbone
  python train.py --resume --out checkpoints/RUN ...                       # continue exactly where a run stopped
  torchrun --nproc-per-node 8 train.py ...                                 # several GPUs; they share --batch-size

The model is chosen on the validation people only; the test people are not used here. calibrate.py adapts a trained
model to a new person.

A small random GPT-2 (the default of --init random) trains on a CPU in minutes; GPT-2 small needs a GPU. docs/scale.md
says how long both take.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from semg import backbones
from semg.common import cli
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.common.files import folder_lock, read_json
from semg.common.schema import folder_name
from semg.common.stopping import stop_at_a_safe_place
from semg.evaluation import metrics
from semg.evaluation.tensorboard import Board, remove_old
from semg.flags import training
from semg.inference.checkpoint import Checkpoint, is_export, open_checkpoint
from semg.training import run_files
from semg.training.augmentation import NO_RINGS
from semg.training.band_rotation import STRENGTHS, pilot_epochs
from semg.training.config import TrainConfig
from semg.training.distributed import World, join_world
from semg.training.subsets import can_precompute
from semg.training.trainer import Machine, Trainer

REPLACED = ("config.json", "metrics.jsonl", "events.out.*", "projector_config.pbtxt")  # by a run in a folder


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    return training.parser(__doc__)


def expect_own(out: Path) -> None:
    """DataError for a folder of an exported model, or of something else with files of the names that a run replaces."""
    exported = is_export(out)
    if not exported and any((out / name).exists() for name in ("last.ckpt", "best_model.ckpt")):
        return
    there = sorted(path.name for pattern in REPLACED for path in out.glob(pattern))
    config = out / "config.json"
    of_a_run = config.is_file() and read_json(config, "a run's settings").get("script") == "train.py"
    if exported or (there and not of_a_run):
        what = "an exported model" if exported else f"another {there[0]}"
        raise DataError(f"{out}: expected a new folder or one of a run, found {what}; choose another --out")


def to_resume(args: argparse.Namespace) -> Checkpoint | None:
    """Check that OUT is free or may be overwritten; with --resume, open its last.ckpt instead. DataError if neither is
    possible."""
    expect_own(args.out)
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


def open_board(run: Trainer, facts: dict[str, Any]) -> Board:
    """Open the TensorBoard log of this run."""
    return Board(
        run.out,
        run.classes,
        settings=run.config.to_dict(),
        facts=facts | {"model": run.model.config.to_dict()},
        split=run.split,
        rest_classes=run.data.train.shards[0].rest_classes,
        simulated=run.data.train.windows.simulated or run.data.val.windows.simulated,
        warn=run.console.warn,
        purge_from=run.state.training.epoch + 1,
    )


def describe(run: Trainer, facts: dict[str, Any]) -> None:
    """Print what a user wants to know before a long run."""
    config, say = run.config, run.console.say
    for subset in ("train", "val"):
        f = facts[subset]
        subjects, recordings = cli.counted(f["subjects"], "person", "people"), cli.counted(f["recordings"], "recording")
        line = f"{subset:6s}{subjects:>10s}, {recordings:>14s}, {cli.counted(f['windows'], 'window')}"
        say(line + ("   SIMULATED" if f["simulated"] else ""))
    warn_of_absent_gestures(run)
    describe_network(run, facts)
    unused = training.without_effect(config, run.model, precomputable=can_precompute(config, run.model))
    for setting in filter(cli.given, unused):
        say(f"       {cli.flag(setting)} changes nothing here: {unused[setting]}")
    if config.augment.band_rotation != 0 and not run.layout.rings:
        say(f"       {NO_RINGS}")
    if run.chooses_band_rotation and not run.state.training.epoch:
        count, epochs = len(STRENGTHS), cli.counted(pilot_epochs(config.epochs), "epoch")
        strengths = " or ".join(f"{strength:g}" for strength in STRENGTHS)
        say(f"       band rotation {strengths}: chosen on the validation people by {count} pilots of {epochs}")
    of_backbone = f" ({facts['backbone_lr']:g} in the backbone)" if facts["backbone_lr"] != config.lr else ""
    say(
        f"steps  {cli.counted(config.epochs, 'epoch')} x {cli.counted(run.task.steps_per_epoch, 'step')} "
        f"of {cli.counted(run.task.windows_per_step, 'window')}, "
        f"lr {config.lr:g}{of_backbone}, augment {config.augment}, {facts['device']} {facts['dtype']}, "
        f"{cli.counted(facts['threads'], 'thread')}, seed {config.seed}"
    )


def warn_of_absent_gestures(run: Trainer) -> None:
    """Warn of gestures that nobody in a subset makes."""
    for subset, whose, so in (
        (run.data.train, "training", "the model cannot learn to decide for"),
        (run.data.val, "validation", "the epoch is chosen without"),
    ):
        absent = [name for place, name in enumerate(run.classes) if not (subset.windows.label == place).any()]
        if absent:
            names, them = ", ".join(absent), "it" if len(absent) == 1 else "them"
            run.console.warn(f"no window of the {whose} people is of {names}: {so} {them}")


def describe_network(run: Trainer, facts: dict[str, Any]) -> None:
    """Print what the network is and which of its weights train."""
    config, model, counts, say = run.config, run.model.config, facts["parameters"], run.console.say
    controls = {"none": "no backbone", "attention": "backbone attention (random)"}
    backbone = controls.get(config.backbone, f"backbone {config.backbone} ({config.init}), tune {model.tune}")
    say(
        f"model  {model.frontend} front-end, {cli.counted(model.tokens, 'token')}, {backbone}: "
        f"{counts['total']:,} parameters, {counts['trainable']:,} trainable "
        f"({counts['backbone_trainable']:,} of {counts['backbone']:,} in the backbone)"
    )
    if counts["positions_reached"] < counts["positions_trainable"]:
        say(
            f"       of the {counts['positions_trainable']:,} positions that train, a window's tokens reach the first "
            f"{counts['positions_reached']}; the others never get a gradient"
        )
    if (weights := facts["backbone"].get("weights_sha256")) is not None:
        say(f"       the backbone's first weights: SHA-256 {weights[:16]}")
    if held := facts["held_in_bf16"]:
        say(f"       {held:,} weights that do not train are held in bf16; checkpoints keep them as they were")


def begin(run: Trainer, last: Checkpoint | None) -> None:
    """Write the run's configuration, replacing an earlier run in OUT, or continue from `last`."""
    facts = run_files.facts_of(run)
    describe(run, facts)
    if last is None:  # only now: wrong inputs must not delete the earlier run
        for name in ("last.ckpt", "config.json", "best_model.ckpt", "metrics.jsonl"):
            (run.out / name).unlink(missing_ok=True)
        remove_old(run.out)
    run_files.write_config(run)
    if last is None:
        run_files.save(run)
    else:
        run_files.write_rows(run)
    run.board = open_board(run, facts)


def train(args: argparse.Namespace, config: TrainConfig, world: World, console: Console) -> int:
    """Prepare and train one run."""
    last = to_resume(args) if world.main or args.resume else None
    if last is not None:
        run_files.check_settings(last, config)  # before the data are prepared, which can take minutes
    machine = Machine(args.device, args.workers, args.compile, args.threads)
    batch_size = run_files.batch_size_of(last) if last is not None else None
    run = Trainer(config, args.out, machine, world, console, batch_size)
    if last is not None:
        run_files.restore(run, last)
    with stop_at_a_safe_place(when=world.size == 1) as run.stop:
        if world.main:
            begin(run, last)
        try:
            run.run()
        finally:
            if run.board is not None:
                run.board.close()
        if run.stop:
            run_files.save(run)
    if run.stop:
        raise run.stop.error(
            f"the state of training is in {args.out / 'last.ckpt'}; the same command with --resume continues it"
        )
    if world.main:
        finish(run)
    return 0


def finish(run: Trainer) -> None:
    """Print the last line."""
    best, state, config = run.out / "best_model.ckpt", run.state, run.config
    score, label = abs(state.best or 0.0), metrics.criteria()[config.select].label  # of a loss, `best` is the negative
    over = "windows" if config.select == metrics.LOSS.name else "people"
    run.console.finish(
        f"{best}: best epoch {state.best_epoch} of {state.training.epoch}, validation {label} "
        f"{score:.4f} (mean over {over}); "
        + cli.next_command("evaluate.py", "--checkpoint", best, "--shards", config.shards, "--split", config.split),
        checkpoint=best.as_posix(),
        best_epoch=state.best_epoch,
        epochs=state.training.epoch,
        score=score,
    )


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    if args.resume and args.overwrite:
        raise UsageError("--resume, --overwrite: expected one of them, found both")
    args.out = args.out or Path("checkpoints") / args.split.resolve().name
    # the checkpoint records this name, and evaluate.py names its folder after it
    if not folder_name(args.out.resolve().name):
        raise UsageError(f"--out {args.out}: expected a folder with a name of its own, such as checkpoints/RUN")
    if args.quiet or args.json:
        backbones.hide_progress()
    config = training.config_of(args)
    world = join_world(config.batch_size, args.device)
    args.quiet = args.quiet or not world.main
    try:
        with folder_lock(args.out) if world.main else nullcontext():
            return train(args, config, world, cli.console(args))
    finally:
        world.leave()


if __name__ == "__main__":
    cli.run(main, again="if OUT has a last.ckpt, the same command with --resume goes on")
