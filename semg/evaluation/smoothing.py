"""Smoothing decisions with a hidden Markov model: gestures are held for seconds, so earlier windows are informative.

Causal, without additional delay: each decision is the most likely class given all windows so far (the forward
algorithm; Rabiner 1989, "A tutorial on hidden Markov models"). The same filter is used live, window by window
(`MarkovFilter`), and afterwards (`filtered`).
"""

import math

import numpy as np

HOLD = 4.1  # mean duration of a gesture, seconds; chosen for adaptation on validation people, see docs/choices.md
_SMALLEST = 1e-9  # smallest probability: a class that was ruled out once may return


class MarkovFilter:
    """Probabilities of the classes given all windows since the last `begin_anew`.

    From one decision to the next, the class stays the same with a probability that makes it last `hold` seconds on
    average; otherwise it is drawn from all classes with equal probability. The network's probabilities are used as
    likelihoods, without dividing by a prior.
    """

    def __init__(self, step: float, hold: float = HOLD) -> None:
        """step: seconds between two decisions; hold: mean duration of a gesture, seconds."""
        self._stay = math.exp(-step / hold)
        self._state: np.ndarray | None = None

    def begin_anew(self) -> None:
        """Forget the past: the next window is independent of the earlier ones."""
        self._state = None

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(K,) probabilities from the next window alone -> (K,) probabilities given all windows so far."""
        state = np.maximum(probabilities.astype(np.float64), _SMALLEST)
        if self._state is not None:
            state *= self._stay * self._state + (1 - self._stay) / len(state)
        self._state = state / state.sum()
        return self._state


def filtered(
    probabilities: np.ndarray, recording: np.ndarray, start: np.ndarray, step: float, hold: float, max_step: float
) -> np.ndarray:
    """(n, K) probabilities from single windows, in any order -> (n, K) given all windows up to each, see
    `MarkovFilter`.

    recording: (n,) whole numbers; start: (n,) first samples. The filter starts afresh with each recording, and wherever
    windows start more than `max_step` samples apart. Windows are assumed to be `step` seconds apart regardless of
    `start`: if those around label changes are left out, the gaps would reveal the label changes.
    """
    result, smooth = np.empty(probabilities.shape), MarkovFilter(step, hold)
    order, begins = in_time(recording, start, max_step)
    for place, begin in zip(order, begins, strict=True):
        if begin:
            smooth.begin_anew()
        result[place] = smooth(probabilities[place])
    return result


def in_time(recording: np.ndarray, start: np.ndarray, max_step: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) places of windows ordered by recording and time, and (n,) whether each is the first of a recording or after
    a pause."""
    order = np.lexsort((start, recording))
    at, own = np.asarray(start)[order], recording[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (own[1:] != own[:-1]) | (np.diff(at) > max_step)
    return order, begins
