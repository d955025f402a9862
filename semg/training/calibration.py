"""Calibration: training a trained model further for one new person, with that person's first repetitions.

The calibrated model can then be adapted to each session without further labels (semg/training/adaptation.py): the
labels tell which of the session's gestures is which, the other windows tell how they vary. The person's other windows
are scored, by the calibrated model and, for comparison, by the uncalibrated model on exactly the same windows. Such a
result uses labels of the person scored: never mix it with zero-shot results.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model import GPT2Classifier
from semg.common.console import counted, listed
from semg.common.errors import DataError, SettingError
from semg.data import normalization
from semg.data.batches import Batches, in_order
from semg.data.shards import Shard, WindowSet
from semg.data.tables import LABELS
from semg.data.windows import whole_windows, without_gaps
from semg.inference.batch import INFERENCE_BATCH, Signal, decided, open_windows, signal_tokens
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import Adaptation, adapt
from semg.training.adapted_scores import session_signals
from semg.training.augmentation import Augmentation, TokenLayout, one_hot
from semg.training.config import TrainConfig
from semg.training.loop import DivergedError, fit
from semg.training.optimization import Optimizer, OptimizerConfig, Stream
from semg.training.token_task import TokenTask

AUGMENTATION = Augmentation.parse(["channel_dropout=0.1"])  # no rotation: the position of this person's sleeve is fixed
_MODELS = ("before", "calibrated", "after")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The settings of a calibration.

    repetitions: how many of the person's first repetitions of each gesture the model is calibrated on.
    tune: as in ModelConfig; `frozen` trains the patch embedding, the last LayerNorm and the head.
    """

    repetitions: int
    tune: str = "full"
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=TrainConfig.lr))
    epochs: int = 30
    batch_size: int = 64
    label_smoothing: float = 0.1
    augmentation: Augmentation = AUGMENTATION
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises SettingError, of the setting `augment`, for an augmentation that would have no effect."""
        if self.augmentation.band_rotation is None:
            raise SettingError("augment", "a number as band_rotation, for auto is train.py's alone")
        if self.augmentation.jitter:
            raise SettingError("augment", "no jitter, for each window's tokens are computed once")

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON types."""
        return {**asdict(self), "augmentation": str(self.augmentation)}


# --- which windows -----------------------------------------------------------------------------------------------


def by_subject(shards: Sequence[Shard]) -> dict[str, list[Shard]]:
    """The shards of each person; people are in sorted order."""
    subjects: dict[str, list[Shard]] = {}
    for shard in shards:
        subjects.setdefault(shard.subject, []).append(shard)
    return dict(sorted(subjects.items()))


def repetition_of_subject(windows: WindowSet) -> np.ndarray:
    """(n,) how many repetitions of its gesture the person had made before each window, over all of the person's
    recordings.

    Recordings are counted in the order in which they were made.
    """
    shards = windows.shards
    repetition = np.zeros(len(windows), np.int64)
    made = {shard.subject: np.zeros(len(shard.classes), np.int64) for shard in shards}
    for place in sorted(range(len(shards)), key=lambda i: (shards[i].subject, shards[i].order)):
        own = np.flatnonzero(windows.shard == place)
        repetition[own] = _counted_on(made[shards[place].subject], windows.label[own], windows.repetition[own])
    return repetition


def _counted_on(made: np.ndarray, label: np.ndarray, repetition: np.ndarray) -> np.ndarray:
    """(n,) how many repetitions of its gesture were made before each window of a recording.

    made: (K,) those of each gesture in earlier recordings; this one's are added. label, repetition: (n,) of its
    windows, as in a shard; a repetition without a window does not count.
    """
    before = np.zeros(len(label), np.int64)
    for one in np.unique(label):
        numbers, index = np.unique(repetition[label == one], return_inverse=True)
        before[label == one] = made[one] + index
        made[one] += len(numbers)
    return before


@dataclass(frozen=True)
class Parts:
    """What a person's windows are for. first: (n,) bool, those to calibrate on; scored: (n,) bool. mode: to which of a
    session's recordings the calibrated model is then adapted, as in `score_adapted`, or `none`."""

    first: np.ndarray
    scored: np.ndarray
    mode: str = "none"


def parts_of(windows: WindowSet, repetitions: int, mode: str = "none") -> Parts:
    """The windows of a person's first repetitions, and those that are scored: the others; with the mode `first`, only
    those after a session's first recording.

    DataError if the person has no window of a gesture, or none that is left to score.
    """
    first = repetition_of_subject(windows) < repetitions
    others = "leave this gesture out by naming the others as {classes}"
    _check_every_gesture(windows, first, "to calibrate with", others)
    scored, after = ~first, counted(repetitions, "repetition")
    if mode == "first":
        opening = [places[0] for places in normalization.sessions(windows.shards).values()]
        scored &= ~np.isin(windows.shard, opening)
        after += " and a session's first recording"
    fewer = "calibrate with fewer {repetitions}, or " if repetitions > 1 else ""
    _check_every_gesture(windows, scored, f"to score after {after}", fewer + others)
    return Parts(first, scored, mode)


def parts_of_each(subjects: Mapping[str, Sequence[Shard]], repetitions: int, mode: str = "none") -> dict[str, Parts]:
    """Person -> what the person's windows are for, see `parts_of`.

    subjects: the shards of each person. DataError, naming all of them, for people who cannot be calibrated to. No one
    is left out, because the scores' mean would be over other people.
    """
    parts: dict[str, Parts] = {}
    wrong: dict[str, DataError] = {}
    for subject, shards in subjects.items():
        try:
            parts[subject] = parts_of(open_windows(shards), repetitions, mode)
        except DataError as error:
            wrong[subject] = error
    if wrong:
        one, *others = wrong
        more = f"; also lacking windows: {listed(others)}" if others else ""
        raise DataError(f"{wrong[one].message}{more}", wrong[one].hint)
    return parts


def _check_every_gesture(windows: WindowSet, chosen: np.ndarray, purpose: str, hint: str) -> None:
    """DataError unless every gesture is among the chosen windows (n,) of a person. purpose: what they are for."""
    shard = windows.shards[0]
    if missing := set(range(len(shard.classes))) - set(windows.label[chosen].tolist()):
        expected = f"expected windows of every gesture {purpose}, found none of {shard.classes[min(missing)]}"
        raise DataError(f"subject {shard.subject}: {expected}", hint)


# --- a session's own recordings ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledSignal:
    """A recording to calibrate on. labels: (T,) places among the model's classes, -1 for any other; None if it has
    none. breaks: first samples after gaps in time; cuts: of trials that directly follow another."""

    signal: Signal
    labels: np.ndarray | None
    breaks: np.ndarray
    cuts: tuple[int, ...] = ()


def calibrated_to(model: TrainedModel, recordings: Sequence[LabelledSignal], recipe: Calibration) -> TrainedModel:
    """A copy of `model` calibrated to the first repetitions of each gesture in the recordings of one session, in order.

    Windows are cut as in training. DataError if a gesture has no window; DivergedError as `loop.fit`.
    """
    how = model.description["data"]["arguments"]
    margin = round(how.get("transition_margin", 0.0) * model.rate)
    made = np.zeros(len(model.classes), np.int64)  # repetitions of each gesture in the recordings before
    tokens: list[Tensor] = []
    label: list[np.ndarray] = []
    for one in recordings:
        if one.labels is None:
            continue
        windows = whole_windows(one.labels, range(len(made)), model.window, model.stride, margin, one.cuts)
        windows = without_gaps(windows, one.breaks, model.window)
        chosen = windows[_counted_on(made, windows["label"], windows["repetition"]) < recipe.repetitions]
        tokens += signal_tokens(model.network, one.signal, chosen["start"], INFERENCE_BATCH)
        label.append(chosen["label"])
    if not made.any():
        columns = " or ".join(map(repr, dict.fromkeys([model.signal_path.labels, LABELS])))
        raise DataError(
            f"expected labels to calibrate on, in the column {columns}, found none",
            "join files of one gesture each to a table with that column, or leave out {repetitions}",
        )
    if lacking := [model.classes[place] for place in np.flatnonzero(made == 0).tolist()]:
        raise DataError(
            f"expected labelled windows of every gesture of the model to calibrate on, found none of {listed(lacking)}",
            "record each gesture, or leave some out by naming the others as {classes}",
        )
    layout = TokenLayout(model.network.frontend.groups, model.rings, model.channel_normalization.copies)
    target = torch.from_numpy(np.concatenate(label).astype(np.int64)).to(model.device)
    return model.with_network(calibrated_network(model.network, torch.cat(tokens), target, recipe, layout))


# --- training ----------------------------------------------------------------------------------------------------


def trainable_copy(model: GPT2Classifier, tune: str) -> GPT2Classifier:
    """A copy of the model in which the part named by `tune` is trainable; it computes the same as the model."""
    copied = copy.deepcopy(model)
    if tune == model.config.tune:
        return copied
    if model.config.tune == "lora":
        _merge_lora(copied)
    weights = {_plain(name): value for name, value in copied.state_dict().items() if ".lora_" not in name}
    fresh = GPT2Classifier(replace(model.config, tune=tune)).to(next(model.parameters()).device)
    initial = {name: weights[_plain(name)] for name in fresh.state_dict() if ".lora_" not in name}
    fresh.load_state_dict(initial, strict=False)  # LoRA's own weights, if any, have no effect at first
    return fresh


def _merge_lora(model: GPT2Classifier) -> None:
    """Add LoRA's updates to the weights that they modify, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # slow to import, and few models need it

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()


def _plain(name: str) -> str:
    """A weight's name before LoRA wrapped its layer."""
    return name.replace(".base_layer.", ".")


def calibrated_network(
    model: GPT2Classifier,
    tokens: Tensor,
    label: Tensor,
    recipe: Calibration,
    layout: TokenLayout,
    autocast: torch.autocast | None = None,
) -> GPT2Classifier:
    """A copy of `model` trained on some windows, in evaluation mode. Raises DivergedError as `loop.fit` does.

    tokens: (n, T, F) normalised; label: (n,); both on the model's device.
    """
    torch.manual_seed(recipe.seed)  # for weights that only the copy has, such as LoRA's matrices
    network = trainable_copy(model, recipe.tune)
    task = TokenTask(
        network,
        tokens,
        one_hot(label, model.config.classes),
        layout,
        recipe.augmentation,
        batch_size=recipe.batch_size,
        seed=(recipe.seed, Stream.ORDER),
        label_smoothing=recipe.label_smoothing,
    )
    optimizer = Optimizer(network, recipe.optimizer, recipe.epochs * task.steps_per_epoch)
    for _ in fit(task, optimizer, epochs=recipe.epochs, seed=recipe.seed, autocast=autocast):
        pass
    return network.eval()


# --- one person --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CalibratedSubject:
    """The decisions on a person's windows that are scored.

    scored: (windows,) bool, which these are. before, calibrated, after: (m, K) probabilities by the uncalibrated model,
    by the calibrated one, and by the calibrated one adapted to each session, or the calibrated one again. sessions: the
    outcome of adapting to each, as JSON types; left_out: sessions with nothing to score.
    """

    scored: np.ndarray
    before: np.ndarray
    calibrated: np.ndarray
    after: np.ndarray
    sessions: list[dict[str, Any]]
    left_out: list[str]


@torch.no_grad()
def _tokens(model: GPT2Classifier, batches: Batches, statistics: Tensor | None, index: np.ndarray) -> Iterator[Tensor]:
    """(B, T, F) normalised tokens of the windows at the places `index`, batch by batch."""
    for places in in_order(len(index), INFERENCE_BATCH):
        batch = batches.load(index[places])
        yield model.tokens(batch.x, None if statistics is None else statistics[batch.shard])


def calibrate_subject(
    model: TrainedModel,
    shards: Sequence[Shard],
    parts: Parts,
    recipe: Calibration,
    autocast: torch.autocast | None = None,
    adaptation: Adaptation | None = None,
) -> CalibratedSubject:
    """Calibrate `model` to the person of these shards, adapt it to each session, and decide on the windows to score, in
    order.

    parts: which windows are for what, see `parts_of`. adaptation: how the calibrated model is adapted to each session,
    without further labels; None: it is not. DivergedError, which names the person, if the training diverges.
    """
    network, transforms = model.network, model.transforms(shards)
    windows = open_windows(shards)
    batches = Batches(windows, transforms, model.device)
    statistics = model.statistics(shards, transforms)
    chosen = np.flatnonzero(parts.first)
    tokens = torch.cat(list(_tokens(network, batches, statistics, chosen)))
    label = torch.from_numpy(windows.label[chosen]).to(model.device)
    layout = TokenLayout(network.frontend.groups, shards[0].rings, model.channel_normalization.copies)
    try:
        calibrated = model.with_network(calibrated_network(network, tokens, label, recipe, layout, autocast))
    except DivergedError as error:
        raise DivergedError(f"subject {shards[0].subject}: {error}") from None
    values = {name: np.empty((len(windows), model.network.config.classes), np.float32) for name in _MODELS}
    sessions, left_out = [], []
    for name, places in normalization.sessions(shards).items():
        index, final = np.flatnonzero(parts.scored & np.isin(windows.shard, places)), calibrated
        if not len(index):
            left_out.append(name)
            continue
        if adaptation is not None:
            heard = places[:1] if parts.mode == "first" else places
            signals = session_signals(model, shards, transforms, statistics, heard)
            # where its labels were learnt, the model has seen how the band sits
            rings = () if parts.first[np.isin(windows.shard, places)].any() else shards[heard[0]].rings
            adapted = adapt(calibrated, signals, adaptation, rings)
            final = adapted.model
            sessions.append({"session": name, "subject": shards[heard[0]].subject, **adapted.to_dict()})
        order = [index[at] for at in in_order(len(index), INFERENCE_BATCH)]
        for at, piece in zip(order, _tokens(network, batches, statistics, index), strict=True):
            for which, one in zip(_MODELS, (model, calibrated, final), strict=True):
                values[which][at] = decided(one.network, piece, autocast).numpy()
    scored = {which: table[parts.scored] for which, table in values.items()}
    return CalibratedSubject(scored=parts.scored, sessions=sessions, left_out=left_out, **scored)
