"""Deciding at each moment by what was decided until then: causal, for decisions at even steps in time."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from semg.evaluation import metrics

HOLD = 4.1  # seconds that a state of the hidden Markov model lasts, as in semg/training/adaptation.py
TEMPER = (1.0, 0.3)  # exponents of the decisions in it: those of overlapping windows are not independent
Smoother = Callable[[np.ndarray], np.ndarray]  # (n, K) probabilities -> (n,) decisions


def majority(decided: np.ndarray, steps: int) -> np.ndarray:
    """(n, K) probabilities -> (n,) what most of the last `steps` decisions say."""
    n, classes = decided.shape
    return metrics.majority_vote(decided.argmax(1), np.zeros(n, int), np.arange(n), steps, classes, 1)


def averaged(decided: np.ndarray, steps: int) -> np.ndarray:
    """(n, K) probabilities -> (n,) what the mean of the last `steps` of them says."""
    sums = np.concatenate([np.zeros((1, decided.shape[1])), decided.astype(np.float64).cumsum(0)])
    here = np.arange(1, len(sums))
    return (sums[here] - sums[np.maximum(here - steps, 0)]).argmax(1)


def filtered(decided: np.ndarray, stay: float, temper: float) -> np.ndarray:
    """(n, K) probabilities -> (n,) the likeliest state of a hidden Markov model by all until then.

    It stays in a state with probability `stay`, and goes to any other alike. temper: exponent of the probabilities.
    """
    emitted = np.maximum(decided.astype(np.float64), 1e-9) ** temper
    state, result = np.full(decided.shape[1], 1 / decided.shape[1]), np.empty(len(decided), np.int64)
    for t, own in enumerate(emitted):
        state = (stay * state + (1 - stay) / len(state)) * own
        state /= state.sum()
        result[t] = state.argmax()
    return result


def smoothers(seconds: Sequence[float], step: float) -> dict[str, Smoother]:
    """Name -> smoother; the first one leaves decisions alone. step: seconds from decision to decision."""
    made: dict[str, Smoother] = {"alone": lambda decided: decided.argmax(1)}
    for span in seconds:
        steps = max(1, round(span / step))
        made[f"majority of {span:g} s"] = partial(majority, steps=steps)
        made[f"mean of {span:g} s"] = partial(averaged, steps=steps)
    stay = math.exp(-step / HOLD)
    for temper in TEMPER:
        made[f"Markov, temper {temper:g}"] = partial(filtered, stay=stay, temper=temper)
    return made
