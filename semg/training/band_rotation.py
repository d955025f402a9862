"""Choosing the band rotation of a training run on the validation people, if its settings leave it open (`auto`).

If sleeves sit differently from person to person, rotating the rings of electrodes in training helps; if they sit alike,
it hurts. For new data, neither is known. Therefore a short pilot is trained before training, for each strength in
STRENGTHS and from the same initial weights, and the strength whose pilot scores best on the validation people is used.
A pilot has its own learning-rate schedule, and its weights are discarded: the run that follows is identical to a run in
which that strength was given.
"""

from typing import TYPE_CHECKING

from semg.evaluation import metrics
from semg.training.loop import LoopState, fit
from semg.training.optimization import Optimizer

if TYPE_CHECKING:
    from semg.training.trainer import Trainer

STRENGTHS = (0.5, 0.1)  # of two with the same score, the first is used
SHARE = 4  # a pilot has the run's epochs divided by this, but at least one


def pilot_epochs(epochs: int) -> int:
    """The number of epochs of a pilot for a run of `epochs`."""
    return max(1, epochs // SHARE)


def chosen(scores: list[float]) -> float:
    """The strength with the best score; scores: one for each of STRENGTHS."""
    return STRENGTHS[scores.index(max(scores))]


def pilot_score(run: "Trainer", strength: float) -> float | None:
    """The validation score of the best epoch of a pilot with this band rotation; None if training was stopped.

    The model is left unchanged, so a pilot that is stopped leaves no trace: it is trained again when the run is
    resumed.
    """
    config, task, state = run.config, run.task, LoopState()
    first = {name: value.clone() for name, value in run.model.state_dict().items()}
    task.augment = config.augment.rotated(strength)
    epochs = pilot_epochs(config.epochs)
    training = fit(
        task,
        Optimizer(run.model, config.optimizer, epochs * task.steps_per_epoch),
        epochs=epochs,
        seed=config.seed,
        state=state,
        autocast=run.autocast,
        world=run.world,
        progress=run.console.progress,
        name=f"pilot, band rotation {strength:g}, epoch",
        stop=run.stopped,
    )
    try:
        scores = [_validation_score(run) for _ in training]
        if state.epoch < epochs:
            return None
        return run.world.from_main(max(scores))
    finally:
        task.take_confusion()  # the run's counts must contain its own steps only
        run.model.load_state_dict(first)


def _validation_score(run: "Trainer") -> float:
    """The current model's score by the metric that selects the run's best epoch, larger is better; 0 except in the main
    process."""
    if not run.world.main:
        return 0.0
    select = run.config.select
    return metrics.criteria()[select].rank(run.validator.validate().scores[select])
