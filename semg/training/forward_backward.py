"""The forward-backward algorithm (Rabiner 1989, "A tutorial on hidden Markov models") for states that mostly persist.

From one window to the next there is little to compute, and Python's overhead dominates. Therefore each recording is cut
into blocks, about as many as each block has windows, and the forward and backward passes run over all blocks at once.
The effect of a block on the state before it is a matrix, because the forward pass is linear; with these matrices, the
state at the beginning of each block follows from block to block (Hassan, Särkkä, García-Fernández 2021, "Temporal
parallelization of inference in hidden Markov models"). The posteriors are those of the plain algorithm.
"""

import math

import numpy as np


def smoothed(likelihood: np.ndarray, recording: np.ndarray, prior: np.ndarray, stay: float) -> np.ndarray:
    """(n, K) likelihoods of windows in time order -> (n, K) posteriors.

    recording (n,): the recording of each window; the chain starts afresh in each. In each step the state persists with
    probability `stay`, and is otherwise drawn from `prior` (K,), which sums to 1.
    """
    places = [np.flatnonzero(recording == one) for one in np.unique(recording)]
    emitted = _in_blocks(likelihood, places)
    before, after = _at_ends(_transfer(emitted, prior, stay), prior)
    posterior = np.empty_like(emitted)
    for at, seen in enumerate(emitted):
        posterior[at] = before = _normalised(_moved(before, prior, stay) * seen)
    for at in reversed(range(len(emitted))):
        posterior[at] *= after
        after = after * emitted[at]
        after = _normalised(stay * after + (1 - stay) * (after @ prior)[..., None])
    result = np.empty_like(likelihood)
    by_recording = _normalised(posterior).transpose(1, 2, 0, 3).reshape(len(places), -1, len(prior))
    for own, values in zip(places, by_recording, strict=True):
        result[own] = values[: len(own)]
    return result


def _in_blocks(likelihood: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
    """(n, K) likelihoods and the places of the windows of each of R recordings -> (windows per block, R, blocks, K)."""
    longest, classes = max(map(len, places)), likelihood.shape[1]
    length = math.isqrt(longest - 1) + 1
    blocks = -(-longest // length)
    emitted = np.ones((len(places), blocks * length, classes))  # after the end of a recording nothing is observed
    for own, values in zip(places, emitted, strict=True):
        values[: len(own)] = likelihood[own]
    return np.ascontiguousarray(emitted.reshape(len(places), blocks, length, classes).transpose(2, 0, 1, 3))


def _transfer(emitted: np.ndarray, prior: np.ndarray, stay: float) -> np.ndarray:
    """(R, blocks, K, K): multiplied by the state before a block, a row vector, it gives the state at the block's end,
    up to a factor."""
    transfer = np.broadcast_to(np.eye(len(prior)), (*emitted.shape[1:], len(prior)))
    for seen in emitted:
        transfer = _moved(transfer, prior, stay) * seen[..., None, :]
        transfer = transfer / transfer.sum((-2, -1), keepdims=True)
    return transfer


def _at_ends(transfer: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, blocks, K) each: the state before each block, given all earlier windows, and the likelihood of all later
    windows given the state at the block's end, up to a factor."""
    before, after = np.empty(transfer.shape[:-1]), np.ones(transfer.shape[:-1])
    before[:, 0] = prior
    for block in range(1, transfer.shape[1]):
        reached = before[:, block - 1, None] @ transfer[:, block - 1]
        before[:, block] = _normalised(reached[:, 0])
    for block in reversed(range(1, transfer.shape[1])):
        behind = transfer[:, block] @ after[:, block, :, None]
        after[:, block - 1] = _normalised(behind[..., 0])
    return before, after


def _moved(state: np.ndarray, prior: np.ndarray, stay: float) -> np.ndarray:
    """(..., K) weights of the states -> the weights before the next window is seen."""
    return stay * state + (1 - stay) * state.sum(-1, keepdims=True) * prior


def _normalised(values: np.ndarray) -> np.ndarray:
    """(..., K) -> the same, scaled to a sum of 1."""
    return values / values.sum(-1, keepdims=True)
