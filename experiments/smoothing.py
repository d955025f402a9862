"""Causal smoothing: each decision uses the decisions so far, for decisions at even steps in time."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from semg.evaluation import metrics, smoothing

TEMPER = (1.0, 0.3)  # exponents of the probabilities in the Markov model: overlapping windows are not independent
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


def filtered(decided: np.ndarray, step: float, temper: float) -> np.ndarray:
    """(n, K) probabilities -> (n,) the likeliest state of a hidden Markov model, given all probabilities so far.

    step: seconds from decision to decision. temper: exponent of the probabilities.
    """
    one = np.zeros(len(decided), np.int64)
    tempered = decided.astype(np.float64) ** temper
    return smoothing.filtered(tempered, one, np.arange(len(decided)), step, smoothing.HOLD, max_step=1).argmax(1)


def smoothers(seconds: Sequence[float], step: float) -> dict[str, Smoother]:
    """Name -> smoother; the first one leaves decisions alone. step: seconds from decision to decision."""
    result: dict[str, Smoother] = {"alone": lambda decided: decided.argmax(1)}
    for span in seconds:
        steps = max(1, round(span / step))
        result[f"majority of {span:g} s"] = partial(majority, steps=steps)
        result[f"mean of {span:g} s"] = partial(averaged, steps=steps)
    for temper in TEMPER:
        result[f"Markov, temper {temper:g}"] = partial(filtered, step=step, temper=temper)
    return result
