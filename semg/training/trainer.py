"""A training run: its parts, its epochs, its files, and how it is stopped and resumed.

`train.py` is the script around it. All randomness in a run depends only on the seed and the step, so a run that was
stopped and resumed is identical to one that was not.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import GPT2Classifier
from semg import backbones
from semg.common.console import Console, counted
from semg.common.errors import DataError, SettingError
from semg.common.stopping import StopRequest
from semg.evaluation import metrics
from semg.evaluation.tensorboard import Board, projected
from semg.inference.batch import choose_device
from semg.inference.prior import Prior
from semg.training import run_files
from semg.training.augmentation import TokenLayout
from semg.training.background import Background
from semg.training.band_rotation import STRENGTHS, chosen, pilot_epochs, pilot_score
from semg.training.batch_size import choose
from semg.training.classification import Classification, Validation, Validator
from semg.training.config import AUTO, TrainConfig
from semg.training.distributed import World
from semg.training.loop import DivergedError, Epoch, fit
from semg.training.network import build, decoder_of, first_weights, in_own_units, model_config
from semg.training.optimization import REFERENCE_BATCH, Optimizer, Stream, WeightAverage
from semg.training.precision import autocast, hold_frozen_in_bf16
from semg.training.pretraining import NextPatchTask
from semg.training.subsets import open_split, prepare
from semg.training.threads import use_threads


@dataclass(frozen=True)
class Machine:
    """Where and how to compute.

    device: its name, or `auto`. workers: threads that prefetch windows. compile: mode of torch.compile: `default`,
    `graphs` (with CUDA graphs: all kernels of a step are launched at once), or empty for none. threads: CPU threads for
    computing; None means `careful_threads`.
    """

    device: str = "auto"
    workers: int = 1
    compile: str = ""
    threads: int | None = None


class Trainer:
    """A training run. Build it, call `run_files.restore` if it was stopped before, then `run`. Files are written to
    `out`.

    asked: the settings as given. config: the same, with the batch size and learning rates that are used.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        machine: Machine,
        world: World,
        console: Console,
        batch_size: int | None = None,
    ) -> None:
        """Open the data and build the network; nothing is written. DataError or SettingError if that is impossible.

        batch_size: that of the run being resumed, used if the settings leave it to the run.
        """
        self.asked, self.out, self.world, self.console = config, out, world, console
        device = choose_device(machine.device)
        shards = open_split(config, console, verify=world.main)
        decoder = decoder_of(config)
        self.model = build(config, model_config(config, shards.train[0], decoder), decoder)
        self.first_weights = first_weights(config, self.model, decoder)
        self.autocast = autocast(config.amp, device)
        # original values of the weights that the device holds in bf16; checkpoints store these
        self.exact = hold_frozen_in_bf16(self.model) if self.autocast and device.type == "cuda" else {}
        self.model.to(device)
        use_threads(machine.threads, self.model, config.batch_size or REFERENCE_BATCH)
        self.split, self.classes = shards.split, shards.train[0].classes
        self.data = prepare(config, shards, self.model, device, machine.workers, console)
        self._check_select(config.select)
        self.layout = TokenLayout(self.model.frontend.groups, shards.train[0].rings, config.normalization.copies)
        if config.batch_size == AUTO:
            config = config.at(batch_size or self._chosen_batch_size())
            world.check_shares(config.batch_size)
        self.config = config
        self.compile = machine.compile
        _compile(self.model, machine.compile, device)
        self.state = run_files.RunState()
        self.pretraining = self._pretraining() if config.pretrain else None
        self.task = Classification(self.model, self.data.train, self.layout, config, world)
        if config.augment.band_rotation is None and not self.layout.rings:
            self.task.augment = config.augment.rotated(0.0)
        self.optimizer = Optimizer(self.model, config.optimizer, config.epochs * self.task.steps_per_epoch)
        self.average = WeightAverage(self.model, config.ema) if config.ema else None
        self.validator = Validator(self.model, self.data.val, self.autocast)
        self.board: Board | None = None
        self.writer = Background()
        self.stop = StopRequest()  # checked between steps

    def _check_select(self, name: str) -> None:
        """SettingError if the score that chooses the epoch does not exist: rest alone has no accuracy without rest."""
        windows = self.data.val.windows
        support = np.bincount(windows.label, minlength=len(self.classes))
        if metrics.chance(support, windows.rest).get(name, 0) is None:
            hint = "{select} loss exists for any windows"
            raise SettingError("select", "a score that the validation people's windows define", name, hint=hint)

    def _chosen_batch_size(self) -> int:
        """The batch size if the settings leave it to the run; the same in all processes."""
        asked, train = self.asked, self.data.train
        size = choose(
            self.model, train, asked.epochs, autocast=self.autocast, ema=asked.ema > 0, processes=self.world.size
        )
        return self.world.least(size, train.batches.device)

    def _pretraining(self) -> "tuple[NextPatchTask, Optimizer]":
        try:
            task = NextPatchTask(self.model, self.data.train, self.layout, self.config, self.world)
        except SettingError as error:
            raise in_own_units(error, self.config, self.data.train.shards[0].rate) from None
        return task, Optimizer(task.module, self.config.optimizer, self.config.pretrain * task.steps_per_epoch)

    # --- training ---

    def run(self) -> None:
        """Train until the last epoch, until patience runs out, or until `stop` is set. DataError if training
        diverges."""
        try:
            with self.writer:
                if self.pretraining is not None:
                    self._pretrain(*self.pretraining)
                self._choose_band_rotation()
                self._train()
        except DivergedError as error:
            hint = f"start anew with a smaller {{lr}} than {self.config.lr:g}" + (
                ", or {amp} fp32" if self.autocast else ""
            )
            kept = "; the best epoch so far is in best_model.ckpt" if self.state.best_epoch else ""
            raise DataError(error.message, hint=f"{hint}{kept}") from None

    @cached_property
    def prior(self) -> Prior | None:
        """The statistics that a stream starts from; None if sessions have no statistics of their own."""
        train = self.data.train
        return None if train.statistics is None else Prior.of(train.shards, train.statistics)

    def epochs(self) -> Iterator[Epoch]:
        """Do the rest of the training, and yield after each epoch."""
        return fit(
            self.task,
            self.optimizer,
            epochs=self.config.epochs,
            seed=self.config.seed,
            state=self.state.training,
            autocast=self.autocast,
            average=self.average,
            world=self.world,
            progress=self.console.progress,
            stop=self._should_stop,
        )

    @property
    def chooses_band_rotation(self) -> bool:
        """Whether the settings leave band rotation to the run; without rings of electrodes there is nothing to
        choose."""
        return self.config.augment.band_rotation is None and bool(self.layout.rings)

    def _choose_band_rotation(self) -> None:
        """Choose the band rotation if the settings leave it to the run; the scores of finished pilots are in the
        state."""
        if not self.chooses_band_rotation:
            return
        asked, scores = self.config.augment, self.state.pilots
        while len(scores) < len(STRENGTHS):
            score = pilot_score(self, STRENGTHS[len(scores)])
            if score is None:
                return
            scores.append(score)
            if self.world.main:
                strength, epochs = STRENGTHS[len(scores) - 1], counted(pilot_epochs(self.config.epochs), "epoch")
                validation = metrics.criteria()[self.config.select].labelled(abs(score), 3)
                self.console.say(f"pilot  band rotation {strength:g}, {epochs}: validation {validation}")
                run_files.save(self, wait=False)
        self.task.augment = asked.rotated(chosen(scores))
        if self.world.main:
            self.console.say(f"band rotation {chosen(scores):g}, chosen on the validation people")
            run_files.write_config(self)
            if self.board is not None:
                self.board.configured(run_files.facts_of(self) | {"model": self.model.config.to_dict()})

    def _train(self) -> None:
        for epoch in self.epochs():
            confusion = self.task.take_confusion()
            if self.world.main:
                self._finish(epoch, confusion)
            self.state.best_epoch = self.world.from_main(self.state.best_epoch)

    def _pretrain(self, task: NextPatchTask, optimizer: Optimizer) -> None:
        """Do the rest of pretraining."""
        epochs = fit(
            task,
            optimizer,
            epochs=self.config.pretrain,
            seed=self.config.seed,
            stream=Stream.PRETRAINING,
            state=self.state.pretraining,
            autocast=self.autocast,
            world=self.world,
            progress=self.console.progress,
            name="pretraining",
            stop=self.stopped,
        )
        for epoch in epochs:
            self.state.pretraining_losses.append(epoch.loss)
            if self.world.main:
                self.console.say(
                    f"pretraining {epoch.number}/{self.config.pretrain}  loss {epoch.loss:.4f} "
                    "(1: guessing the session's mean)"
                )
                run_files.save(self, wait=False)
        if self.average is not None and self.state.training.epoch == self.state.training.in_epoch == 0:
            self.average.restart()
        if self.board is not None:
            self.board.pretrained(self.state.pretraining_losses)

    def stopped(self) -> bool:
        """Whether a stop was requested. DataError if files cannot be written, since further training would be lost."""
        self.writer.check()
        return bool(self.stop)

    def _should_stop(self) -> bool:
        """As `stopped`; also true if the validation score has not improved for `patience` epochs."""
        epoch, patience = self.state.training.epoch, self.config.patience
        return self.stopped() or bool(patience and epoch and epoch - self.state.best_epoch >= patience)

    def _finish(self, epoch: Epoch, confusion: np.ndarray) -> None:
        """Validate, save the model if it is the best so far, and save the state of the run."""
        state = self.state
        self.writer.finish()  # so that the copies of at most one epoch are in memory
        with self.average.in_place() if self.average is not None else nullcontext():
            validation = self.validator.validate()
            row = self._row(epoch, confusion, validation)
            score = metrics.criteria()[self.config.select].rank(row[f"val/{self.config.select}"])
            better = state.best is None or score > state.best
            state.rows.append(row)
            if better:
                state.best, state.best_epoch = score, epoch.number
                run_files.write_best(self, row, validation.per_subject)
                self._project(epoch.number)
        if self.board is not None:  # before last.ckpt: a run that is killed in between draws this epoch again
            label = self.data.val.windows.label
            self.board.epoch(row, validation.per_subject, label, validation.probabilities, chosen=better)
        run_files.save(self, wait=False)
        run_files.write_rows(self)
        first, *more = metrics.headlines()
        others = ", ".join(one.labelled(row[f"val/{one.name}"], 3) for one in more)
        self.console.say(
            f"epoch {epoch.number:3d}  loss {row['train/loss']:.4f} -> val {row['val/loss']:.4f}   "
            f"{first.labelled(row[f'train/{first.name}'], 3)} -> val {row[f'val/{first.name}']:.3f}   val {others}   "
            f"{row['speed/windows_per_second']:,.0f} windows/s"
            f"{'   best' if better else ''}"
        )

    def _row(self, epoch: Epoch, confusion: np.ndarray, validation: Validation) -> dict[str, Any]:
        """An epoch's row of metrics.jsonl."""
        steps = epoch.number * self.task.steps_per_epoch
        rest = self.data.train.windows.rest
        return {
            "epoch": epoch.number,
            "step": steps,
            "train/loss": epoch.loss,
            **{f"train/{name}": value for name, value in metrics.scores_of(confusion, rest).items()},
            **{f"val/{name}": value for name, value in validation.scores.items()},
            "optimizer/lr": self.optimizer.lr(steps - 1),
            "optimizer/gradient_norm": epoch.norm,
            "speed/windows_per_second": round(epoch.steps_per_second * self.task.windows_per_step, 1),
        }

    def _project(self, epoch: int) -> None:
        """Show the head's input for some validation windows in TensorBoard's projector."""
        if self.board is None:
            return
        windows = self.data.val.windows
        index = projected(windows.label, len(self.classes))
        rate = windows.shards[0].rate
        about = {
            "person": windows.subject[index].tolist(),
            "recording": windows.record[index].tolist(),
            "begin": [f"{start / rate:.2f} s" for start in windows.start[index]],
        }
        self.board.project(self.validator.features(index), windows.label[index], about, epoch)


def _compile(model: GPT2Classifier, how: str, device: torch.device) -> None:
    """Let torch.compile make one program of everything after the tokens. how: as in `Machine`."""
    if how == "graphs" and device.type != "cuda":
        raise SettingError("compile", "no graphs where there is no CUDA device", how)
    if not how:
        return
    if how == "graphs" and model.backbone is not None and model.config.family is not None:
        backbones.use_kernel(model.backbone)
    mode = "reduce-overhead" if how == "graphs" else "default"
    for name in ("hidden", "classify"):  # pretraining calls the first
        setattr(model, name, torch.compile(getattr(model, name), mode=mode))
