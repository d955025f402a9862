"""The files that a training run writes into its folder and reads to resume: metrics.jsonl, best_model.ckpt, last.ckpt.

Files are written by `run.writer` while training continues, in the order in which they are submitted, each from a copy
of the numbers at that time. `RunState` is what last.ckpt stores in addition to the tensors.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from semg.common.errors import DataError
from semg.common.files import write_json, write_text
from semg.common.provenance import how_made
from semg.common.schema import OBJECT, TEXT, Field, check_fields, is_finite, is_whole
from semg.data.shards import data_checksum
from semg.inference.checkpoint import Checkpoint, write_checkpoint
from semg.training.band_rotation import STRENGTHS
from semg.training.config import TrainConfig
from semg.training.loop import LoopState

if TYPE_CHECKING:
    from semg.training.trainer import Trainer

_DATA = ("rate", "unit", "channels", "rings", "classes", "rest_classes", "arguments")

_ROOM = "free some, then the same command with {resume} goes on"  # advice for a full disk


@dataclass
class RunState:
    """Together with the tensors of last.ckpt, everything needed to resume.

    training, pretraining: states of the loops. pretraining_losses: of the finished epochs of pretraining.
    pilots: the scores of the finished pilots, see semg/training/band_rotation.py.
    confusion: (K, K) counts of the windows trained on in the current epoch; empty between epochs.
    best, best_epoch: the best validation score by the selecting metric, and its epoch; None and 0 before the end of the
    first epoch.
    rows: the rows of metrics.jsonl.
    """

    training: LoopState = field(default_factory=LoopState)
    pretraining: LoopState = field(default_factory=LoopState)
    pretraining_losses: list[float] = field(default_factory=list)
    pilots: list[float] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunState":
        """The inverse of `to_dict`, for values that have passed `expected_fields`."""
        loops = {name: LoopState(**values[name]) for name in ("training", "pretraining")}
        return cls(**{**values, **loops})


def expected_fields(classes: int) -> dict[str, Field]:
    """The fields in the description of a last.ckpt, for `check_fields`."""
    count = Field("a whole number", lambda value: is_whole(value, 0))
    amount = Field("a number", is_finite)
    numbers = Field("numbers", lambda values: isinstance(values, list) and all(map(is_finite, values)))
    loop = Field(f"an object with {', '.join(LoopState().__dict__)}", _has_exactly(LoopState))
    steps = {one.name: count if one.type in (int, "int") else amount for one in fields(LoopState)}
    return {
        "config": OBJECT,
        "split": TEXT,
        "shards": replace(TEXT, needed=False),
        "backbone": replace(OBJECT, needed=False),
        "machine": replace(OBJECT, needed=False),
        "state": Field(f"an object with {', '.join(RunState().__dict__)}", _has_exactly(RunState)),
        "state.training": loop,
        "state.pretraining": loop,
        **{f"state.{which}.{name}": kind for which in ("training", "pretraining") for name, kind in steps.items()},
        "state.pretraining_losses": numbers,
        "state.pilots": Field(
            f"at most {len(STRENGTHS)} numbers", lambda values: numbers.holds(values) and len(values) <= len(STRENGTHS)
        ),
        "state.confusion": Field(f"a table of {classes} x {classes} counts", lambda table: _is_table(table, classes)),
        "state.best": Field("a number", is_finite, needed=False),
        "state.best_epoch": count,
        "state.rows": Field("rows of metrics", lambda rows: isinstance(rows, list) and all(map(OBJECT.holds, rows))),
    }


def _has_exactly(kind: type[Any]) -> Any:
    names = {one.name for one in fields(kind)}
    return lambda value: isinstance(value, dict) and value.keys() == names


def _is_table(table: Any, size: int) -> bool:
    """Whether `table` is a confusion matrix of `size` classes, or empty."""
    if not isinstance(table, list) or len(table) not in (0, size):
        return False
    square = all(isinstance(row, list) and len(row) == size for row in table)
    return square and all(is_whole(count, 0) for row in table for count in row)


def write_rows(run: "Trainer") -> None:
    """Write metrics.jsonl from what last.ckpt knows about each epoch, so that they agree even if a kill came between
    the two."""
    rows = "".join(json.dumps(row, allow_nan=False) + "\n" for row in run.state.rows)
    run.writer.do(write_text, run.out / "metrics.jsonl", rows)


def write_best(run: "Trainer", row: dict[str, Any], per_subject: dict[str, Any]) -> None:
    """Write best_model.ckpt: the current model and its validation scores."""
    scores = {"validation": row, "validation_per_subject": per_subject}
    tensors = _exact(run, "model.", run.model.state_dict())
    tensors["train_gain"] = torch.from_numpy(run.data.train_gain)
    if run.prior is not None:
        tensors |= run.prior.tensors()
    description = description_of(run) | {"epoch": row["epoch"], **scores}
    run.writer.do(write_checkpoint, run.out / "best_model.ckpt", description, _copied(tensors), _ROOM)


def write_config(run: "Trainer") -> None:
    """Write config.json: the settings, and what follows from them as far as it is known."""
    content = how_made("train.py", run.asked.to_dict()) | {
        "model": run.model.config.to_dict(),
        "derived": facts_of(run),
    }
    write_json(run.out / "config.json", content)


def _exact(run: "Trainer", prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under `prefix` and their names; those that the device holds in bf16 with their original values."""
    return {f"{prefix}{name}": run.exact.get(name, value) for name, value in weights.items()}


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors on the CPU: training changes the originals while they are written."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def save(run: "Trainer", *, wait: bool = True) -> None:
    """Write last.ckpt, with everything needed to resume. wait: until it and all earlier files are written."""
    run.state.confusion = run.task.confusion.tolist() if run.state.training.in_epoch else []
    tensors = _exact(run, "model.", run.model.state_dict())
    tensors |= run.optimizer.tensors("optimizer.")
    if run.average is not None:
        tensors |= _exact(run, "ema.", run.average.weights)
    if run.pretraining is not None and len(run.state.pretraining_losses) < run.config.pretrain:
        task, optimizer = run.pretraining
        tensors |= {f"pretraining.head.{name}": value for name, value in task.module.head.state_dict().items()}
        tensors |= optimizer.tensors("pretraining.optimizer.")
    description = {
        "config": run.asked.to_dict(),
        "batch_size": run.config.batch_size,
        "split": run.split.checksum,
        "shards": checksum_of_shards(run),
        "backbone": run.first_weights,
        "machine": machine_of(run),
        "state": run.state.to_dict(),
    }
    run.writer.do(write_checkpoint, run.out / "last.ckpt", description, _copied(tensors), _ROOM)
    if wait:
        run.writer.finish()


def batch_size_of(last: Checkpoint) -> int | None:
    """The batch size of the run in last.ckpt; None if the file is of an earlier version, which did not store it.
    DataError for anything else."""
    expected = {"batch_size": Field("a whole number", is_whole, needed=False)}
    check_fields(last.path, last.description, expected, "a run to resume", "start it anew with {overwrite}")
    return last.description.get("batch_size")


def restore(run: "Trainer", last: Checkpoint) -> None:
    """Continue from the state in last.ckpt, whose settings `check_settings` has checked. DataError if it belongs to
    another run."""
    check_fields(
        last.path,
        last.description,
        expected_fields(len(run.classes)),
        "a run to resume",
        "start it anew with {overwrite}",
    )
    check_same_data(last, run.asked, run.split.checksum, checksum_of_shards(run))
    _warn_of_another_machine(run, last)
    # the backbone's folder may have changed since
    run.first_weights = last.description.get("backbone") or run.first_weights
    run.state = RunState.from_dict(last.description["state"])
    best = run.out / "best_model.ckpt"
    if run.state.best_epoch and not best.is_file():
        expected = f"the model of epoch {run.state.best_epoch}, the run's best so far"
        raise DataError(f"{best}: expected {expected}, found none", hint="put it there, or {overwrite} the run")
    if run.state.confusion and run.world.main:  # the counts are summed over processes
        run.task.confusion += torch.tensor(run.state.confusion, device=run.task.confusion.device)
    head = tensors_of(last, "pretraining.head.")
    try:
        weights = tensors_of(last, "model.")
        run.model.load_state_dict(weights)
        run.exact = {name: weights[name] for name in run.exact}
        run.optimizer.restore(tensors_of(last, "optimizer."))
        if run.average is not None:
            run.average.restore(tensors_of(last, "ema."))
        if run.pretraining is not None and head:  # otherwise pretraining was finished
            task, optimizer = run.pretraining
            task.module.head.load_state_dict(head)
            optimizer.restore(tensors_of(last, "pretraining.optimizer."))
    except (ValueError, RuntimeError, KeyError, IndexError) as error:
        raise DataError(f"{last.path}: expected this run's weights and optimiser, found others ({error})") from None


def tensors_of(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, named without it."""
    return {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}


def checksum_of_shards(run: "Trainer") -> str:
    """Checksum of the shards that the run trains and validates on."""
    return data_checksum([*run.data.train.shards, *run.data.val.shards])


def check_settings(last: Checkpoint, config: TrainConfig) -> None:
    """DataError, naming the setting, unless last.ckpt is of a run with this config. The folders of its shards and split
    may have moved, as on a cluster whose jobs copy them to a disk of their own."""
    check_fields(last.path, last.description, {"config": OBJECT}, "a run to resume", "start it anew with {overwrite}")
    try:
        earlier = TrainConfig.from_dict(last.description["config"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{last.path}: expected a run's settings, found others ({error})", hint="start it anew with {overwrite}"
        ) from None
    was = earlier.to_dict()
    by_content = ("shards", "split") if "shards" in last.description else ()
    for name, value in config.to_dict().items():
        if was[name] != value and name not in by_content:
            raise DataError(
                f"{last.path}: expected {name} {value}, found {was[name]}",
                hint=f"resume with the run's own {{{name}}}, or {{overwrite}} it",
            )


def check_same_data(last: Checkpoint, config: TrainConfig, split: str, shards: str) -> None:
    """DataError unless last.ckpt is of a split and shards with these checksums."""
    if last.description["split"] != split:
        raise DataError(f"{last.path}: expected the split {config.split} as it is now, found another")
    if last.description.get("shards", shards) != shards:
        raise DataError(
            f"{last.path}: expected the shards in {config.shards} as they were, found them made again differently",
            hint="make them as they were, or {overwrite} the run",
        )


def facts_of(run: "Trainer") -> dict[str, Any]:
    """What follows from the settings; it is printed at the start and stored in config.json."""
    return {
        "train": run.data.train.facts(),
        "val": run.data.val.facts(),
        "shards_sha256": checksum_of_shards(run),
        "classes": list(run.classes),
        "steps_per_epoch": run.task.steps_per_epoch,
        "tokens_per_window": run.model.config.tokens,
        "parameters": run.model.parameter_counts(),
        "backbone": run.first_weights,
        "batch_size": run.config.batch_size,
        "lr": run.config.lr,
        "backbone_lr": run.optimizer.backbone_lr,
        "augment": str(run.task.augment),
        "pilots": dict(zip(map(str, STRENGTHS), run.state.pilots, strict=False)),
        "normalize": run.config.normalization.to_dict(),
        **machine_of(run),
        "held_in_bf16": sum(weight.numel() for weight in run.exact.values()),
        "resident": run.data.train.batches.resident,
        "band_powers_precomputed": run.data.train.batches.cached is not None,
    }


def machine_of(run: "Trainer") -> dict[str, str | int]:
    """How the run is computed. Another way gives another result, by the last digits or as another seed would."""
    return {
        "compile": run.compile or "none",
        "device": next(run.model.parameters()).device.type,
        "dtype": "bf16" if run.autocast else "fp32",
        "processes": run.world.size,
        "threads": torch.get_num_threads(),
    }


def _warn_of_another_machine(run: "Trainer", last: Checkpoint) -> None:
    now, changes = machine_of(run), []
    for name, earlier in last.description.get("machine", {}).items():
        if now.get(name) != earlier:
            changes.append(f"{name} {now.get(name)} instead of {earlier}")
    if changes and run.world.main:
        told = f"goes on with {', '.join(changes)}: a run that nothing stopped would end otherwise"
        run.console.warn(f"{last.path}: {told}")


def description_of(run: "Trainer") -> dict[str, Any]:
    """The description that a checkpoint of this run contains."""
    config, shard = run.config, run.data.train.shards[0]
    return {
        "run": run.out.resolve().name,
        "model": run.model.config.to_dict(),
        "data": {key: shard.meta.get(key) for key in _DATA},
        "normalize": config.normalization.to_dict(),
        "backbone": run.first_weights,
        "pretraining_losses": list(run.state.pretraining_losses),
        "augment": str(run.task.augment),
        "shards": config.shards.as_posix(),
        "shards_sha256": checksum_of_shards(run),
        "split": {
            "name": run.split.name,
            "folder": config.split.as_posix(),
            "protocol": run.split.protocol,
            "checksum": run.split.checksum,
            "train": list(run.split.train),
            "val": list(run.split.val),
        },
        "class_windows": np.bincount(run.data.train.windows.label, minlength=len(run.classes)).tolist(),
        "trained_on": sorted({shard.subject for shard in run.data.train.shards}),
        "simulated": run.data.train.windows.simulated or run.data.val.windows.simulated,
        "made": how_made("train.py", run.asked.to_dict()),
    }
