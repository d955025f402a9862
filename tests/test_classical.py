"""Fair rivals: the network's features for classical methods, settings chosen on validation people, adapting."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_shards
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import baselines
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.data.batches import Batches
from semg.data.normalization import ChannelNormalization, transform_of
from semg.data.rings import turned_by
from semg.data.shards import WindowSet, open_shards
from semg.evaluation import metrics
from semg.evaluation.baseline_results import Baseline
from semg.evaluation.result_record import read_result
from semg.inference.batch import ready_tokens, session_statistics
from semg.training import adaptation, classical, classical_adaptation
from semg.training.adaptation import Adaptation
from semg.training.classical_calibration import calibrate_people
from semg.training.feature_tables import SessionWindows, Tables
from semg.training.token_features import TokenFeatures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_shards.write_all(tmp_path_factory.mktemp("classical"))


@pytest.fixture
def main(monkeypatch):
    """Run baselines.py in this process."""

    def run(*flags):
        monkeypatch.setattr("sys.argv", ["baselines.py", *map(str, flags)])
        return baselines.main()

    return run


def tables_of(shards, features="rms"):
    """A fold's tables of hand-crafted features, with the same recordings for everything."""
    windows = WindowSet(shards)
    settings = {"features": features, "definitions": "usual", "normalize": "none"}
    baseline = Baseline("lda-rms", "", Path(), settings)
    return Tables({"train": windows, "scored": windows}, [baseline], Console(quiet=True), 1)


def test_a_long_session_is_adapted_on_as_many_windows_as_the_network_takes(data, monkeypatch):
    """Evenly spaced over whole recordings; one stride apart in a session that is short enough."""
    shards = open_shards(data[0], [small_shards.name(1), small_shards.name(2)])
    length, window, stride = len(shards[0].signal), small_shards.WINDOW, small_shards.STRIDE
    each, tables = (length - window) // stride + 1, tables_of(shards)
    every = tables.session("scored", [0, 1], "rms")
    assert (len(every.x), every.spacing) == (2 * each, stride / small_shards.RATE)
    assert len(tables.unlabelled("scored", [0, 1], "rms")) == 2 * 1000
    for module in ("semg.data.windows", "semg.training.feature_tables"):
        monkeypatch.setattr(f"{module}.SESSION_WINDOWS", each)
    fewer = tables.session("scored", [0, 1], "rms")
    assert fewer.spacing == 2 * every.spacing
    np.testing.assert_array_equal(fewer.x[: len(fewer.x) // 2], every.x[:each:2])
    np.testing.assert_array_equal(fewer.recording, every.recording[np.r_[0:each:2, each : 2 * each : 2]])
    assert len(tables.unlabelled("scored", [0, 1], "rms")) == each // 2 * 2


def clouds(n=600, shift=0.0, seed=0):
    """Three classes in four dimensions; `shift` moves all of them."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, n)
    centre = np.array([[0, 0, 0, 0], [3, 0, 1, 0], [0, 3, 0, 1]])
    return random.normal(centre[label] + shift, 1.0), label


def test_tokens_are_those_that_the_network_reads(data):
    """Mean over a window's tokens of the front-end's own output, under the session's own statistics."""
    shards = open_shards(data[0], [small_shards.name(1), small_shards.name(2)])
    features = TokenFeatures(shards)
    windows = WindowSet(shards)
    normalization = ChannelNormalization("session", "append")
    transform = transform_of(shards, normalization)
    model = features._model
    statistics = session_statistics(model, shards, transform, torch.device("cpu"))
    tokens = ready_tokens(model, Batches(windows, transform, torch.device("cpu")), statistics)
    own = windows.shard == 1
    (group,) = features.layout.groups
    expected = group.of(tokens[torch.from_numpy(own)]).mean(1).transpose(1, 2)
    np.testing.assert_allclose(features.of(1, windows.start[own]), expected, atol=1e-4)


def test_rotations_turn_every_ring_by_one_place(data):
    shards = open_shards(data[0], [small_shards.name(1)])
    turned = TokenFeatures(shards).turned
    table = np.arange(48, dtype=np.float32)[None, None]  # every channel says which it is
    back, same, on = classical.with_rotations(table, turned)[:, 0]
    np.testing.assert_array_equal(same, table[0, 0])
    for rotated, step in ((back, -1), (on, 1)):
        expected = [np.roll(ring, step) for ring in table[0, 0].reshape(6, 8)]
        np.testing.assert_array_equal(rotated.reshape(6, 8), expected)


@pytest.mark.parametrize(
    ("name", "settings", "peer"),
    [
        ("lda", {"solver": "lsqr", "shrinkage": 0.3}, LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)),
        ("qda", {"reg_param": 0.3}, QuadraticDiscriminantAnalysis(reg_param=0.3)),
    ],
)
def test_the_gaussians_to_adapt_are_scikit_learns(name, settings, peer):
    x, label = clouds()
    model = classical.fitted(name, settings, x, label, 0)
    own = classical.Gaussians(model, x, label).predict_proba(x)
    peer = make_pipeline(StandardScaler(), peer).fit(x, label).predict_proba(x)
    assert np.mean(own.argmax(1) == peer.argmax(1)) > 0.97


def test_qda_to_adapt_has_a_covariance_for_each_class():
    """Two classes around one mean, which nothing but their spread tells apart."""
    random, label = np.random.default_rng(0), np.repeat([0, 1], 300)
    x = random.normal(size=(600, 3)) * np.where(label, 4.0, 0.5)[:, None]
    model = classical.fitted("qda", {"reg_param": 0.1}, x, label, 0)
    own = classical.Gaussians(model, x, label).predict_proba(x)
    np.testing.assert_allclose(own, model.predict_proba(x), atol=1e-6)
    assert np.mean(own.argmax(1) == label) > 0.9


def test_qda_copes_with_fewer_windows_than_features():
    """A regularised covariance of 10 windows of 30 features has an inverse; a rank of 10 is no reason to stop."""
    random, label = np.random.default_rng(0), np.repeat([0, 1, 2], 10)
    centre = 3 * random.normal(size=(3, 30))
    x, new = (centre[label] + random.normal(size=(30, 30)) for _ in range(2))
    model = classical.fitted("qda", {"reg_param": 0.5}, x, label, 0)
    prediction, probability = classical.decide(model, new)
    assert np.mean(prediction == label) > 0.9
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-6)
    trained = classical.Trained("qda", {"reg_param": 0.5}, model, x, label)
    adapted = classical_adaptation.adapted(trained, new, classical_adaptation.Adaptation(rounds=2))
    assert np.mean(classical.decide(adapted, new)[0] == label) > 0.9
    np.testing.assert_array_equal(classical.decide(model, new)[0], prediction)  # left as it was


@pytest.mark.parametrize("name", classical.GAUSSIAN)
def test_a_single_feature_is_adapted_too(name):
    """As of one channel: the covariance of one feature is a matrix, too."""
    x, label = clouds()
    x = x[:, :1] + 6 * label[:, None]
    settings = classical.SETTINGS[name][0]
    trained = classical.Trained(name, settings, classical.fitted(name, settings, x, label, 0), x, label)
    adapted = classical_adaptation.adapted(trained, x + 0.5, classical_adaptation.Adaptation(rounds=2))
    assert np.mean(classical.decide(adapted, x + 0.5)[0] == label) > 0.6


def test_fewer_windows_than_neighbours_are_told_in_a_line():
    x, label = clouds(n=12)
    with pytest.raises(DataError, match="knn: expected at least 15 training windows, its neighbours, found 12"):
        classical.fitted("knn", {"n_neighbors": 15}, x, label, 0)


@pytest.mark.parametrize("name", classical.CLASSIFIERS)
def test_adapting_follows_a_session_that_is_shifted(name):
    x, label = clouds()
    session, truth = clouds(shift=1.0, seed=1)
    settings = classical.SETTINGS[name][0]
    model = classical.fitted(name, settings, x, label, 0)
    before = np.mean(classical.decide(model, session)[0] == truth)
    how = classical_adaptation.Adaptation(rounds=4, strength=5.0, sample=60)
    trained = classical.Trained(name, settings, model, x, label)
    after, again = (classical_adaptation.adapted(trained, session, how) for _ in range(2))
    adapted = np.mean(classical.decide(after, session)[0] == truth)
    if name in classical.GAUSSIAN:  # self-training promises nothing where all decisions drift to one side
        assert adapted > before + 0.05
    assert after is not model
    np.testing.assert_array_equal(classical.decide(after, session)[0], classical.decide(again, session)[0])
    assert np.mean(classical.decide(model, session)[0] == truth) == before, "the model stays as it was"


@pytest.mark.parametrize("name", classical.GAUSSIAN)
def test_trained_means_weigh_as_many_windows_as_their_strength(name):
    """Of gestures so far apart that it is clear which window is of which."""
    rng, label = np.random.default_rng(0), np.repeat([0, 1], 100)
    x, session = (rng.normal(size=(n, 1)) for n in (200, 40))
    x += np.where(label, 20, -20)[:, None]
    session += np.repeat([-19, 21], [30, 10])[:, None]
    own = classical.Gaussians(classical.fitted(name, classical.SETTINGS[name][0], x, label, 0), x, label)
    own.adapt(session, rounds=1, strength=30.0)
    np.testing.assert_allclose(own.share, np.array([31, 11]) / 42, rtol=0.01)
    means = (30 * x[:100].mean() + session[:30].sum()) / 60, (30 * x[100:].mean() + session[30:].sum()) / 40
    np.testing.assert_allclose(own._scale.inverse_transform(own._mean)[:, 0], means, rtol=0.01)


def held_gestures(rng, means, order, hold=40):
    """(n, F) features and (n,) labels of gestures that are held for `hold` windows each."""
    label = np.repeat(order, hold)
    return means[label] + rng.normal(size=(len(label), means.shape[1])), label


@pytest.mark.parametrize("copies", [1, 2])
def test_adapting_as_the_network_does_turns_a_band_back(copies):
    """A person's band sits one place further: their features are a neighbour's, and names would be swapped."""
    rng = np.random.default_rng(0)
    rings, kinds = (tuple(range(8)),), 3
    one = np.tile(rng.normal(size=(4, kinds, 8)), copies)
    means = one.reshape(4, -1)
    x, label = held_gestures(rng, means, np.tile(np.arange(4), 5))
    model = classical.fitted("logistic", classical.SETTINGS["logistic"][0], x, label, 0)
    trained = classical.Trained("logistic", classical.SETTINGS["logistic"][0], model, x, label)
    own, truth = held_gestures(rng, means, np.tile([2, 0, 3, 1], 5))
    away = turned_by(rings, 8, 1, copies)
    further = own.reshape(len(own), kinds, -1)[:, :, away].reshape(len(own), -1)
    windows = SessionWindows(further, np.zeros(len(own), int), 0.1, len(own) / 10, 8, rings, copies)
    result = classical_adaptation.adapted_as_the_network(trained, windows, Adaptation(), 200)
    assert (result.reason, result.turn, result.turn_refused) == ("", -1, "")
    after = result.model
    before, later = (float(np.mean(classical.decide(m, further)[0] == truth)) for m in (model, after))
    assert later > 0.95 and before < 0.7
    without = classical_adaptation.adapted_as_the_network(trained, replace(windows, rings=()), Adaptation(), 200).model
    assert np.mean(classical.decide(without, further)[0] == truth) < later


def test_a_classifier_says_which_turn_was_refused_and_why():
    """Few gestures and features turned by a place: what is one gesture is divided among several."""
    rng = np.random.default_rng(0)
    rings = (tuple(range(8)),)
    means = rng.normal(size=(4, 8)) * 2
    x, label = held_gestures(rng, means, np.tile(np.arange(4), 5))
    model = classical.fitted("logistic", classical.SETTINGS["logistic"][0], x, label, 0)
    trained = classical.Trained("logistic", classical.SETTINGS["logistic"][0], model, x, label)
    own, _ = held_gestures(rng, means, np.tile([2, 0, 3, 1], 5))
    further = own[:, turned_by(rings, 8, 1, 1)]
    windows = SessionWindows(further, np.zeros(len(own), int), 0.1, len(own) / 10, 8, rings)

    def adapted(**limits):
        return classical_adaptation.adapted_as_the_network(trained, windows, Adaptation(**limits), 200)

    unclear, unsafe = adapted(most_uncertainty_turned=-1), adapted(least_agreement=1.1)
    for result, doubt in ((unclear, "gestures are not clear enough"), (unsafe, "of the decisions would stay")):
        assert result.turn == 0
        assert "a turn by -1 fits the model better" in result.turn_refused
        assert doubt in result.turn_refused
    assert unsafe.model is model


@pytest.mark.parametrize("name", classical.CLASSIFIERS)
def test_adapting_as_the_network_does_takes_gestures_to_be_held_and_keeps_the_model_where_they_are_few(name):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(4, 6)) * 1.2
    x, label = held_gestures(rng, means, np.tile(np.arange(4), 5))
    settings = classical.SETTINGS[name][0] | ({"sharpness": 2.0} if name == "svm" else {})
    model = classical.fitted(name, settings, x, label, 0)
    turned = means + rng.normal(size=means.shape) * 0.7  # another person's gestures
    how = Adaptation()

    def adapted(order):
        own, truth = held_gestures(rng, turned, order)
        windows = SessionWindows(own, np.zeros(len(own), int), 0.1, len(own) / 10, own.shape[1], ())
        trained = classical.Trained(name, settings, model, x, label)
        result = classical_adaptation.adapted_as_the_network(trained, windows, how, 200)
        after, reason = result.model, result.reason
        correct = [float(np.mean(classical.decide(m, own)[0] == truth)) for m in (model, after)]
        return (*correct, reason, after)

    before, after, reason, _ = adapted(np.tile([2, 0, 3, 1], 5))
    assert not reason
    assert after > before + 0.02
    *_, reason, kept = adapted(np.full(20, 3))
    assert reason
    assert kept is model


def test_svm_has_probabilities_as_sharp_as_makes_the_labels_likeliest():
    x, label = clouds(300)
    new, truth = clouds(300, seed=1)
    model = classical.fitted("svm", {"C": 5.0}, x, label, 0)
    chosen = classical.sharpness(model, new, truth)
    losses = {
        value: log_loss(truth, classical.Softmax(model, value).predict_proba(new)) for value in classical.SHARPNESS
    }
    assert chosen == min(losses, key=lambda value: losses[value])
    assert losses[0.25] / losses[chosen] > 1
    decided, probability = classical.decide(classical.fitted("svm", {"C": 5.0, "sharpness": chosen}, x, label, 0), new)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)
    assert np.mean(decided == model.predict(new)) > 0.98
    two = label < 2  # of two classes scikit-learn gives one value
    pair = classical.fitted("svm", {"C": 5.0, "sharpness": chosen}, x[two], label[two], 0)
    np.testing.assert_array_equal(classical.decide(pair, new)[0], pair._model.predict(new))


def test_adapting_svm_as_the_network_does_looks_at_the_validation_people_for_its_sharpness(data, main, tmp_path):
    shards, split = data
    flags = ["--shards", shards, "--split", split, "--features", "rms", "--classifiers", "svm"]
    flags += ["--adapt", "session", "--adapt-by", "network", "--smooth", "2", "--out", tmp_path]
    assert main(*flags) == 0
    report = json.loads((tmp_path / "svm-rms" / "metrics.json").read_text())
    assert report["classifier_settings"].keys() == {"C", "sharpness"}
    assert report["classifier_settings"]["sharpness"] in classical.SHARPNESS
    for scored in (report, report["unadapted"]):
        assert scored["smoothed"]["hold_seconds"] == 2
    with pytest.raises(UsageError, match="nothing was chosen with svm's probabilities"):
        main(*flags, "--subset", "val")


def test_a_run_with_all_that_the_network_has(data, run_here, tmp_path, monkeypatch):
    shards, split = data
    few = partial(classical_adaptation.Adaptation, rounds=2, sample=100)  # else logistic regression takes half a minute
    monkeypatch.setattr(classical_adaptation, "Adaptation", few)
    flags = ("--shards", shards, "--split", split, "--features", "tokens", "--classifiers", "lda", "logistic")
    run_here("baselines.py", *flags, "--augment", "rotation", "--choose", "--adapt", "session", "--out", tmp_path / "a")
    for method in ("lda-tokens", "logistic-tokens"):
        report = json.loads((tmp_path / "a" / method / "metrics.json").read_text())
        tried = report["tried_on_validation"]
        best = max(tried, key=lambda one: one["val_macro_f1"])
        assert report["classifier_settings"] == best["settings"]
        assert [one["settings"] for one in tried] == classical.SETTINGS[method.partition("-")[0]]
        assert report["unadapted"]["n_windows"] == report["n_windows"]
        assert report["unadapted"]["per_subject"].keys() == report["per_subject"].keys()
        assert report["adaptation"]["on"] == "session"
        assert [one["accepted"] for one in report["adaptation"]["sessions"]] == [True]
        assert report["n_train_windows"] % 3 == 0
    run_here("baselines.py", *flags, "--adapt", "session", "--adapt-by", "network", "--out", tmp_path / "c")
    facts = json.loads((tmp_path / "c" / "lda-tokens" / "metrics.json").read_text())["adaptation"]
    assert facts["method"] == "self-training on the network's posteriors"
    assert facts["hold"] == Adaptation().hold
    assert all(bool(one["reason"]) != one["accepted"] for one in facts["sessions"])
    assert all({"turn", "turn_refused"} <= one.keys() for one in facts["sessions"])
    for how in ("network", "own"):
        assert "--adapt session" in run_here("baselines.py", *flags, "--adapt-by", how, code=2).stderr
    done = run_here("baselines.py", *flags, "--out", tmp_path / "a", code=1)
    assert "augment none, found rotation" in done.stderr
    done = run_here("baselines.py", *flags, "--adapt", "first", "--out", tmp_path / "b", code=1)
    assert "expected sessions of several recordings to adapt on the first" in done.stderr


def test_a_rival_is_calibrated_and_adapted_on_the_windows_that_the_network_is(data, run_here, tmp_path, monkeypatch):
    """metrics.json has calibrate.py's fields, and other windows' labels change nothing."""
    shards, split = data
    few = partial(Adaptation, least_seconds=0, rounds=1, most_divergence_adapted=9, least_agreement_of_starts=0)
    monkeypatch.setattr(adaptation, "Adaptation", few)
    flags = ("--shards", shards, "--split", split, "--features", "logband", "--classifiers", "lda", "qda")
    flags += ("--repetitions", 1)
    run_here("baselines.py", *flags, "--out", tmp_path / "calibrated")
    errors = run_here("baselines.py", *flags, "--seed", 1, "--out", tmp_path / "calibrated", code=1).stderr
    assert "expected a result with seed 1, found 0" in errors, "the windows beside the person's are drawn"
    adapt = ("--adapt", "session", "--adapt-by", "network")
    run_here("baselines.py", *flags, *adapt, "--out", tmp_path / "adapted")
    for method in ("lda-logband", "qda-logband"):
        alone, adapted = (
            json.loads((tmp_path / which / method / "metrics.json").read_text()) for which in ("calibrated", "adapted")
        )
        assert alone["calibrate"] == adapted["calibrate"] == alone["baseline"]["calibrate"] == 1
        for key in ("mean_over_subjects", "per_subject"):
            ours = {who: one["macro_f1"] for who, one in alone["per_subject"].items()}
            theirs = adapted["calibrated_on_the_same_windows"]["per_subject"]
            assert {who: one["macro_f1"] for who, one in theirs.items()} == ours
            assert alone["zero_shot_on_the_same_windows"][key] == adapted["zero_shot_on_the_same_windows"][key]
        assert "calibrated_on_the_same_windows" not in alone
        assert [one["accepted"] for one in adapted["adaptation"]["sessions"]] == [True]
        assert read_result(tmp_path / "adapted" / method / "metrics.json", metrics.headlines()).adapted_on == "session"
        with np.load(tmp_path / "adapted" / method / "predictions.npz", allow_pickle=False) as decided:
            assert decided["start"].min() >= len(small_shards.labels(1)), "the first repetitions are not scored"
    flags = (*flags[:-3], "svm", *flags[-2:])  # which has no probabilities; and adapting in a classifier's own way
    run_here("baselines.py", *flags, "--out", tmp_path / "calibrated")
    run_here("baselines.py", *flags, "--adapt", "session", "--out", tmp_path / "own")
    alone, own = (
        json.loads((tmp_path / which / "svm-logband" / "metrics.json").read_text()) for which in ("calibrated", "own")
    )
    assert own["calibrated_on_the_same_windows"]["mean_over_subjects"] == alone["mean_over_subjects"]
    assert own["adaptation"]["method"] == "self-training"
    for vote in (3, 1):
        errors = run_here("baselines.py", *flags, "--vote", vote, "--out", tmp_path / "x", code=2).stderr
        assert "--vote: expected without --repetitions" in errors
    errors = run_here("baselines.py", *flags[:-1], 3, "--out", tmp_path / "x", code=1).stderr
    assert "subject 05: expected windows of every gesture to score after 3 repetitions" in errors


def test_calibrating_a_rival_follows_the_person_and_looks_at_no_later_label(data):
    shards = open_shards(data[0], [small_shards.name(subject) for subject in (1, 5)])
    windows = WindowSet(shards)
    new = windows.subject == "05"
    x = np.random.default_rng(0).normal(size=(len(windows), 6)) + 4 * ((windows.label + new) % 4)[:, None]
    x[new, 0] += 20
    known, few = ~new, {"n_neighbors": 3}
    fitted = classical.fitted("knn", few, x[known], windows.label[known], 0)
    trained = classical.Trained("knn", few, fitted, x[known], windows.label[known])
    one = calibrate_people(trained, windows, x, 1, "none", 0)
    later = one.parts.scored
    mine = new[later]
    truth = windows.label[later][mine]
    assert np.mean(one.decide(windows, x)[0][mine] == truth) > 0.9
    assert np.mean(fitted.predict(x[later][mine]) == truth) < 0.1
    changed = [shard.windows.copy() for shard in shards]
    for own in changed:
        own["label"][own["repetition"] > 0] = np.roll(own["label"][own["repetition"] > 0], 7)
    other = WindowSet([replace(shard, windows=own) for shard, own in zip(shards, changed, strict=True)])
    again = calibrate_people(trained, other, x, 1, "none", 0)
    assert np.array_equal(one.decide(windows, x)[0], again.decide(other, x)[0])
    assert not np.array_equal(windows.label, other.label)


def test_no_label_of_the_scored_people_is_looked_at(data, run_here, tmp_path):
    """The windows of the scored session have other labels: decisions, adapted, are the same."""
    from semg.data.shards import open_shard, write_shard

    shards, split = data
    other = tmp_path / "shards"
    other.mkdir()
    for shard in shards.iterdir():
        (other / shard.name).symlink_to(shard)
    (record,) = (split / "test.txt").read_text().split()
    shard = open_shard(shards / record)
    (other / record).unlink()
    windows = shard.windows.copy()
    windows["label"] = np.roll(windows["label"], 7)
    write_shard(other / record, shard.meta, np.array(shard.signal), windows)
    actual = []
    for folder, name in ((shards, "a"), (other, "b")):
        flags = ("--shards", folder, "--split", split, "--features", "tokens", "--classifiers", "lda")
        run_here("baselines.py", *flags, "--adapt", "session", "--out", tmp_path / name)
        with np.load(tmp_path / name / "lda-tokens" / "predictions.npz") as arrays:
            actual.append(arrays["probabilities"])
    np.testing.assert_array_equal(*actual)
