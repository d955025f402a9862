"""Calibrating classical methods: each is trained again on a new person's first repetitions, as calibrate.py trains the
network, together with a sample of the training windows."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from semg.data.shards import WindowSet
from semg.training import classical
from semg.training.calibration import Parts, by_subject, parts_of_each
from semg.training.classical import Trained

SAMPLE = 300  # training windows beside the person's, chosen on validation people: docs/choices.md


@dataclass(frozen=True)
class People:
    """parts: what each window is for. classifiers: person -> the classifier calibrated to the person."""

    parts: Parts
    classifiers: dict[str, Trained]

    def decide(self, windows: WindowSet, table: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(m,) decisions on the windows that are scored, each by its person's classifier, and (m, K) probabilities, or
        None. table: (n, F) features of all windows."""
        parts: list[tuple[np.ndarray, np.ndarray, Any]] = []
        for subject, trained in self.classifiers.items():
            own = np.flatnonzero(self.parts.scored & (windows.subject == subject))
            parts.append((own, *classical.decide(trained.model, table[own])))
        order = np.argsort(np.concatenate([own for own, *_ in parts]), kind="stable")
        prediction = np.concatenate([decided for _, decided, _ in parts])[order]
        if any(shares is None for *_, shares in parts):
            return prediction, None
        return prediction, np.concatenate([shares for *_, shares in parts])[order]


def calibrate_people(
    trained: Trained, windows: WindowSet, table: np.ndarray, repetitions: int, mode: str, seed: int
) -> People:
    """Calibrate a trained classifier to each person's first repetitions of each gesture.

    table: (n, F) features of the windows. mode: what the classifiers are then adapted on, `none`, `session` or `first`,
    as in `parts_of`. DataError, naming the people, for those who lack windows of a gesture.
    """
    each = parts_of_each(by_subject(windows.shards), repetitions, mode)
    first, scored = np.zeros(len(windows), bool), np.zeros(len(windows), bool)
    classifiers, rows = {}, classical.subsample(trained.label, SAMPLE, seed)
    for subject, parts in each.items():
        own = np.flatnonzero(windows.subject == subject)
        first[own], scored[own] = parts.first, parts.scored
        chosen = own[parts.first]
        x = np.concatenate([trained.x[rows], table[chosen]])
        label = np.concatenate([trained.label[rows], windows.label[chosen]])
        model = classical.fitted(trained.name, trained.settings, x, label, seed)
        classifiers[subject] = replace(trained, model=model, x=x, label=label)
    return People(Parts(first, scored, mode), classifiers)
