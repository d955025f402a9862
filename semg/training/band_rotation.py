"""Which band rotation a run trains with, where its settings leave that to the run: chosen on the validation people.

Where sleeves sit differently from person to person, turning the rings of electrodes in training helps; where they sit
alike, it hurts. Neither is known of new data. So before training, each strength of STRENGTHS trains a short pilot from
the same first weights, and the one whose pilot scores best on the validation people is taken. A pilot has a learning
rate schedule of its own, and its weights are thrown away: the run that follows is the run with that strength given.
"""

from typing import TYPE_CHECKING

from semg.evaluation import metrics
from semg.training.loop import LoopState, fit
from semg.training.optimization import Optimizer

if TYPE_CHECKING:
    from semg.training.trainer import Trainer

STRENGTHS = (0.5, 0.1)  # the first of two that score the same is taken
SHARE = 4  # a pilot has one epoch for so many of the run's, but at least one


def pilot_epochs(epochs: int) -> int:
    """Epochs of a pilot, before a run of so many."""
    return max(1, epochs // SHARE)


def chosen(scores: list[float]) -> float:
    """The strength that the pilots' scores, one for each of STRENGTHS, choose."""
    return STRENGTHS[scores.index(max(scores))]


def pilot_score(run: "Trainer", strength: float) -> float | None:
    """How well the best epoch of a pilot with this band rotation validates; None if training was stopped.

    The model is left as it was, so a pilot that is stopped leaves no trace: it is trained anew when the run goes on.
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
        task.take_confusion()  # of the run's own steps alone
        run.model.load_state_dict(first)


def _validation_score(run: "Trainer") -> float:
    """Of the model as it is now, by what chooses the run's best epoch, larger is better; 0 but in the main process."""
    if not run.world.main:
        return 0.0
    select = run.config.select
    return metrics.criteria()[select].rank(run.validator.validate().scores[select])
