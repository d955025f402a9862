"""Window arithmetic at its edges, and the authors' rules against a re-derivation of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semg.common.errors import DataError
from semg.data import windows
from semg.data.windows import (
    MOST_SEGMENTS,
    evenly_spaced,
    of_session,
    paper_windows,
    segments,
    whole_windows,
    without_gaps,
)

CLASSES = [0, 1, 2, 3, 6, 7, 8, 9]
label_lists = st.lists(st.tuples(st.sampled_from([-1, *CLASSES]), st.integers(1, 60)), min_size=1, max_size=12).map(
    lambda runs: np.concatenate([np.full(n, v, np.int8) for v, n in runs])
)


def test_segments():
    starts, stops, values = segments(np.array([0, 0, -1, 2, 2, 2]))
    assert (starts.tolist(), stops.tolist(), values.tolist()) == ([0, 2, 3], [2, 3, 6], [0, -1, 2])
    assert all(len(part) == 0 for part in segments(np.array([], np.int8)))


@pytest.mark.parametrize(
    ("length", "expected"), [(9, []), (10, [0]), (14, [0]), (15, [0, 5]), (19, [0, 5]), (20, [0, 5, 10])]
)
def test_a_window_needs_its_whole_length(length, expected):
    table = whole_windows(np.zeros(length, np.int8), CLASSES, window=10, stride=5, transition_margin=3)
    assert table["start"].tolist() == expected


def test_the_transition_margin_begins_with_a_change_of_label_and_not_with_the_recording():
    labels = np.array([1] * 20 + [2] * 20, np.int8)
    table = whole_windows(labels, CLASSES, window=10, stride=5, transition_margin=4)
    assert table["start"].tolist() == [0, 5, 10, 24, 29]
    assert table["label"].tolist() == [1, 1, 1, 2, 2]
    assert table["low"].tolist() == [0, 0, 0, 24, 24]
    assert table["high"].tolist() == [10, 10, 10, 30, 30]


def test_rest_is_left_out_unless_it_is_a_class_and_repetitions_are_counted():
    labels = np.array([6] * 10 + [-1] * 10 + [6] * 10 + [0] * 10 + [6] * 10, np.int8)
    table = whole_windows(labels, CLASSES, window=10, stride=10, transition_margin=0)
    assert table["label"].tolist() == [4, 4, 0, 4]
    assert table["repetition"].tolist() == [0, 1, 0, 2]
    with_rest = whole_windows(labels, [*CLASSES, -1], window=10, stride=10, transition_margin=0)
    assert with_rest["label"].tolist() == [4, 8, 4, 0, 4]


def test_more_segments_of_a_label_than_a_table_can_count_are_refused():
    flickering = np.tile(np.array([6, -1], np.int8), MOST_SEGMENTS)
    assert whole_windows(flickering, CLASSES, 1, 1, 0)["repetition"].tolist() == list(range(MOST_SEGMENTS))
    flickering = np.append(flickering, np.int8(6))
    with pytest.raises(DataError, match="expected at most 32,768 segments of a gesture, found 32,769"):
        whole_windows(flickering, CLASSES, 1, 1, 0)
    long = np.tile(np.array([1, 0], np.int8).repeat(3), MOST_SEGMENTS + 1)
    with pytest.raises(DataError, match="expected at most 32,768 segments"):
        paper_windows(long, CLASSES, 1, 1, -1)


@given(label_lists, st.integers(1, 20), st.integers(1, 20), st.integers(0, 10))
def test_whole_windows_are_exactly_those_that_the_rules_allow(labels, window, stride, transition_margin):
    """Slow re-derivation: try every start, then thin each segment out by the stride."""
    table = whole_windows(labels, CLASSES, window, stride, transition_margin)
    allowed = []
    for start in range(len(labels) - window + 1):
        part = labels[start : start + window]
        changes = [i for i in range(1, start + 1) if labels[i] != labels[i - 1]]
        if len(set(part.tolist())) == 1 and part[0] != -1 and (not changes or start - changes[-1] >= transition_margin):
            allowed.append(start)
    kept, last = [], None
    for start in allowed:
        joined = last is not None and len(set(labels[last : start + window].tolist())) == 1
        if not joined or ((start - last) % stride == 0 and start - last >= stride):
            kept.append(start)
            last = start
    assert table["start"].tolist() == kept
    for row in table:
        assert CLASSES[row["label"]] == labels[row["start"]]
        for start in (row["low"], row["high"]):
            assert start in allowed
            assert len(set(labels[min(start, row["start"]) : max(start, row["start"]) + window].tolist())) == 1


def authors_mask(label: list[int]) -> list[int]:
    """Which windows the putEMG authors keep, written down from their description, window by window."""
    dropped = set()
    for i, value in enumerate(label):
        if value == -1:
            dropped.add(i)
            if i + 1 < len(label) and label[i + 1] != -1:
                dropped.update(range(i + 1, i + 5))
        if i > 0 and value > 0 and label[i - 1] >= 0 and label[i - 1] != value:
            dropped.update((i - 1, i))
    return [i for i in range(len(label)) if i not in dropped]


EXAMPLE = "0 0 0 0 0 0 1 1 1 1 1 1 0 0 0 0 0 0 -1 -1 -1 0 0 0 0 0 0 2 2 2 2 2 0 0 0 0"


def test_the_authors_published_example():
    label = np.array([int(word) for word in EXAMPLE.split()], np.int8)
    table = paper_windows(label, CLASSES, window=1, stride=1, rest=-1)
    left_out = [i for i in range(len(label)) if i not in table["start"].tolist()]
    assert left_out == [5, 6, 18, 19, 20, 21, 22, 23, 24, 26, 27]


def test_the_authors_windows_count_repetitions_from_nought():
    """The first segment of each gesture is repetition 0, even where all its windows are left out."""
    label = np.repeat(np.array([1, 0, 2, 0, 1, 0, 2], np.int8), [4, 4, 1, 4, 4, 4, 4])
    table = paper_windows(label, CLASSES, window=1, stride=1, rest=-1)
    actual = {(int(row["label"]), int(row["repetition"])) for row in table}
    assert actual == {(1, 0), (1, 1), (0, 0), (0, 1), (0, 2), (2, 1)}


@given(label_lists, st.integers(1, 30), st.integers(1, 20))
def test_paper_windows_follow_the_authors_rules(labels, window, stride):
    table = paper_windows(labels, CLASSES, window, stride, rest=-1)
    starts = list(range(0, len(labels) - window + 1, stride))
    last = [int(labels[start + window - 1]) for start in starts]
    kept = authors_mask(last)
    assert table["start"].tolist() == [starts[i] for i in kept]
    assert [CLASSES[k] for k in table["label"]] == [last[i] for i in kept]
    assert np.array_equal(table["low"], table["start"])
    assert np.array_equal(table["high"], table["start"])


def test_evenly_spaced_windows_reach_from_the_beginning_to_the_end():
    assert evenly_spaced(100, 10, 4).tolist() == [0, 30, 60, 90]
    assert evenly_spaced(12, 10, 99).tolist() == [0, 1, 2]
    assert evenly_spaced(10, 10, 4).tolist() == [0]


def test_a_session_is_cut_by_the_stride_and_a_long_one_by_several(monkeypatch):
    """Of recordings of 4, 0 and 2 windows, for as many windows as the session may have."""
    starts, step = of_session([25, 9, 15], window=10, stride=5)
    assert ([one.tolist() for one in starts], step) == ([[0, 5, 10, 15], [], [0, 5]], 5)
    monkeypatch.setattr(windows, "SESSION_WINDOWS", 6)
    assert of_session([25, 9, 15], window=10, stride=5)[1] == 5
    monkeypatch.setattr(windows, "SESSION_WINDOWS", 5)
    starts, step = of_session([25, 9, 15], window=10, stride=5)
    assert ([one.tolist() for one in starts], step) == ([[0, 10], [], [0]], 10)


def test_windows_that_span_a_gap_are_left_out_and_none_may_be_moved_across_it():
    table = whole_windows(np.ones(60, np.int8), CLASSES, window=10, stride=5, transition_margin=3)
    kept = without_gaps(table, np.array([20, 33]), 10)
    assert kept["start"].tolist() == [0, 5, 10, 20, 35, 40, 45, 50]
    assert kept["low"].tolist() == [0, 0, 0, 20, 33, 33, 33, 33]
    assert kept["high"].tolist() == [10, 10, 10, 23, 50, 50, 50, 50]
    np.testing.assert_array_equal(without_gaps(table, np.array([], np.int64), 10), table)


@given(label_lists, st.lists(st.integers(1, 400), max_size=5, unique=True).map(sorted), st.integers(1, 40))
def test_no_window_left_spans_a_gap_and_no_other_is_dropped(labels, gaps, window):
    table = whole_windows(labels, CLASSES, window, stride=7, transition_margin=2)
    kept = without_gaps(table, np.array(gaps, np.int64), window)
    clear = [not any(start < gap < start + window for gap in gaps) for start in table["start"]]
    assert kept["start"].tolist() == table["start"][clear].tolist()
    for row in kept:
        assert row["low"] <= row["start"] <= row["high"]
        assert not any(row["low"] < gap < row["high"] + window for gap in gaps)
