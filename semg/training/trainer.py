"""One training run: the processes that share it, its data, the loop over epochs, stopping and going on.

`train.py` is the script around it. Everything random in a run follows from the seed and the step, so that a run
that was stopped and resumed is the run that was not.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from model import CONTROLS, GPT2Classifier, ModelConfig
from semg import frontends
from semg.backbones import Pretrained, fingerprint, open_pretrained, own_parameters
from semg.common.console import Console
from semg.common.errors import DataError, SettingError
from semg.common.files import write_text
from semg.common.provenance import how_made
from semg.common.schema import OBJECT, TEXT, Field, check_fields, number, whole
from semg.data import normalization
from semg.data.batches import Batch, Batches
from semg.data.putemg import RING_SIZE
from semg.data.shards import Shard, WindowSet, check_alike, open_shards
from semg.data.splits import read_split
from semg.evaluation import metrics
from semg.evaluation.tensorboard import Board, projected
from semg.inference.batch import (
    cached_frames,
    choose_device,
    open_windows,
    pooled_features,
    probabilities,
    ready_tokens,
    session_statistics,
    statistics_for,
)
from semg.inference.checkpoint import Checkpoint, write_checkpoint
from semg.training.augmentation import OF_BAND_POWERS, Augmentation, TokenLayout, draw, one_hot
from semg.training.optimization import (
    adamw,
    default_learning_rate,
    optimizer_tensors,
    reseed,
    restore_optimizer,
    schedule,
    seed_of,
)
from semg.training.pretraining import Pretraining, PretrainingProgress

SMALL = {"layers": 2, "width": 64, "heads": 4}  # what a random GPT-2 has unless told otherwise
FREE_TO_CHANGE = {"resume", "overwrite", "workers", "device", "out", "compile"}
# No healthy run comes near these: gradients are of order 1 and the first loss is about log(classes).
EXPLODED_LOSS = 100.0  # times the first step's loss
EXPLODED_NORM = 1e6  # of the gradient, before it is clipped
DEAD_NORM, DEAD_LOSS, DEAD_STEPS = 1e-8, 0.01, 20  # no gradient while there is a loss, so many steps in a row


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
        raise SettingError("batch_size", "a multiple of the {} processes", args.batch_size, (world.size,))
    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(world.local)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    return world


# --- what is trained on ----------------------------------------------------------------------------------------


@dataclass
class Part:
    """One subset of the split, ready to be read: its windows, batches and token statistics."""

    shards: list[Shard]
    windows: WindowSet
    batches: Batches
    statistics: Tensor | None

    @property
    def simulated(self) -> bool:
        """Whether some recording was."""
        return any(shard.simulated for shard in self.shards)

    def facts(self) -> dict[str, int | bool]:
        """Counts of people, recordings and windows, and whether some recording was simulated."""
        subjects = len({shard.subject for shard in self.shards})
        counts = {"subjects": subjects, "recordings": len(self.shards), "windows": len(self.windows)}
        return {**counts, "simulated": self.simulated}


def open_subset(
    shards: list[Shard],
    model: GPT2Classifier,
    channel_normalization: normalization.ChannelNormalization,
    train_gain: np.ndarray,
    device: torch.device,
    workers: int,
) -> Part:
    """Open the windows of some shards, brought to one scale."""
    windows = open_windows(shards)
    transform = normalization.transform_of(shards, channel_normalization, train_gain)
    statistics = statistics_for(model, channel_normalization.method, shards, transform, device)
    return Part(shards, windows, Batches(windows, transform, device, workers), statistics)


def channel_normalization(args: argparse.Namespace) -> normalization.ChannelNormalization:
    """How the flags bring recordings to one scale. Raises SettingError for what cannot be."""
    whitening = args.whitening or ("append" if args.normalize == "session" else "none")
    return normalization.ChannelNormalization(args.normalize, whitening, args.ridge)


def decoder_of(args: argparse.Namespace) -> Pretrained | None:
    """The decoder that `backbone` names, read and checked; None for a control and for a random GPT-2 of any size."""
    if args.backbone in CONTROLS or (args.backbone == "gpt2" and args.init == "random"):
        return None
    decoder = open_pretrained(args.backbone)
    for own in ("width", "heads"):
        if getattr(args, own):
            expected = f"none with {args.backbone}, which has its own"
            raise SettingError(own, expected, hint="give {backbone} gpt2 {init} random with it")
    if args.layers and args.layers > decoder.layers:
        raise SettingError("layers", f"at most the {decoder.layers} of {args.backbone}", args.layers)
    return decoder


def model_config(args: argparse.Namespace, shard: Shard, copies: int, decoder: Pretrained | None) -> ModelConfig:
    """The network that the flags ask for, on windows as in `shard`. Raises SettingError for what cannot be.

    copies: how often each electrode is among the model's channels. decoder: as `decoder_of` gives it.
    """
    rate = shard.rate
    shape: dict[str, Any] = dict(SMALL)
    if decoder is not None:
        own = ("layers", "width", "heads", "architecture")
        shape = {"backbone": decoder.family.name} | {name: getattr(decoder, name) for name in own}
    elif args.backbone in CONTROLS:
        shape |= {"backbone": args.backbone}
    given = {"layers": args.layers, "width": args.width, "heads": args.heads}
    shape |= {key: value for key, value in given.items() if value}
    try:
        return ModelConfig(
            channels=len(shard.channels) * copies,
            samples=shard.window,
            classes=len(shard.classes),
            frontend=args.frontend,
            patch=args.patch.samples(rate),
            frame=args.frame.samples(rate),
            band_edges=tuple(edge / rate for edge in args.bands),
            pooling=args.pooling,
            dropout=args.dropout,
            tune=args.tune,
            **shape,
        )
    except SettingError as error:
        raise _in_time(error, args, rate) from None


def _in_time(error: SettingError, args: argparse.Namespace, rate: float) -> SettingError:
    """An error of ModelConfig, which counts in samples, in the units of the settings: hertz, and time where given."""

    def say(value: float) -> str:
        if error.field == "band_edges":
            return f"{value * rate:g}"
        return getattr(args, error.field).say(value, rate) if error.field in ("patch", "frame") else f"{value:g}"

    return error.translated(say, {"band_edges": "bands"})


def learning_rate(args: argparse.Namespace) -> float:
    """The rate given, or one that suits what trains."""
    pretrained = args.init == "pretrained" and args.backbone not in CONTROLS
    return args.lr or default_learning_rate(args.tune, pretrained=pretrained)


def build(args: argparse.Namespace, config: ModelConfig, decoder: Pretrained | None) -> GPT2Classifier:
    """The network with its first weights."""
    torch.manual_seed(args.seed)
    model = GPT2Classifier(config)
    if decoder is not None and args.init == "pretrained":
        model.load_backbone(decoder.weights(config.layers))
    return model


def first_weights(args: argparse.Namespace, model: GPT2Classifier, decoder: Pretrained | None) -> dict[str, Any]:
    """Which weights the backbone has before training: what results say of themselves."""
    told: dict[str, Any] = {"source": args.backbone, "init": args.init}
    if decoder is not None and decoder.revision:
        told["revision"] = decoder.revision
    if model.backbone is not None:
        told["weights_sha256"] = fingerprint(own_parameters(model.backbone))
    return told


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
    first_loss: float = 0.0  # of the first step, about log(classes)
    rows: list[dict[str, Any]] = field(default_factory=list)  # metrics.jsonl
    pretraining: PretrainingProgress | None = None


def _is_state(state: Any) -> bool:
    return isinstance(state, dict) and state.keys() == {one.name for one in fields_of(Progress)}


def _table_field(size: int) -> Field:
    """Of a confusion matrix that may be empty."""

    def holds(table: Any) -> bool:
        if not isinstance(table, list) or len(table) not in (0, size):
            return False
        square = all(isinstance(row, list) and len(row) == size for row in table)
        return square and all(whole(count, 0) for row in table for count in row)

    return Field(f"a table of {size} x {size} counts", holds)


_STATE = {
    "arguments": OBJECT,
    "split": TEXT,
    "state": Field(f"a state with {', '.join(one.name for one in fields_of(Progress))}", _is_state),
    **dict.fromkeys(
        ("state.epoch", "state.step", "state.in_epoch", "state.best_epoch"),
        Field("a whole number", lambda value: whole(value, 0)),
    ),
    **dict.fromkeys(("state.loss_sum", "state.norm_sum", "state.first_loss"), Field("a number", number)),
    "state.best": Field("a number", number, needed=False),
    "state.rows": Field("rows of metrics", lambda rows: isinstance(rows, list) and all(map(OBJECT.holds, rows))),
}


class Run:
    """A training run: the model, its optimiser and data, and the loop over epochs."""

    def __init__(self, args: argparse.Namespace, world: World, console: Console) -> None:
        self.args, self.world, self.console = args, world, console
        self.device = choose_device(args.device)
        self.split = read_split(args.split, args.shards)
        train_shards = open_shards(args.shards, self.split.train, verify=world.main)
        val_shards = open_shards(args.shards, self.split.val, verify=world.main)
        check_alike([train_shards[0], val_shards[0]])
        self.augmentation = _augmentation(args)
        self.channel_normalization = channel_normalization(args)
        decoder = decoder_of(args)
        self.config = model_config(args, train_shards[0], self.channel_normalization.copies, decoder)
        self.model = build(args, self.config, decoder)
        self.first_weights = first_weights(args, self.model, decoder)
        self.model.to(self.device)
        self.layout = TokenLayout.of(self.model.frontend.groups, RING_SIZE, self.channel_normalization.copies)
        self.train_gain = normalization.gain_of(train_shards)
        made = [
            open_subset(shards, self.model, self.channel_normalization, self.train_gain, self.device, args.workers)
            for shards in (train_shards, val_shards)
        ]
        self.train, self.val = made
        if self.precomputes:
            transform = normalization.transform_of(train_shards, self.channel_normalization, self.train_gain)
            self.train.batches.cached = cached_frames(self.model, train_shards, transform, self.device)
        if args.normalize == "train":
            self._keep_train_statistics()
        self.classes = train_shards[0].classes
        self.steps_per_epoch = max(1, len(self.train.windows) // args.batch_size)
        self.lr = learning_rate(args)
        self.optimizer = adamw(self.model, self.lr, args.weight_decay)
        self.trained = [weights for weights in self.model.parameters() if weights.requires_grad]  # once, not each step
        self.ema = {k: v.clone() for k, v in self.model.state_dict().items()} if args.ema else None
        self.class_weights = _class_weights(self.train.windows, len(self.classes)).to(self.device)
        self._val_tokens: Tensor | None = None  # computed once, if they fit into memory
        self.state = Progress()
        self.pretraining = self._pretraining() if args.pretrain else None
        self._dead = 0  # steps in a row without a gradient
        self.stop_asked = False
        bf16 = args.amp == "bf16" or (args.amp == "auto" and self.device.type == "cuda")
        self.autocast = torch.autocast(self.device.type, torch.bfloat16) if bf16 else None
        self.forward = self._wrapped()
        self.board: Board | None = None

    @property
    def precomputes(self) -> bool:
        """Whether training reads frames' features computed once: windows then start on multiples of the frames' hop."""
        frames = self.model.frontend.frames
        jitters = self.augmentation.jitter == 1
        return self.args.precompute and jitters and frames is not None and 4 * frames.hop >= self.config.patch

    def _wrapped(self) -> nn.Module:
        """The model as the training step calls it."""
        if self.args.compile and self.model.backbone is not None:
            self.model.backbone.compile()
        return nn.parallel.DistributedDataParallel(self.model) if self.world.size > 1 else self.model

    def _pretraining(self) -> Pretraining:
        try:
            made = Pretraining(
                self.model,
                self.train.batches,
                self.train.statistics,
                self.layout,
                self.args,
                lr=self.lr,
                rotation=self.augmentation.band_rotation,
                rank=self.world.rank,
                size=self.world.size,
            )
        except SettingError as error:
            raise _in_time(error, self.args, self.train.shards[0].rate) from None
        self.state.pretraining = made.state
        return made

    def _keep_train_statistics(self) -> None:
        """Under normalisation by training data their tokens' mean and standard deviation go into the model."""
        transform = normalization.transform_of(self.train.shards, self.channel_normalization, self.train_gain)
        each = session_statistics(self.model, self.train.shards, transform, self.device)  # (shards, 2, F)
        mean = each[:, 0].mean(0)
        spread = (each[:, 1].square() + (each[:, 0] - mean).square()).mean(0).sqrt()
        self.model.token_mean.copy_(mean)
        self.model.token_std.copy_(spread)

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
            "backbone": self.first_weights,
            "lr": self.lr,
            "augment": str(self.augmentation),
            "normalize": self.channel_normalization.to_dict(),
            "device": self.device.type,
            "processes": self.world.size,
            "dtype": "bf16" if self.autocast else "fp32",
            "resident": self.train.batches.resident,
            "band_powers_precomputed": self.precomputes,
        }

    # --- before the first epoch ---

    def pretrain(self) -> None:
        """Do what is left of pretraining."""
        own = self.pretraining
        if own is None or own.done:
            return
        while not (own.done or self.stop_asked):
            told = f"pretraining {len(own.state.losses) + 1}/{self.args.pretrain}"

            def progress(steps: Iterable[int], told: str = told) -> Iterable[int]:
                return self.console.progress(steps, unit="step", desc=told, leave=False)

            own.epoch(self.autocast, self._agreed, self._check_health, progress, lambda: self.stop_asked)
            if self.world.main and not self.stop_asked:
                self.console.say(f"{told}  loss {own.state.losses[-1]:.4f} (1: guessing the session's mean)")
                self.save()
        if own.done and self.args.ema:
            self.ema = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.state.first_loss, self._dead = 0.0, 0  # what is usual for a loss that is over

    # --- an epoch ---

    def epochs(self) -> None:
        """Train until the last epoch, or until patience is at its end."""
        self.pretrain()
        if self.board and self.pretraining and self.state.epoch == 0:
            self.board.pretrained(self.pretraining.state.losses)
        while self.state.epoch < self.args.epochs and not (self.stop_asked or self._out_of_patience()):
            began = time.perf_counter()
            first = self.state.in_epoch
            self.train_epoch()
            if self.stop_asked:
                return
            rate = (self.steps_per_epoch - first) * self.args.batch_size / (time.perf_counter() - began)
            if self.world.main:
                self._finish_epoch(rate)
            self._share_progress()

    def _out_of_patience(self) -> bool:
        waited = self.state.epoch - self.state.best_epoch
        return bool(self.args.patience) and self.state.epoch > 0 and waited >= self.args.patience

    def train_epoch(self) -> None:
        """Train on what is left of the epoch that is under way, or on the next one."""
        state, classes = self.state, len(self.classes)
        if state.in_epoch == 0:
            state.confusion, state.loss_sum, state.norm_sum = [[0] * classes for _ in range(classes)], 0.0, 0.0
        order, starts = self.epoch_order(state.epoch)
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

    def epoch_order(self, epoch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """This process's windows of each step, and where each window starts; a function of seed and epoch alone."""
        random = np.random.default_rng((self.args.seed, 1, epoch))
        windows, size = self.train.windows, self.args.batch_size
        if self.args.balance == "sampler":
            weights = self.class_weights.cpu().numpy()[windows.label]
            order = random.choice(len(windows), len(windows), p=weights / weights.sum())
        else:
            order = random.permutation(len(windows))
        hop = self.train.batches.cached.hop if self.train.batches.cached else 1
        starts = windows.jittered(order, self.augmentation.jitter, random, hop)
        cuts = [slice(step * size, (step + 1) * size) for step in range(self.steps_per_epoch)]
        return [self.world.slice(order[c]) for c in cuts], [self.world.slice(starts[c]) for c in cuts]

    def _step(self, batch: Batch) -> tuple[float, float, Tensor]:
        """One update. Returns the loss and the gradient norm, averaged over processes, and the predictions."""
        args, step = self.args, self.state.step
        # everything random in a step follows from seed and step, so a resumed run draws what the first would have
        reseed(self.device, seed_of(args.seed, 2, step, self.world.rank))
        generator = torch.Generator().manual_seed(seed_of(args.seed, 3, step, self.world.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr_at(step)
        shape = (len(batch.label), self.config.tokens)
        change = draw(self.augmentation, self.layout, shape, generator, self.device)
        target = change.targets(one_hot(batch.label, len(self.classes)))
        statistics = None if self.train.statistics is None else self.train.statistics[batch.shard]
        with self.autocast or nullcontext():
            logits = self.forward(batch.x, statistics, change, batch.cached)
        weight = self.class_weights if args.balance == "loss" else None
        loss = F.cross_entropy(logits.float(), target, weight, label_smoothing=args.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, args.clip)
        told = self._agreed(torch.stack([loss.detach(), norm.detach()]))
        self._check_health(*told)
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

    def _check_health(self, loss: float, norm: float) -> None:
        """DataError for a run that can't recover: no finite numbers, an exploded loss or gradient, or no gradient."""
        state = self.state
        state.first_loss = state.first_loss or loss
        exploded = loss > EXPLODED_LOSS * max(1.0, state.first_loss) or norm > EXPLODED_NORM
        self._dead = self._dead + 1 if norm < DEAD_NORM and loss > DEAD_LOSS else 0
        if math.isfinite(loss) and math.isfinite(norm) and not exploded and self._dead < DEAD_STEPS:
            return
        found = f"found loss {loss:g} and gradient norm {norm:g}"
        if self._dead:
            raise DataError(
                f"step {state.step}: expected a loss that still moves, {found} for {DEAD_STEPS} steps; nothing is "
                "learnt any more",
                hint=f"start anew with a smaller {{lr}} than {self.lr:g}",
            )
        raise DataError(
            f"step {state.step}: expected a finite loss and gradient, {found}",
            hint=f"try a smaller {{lr}} than {self.lr:g} or {{amp}} fp32; best_model.ckpt keeps the best epoch so far",
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
        row, subjects, found = self._validate(rate)
        state.epoch += 1
        state.in_epoch = 0
        score = -row["val/loss"] if self.args.select == "loss" else row[f"val/{self.args.select}"]
        better = score > state.best
        state.rows.append(row)
        if better:
            state.best, state.best_epoch = score, state.epoch
            self._write_best(row, subjects)
            self._project()
        if self.ema is not None:
            self.model.load_state_dict(weights)
        self.save()
        self.write_rows()
        if self.board is not None:
            self.board.epoch(row, subjects, self.val.windows.label, found)
        self.console.say(
            f"epoch {state.epoch:3d}  loss {row['train/loss']:.4f} -> val {row['val/loss']:.4f}   "
            f"macro-F1 {row['train/macro_f1']:.3f} -> val {row['val/macro_f1']:.3f}   "
            f"accuracy val {row['val/accuracy']:.3f}   {rate:,.0f} windows/s{'   best' if better else ''}"
        )

    def write_rows(self) -> None:
        """Write metrics.jsonl: what last.ckpt knows of each epoch, also after a kill between the two."""
        rows = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.state.rows)
        write_text(self.args.out / "metrics.jsonl", rows)

    def _validate(self, rate: float) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
        """An epoch's row of metrics.jsonl, what each validation person reached, and the (n, K) probabilities."""
        self.model.eval()
        val = self.val
        if self._val_tokens is None:
            self._val_tokens = ready_tokens(self.model, val.batches, val.statistics)
        found = probabilities(self.model, val.batches, val.statistics, 512, self.autocast, ready=self._val_tokens)
        label = self.val.windows.label
        told = validation_scores(found, label, self.val.windows.subject, len(self.classes))
        subjects = metrics.per_subject(label, found.argmax(1), self.val.windows.subject, len(self.classes))
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
        return row, subjects, found

    def _project(self) -> None:
        """Show what the head sees of some validation windows."""
        if self.board is None:
            return
        windows = self.val.windows
        index = projected(windows.label, len(self.classes))
        val, ready = self.val, self._val_tokens
        features = pooled_features(self.model, val.batches, val.statistics, index, ready=ready)
        self.board.project(features, windows.label[index], windows.subject[index], self.state.epoch)

    def _write_best(self, row: dict[str, Any], subjects: dict[str, Any]) -> None:
        scores = {"validation": row, "validation_per_subject": subjects}
        description = self.description() | {"epoch": row["epoch"], **scores}
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors["train_gain"] = torch.from_numpy(self.train_gain)
        write_checkpoint(self.args.out / "best_model.ckpt", description, tensors)

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        shard = self.train.shards[0]
        return {
            "run": self.args.out.resolve().name,
            "model": self.config.to_dict(),
            "data": {key: shard.meta.get(key) for key in ("rate", "unit", "channels", "classes", "arguments")},
            "normalize": self.channel_normalization.to_dict(),
            "backbone": self.first_weights,
            "pretraining_losses": self.pretraining.state.losses if self.pretraining else [],
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
            "simulated": self.train.simulated or self.val.simulated,
            "made": how_made("train.py", self.args),
        }

    # --- stopping and going on ---

    def save(self) -> None:
        """Write last.ckpt: all that resuming needs."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, value in (self.ema or {}).items():
            tensors[f"ema.{name}"] = value
        tensors |= optimizer_tensors(self.optimizer, "optimizer.")
        if self.pretraining and not self.pretraining.done:
            tensors |= self.pretraining.tensors()
        state = {key: value for key, value in asdict(self.state).items() if key != "best"}
        state["best"] = None if math.isinf(self.state.best) else self.state.best
        description = {"arguments": settings(self.args), "split": self.split.checksum, "state": state}
        write_checkpoint(self.args.out / "last.ckpt", description, tensors)

    def restore(self, last: Checkpoint) -> None:
        """Take up where last.ckpt stands. DataError if it is of another run."""
        fields = _STATE | {"state.confusion": _table_field(len(self.classes))}
        check_fields(last.path, last.description, fields, "a run to resume", "start it anew with {overwrite}")
        kept, asked = last.description["arguments"], settings(self.args)
        for key in asked:
            if kept.get(key) != asked[key]:
                raise DataError(
                    f"{last.path}: expected {key} {asked[key]}, found {kept.get(key)}",
                    hint=f"resume with the run's own {{{key}}}, or {{overwrite}} it",
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
        try:
            restore_optimizer(self.optimizer, _named(last, "optimizer."))
        except (ValueError, RuntimeError, KeyError, IndexError) as error:
            raise DataError(f"{last.path}: expected this run's optimiser, found another ({error})") from None
        state = dict(last.description["state"])
        state["best"] = -math.inf if state["best"] is None else state["best"]
        if self.pretraining:
            state["pretraining"] = PretrainingProgress(**state["pretraining"])
            self.pretraining.restore(state["pretraining"], _named(last, "pretraining."))
        self.state = Progress(**state)

    def _share_progress(self) -> None:
        """Tell the other processes how the epoch ended."""
        if self.world.size > 1:
            told: list[Any] = [self.state]
            distributed.broadcast_object_list(told, src=0)
            self.state = told[0]


def _augmentation(args: argparse.Namespace) -> Augmentation:
    found = Augmentation.parse(args.augment)
    for name in OF_BAND_POWERS:
        if getattr(found, name) and not frontends.has_log_powers(args.frontend):
            raise SettingError("augment", f"no {name}, which changes band powers, with {{frontend}} {args.frontend}")
    return found


def _named(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}


def _class_weights(windows: WindowSet, classes: int) -> Tensor:
    """(classes,) inverse frequencies, 1 on average over the windows."""
    counts = np.bincount(windows.label, minlength=classes)
    present = max(1, int(np.count_nonzero(counts)))
    weights = np.where(counts > 0, len(windows) / np.maximum(counts, 1) / present, 0.0)
    return torch.from_numpy(weights.astype(np.float32))


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
