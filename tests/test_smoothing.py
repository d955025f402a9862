"""Decisions smoothed over time: against all paths of the hidden Markov model, online against offline, what is fair."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semg.data.windows import UNLABELLED, WINDOW_FIELDS, continuous, whole_windows
from semg.evaluation import metrics
from semg.evaluation.scored_windows import ScoredWindows
from semg.evaluation.smoothing import MarkovFilter, filtered

STEP, HOLD = 0.125, 1.0


def shares(rng, n, k=3):
    return rng.dirichlet(np.ones(k), n)


def by_all_paths(probabilities):
    """(K,) posterior of the last state: every path of states, its probability times what was observed along it."""
    n, k = probabilities.shape
    stay = math.exp(-STEP / HOLD)
    move = stay * np.eye(k) + (1 - stay) / k
    total = np.zeros(k)
    for path in itertools.product(range(k), repeat=n):
        steps = [move[a, b] for a, b in itertools.pairwise(path)]
        total[path[-1]] += math.prod(steps) * math.prod(probabilities[t, s] for t, s in enumerate(path))
    return total / total.sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_filter_is_what_all_paths_of_the_hidden_markov_model_sum_to(seed):
    probabilities = shares(np.random.default_rng(seed), 6)
    smooth = MarkovFilter(STEP, HOLD)
    for n, one in enumerate(probabilities, 1):
        np.testing.assert_allclose(smooth(one), by_all_paths(probabilities[:n]), rtol=1e-6)


def test_online_is_offline_in_any_order_and_recordings_and_pauses_begin_anew():
    rng = np.random.default_rng(0)
    recording = np.repeat([0, 1], [20, 15])
    start = np.concatenate([np.arange(20), np.arange(15)]) * 100
    start[30:] += 5000  # a pause in the second recording
    probabilities = shares(rng, 35)
    expected, smooth = [], MarkovFilter(STEP, HOLD)
    for place, one in enumerate(probabilities):
        if place in (20, 30):
            smooth = MarkovFilter(STEP, HOLD)
        expected.append(smooth(one))
    mixed = rng.permutation(35)
    actual = filtered(probabilities[mixed], recording[mixed], start[mixed], STEP, HOLD, max_step=1000)
    np.testing.assert_array_equal(actual, np.array(expected)[mixed])
    smooth.begin_anew()
    np.testing.assert_array_equal(smooth(probabilities[0]), expected[0])


def test_nothing_later_is_heard_and_no_class_is_lost_for_good():
    probabilities = np.repeat(np.eye(3), 40, axis=0)  # as sure as can be, of one class after another
    one, start = np.zeros(120, int), np.arange(120)
    whole = filtered(probabilities, one, start, STEP, HOLD, 1)
    np.testing.assert_array_equal(filtered(probabilities[:50], one[:50], start[:50], STEP, HOLD, 1), whole[:50])
    np.testing.assert_array_equal(whole.argmax(1), np.repeat([0, 1, 2], 40))
    np.testing.assert_allclose(whole.sum(1), 1)


def test_gestures_that_are_held_are_decided_better():
    rng = np.random.default_rng(1)
    label = np.tile(np.repeat(np.arange(4), 24), 10)
    logits = 1.2 * np.eye(4)[label] + rng.normal(size=(len(label), 4))
    alone = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    smoothed = filtered(alone, np.zeros(len(label), int), np.arange(len(label)), STEP, 3.0, 1)
    assert np.mean(smoothed.argmax(1) == label) > np.mean(alone.argmax(1) == label) + 0.1


def test_windows_that_are_left_out_around_a_change_tell_the_filter_nothing():
    """The same probabilities, with a gap or without: the filter says the same."""
    probabilities = shares(np.random.default_rng(2), 30)
    even, one = np.arange(30) * 10, np.zeros(30, int)
    gaps = even + np.where(np.arange(30) >= 12, 40, 0)
    actual = [filtered(probabilities, one, start, STEP, HOLD, max_step=100) for start in (even, gaps)]
    np.testing.assert_array_equal(*actual)


# --- windows between labelled ones ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), min_size=1, max_size=8), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_a_stream_decides_between_labelled_windows_too(parts, stride):
    labels = np.concatenate([np.full(length, label) for label, length in parts])
    windows = whole_windows(labels, [0, 1], window=10, stride=stride, transition_margin=3)
    whole = continuous(windows[::-1], stride)
    known = whole["label"] != UNLABELLED
    np.testing.assert_array_equal(whole[known], windows)
    if len(windows):
        assert 0 <= whole["start"][0] < max(stride, 1)
        steps = np.diff(whole["start"])
        assert (steps >= stride / 2).all()
        assert (steps < 1.5 * stride + 1).all()


def test_unlabelled_windows_smooth_others_and_are_not_scored():
    """A change of class is decided for between labelled windows, so the first labelled one comes no longer late."""
    classes = ("idle", "fist")
    windows = np.zeros(20, WINDOW_FIELDS)
    windows["start"] = np.concatenate([np.arange(10), np.arange(18, 28)]) * 10
    windows["label"] = np.repeat([0, 1], 10)
    output = {}
    for name, table in (("alone", windows), ("whole", continuous(windows, 10))):
        truth = np.where(table["start"] < 100, 0, 1)  # what the model says is right, everywhere
        given_ = {
            "label": table["label"].astype(int),
            "subject": np.full(len(table), "03"),
            "record": np.full(len(table), "a"),
            "start": table["start"],
        }
        times = {"rate": 100.0, "window_seconds": 0.2, "stride_seconds": 0.1}
        probabilities = np.where(np.eye(2)[truth] > 0, 0.8, 0.2)
        windows_of_it = ScoredWindows(**given_, **times, classes=classes, rest_classes=["idle"])
        output[name] = metrics.report(windows_of_it, truth, probabilities, vote=7, hold=4.0)
    for one in output.values():
        assert one["n_windows"] == 20
        assert one["accuracy"] == 1
        assert one["smoothed"]["hold_seconds"] == 4.0
    for key in ("vote", "smoothed"):
        assert output["alone"][key]["accuracy"] < 1
        assert output["whole"][key]["accuracy"] == 1
