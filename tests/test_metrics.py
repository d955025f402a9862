"""Metrics: against scikit-learn, against slow re-derivations, and in the cases where definitions part."""

import json
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn import metrics as reference

from semg.evaluation import metrics
from semg.evaluation.scored_windows import ScoredWindows

CLASSES = ("idle", "fist", "flexion", "extension", "pinch")
K = len(CLASSES)
TIMES = {"rest_classes": ["idle"], "rate": 100.0, "window_seconds": 0.2, "stride_seconds": 0.1}


def report(label, prediction, subject, record, start, classes=CLASSES, **how):
    columns = {"label": label, "subject": subject, "record": record, "start": start}
    return metrics.report(ScoredWindows(**columns, classes=classes, **TIMES), prediction, **how)


pairs = st.lists(st.tuples(st.integers(0, K - 1), st.integers(0, K - 1)), min_size=1, max_size=60)


def columns(rows):
    return (np.array(column) for column in zip(*rows, strict=True))


@given(pairs)
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label was found")
def test_agrees_with_scikit_learn_absent_classes_included(rows):
    label, prediction = columns(rows)
    counts = metrics.confusion(label, prediction, K)
    assert np.array_equal(counts, reference.confusion_matrix(label, prediction, labels=range(K)))
    assert metrics.accuracy(counts) == pytest.approx(reference.accuracy_score(label, prediction))
    assert metrics.balanced_accuracy(counts) == pytest.approx(reference.balanced_accuracy_score(label, prediction))
    assert metrics.macro_f1(counts) == pytest.approx(reference.f1_score(label, prediction, average="macro"))
    expected = reference.precision_recall_fscore_support(label, prediction, labels=range(K), zero_division=np.nan)
    actual = metrics.per_class(counts, CLASSES)
    for key, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        values = [np.nan if actual[name][key] is None else actual[name][key] for name in CLASSES]
        assert values == pytest.approx(list(column), nan_ok=True)


@given(st.lists(st.tuples(*[st.integers(0, K - 1)] * 2, st.sampled_from(["03", "04", "11"])), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_each_person_is_scored_on_their_own_windows(rows):
    label, prediction, subject = columns(rows)
    actual = metrics.per_subject(label, prediction, subject, K)
    assert list(actual) == sorted(set(subject.tolist()))
    for person, values in actual.items():
        own = subject == person
        assert values["n_windows"] == own.sum()
        assert values["accuracy"] == pytest.approx(reference.accuracy_score(label[own], prediction[own]))
        f1 = reference.f1_score(label[own], prediction[own], average="macro")
        assert values["macro_f1"] == pytest.approx(f1)


def test_active_accuracy_leaves_out_windows_whose_truth_is_one_of_the_datas_rest_classes():
    rest = metrics.is_rest(("still", "fist", "relaxed"), ["relaxed", "still"])
    counts = metrics.confusion(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 1]), 3)
    assert metrics.active_accuracy(counts, rest) == 0.5
    assert metrics.active_accuracy(counts, ~rest | rest) is None
    assert metrics.active_accuracy(counts, None) is None  # nobody said which classes are rest


def test_wrong_input_is_refused_not_counted():
    good = np.array([0, 1])
    for label, prediction in (
        (np.array([0, K]), good),
        (good, np.array([-1, 0])),
        (good, np.array([0.0, 1.0])),
        (good, np.array([0])),
    ):
        with pytest.raises(ValueError, match="expected"):
            metrics.confusion(label, prediction, K)
    with pytest.raises(ValueError, match="at least one window"):
        metrics.accuracy(np.zeros((K, K), int))
    with pytest.raises(ValueError, match="at least one person"):
        metrics.bootstrap_interval([])


def test_interval_is_seeded_and_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    values = rng.normal(0.6, 0.1, 40)
    assert metrics.bootstrap_interval(values) == metrics.bootstrap_interval(values)
    assert metrics.bootstrap_interval(values) != metrics.bootstrap_interval(values, seed=1)
    low, high = metrics.bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(40), rel=0.1)
    covered = [low <= 0.6 <= high for low, high in map(metrics.bootstrap_interval, rng.normal(0.6, 0.1, (60, 40)))]
    assert 50 <= sum(covered) <= 60


def test_the_interval_is_scipys():
    values = np.random.default_rng(1).normal(0.6, 0.1, 16)
    theirs = bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=0).confidence_interval
    assert metrics.bootstrap_interval(values) == pytest.approx(tuple(theirs), abs=0.004)


def test_shuffled_labels_give_chance_within_the_interval():
    rng = np.random.default_rng(0)
    label, prediction = np.repeat(np.arange(K), 800), np.repeat(np.arange(K), 800)
    subject = np.tile(np.arange(20), 200).astype(str)
    actual = report(rng.permutation(label), prediction, subject, subject, np.arange(4000))
    low, high = actual["ci95"]["accuracy"]
    assert low <= 1 / K <= high
    assert high - low < 0.05


def slow_vote(prediction, record, start, k, max_step):
    """Straight from the definition: for each window, walk back through its recording."""
    decided = []
    for i in range(len(prediction)):
        earlier = [j for j in range(len(prediction)) if record[j] == record[i] and start[j] <= start[i]]
        earlier.sort(key=lambda j: start[j], reverse=True)
        heard = [earlier[0]]
        for j in earlier[1:]:
            if len(heard) == k or start[heard[-1]] - start[j] > max_step:
                break
            heard.append(j)
        votes = Counter(prediction[j] for j in heard)
        most = max(votes.values())
        decided.append(next(prediction[j] for j in heard if votes[prediction[j]] == most))
    return decided


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]), st.integers(0, 40)),
        min_size=1,
        max_size=30,
        unique_by=lambda row: row[1:],
    ),
    st.integers(1, 6),
    st.integers(1, 10),
)
@settings(max_examples=200, deadline=None)
def test_vote_is_what_its_definition_says_in_any_order(rows, k, max_step):
    prediction, record, start = columns(rows)
    actual = metrics.majority_vote(prediction, record, start, k, 4, max_step)
    assert actual.tolist() == slow_vote(prediction, record, start, k, max_step)


def test_vote_ties_go_to_the_latest_and_nothing_is_heard_across_pauses_or_recordings():
    said = np.array([1, 1, 2, 2, 3, 3])
    one = np.array(["a"] * 6)
    every = np.arange(6) * 10
    assert metrics.majority_vote(said, one, every, 4, 5, 10).tolist() == [1, 1, 1, 2, 2, 3]
    assert metrics.majority_vote(said, one, every, 1, 5, 10).tolist() == said.tolist()
    paused = np.array([0, 10, 50, 60, 70, 80])
    assert metrics.majority_vote(said, one, paused, 4, 5, 10).tolist() == [1, 1, 2, 2, 2, 3]
    two = np.array(["a", "a", "b", "b", "b", "b"])
    assert metrics.majority_vote(said, two, every, 4, 5, 10).tolist() == [1, 1, 2, 2, 2, 3]
    assert len(metrics.majority_vote(said[:0], one[:0], every[:0], 4, 5, 10)) == 0


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9])
def test_added_delay_is_how_much_later_a_switch_is_seen(k):
    said = np.repeat([0, 1], 20)
    voted = metrics.majority_vote(said, np.full(40, "a"), np.arange(40) * 10, k, 2, 10)
    assert np.flatnonzero(voted)[0] - 20 == metrics.added_delay(k, 1)


def test_vote_does_not_profit_from_the_gap_that_follows_a_label_change():
    """Windows pause for the transition margin at each change of label; the vote must not start afresh there."""
    label = np.repeat([0, 1], 10)
    start = np.concatenate([np.arange(10) * 10, 90 + 45 + np.arange(10) * 10])  # a margin of 0.25 s after the change
    one = np.full(20, "a")
    actual = report(label, label, one, one, start, CLASSES[:2], vote=5)
    assert actual["accuracy"] == 1.0
    assert actual["vote"]["accuracy"] == 0.9  # two windows late
    assert actual["vote"]["added_delay_ms"] == 200.0


def test_report_has_the_promised_keys_in_jsons_types():
    label, prediction = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    subject = np.array(["03", "03", "04", "04"])
    actual = report(label, prediction, subject, subject, np.arange(4), vote=3)
    keys = "accuracy balanced_accuracy macro_f1 active_accuracy per_class per_subject confusion classes n_windows"
    assert {*keys.split(), "n_subjects", "mean_over_subjects", "sd_over_subjects", "ci95"} <= set(actual)
    person = {"accuracy", "balanced_accuracy", "macro_f1", "active_accuracy", "n_windows"}
    assert set(actual["per_subject"]["03"]) == person
    assert all(set(actual[key]) == person for key in ("mean_over_subjects", "sd_over_subjects", "ci95"))
    assert actual["mean_over_subjects"]["accuracy"] == 0.75
    assert actual["sd_over_subjects"]["accuracy"] == pytest.approx(np.std([1.0, 0.5], ddof=1))
    assert (actual["n_windows"], actual["n_subjects"]) == (4, 2)
    assert json.loads(json.dumps(actual, allow_nan=False)) == actual


@pytest.mark.parametrize("people", [1, 2, 4, 5])
def test_below_five_people_there_is_no_interval_and_for_one_no_standard_deviation(people):
    who = np.repeat([f"{n:02d}" for n in range(people)], 3)
    truth = np.tile([0, 1, 1], people)
    actual = report(truth, np.tile([0, 1, 2], people), who, who, np.arange(3 * people))
    for name in ("accuracy", "macro_f1", "n_windows"):
        assert (actual["sd_over_subjects"][name] is None) == (people == 1)
        assert (actual["ci95"][name] is None) == (people < 5)
    assert (metrics.bootstrap_interval(np.linspace(0, 1, people)) is None) == (people < 5)


def test_a_person_without_a_value_counts_in_no_mean():
    subjects = metrics.per_subject(np.array([0, 1]), np.array([0, 1]), np.array(["a", "b"]), 2, np.array([True, False]))
    assert [one["active_accuracy"] for one in subjects.values()] == [None, 1.0]
    assert metrics.over_subjects(subjects)["mean_over_subjects"]["active_accuracy"] == 1.0
    assert metrics.mean_over_subjects({"a": subjects["a"]})["active_accuracy"] is None


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_no_way_to_decide_without_the_signal_is_expected_to_beat_chance(support, data):
    """Many windows alike: how often each class is decided is all that such a way can choose."""
    support = np.array(support)
    often = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(support), max_size=len(support)).filter(any)))
    expected = np.outer(support, often)  # windows decided as each class, whatever their truth
    rest = np.arange(len(support)) == 0
    best = metrics.chance(support, rest)
    for name, value in metrics.scores_of(expected, rest).items():
        assert value <= best[name] + 1e-12, name
    in_proportion = metrics.scores_of(np.outer(support, support), rest)
    assert in_proportion["macro_f1"] == pytest.approx(best["macro_f1"])
    always_one = np.outer(support, support == support.max())
    assert metrics.accuracy(always_one) >= best["accuracy"] - 1e-12


def test_chance_is_the_commonest_classs_share_for_accuracy_alone():
    actual = metrics.chance(np.array([60, 20, 20, 0]), np.array([True, False, False, False]))
    assert actual == pytest.approx(
        {"accuracy": 0.6, "macro_f1": 1 / 3, "balanced_accuracy": 1 / 3, "active_accuracy": 0.5}
    )
    assert metrics.chance(np.array([6, 4]))["active_accuracy"] is None


def test_no_way_to_decide_without_the_signal_beats_the_chance_of_a_mean_over_people():
    """Person a lacks three gestures, and so is scored on two: always idle has a mean of more than over all windows."""
    label = np.array([0, 0, 0, 1, 0, 1, 2, 3, 4, 4])
    subject = np.repeat(["a", "b"], [4, 6])
    rest = np.arange(K) == 0
    actual = metrics.report(
        ScoredWindows(label=label, subject=subject, record=subject, start=np.arange(10), classes=CLASSES, **TIMES),
        np.zeros(10, int),
    )
    expected = {"macro_f1": (1 / 2 + 1 / 5) / 2, "accuracy": (3 / 4 + 2 / 6) / 2, "active_accuracy": (1 + 2 / 5) / 2}
    assert actual["chance_over_subjects"] == pytest.approx(expected | {"balanced_accuracy": (1 / 2 + 1 / 5) / 2})
    for decided in range(K):
        people = metrics.per_subject(label, np.full(10, decided), subject, K, rest)
        for name, value in metrics.mean_over_subjects(people).items():
            assert value is None or name == "n_windows" or value <= actual["chance_over_subjects"][name]
    always_idle = metrics.mean_over_subjects(metrics.per_subject(label, np.zeros(10, int), subject, K, rest))
    assert always_idle["macro_f1"] > actual["chance"]["macro_f1"] == 1 / K
    nobody = metrics.chance_over_subjects(np.zeros(4, int), np.array(["a"] * 4), K, rest)
    assert nobody["active_accuracy"] is None


def test_a_lower_loss_is_a_better_one():
    ranks = {name: one.rank(0.5) > one.rank(0.4) for name, one in metrics.criteria().items()}
    assert ranks == {"macro_f1": True, "accuracy": True, "balanced_accuracy": True, "active_accuracy": True} | {
        "loss": False
    }
    assert metrics.LOSS.rank(9.0) > metrics.LOSS.rank(None)


def test_six_hundred_thousand_windows_take_about_a_second():
    rng = np.random.default_rng(0)
    n = 600_000
    label, prediction = rng.integers(0, 8, (2, n))
    record = np.repeat([f"emg_gestures-{i:02d}-repeats_long-2018-05-11-11-05-00-695" for i in range(60)], n // 60)
    subject = np.repeat([f"{i:02d}" for i in range(60)], n // 60)
    start = np.tile(np.arange(n // 60) * 640, 60)
    began = time.process_time()
    report(label, prediction, subject, record, start, [str(i) for i in range(8)], vote=5)
    assert time.process_time() - began < 5  # about 1 s where nothing else runs
