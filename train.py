"""Train a GPT-2 backbone with a patch embedding and a classification head on sEMG windows.

Input: shards (preprocess.py) and a split (create_dataset_files.py). Output, in OUT:
  best_model.ckpt   the model of the best validation epoch; opens by itself, see evaluate.py
  last.ckpt         where training stands, for --resume
  config.json       all settings, versions, commit, and what was derived from them
  metrics.jsonl     one line an epoch, the numbers that TensorBoard shows
  events.out...     for `tensorboard --logdir checkpoints`

  python train.py --split splits/putemg-unseen-users                       # pretrained GPT-2, from the Hub
  python train.py --backbone ~/models/gpt2 --tune fpt                      # from a folder; LayerNorms and positions
  python train.py --init random --layers 12 --width 768 --heads 12         # the control: no pretraining
  python train.py --backbone none                                          # the control: no backbone
  python train.py --resume --out checkpoints/RUN ...                       # go on after a stop, exactly
  torchrun --nproc-per-node 8 train.py ...                                 # several GPUs; --batch-size is for all
  python train.py --init-from checkpoints/RUN/best_model.ckpt --calibrate 1   # adapt to each new person, see below

Models are chosen on the validation people alone; the test part of the split is not opened here, with one exception.
--calibrate N adapts the model of --init-from to each test person apart, with the first N repetitions of every gesture
that this person made, and scores all later ones. It writes results as evaluate.py does into OUT (default:
results/RUN-calibrated-N), with the unadapted model's scores on the very same windows beside them. Such results know
labels of the people scored: report them apart from zero-shot results.

On two CPU cores a small random GPT-2 (the default of --init random) takes about a minute for 10,000 windows and
epoch; GPT-2 small wants a GPU.
"""

import argparse
import json
import math
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tensorboardX import SummaryWriter
from torch import Tensor, distributed, nn

from model import FRONTENDS, POOLINGS, GPT2Classifier, ModelConfig
from semg import backbone as pretrained
from semg import cli, metrics, normalize, plots
from semg.augment import Augmentation, TokenAugmenter, TokenLayout, mixed, one_hot
from semg.batches import Batch, Batches
from semg.calibration import Fit, adapt, by_person, check_enough, decide
from semg.checkpoint import Checkpoint, open_checkpoint, write_checkpoint
from semg.errors import DataError, UsageError
from semg.files import folder_lock, write_json, write_text
from semg.inference import (
    band_track,
    build_model,
    check_same_data,
    choose_device,
    gains_for,
    open_windows,
    probabilities,
    session_statistics,
    statistics_for,
)
from semg.provenance import how_made
from semg.putemg import BAND_CHANNELS
from semg.results import summary, write_results
from semg.shards import Shard, WindowSet, check_alike, open_shards
from semg.splits import read_split

DEFAULT_BANDS = (20.0, 36.0, 65.0, 118.0, 213.0, 386.0, 700.0)  # Hz; even steps on a logarithmic scale
SMALL = {"layers": 2, "width": 64, "heads": 4}  # what --init random builds unless told otherwise
FREE_TO_CHANGE = {
    "init_from",
    "calibrate",
    "resume",
    "overwrite",
    "workers",
    "device",
    "quiet",
    "json",
    "debug",
    "out",
    "compile",
}


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
    group.add_argument("--frontend", choices=FRONTENDS, default="both", help="samples, log band powers, or both")
    group.add_argument("--patch", type=cli.Length, default="64", help="length of a token, samples or time")
    group.add_argument("--frame", type=cli.Length, default="50ms", help="length over which band powers are taken")
    group.add_argument(
        "--bands", type=cli.number(0), nargs="+", default=list(DEFAULT_BANDS), metavar="HZ", help="edges of the bands"
    )
    group.add_argument("--pooling", choices=POOLINGS, default="mean", help="of the tokens")
    group.add_argument(
        "--normalize", choices=normalize.METHODS, default="session", help="label-free, by session; by training data"
    )


def _training_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epochs", type=cli.whole(1), default=8, help="passes over the training windows")
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
        "band_mask, gain, noise, mixup, jitter",
    )
    group.add_argument("--balance", choices=("none", "loss", "sampler"), default="none", help="classes, by what")
    group.add_argument(
        "--select",
        choices=("macro_f1", "accuracy", "loss"),
        default="macro_f1",
        help="what makes an epoch the best on the validation people (mean over people)",
    )
    group.add_argument("--patience", type=cli.whole(0), default=0, help="epochs without a better one; 0: no stop")


# --- several processes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """This process among those that torchrun started."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def slice(self, index: np.ndarray) -> np.ndarray:
        """This process's part of a batch."""
        return index[self.rank :: self.size]


def join_world(args: argparse.Namespace) -> World:
    """Join the processes that torchrun started, if it did."""
    if "RANK" not in os.environ:
        return World()
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if args.batch_size % world.size:
        raise UsageError(f"--batch-size {args.batch_size}: expected a multiple of the {world.size} processes")
    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(world.local)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    return world


# --- what is trained on ----------------------------------------------------------------------------------------


@dataclass
class Part:
    """One part of the split, ready to be read: its windows, batches and token statistics."""

    shards: list[Shard]
    windows: WindowSet
    batches: Batches
    statistics: Tensor | None

    def facts(self) -> dict[str, int]:
        """Counts of people, recordings and windows."""
        people = len({shard.subject for shard in self.shards})
        return {"people": people, "recordings": len(self.shards), "windows": len(self.windows)}


def open_part(
    shards: list[Shard], model: GPT2Classifier, how: str, train_gain: np.ndarray, device: torch.device, workers: int
) -> Part:
    """Open the windows of some shards, scaled as `how` says."""
    windows = open_windows(shards)
    gains = normalize.channel_gains(shards, how, train_gain)
    statistics = statistics_for(model, how, shards, gains, device)
    return Part(shards, windows, Batches(windows, gains, device, workers), statistics)


def model_config(args: argparse.Namespace, shard: Shard) -> ModelConfig:
    """The network that the flags ask for, on windows as in `shard`. Raises UsageError for what cannot be."""
    rate = shard.rate
    shape: dict[str, Any] = dict(SMALL)
    kind = args.backbone if args.backbone in ("none", "attention") else "gpt2"
    if kind == "gpt2" and args.init == "pretrained":
        shape = pretrained.architecture(args.backbone)
        if args.width or args.heads:
            raise UsageError("--width, --heads: a pretrained GPT-2 has its own; give --init random with them")
        if args.layers and args.layers > shape["layers"]:
            raise UsageError(f"--layers {args.layers}: expected at most the {shape['layers']} of {args.backbone}")
    given = {"layers": args.layers, "width": args.width, "heads": args.heads}
    shape |= {key: value for key, value in given.items() if value}
    try:
        return ModelConfig(
            channels=len(shard.channels),
            samples=shard.window,
            classes=len(shard.classes),
            frontend=args.frontend,
            patch=args.patch.samples(rate),
            frame=args.frame.samples(rate),
            band_edges=tuple(edge / rate for edge in args.bands),
            backbone=kind,
            pooling=args.pooling,
            dropout=args.dropout,
            tune=args.tune,
            **shape,
        )
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def learning_rate(args: argparse.Namespace) -> float:
    """The rate given, or one that suits what trains: pretrained blocks want small steps."""
    if args.lr:
        return args.lr
    whole_blocks = args.tune == "full" or args.tune.startswith("last:")
    gentle = args.init == "pretrained" and args.backbone not in ("none", "attention") and whole_blocks
    return 1e-4 if gentle else 1e-3


def build(args: argparse.Namespace, config: ModelConfig) -> GPT2Classifier:
    """The network with its first weights."""
    torch.manual_seed(args.seed)
    model = GPT2Classifier(config)
    if config.backbone == "gpt2" and args.init == "pretrained":
        try:
            model.load_backbone(pretrained.weights(args.backbone))
        except ValueError as error:
            raise DataError(f"{args.backbone}: {error}") from None
    return model


# --- one run -----------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """How far a run is; with the tensors of last.ckpt, all that resuming needs."""

    epoch: int = 0  # epochs done
    step: int = 0  # steps done
    in_epoch: int = 0  # of them in the epoch that is under way
    confusion: list[list[int]] = field(default_factory=list)  # of that epoch's training windows
    loss_sum: float = 0.0  # likewise
    norm_sum: float = 0.0  # likewise
    best: float = -math.inf
    best_epoch: int = 0
    first_loss: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)  # metrics.jsonl


class Run:
    """A training run: the model, its optimiser and data, and the loop over epochs."""

    def __init__(self, args: argparse.Namespace, world: World, console: cli.Console) -> None:
        self.args, self.world, self.console = args, world, console
        self.device = choose_device(args.device)
        self.split = read_split(args.split)
        train_shards = open_shards(args.shards, self.split.train, verify=world.main)
        val_shards = open_shards(args.shards, self.split.val, verify=world.main)
        check_alike([train_shards[0], val_shards[0]])
        self.augmentation = _augmentation(args)
        self.config = model_config(args, train_shards[0])
        self.model = build(args, self.config).to(self.device)
        self.train_gain = normalize.gain_of(train_shards)
        made = [
            open_part(shards, self.model, args.normalize, self.train_gain, self.device, args.workers)
            for shards in (train_shards, val_shards)
        ]
        self.train, self.val = made
        gains = normalize.channel_gains(train_shards, args.normalize, self.train_gain)
        if self.precomputes:
            self.train.batches.track = band_track(self.model, train_shards, gains, self.device)
        if args.normalize == "train":
            self._keep_train_statistics()
        self.classes = train_shards[0].classes
        self.steps_per_epoch = max(1, len(self.train.windows) // args.batch_size)
        self.lr = learning_rate(args)
        self.optimizer = _optimizer(self.model, self.lr, args.weight_decay, self.device)
        self.ema = {k: v.clone() for k, v in self.model.state_dict().items()} if args.ema else None
        self.class_weights = _class_weights(self.train.windows, len(self.classes)).to(self.device)
        self.state = Progress()
        self.stop_asked = False
        bf16 = args.amp == "bf16" or (args.amp == "auto" and self.device.type == "cuda")
        self.autocast = torch.autocast(self.device.type, torch.bfloat16) if bf16 else None
        self.forward = self._wrapped()
        self.writer: SummaryWriter | None = None

    @property
    def precomputes(self) -> bool:
        """Whether training reads band powers computed once: windows then start on multiples of the frames' hop."""
        bands = self.model.frontend.bands
        jitters = self.augmentation.jitter == 1
        return self.args.precompute and jitters and bands is not None and 4 * bands.hop >= self.config.patch

    def _wrapped(self) -> nn.Module:
        """The model as the training step calls it."""
        if self.args.compile and self.model.backbone is not None:
            self.model.backbone.compile()
        return nn.parallel.DistributedDataParallel(self.model) if self.world.size > 1 else self.model

    def _keep_train_statistics(self) -> None:
        """Under `--normalize train` the training tokens' mean and deviation become part of the model."""
        gains = normalize.channel_gains(self.train.shards, "train", self.train_gain)
        each = session_statistics(self.model, self.train.shards, gains, self.device)  # (shards, 2, F)
        mean = each[:, 0].mean(0)
        spread = (each[:, 1].square() + (each[:, 0] - mean).square()).mean(0).sqrt()
        self.model.token_mean.copy_(mean)
        self.model.token_deviation.copy_(spread)

    def facts(self) -> dict[str, Any]:
        """What follows from the settings, printed at the start and kept in config.json."""
        counts = self.model.parameter_counts()
        return {
            "train": self.train.facts(),
            "val": self.val.facts(),
            "classes": list(self.classes),
            "steps_per_epoch": self.steps_per_epoch,
            "tokens_per_window": self.config.tokens,
            "parameters": counts,
            "lr": self.lr,
            "augment": str(self.augmentation),
            "device": self.device.type,
            "processes": self.world.size,
            "dtype": "bf16" if self.autocast else "fp32",
            "resident": self.train.batches.resident,
            "band_powers_precomputed": self.precomputes,
        }

    # --- an epoch ---

    def epochs(self) -> None:
        """Train until the last epoch, or until patience is at its end."""
        while self.state.epoch < self.args.epochs and not self._out_of_patience():
            began = time.perf_counter()
            first = self.state.in_epoch
            self._train_epoch()
            if self.stop_asked:
                return
            rate = (self.steps_per_epoch - first) * self.args.batch_size / (time.perf_counter() - began)
            if self.world.main:
                self._finish_epoch(rate)
            self._share_progress()

    def _out_of_patience(self) -> bool:
        waited = self.state.epoch - self.state.best_epoch
        return bool(self.args.patience) and self.state.epoch > 0 and waited >= self.args.patience

    def _train_epoch(self) -> None:
        state, classes = self.state, len(self.classes)
        if state.in_epoch == 0:
            state.confusion, state.loss_sum, state.norm_sum = [[0] * classes for _ in range(classes)], 0.0, 0.0
        order, starts = self._epoch_order(state.epoch)
        order, starts = order[state.in_epoch :], starts[state.in_epoch :]
        self.model.train()
        told = f"epoch {state.epoch + 1}/{self.args.epochs}"
        bar = self.console.progress(
            self.train.batches.iterate(order, starts), total=len(order), unit="step", desc=told, leave=False
        )
        confusion = torch.zeros(classes * classes, dtype=torch.int64, device=self.device)
        for batch in bar:
            loss, norm, predicted = self._step(batch)
            state.loss_sum += loss
            state.norm_sum += norm
            confusion += torch.bincount(batch.label * classes + predicted, minlength=classes**2)
            state.step += 1
            state.in_epoch += 1
            if self.stop_asked:
                break
        if self.world.size > 1:
            distributed.all_reduce(confusion)
        state.confusion = (np.array(state.confusion) + confusion.cpu().numpy().reshape(classes, classes)).tolist()

    def _epoch_order(self, epoch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """This process's windows of each step, and where each window starts; a function of seed and epoch alone."""
        random = np.random.default_rng((self.args.seed, 1, epoch))
        windows, size = self.train.windows, self.args.batch_size
        if self.args.balance == "sampler":
            weights = self.class_weights.cpu().numpy()[windows.label]
            order = random.choice(len(windows), len(windows), p=weights / weights.sum())
        else:
            order = random.permutation(len(windows))
        starts = windows.start[order]
        if self.augmentation.jitter:
            reach = windows.shards[0].arguments["stride"]
            low = np.maximum(windows.low[order], starts - reach)
            high = np.minimum(windows.high[order], starts + reach)
            hop = self.train.batches.track.hop if self.train.batches.track else 1
            first, last = -(-low // hop), high // hop
            # a stretch between two multiples of the hop has none inside: the one before is a few ms early
            moved = random.integers(np.minimum(first, last), last + 1) * hop
            starts = np.where(random.random(len(order)) < self.augmentation.jitter, moved, starts)
        cuts = [slice(step * size, (step + 1) * size) for step in range(self.steps_per_epoch)]
        return [self.world.slice(order[c]) for c in cuts], [self.world.slice(starts[c]) for c in cuts]

    def _step(self, batch: Batch) -> tuple[float, float, Tensor]:
        """One update. Returns the loss and the gradient norm, averaged over processes, and the predictions."""
        args, step = self.args, self.state.step
        # everything random in a step follows from seed and step, so a resumed run draws what the first would have
        torch.manual_seed(hash_of(args.seed, 2, step, self.world.rank))
        generator = torch.Generator().manual_seed(hash_of(args.seed, 3, step, self.world.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr_at(step)
        target = one_hot(batch.label, len(self.classes))
        change = _Change(self.augmentation, TokenLayout.of(self.config, BAND_CHANNELS), generator, target)
        statistics = None if self.train.statistics is None else self.train.statistics[batch.shard]
        with self.autocast or nullcontext():
            logits = self.forward(batch.x, statistics, change, batch.bands)
        weight = self.class_weights if args.balance == "loss" else None
        loss = F.cross_entropy(logits.float(), change.target, weight, label_smoothing=args.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), args.clip)
        told = self._agreed(torch.stack([loss.detach(), norm.detach()]))
        self._check_finite(*told)
        self.optimizer.step()
        self._follow()
        return told[0], told[1], logits.detach().argmax(1)

    def _lr_at(self, step: int) -> float:
        return self.lr * schedule(step, self.steps_per_epoch * self.args.epochs, self.args.warmup)

    def _agreed(self, values: Tensor) -> list[float]:
        if self.world.size > 1:
            distributed.all_reduce(values)
            values = values / self.world.size
        return values.tolist()

    def _check_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        raise DataError(
            f"step {self.state.step}: expected a finite loss and gradient, found loss {loss:g} and gradient norm "
            f"{norm:g}; try a smaller --lr than {self.lr:g} or --amp fp32; best_model.ckpt keeps the best epoch so far"
        )

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the mean of weights a step towards the weights."""
        if self.ema is None:
            return
        decay = min(self.args.ema, (1 + self.state.step) / (10 + self.state.step))
        for name, value in self.model.state_dict().items():
            kept = self.ema[name]
            kept.lerp_(value, 1 - decay) if kept.is_floating_point() else kept.copy_(value)

    # --- after an epoch ---

    def _finish_epoch(self, rate: float) -> None:
        state = self.state
        weights = self.model.state_dict()
        if self.ema is not None:
            weights = {name: value.clone() for name, value in weights.items()}
            self.model.load_state_dict(self.ema)
        row, confusion, people = self._validate(rate)
        state.epoch += 1
        state.in_epoch = 0
        score = -row["val/loss"] if self.args.select == "loss" else row[f"val/{self.args.select}"]
        better = score > state.best
        state.rows.append(row)
        if better:
            state.best, state.best_epoch = score, state.epoch
            self._write_best(row, people)
        if self.ema is not None:
            self.model.load_state_dict(weights)
        self.save()
        write_text(self.args.out / "metrics.jsonl", "".join(json.dumps(r, allow_nan=False) + "\n" for r in state.rows))
        self.log(row, confusion)
        self.console.say(
            f"epoch {state.epoch:3d}  loss {row['train/loss']:.4f} -> val {row['val/loss']:.4f}   "
            f"macro-F1 {row['train/macro_f1']:.3f} -> val {row['val/macro_f1']:.3f}   "
            f"accuracy val {row['val/accuracy']:.3f}   {rate:,.0f} windows/s{'   best' if better else ''}"
        )

    def _validate(self, rate: float) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
        """An epoch's row of metrics.jsonl, the (K, K) confusion, and what each validation person reached."""
        self.model.eval()
        found = probabilities(self.model, self.val.batches, self.val.statistics, 512, self.autocast)
        label = self.val.windows.label
        told = validation_scores(found, label, self.val.windows.subject, len(self.classes))
        confusion = metrics.confusion(label, found.argmax(1), len(self.classes))
        people = metrics.per_subject(label, found.argmax(1), self.val.windows.subject, len(self.classes))
        trained = np.array(self.state.confusion)
        row = {
            "epoch": self.state.epoch + 1,
            "step": self.state.step,
            "train/loss": self.state.loss_sum / self.steps_per_epoch,
            "train/accuracy": float(np.trace(trained) / trained.sum()),
            "train/macro_f1": metrics.macro_f1(trained),
            **{f"val/{name}": value for name, value in told.items()},
            "optimizer/lr": self._lr_at(self.state.step - 1),
            "optimizer/gradient_norm": self.state.norm_sum / self.steps_per_epoch,
            "speed/windows_per_second": round(rate, 1),
        }
        return row, confusion, people

    def log(self, row: dict[str, Any], confusion: np.ndarray) -> None:
        """Show an epoch in TensorBoard."""
        if self.writer is None:
            return
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, row["epoch"])
        self.writer.add_figure("val/confusion", plots.confusion_figure(confusion, self.classes), row["epoch"])
        self.writer.flush()

    def _write_best(self, row: dict[str, Any], people: dict[str, Any]) -> None:
        scores = {"validation": row, "validation_per_subject": people}
        description = self.description() | {"epoch": row["epoch"], **scores}
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors["train_gain"] = torch.from_numpy(self.train_gain)
        write_checkpoint(self.args.out / "best_model.ckpt", description, tensors)

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        shard = self.train.shards[0]
        return {
            "run": self.args.out.name,
            "model": self.config.to_dict(),
            "data": {key: shard.meta[key] for key in ("rate", "unit", "channels", "classes", "arguments")},
            "normalize": self.args.normalize,
            "backbone": {"source": self.args.backbone, "init": self.args.init},
            "shards": self.args.shards.as_posix(),
            "split": {
                "name": self.split.name,
                "folder": self.args.split.as_posix(),
                "protocol": self.split.protocol,
                "checksum": self.split.checksum,
                "train": list(self.split.train),
                "val": list(self.split.val),
            },
            "trained_on": sorted({shard.subject for shard in self.train.shards}),
            "made": how_made("train.py", self.args),
        }

    # --- stopping and going on ---

    def save(self) -> None:
        """Write last.ckpt: all that --resume needs."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, value in (self.ema or {}).items():
            tensors[f"ema.{name}"] = value
        for place, values in self.optimizer.state_dict()["state"].items():
            for key, value in values.items():
                tensors[f"optimizer.{place}.{key}"] = torch.as_tensor(value)
        state = {key: value for key, value in vars(self.state).items() if key != "best"}
        state["best"] = None if math.isinf(self.state.best) else self.state.best
        description = {"arguments": settings(self.args), "split": self.split.checksum, "state": state}
        write_checkpoint(self.args.out / "last.ckpt", description, tensors)

    def restore(self, last: Checkpoint) -> None:
        """Take up where last.ckpt stands. DataError if it is of another run."""
        kept, asked = last.description.get("arguments", {}), settings(self.args)
        for key in asked:
            if kept.get(key) != asked[key]:
                raise DataError(
                    f"{last.path}: expected --{key.replace('_', '-')} {asked[key]}, found {kept.get(key)}; "
                    "resume with the run's own settings, or --overwrite it"
                )
        if last.description.get("split") != self.split.checksum:
            raise DataError(f"{last.path}: expected the split {self.args.split} as it is now, found another")
        own = _named(last, "model.")
        try:
            self.model.load_state_dict(own)
        except RuntimeError as error:
            raise DataError(f"{last.path}: expected this run's weights, found others ({error})") from None
        if self.ema is not None:
            self.ema = {name: value.to(self.device) for name, value in _named(last, "ema.").items()}
        self._restore_optimizer(last)
        state = dict(last.description["state"])
        state["best"] = -math.inf if state["best"] is None else state["best"]
        self.state = Progress(**state)

    def _restore_optimizer(self, last: Checkpoint) -> None:
        whole = self.optimizer.state_dict()
        found: dict[int, dict[str, Tensor]] = {}
        for name, value in _named(last, "optimizer.").items():
            place, key = name.split(".")
            found.setdefault(int(place), {})[key] = value
        whole["state"] = found
        self.optimizer.load_state_dict(whole)

    def _share_progress(self) -> None:
        """Tell the other processes how the epoch ended."""
        if self.world.size > 1:
            told: list[Any] = [self.state]
            distributed.broadcast_object_list(told, src=0)
            self.state = told[0]


class _Change:
    """Augmentation of one step's tokens; `target` (B, K) is mixed with them."""

    def __init__(self, how: Augmentation, layout: TokenLayout, generator: torch.Generator, target: Tensor) -> None:
        self._augment = TokenAugmenter(how, layout, generator)
        self.target = target

    def __call__(self, tokens: Tensor) -> Tensor:
        changed = self._augment(tokens)
        changed, self.target = mixed(changed, self.target, self._augment.how.mixup, self._augment.generator)
        return changed


def _augmentation(args: argparse.Namespace) -> Augmentation:
    try:
        return Augmentation.parse(args.augment)
    except ValueError as error:
        raise UsageError(f"--augment: {error}") from None


def _named(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}


def _optimizer(model: nn.Module, lr: float, weight_decay: float, device: torch.device) -> torch.optim.AdamW:
    """AdamW that decays matrices alone, as GPT-2's and nanoGPT's training does."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=device.type in ("cuda", "cpu"))


def _class_weights(windows: WindowSet, classes: int) -> Tensor:
    """(classes,) inverse frequencies, 1 on average over the windows."""
    counts = np.bincount(windows.label, minlength=classes)
    present = max(1, int(np.count_nonzero(counts)))
    weights = np.where(counts > 0, len(windows) / np.maximum(counts, 1) / present, 0.0)
    return torch.from_numpy(weights.astype(np.float32))


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step: a straight rise, then half a cosine down to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def hash_of(*numbers: int) -> int:
    """One seed of 63 bits from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def validation_scores(found: np.ndarray, label: np.ndarray, subject: np.ndarray, classes: int) -> dict[str, float]:
    """Loss over windows; accuracy and macro-F1 as means over people, so that each person counts the same."""
    picked = np.maximum(found[np.arange(len(label)), label], 1e-12)
    predicted = found.argmax(1)
    tables = [metrics.confusion(label[subject == s], predicted[subject == s], classes) for s in np.unique(subject)]
    return {
        "loss": float(-np.log(picked).mean()),
        "accuracy": float(np.mean([metrics.accuracy(table) for table in tables])),
        "macro_f1": float(np.mean([metrics.macro_f1(table) for table in tables])),
    }


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags on which a run's result depends, in JSON's types."""
    kept = how_made("train.py", args)["arguments"]
    return {key: value for key, value in kept.items() if key not in FREE_TO_CHANGE}


# --- from the shell ----------------------------------------------------------------------------------------------


def prepare_folder(args: argparse.Namespace) -> Checkpoint | None:
    """See that OUT is free, or with --resume open its last.ckpt. Raises DataError for anything else."""
    last, config = args.out / "last.ckpt", args.out / "config.json"
    if args.resume:
        if not last.is_file():
            raise DataError(f"{last}: expected a run to resume, found none; start it without --resume")
        return open_checkpoint(last)
    if last.is_file() and not args.overwrite:
        raise DataError(f"{args.out}: expected no run there, found one; --resume goes on, --overwrite starts anew")
    for old in [last, config, args.out / "best_model.ckpt", args.out / "metrics.jsonl", *args.out.glob("events.out.*")]:
        old.unlink(missing_ok=True)
    return None


def open_writer(run: Run, facts: dict[str, Any]) -> SummaryWriter:
    """TensorBoard's event file, with the configuration and the split as text."""
    writer = SummaryWriter(str(run.args.out), purge_step=run.state.epoch + 1)
    config = {"settings": settings(run.args), "derived": facts, "model": run.config.to_dict()}
    writer.add_text("configuration", f"```\n{json.dumps(config, indent=2)}\n```", 0)
    parts = "\n".join(f"{part}: {' '.join(getattr(run.split, part))}" for part in ("train", "val"))
    writer.add_text("split", f"```\n{run.split.name} ({run.split.protocol})\n{parts}\n```", 0)
    return writer


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
    for part in ("train", "val"):
        f = facts[part]
        say(f"{part:6s}{f['people']:4d} people {f['recordings']:5d} recordings {f['windows']:8d} windows")
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
    last = prepare_folder(args) if world.main or args.resume else None
    run = Run(args, world, console)
    if last is not None:
        run.restore(last)
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
        run.writer = open_writer(run, facts)
    try:
        run.epochs()
    finally:
        if run.writer is not None:
            run.writer.close()
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
    checkpoint = open_checkpoint(args.init_from)
    split = read_split(args.split)
    shards = open_shards(args.shards, split.test, verify=True)
    check_same_data(checkpoint, shards[0])
    device = choose_device(args.device)
    model = build_model(checkpoint).to(device)
    fit = Fit(tune=args.tune, epochs=args.epochs, lr=args.lr or 1e-3, weight_decay=args.weight_decay, seed=args.seed)
    people = by_person(shards)
    parts = []
    for subject, places in console.progress(people.items(), total=len(people), unit="person"):
        parts.append(calibrate_person(model, checkpoint, [shards[i] for i in places], subject, fit, args.calibrate))
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
        "normalize": checkpoint.description["normalize"],
        "made": how_made("train.py", args),
    }
    told = write_results(args.out, prediction=after.argmax(1), probabilities=after, extra=extra, **scored, **lengths)
    console.say(summary(told))
    now, then = told["mean_over_subjects"]["macro_f1"], zero_shot["mean_over_subjects"]["macro_f1"]
    console.finish(
        f"{args.out}: macro-F1 {now:.4f} with {args.calibrate} repetitions of each gesture, {then:.4f} without "
        f"(means over {told['n_subjects']} people, the same windows); next: python compare.py {args.out} ...",
        out=args.out.as_posix(),
        macro_f1=now,
        zero_shot_macro_f1=then,
    )
    return 0


def calibrate_person(
    model: GPT2Classifier, checkpoint: Checkpoint, shards: list[Shard], subject: str, fit: Fit, repetitions: int
) -> tuple[np.ndarray, ...]:
    """Label, subject, record, start, and probabilities before and after, of one person's windows to score."""
    device = next(model.parameters()).device
    gains = gains_for(checkpoint, shards)
    statistics = statistics_for(model, checkpoint.description["normalize"], shards, gains, device)
    windows = open_windows(shards)
    batches = Batches(windows, gains, device)
    first = check_enough(windows, repetitions, subject, shards[0].classes)
    adapted = adapt(model, batches, statistics, np.flatnonzero(first), fit, BAND_CHANNELS)
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
    args.out = args.out or Path("checkpoints") / args.split.name


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
