"""Decisions by a hidden Markov model of what came before: gestures are held for seconds, so windows inform each other.

Causal, without a delay of its own: each decision is the likeliest class by all windows until then (the forward
algorithm; Rabiner 1989, "A tutorial on hidden Markov models"). The same filter serves live, window by window
(`MarkovFilter`), and afterwards (`filtered`).
"""

import math

import numpy as np

HOLD = 4.1  # seconds that a gesture lasts on average; chosen for adapting on validation people, see docs/results.md
_SMALLEST = 1e-9  # probability: a class that is ruled out once may come back


class MarkovFilter:
    """Probabilities of the classes by all decisions since the last `begin_anew`.

    From one decision to the next the class stays with a probability that makes it last `hold` seconds on average, and
    is drawn anew otherwise, all alike. The probabilities given stand for likelihoods: no prior is divided out.
    """

    def __init__(self, step: float, hold: float = HOLD) -> None:
        """step: seconds from one decision to the next; hold: seconds."""
        self._stay = math.exp(-step / hold)
        self._state: np.ndarray | None = None

    def begin_anew(self) -> None:
        """What comes next has nothing to do with what came before."""
        self._state = None

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(K,) probabilities of the next window alone -> (K,) by all until then."""
        state = np.maximum(probabilities.astype(np.float64), _SMALLEST)
        if self._state is not None:
            state *= self._stay * self._state + (1 - self._stay) / len(state)
        self._state = state / state.sum()
        return self._state


def filtered(
    probabilities: np.ndarray, recording: np.ndarray, start: np.ndarray, step: float, hold: float, max_step: float
) -> np.ndarray:
    """(n, K) probabilities of windows alone, in any order -> (n, K) by all until each, see `MarkovFilter`.

    recording: (n,) whole numbers; start: (n,) first samples. The filter begins anew with each recording, and where
    windows start more than `max_step` samples apart. Windows are taken to be `step` seconds apart whatever `start`
    says: where those around a change of label are left out, the gap would tell what is to be found out.
    """
    result, smooth = np.empty(probabilities.shape), MarkovFilter(step, hold)
    order, begins = in_time(recording, start, max_step)
    for place, begin in zip(order, begins, strict=True):
        if begin:
            smooth.begin_anew()
        result[place] = smooth(probabilities[place])
    return result


def in_time(recording: np.ndarray, start: np.ndarray, max_step: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) places of windows by recording and in time, and (n,) whether a recording, or one after a pause, begins."""
    order = np.lexsort((start, recording))
    at, own = np.asarray(start)[order], recording[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (own[1:] != own[:-1]) | (np.diff(at) > max_step)
    return order, begins
