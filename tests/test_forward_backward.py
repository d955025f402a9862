"""semg/training/forward_backward.py: posteriors of a hidden Markov model, whatever the blocks that it works in."""

import numpy as np
import pytest

from semg.training.forward_backward import smoothed


def window_by_window(likelihood, prior, stay):
    """The textbook's algorithm on one recording."""
    move = stay * np.eye(len(prior)) + (1 - stay) * prior
    forward, backward = [prior * likelihood[0]], [np.ones(len(prior))]
    for seen in likelihood[1:]:
        state = forward[-1] @ move * seen
        forward.append(state / state.sum())
    for seen in likelihood[:0:-1]:
        state = move @ (seen * backward[0])
        backward.insert(0, state / state.sum())
    both = np.array(forward) * backward
    return both / both.sum(1, keepdims=True)


def test_smoothing_is_bayes_rule_over_all_paths():
    """Against the sum over every path of three windows and two classes."""
    likelihood = np.array([[0.9, 0.2], [0.4, 0.5], [0.1, 0.7]])
    prior, stay = np.array([0.3, 0.7]), 0.8
    move = stay * np.eye(2) + (1 - stay) * prior
    joint = np.einsum("a,ab,bc->abc", prior, move, move) * np.einsum("a,b,c->abc", *likelihood)
    expected = [joint.sum((1, 2)), joint.sum((0, 2)), joint.sum((0, 1))] / joint.sum()
    np.testing.assert_allclose(smoothed(likelihood, np.zeros(3, int), prior, stay), expected)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 10, 11, 100, 2000])
def test_blocks_change_nothing(count):
    """Likelihoods as far apart as adapting has them: their products over a block are less than any float."""
    rng = np.random.default_rng(count)
    likelihood, prior, stay = np.exp(-rng.uniform(0, 30, (count, 8))), rng.dirichlet(np.ones(8)), np.exp(-0.125 / 4.1)
    actual = smoothed(likelihood, np.zeros(count, int), prior, stay)
    np.testing.assert_allclose(actual, window_by_window(likelihood, prior, stay), rtol=1e-11)


def test_no_recording_goes_on_into_the_next():
    rng = np.random.default_rng(0)
    lengths, prior = (40, 3, 1, 17), np.full(3, 1 / 3)
    parts = [rng.uniform(0.1, 1, (count, 3)) for count in lengths]
    recording = np.repeat([5, 2, 9, 0], lengths)
    actual = smoothed(np.concatenate(parts), recording, prior, 0.9)
    np.testing.assert_allclose(actual, np.concatenate([window_by_window(part, prior, 0.9) for part in parts]))
