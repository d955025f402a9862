"""Adapting to a session without labels: what it looks at, what it leaves alone, what it writes."""

import copy
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import small_shards
import torch
from scipy.stats import entropy, multivariate_normal

import adapt as adapt_script
from adapt import arguments, check
from semg.common.errors import UsageError
from semg.data import windows
from semg.data.rings import turned_by
from semg.data.shards import WindowSet, open_shards
from semg.evaluation.scored_windows import ScoredWindows
from semg.inference import batch
from semg.inference.batch import Signal
from semg.inference.checkpoint import open_checkpoint, write_checkpoint
from semg.inference.trained_model import TrainedModel
from semg.training import adaptation, calibration
from semg.training.adaptation import Adaptation, adapt, class_prior, divergence, doubt_of_adapted
from semg.training.adapted_scores import score_adapted
from semg.training.forward_backward import smoothed
from semg.training.optimization import OptimizerConfig

ANYTHING = Adaptation(
    least_agreement=0,
    least_agreement_of_starts=0,
    most_divergence=1e9,
    most_divergence_smoothed=1e9,
    most_divergence_adapted=1e9,
    least_seconds=0,
    epochs=1,
    iterations=5,
)
TINY = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 1 --batch-size 40 --device cpu".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run_here):
    """A folder with shards of three people (the last has two recordings), a split, and a model of the first."""
    folder = tmp_path_factory.mktemp("adapted")
    records = [small_shards.write(folder / "shards", subject) for subject in (3, 4, 5)]
    records.append(small_shards.write(folder / "shards", 5, "repeats_short"))
    split = folder / "split"
    run_here(
        *("create_dataset_files.py", "--shards", folder / "shards", "--out", split),
        *("--test-subjects", "05", "--val-subjects", "04"),
    )
    out = ("--shards", folder / "shards", "--split", split, "--out", folder / "run")
    run_here("train.py", *out, *TINY, "--quiet")
    return folder


@pytest.fixture(scope="module")
def model(trained):
    return TrainedModel.open(trained / "run" / "best_model.ckpt", "cpu")


@pytest.fixture(scope="module")
def session(trained):
    """The test person's two recordings."""
    names = json.loads((trained / "split" / "split.json").read_text())
    assert names
    records = (trained / "split" / "test.txt").read_text().split()
    return open_shards(trained / "shards", records)


def signals(model, shards):
    own = model.session_of(*(np.array(shard.signal) for shard in shards))
    return [Signal(np.array(shard.signal), own) for shard in shards]


# --- the hidden Markov model ---------------------------------------------------------------------------------------


def test_gestures_that_last_are_told_apart_though_the_model_is_wrong_of_one():
    """Four classes held for 20 windows each; the model takes half of class 3's windows for class 2."""
    rng = np.random.default_rng(0)
    label = np.tile(np.repeat(np.arange(4), 20), 5)
    features = 4 * rng.normal(size=(4, 6))[label] + rng.normal(size=(len(label), 6))
    said = np.where((label == 3) & (rng.random(len(label)) < 0.5), 2, label)
    probability = np.full((len(label), 4), 0.1)
    probability[np.arange(len(label)), said] = 0.7
    prior = np.full(4, 0.25)
    posterior = adaptation.explained(probability, features, np.zeros(len(label), int), prior, 0.95, Adaptation())
    assert np.mean(said == label) < 0.9
    assert np.mean(posterior.argmax(1) == label) > 0.98


def explained_by_definition(probability, features, recording, prior, stay, how):
    """As the module describes it, window by window, with SciPy's Gaussian densities."""
    (n, classes), dimensions = probability.shape, features.shape[1]
    own = np.log(probability / prior + adaptation.FLOOR)
    posterior, weight = smoothed(np.exp(own / 2), recording, prior, stay), np.ones(classes)
    for i in range(how.iterations):
        means, within = [], np.zeros((dimensions, dimensions))
        for k in range(classes):
            mean = sum(posterior[t, k] * features[t] for t in range(n)) / (posterior[:, k].sum() + how.kappa)
            within += sum(posterior[t, k] * np.outer(features[t] - mean, features[t] - mean) for t in range(n)) / n
            means.append(mean)
        round_ = np.eye(dimensions) * np.trace(within) / dimensions
        covariance = (1 - how.shrinkage) * within + how.shrinkage * round_
        heat = how.anneal + (1 - how.anneal) * i / (how.iterations - 1)
        of_features = np.stack([multivariate_normal(mean, covariance).logpdf(features) for mean in means], axis=1)
        likelihood = np.exp(heat * (how.temper * of_features + how.anchor * own))
        posterior = smoothed(likelihood * weight, recording, prior, stay)
        weight = weight * ((prior + 0.01) / (posterior.mean(0) + 0.01)) ** how.balance
    return posterior


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temper": 0.5, "anchor": 0.6, "balance": 0.7, "kappa": 9.0, "shrinkage": 0.4, "anneal": 0.5},
        {"temper": 0.1, "balance": 0.0, "kappa": 0.0, "shrinkage": 0.01, "iterations": 2},
    ],
)
def test_a_session_is_explained_as_described(changes):
    """Few windows, hardly apart: every setting changes the posteriors."""
    rng, prior = np.random.default_rng(0), np.array([0.5, 0.3, 0.2])
    label = np.repeat([0, 1, 0, 2, 1], 8)
    features = rng.normal(size=(3, 2))[label] + rng.normal(size=(40, 2))
    features -= features.mean(0)
    probability = rng.dirichlet(np.ones(3), 40) + 0.3 * np.eye(3)[label]
    session = probability / probability.sum(1, keepdims=True), features, np.repeat([0, 1], [25, 15]), prior, 0.8
    how = Adaptation(**{"iterations": 6} | changes)
    actual = adaptation.explained(*session, how)
    np.testing.assert_allclose(actual, explained_by_definition(*session, how), atol=1e-5)


def test_starts_end_alike_only_where_the_model_knows_the_names():
    """The safeguard's sign of names that could be swapped: clear gestures, a model that hardly knows which is which."""
    rng = np.random.default_rng(0)
    label = np.tile(np.repeat(np.arange(8), 20), 5)
    features = 4 * rng.normal(size=(8, 6))[label] + rng.normal(size=(len(label), 6))
    prior, recording = np.full(8, 1 / 8), np.zeros(len(label), int)

    def alike(probability):
        one, other = (
            adaptation.explained(probability, features, recording, prior, 0.95, Adaptation(), anneal=anneal)
            for anneal in (0.2, 0.1)
        )
        return np.mean(one.argmax(1) == other.argmax(1))

    assert alike(np.where(label[:, None] == np.arange(8), 0.65, 0.05)) > 0.98
    assert alike(rng.dirichlet(np.full(8, 100), len(label))) < 0.85


def test_a_refusal_shows_a_number_beyond_the_limit_that_it_names():
    """It said `0.015 nats, more than 0.015`."""
    assert "is 0.01547 nats" in doubt_of_adapted(0.01547, Adaptation())


@pytest.mark.parametrize(("windows", "features"), [(80, 20), (80, 5), (50, 60), (7, 60)])
def test_components_are_the_principal_ones_however_few_windows_there_are(windows, features):
    table = np.random.default_rng(0).normal(3, np.linspace(1, 5, features), (windows, features))
    components = adaptation._principal_components(table, 12)
    assert components.shape == (windows, min(12, features))
    left, size, _ = np.linalg.svd(table - table.mean(0), full_matrices=False)
    best = (left * size)[:, : components.shape[1]]
    np.testing.assert_allclose(components @ components.T, best @ best.T, atol=1e-9)


def test_divergence_is_nought_for_the_prior_alone():
    prior = np.array([0.5, 0.3, 0.2])
    assert divergence(prior, prior) == pytest.approx(0, abs=1e-5)
    shares = np.array([0.1, 0.8, 0.1])
    assert divergence(shares, prior) == pytest.approx(entropy(shares, prior), abs=1e-4)


# --- a session -----------------------------------------------------------------------------------------------------


def test_the_checkpoint_knows_how_often_each_class_was_trained_on(trained, model):
    (shard,) = open_shards(trained / "shards", (trained / "split" / "train.txt").read_text().split())
    counts = np.bincount(shard.windows["label"], minlength=len(shard.classes))
    assert model.description["class_windows"] == counts.tolist()
    np.testing.assert_allclose(class_prior(model), (counts + 1) / (counts + 1).sum())


def test_a_class_without_a_window_in_training_has_a_small_share(model):
    rare = copy.copy(model)
    rare.description = {**model.description, "class_windows": [0, 9, 29, 1]}
    np.testing.assert_allclose(class_prior(rare), np.array([1, 10, 30, 2]) / 43)


def test_windows_to_adapt_to_are_as_far_apart_in_seconds_as_in_samples(model, session, monkeypatch):
    """How long a gesture lasts is counted in them."""
    stride = small_shards.STRIDE / small_shards.RATE
    tokens, recording, spacing = adaptation._session_tokens(model, signals(model, session))
    assert spacing == pytest.approx(stride)
    monkeypatch.setattr(windows, "SESSION_WINDOWS", 1 + len(tokens) // 3)
    fewer, of_fewer, spacing = adaptation._session_tokens(model, signals(model, session))
    assert spacing == pytest.approx(3 * stride)
    every_third = np.concatenate([np.flatnonzero(recording == one)[::3] for one in (0, 1)])
    torch.testing.assert_close(fewer, tokens[every_third])
    np.testing.assert_array_equal(of_fewer, recording[every_third])


def test_each_round_learns_posteriors_of_what_the_one_before_has_learnt(model, session):
    tokens, *_ = adaptation._session_tokens(model, signals(model, session))
    before, asked = batch.decided(model.network, tokens).numpy(), []

    def explain(probability):  # as if all of it were the first gesture
        asked.append(probability)
        return np.eye(4)[np.zeros(len(probability), int)]

    layout = adaptation._layout(model, ())
    how = replace(ANYTHING, rounds=2, epochs=3, optimizer=OptimizerConfig(lr=0.01))
    learnt = adaptation._learnt(copy.deepcopy(model.network), layout, tokens, np.roll(before, 1, 1), explain, how)
    (after_one,) = asked
    assert np.abs(after_one - before).max() > 1e-3
    after_two = batch.decided(learnt, tokens).numpy()
    assert after_two[:, 0].mean() > after_one[:, 0].mean() + 0.01


@pytest.mark.parametrize("script", ["evaluate.py", "calibrate.py", "adapt.py", "predict.py"])
def test_shares_that_a_checkpoint_does_not_say_are_said_to_be_assumed(trained, tmp_path, run_here, model, script):
    """An older one lacks them."""
    known = open_checkpoint(trained / "run" / "best_model.ckpt")
    older, table = tmp_path / "older.ckpt", table_of(tmp_path / "a.csv", ONCE)
    lacking = {key: value for key, value in known.description.items() if key != "class_windows"}
    write_checkpoint(older, lacking, known.tensors)
    words = {
        "adapt.py": (older, table, "--rate", model.rate),
        "predict.py": (table, "--checkpoint", older, "--rate", model.rate, "--adapt"),
        "calibrate.py": ("--checkpoint", older, "--adapt", "session", "--epochs", 1),
    }.get(script, ("--checkpoint", older, "--adapt", "session"))
    out = tmp_path / ("out.ckpt" if script == "adapt.py" else "out")
    assert f"{older}: does not say how often each gesture" in run_here(script, *words, "--out", out).stderr


def test_labels_are_not_looked_at(model, session):
    """Permuted labels change nothing but the score: the same probabilities for the same windows."""
    rng = np.random.default_rng(1)

    def shuffled(shard):
        windows = shard.windows.copy()
        windows["label"] = rng.permutation(windows["label"])
        return replace(shard, windows=windows)

    as_it_is = score_adapted(model, session, "session", ANYTHING)
    permuted = score_adapted(model, [shuffled(shard) for shard in session], "session", ANYTHING)
    assert as_it_is.accepted == 1
    assert np.array_equal(as_it_is.adapted.probabilities, permuted.adapted.probabilities)
    assert not np.array_equal(as_it_is.adapted.probabilities, as_it_is.unadapted)
    assert not np.array_equal(as_it_is.adapted.windows.label, permuted.adapted.windows.label)


def test_the_model_given_is_left_as_it_was_and_the_same_seed_gives_the_same(model, session):
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    first, again = (adapt(model, signals(model, session), ANYTHING).model.network for _ in range(2))
    other = adapt(model, signals(model, session), replace(ANYTHING, seed=1)).model.network
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert not all(torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items())
    assert torch.equal(first.head.weight, model.network.head.weight)
    assert not first.training


def test_a_session_is_learnt_and_decided_in_the_precision_asked_for(model, session):
    exact, rounded = (adapt(model, signals(model, session), replace(ANYTHING, amp=amp)) for amp in ("fp32", "bf16"))
    assert rounded.accepted
    assert rounded.divergence != exact.divergence
    assert rounded.divergence == pytest.approx(exact.divergence, abs=0.02)
    one, other = (result.model.network.embed.weight for result in (exact, rounded))
    assert not torch.equal(one, other)
    assert torch.allclose(one, other, atol=0.01)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"least_seconds": 1e6}, "s of signal, less than 1e+06 s"),
        ({"most_divergence": -1}, "nats from the training people's shares of gestures"),
        ({"most_divergence_smoothed": -1}, "the mean prediction, smoothed, is"),
        ({"least_agreement": 1.1}, "of the decisions would stay"),
        ({"least_agreement_of_starts": 1.1}, "of the windows are explained alike, less than 110%"),
        ({"most_divergence_adapted": -1}, "the adapted model's mean prediction is"),
    ],
)
def test_the_safeguard_keeps_the_model_as_it_was_and_says_why(model, session, limit, reason):
    result = adapt(model, signals(model, session), replace(ANYTHING, **limit))
    assert not result.accepted
    assert reason in result.reason
    assert result.model is model


def test_a_checkpoint_keeps_the_rings_that_it_was_trained_on(model):
    assert model.rings == tuple(map(tuple, small_shards.RINGS))


def test_a_turned_session_adapts_as_it_would_have_unturned(model, session, monkeypatch):
    """Normalisation, whitening, choice of the turn and learning, all of it: the turned-back session is the same one."""
    how, decided = replace(ANYTHING, augmentation=adaptation.Augmentation.parse(["none"])), []
    scored: list[dict[int, float]] = []

    def scored_and_taken(taken):
        def choose(candidates, score, _evidence):
            scored.append({one: score(one) for one in candidates})
            return taken

        return choose

    for places in (0, 1):
        origin = turned_by(small_shards.RINGS, 24, places)
        samples = [np.array(shard.signal)[:, origin] for shard in session]
        monkeypatch.setattr(adaptation, "best_turn", scored_and_taken(-places))
        given = model.session_of(*samples)
        adapted = adaptation.adapt(model, [Signal(one, given) for one in samples], how)
        assert adapted.accepted and adapted.turn == -places
        assert adapted.to_dict()["turn"] == -places
        assert adapted.computing > 0
        tokens, *_ = adaptation._session_tokens(model, [Signal(one, given) for one in samples])
        decided.append(batch.decided(adapted.model.network, tokens).numpy())
    np.testing.assert_allclose(decided[1], decided[0], atol=2e-3)
    plain, turned = scored
    assert len({round(value, 3) for value in plain.values()}) > 1, "turns that differ in nothing show nothing"
    for places in (-1, 0, 1, 2):
        assert turned[places - 1] == pytest.approx(plain[places], abs=1e-3)


def test_there_is_evidence_for_a_turn_where_posteriors_contradict_it_less_and_are_hardly_less_sure():
    how = Adaptation(turn_agreement=0.1, turn_uncertainty=0.2)
    chain = adaptation.SessionModel(np.eye(10), np.zeros(10, int), 0.1, np.array([0.5, 0.5]), how)
    sure, unsure, lost = (np.where(np.arange(10)[:, None] < 5, [p, 1 - p], [1 - p, p]) for p in (0.95, 0.9, 0.6))
    two_other = np.where(np.isin(np.arange(10), [4, 5])[:, None], sure[:, ::-1], sure)
    alike, contradicted = adaptation.Explained(sure, sure), adaptation.Explained(two_other, sure)
    assert chain.evidence(alike, contradicted) == pytest.approx(0.2), "as sure, and contradicted in two windows less"
    assert chain.evidence(alike, alike) == 0, "contradicted as often"
    assert chain.evidence(contradicted, alike) == 0, "contradicted more often"
    hardly, less_sure = adaptation.Explained(unsure, unsure), adaptation.Explained(lost, lost)
    assert chain.evidence(hardly, contradicted) == pytest.approx(0.2), "hardly less sure"
    assert chain.evidence(less_sure, contradicted) == 0, "less sure"
    assert chain.evidence(alike, adaptation.Explained(two_other, lost)) == pytest.approx(0.2), "surer"


def session_of(rng, gestures):
    """(n,) classes of 8 that are held for 20 windows each in that order, three times, and a session of them."""
    label = np.tile(np.repeat(gestures, 20), 3)
    features = 4 * rng.normal(size=(8, 8))[label] + rng.normal(size=(len(label), 8))
    how = Adaptation(iterations=10)
    return label, adaptation.SessionModel(features, np.zeros(len(label), int), 0.125, np.full(8, 1 / 8), how)


def said(names, sure):
    """(n, 8) probabilities that name these, each as sure."""
    return np.where(names[:, None] == np.arange(8), sure, (1 - sure) / 7)


@pytest.mark.parametrize(
    ("gestures", "named", "taken"),
    [([0, 1, 2, 3, 4, 5, 6, 7], 0.75, 1), ([0, 0, 0, 0, 1, 0, 0, 2, 0], 0.5, 0)],
    ids=["all", "few"],
)
def test_a_turn_that_looks_right_is_refused_where_a_session_holds_few_gestures(gestures, named, taken):
    """The turned model names a share of the windows rightly and the others at random, so it names each gesture about as
    often as the training people made it, though one may be nearly all that was made."""
    rng = np.random.default_rng(0)
    label, chain = session_of(rng, gestures)
    anything = rng.integers(0, 8, len(label))
    models = {k: said(np.where(rng.random(len(label)) < 0.4, label + k, anything) % 8, 0.6) for k in (0, -1, -2, 2)}
    models[1] = said(np.where(rng.random(len(label)) < named, label, anything), 0.8)
    turn = chain.turn([range(8)], lambda places, every: models[places][::every])
    turned, own = (adaptation.Explained(models[k], chain.posterior(models[k])) for k in (1, 0))
    assert chain.evidence(turned, own) > 0, "by the other signs the turn is right"
    assert turn.places == taken
    assert ("although a turn by +1 fits the model better: gestures are not clear" in turn.refused) == (not taken)


def test_a_turn_that_is_not_safe_leaves_the_rings_as_they_are(model, session, monkeypatch):
    samples = [np.array(shard.signal) for shard in session]
    given = model.session_of(*samples)
    signals = [Signal(one, given) for one in samples]
    plain = adaptation.adapt(model, signals, ANYTHING, ())
    assert plain.turn == 0
    monkeypatch.setattr(adaptation, "best_turn", lambda *_: 1)
    attempt, tried = adaptation._adapted, []

    def refused_if_turned(*words):
        tried.append(copy.copy(words[1]))
        result = attempt(*words)
        return replace(result, model=words[0], reason="no") if len(tried) == 1 else result

    monkeypatch.setattr(adaptation, "_adapted", refused_if_turned)
    result = adaptation.adapt(model, signals, ANYTHING)
    assert len(tried) == 2 and result.accepted and result.turn == 0
    assert result.turn_refused == "not turned, although a turn by +1 fits the model better: no"
    assert result.to_dict()["turn_refused"] == result.turn_refused
    state = result.model.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.model.network.state_dict().items())


def test_signals_too_short_to_adapt_to_are_not_turned(model, session, monkeypatch):
    monkeypatch.setattr(adaptation, "best_turn", lambda *_: pytest.fail("looked for a turn"))
    samples = [np.array(shard.signal) for shard in session]
    signals = [Signal(one, model.session_of(*samples)) for one in samples]
    assert not adaptation.adapt(model, signals, replace(ANYTHING, least_seconds=1e6)).accepted


def test_a_model_of_some_gestures_adapts_by_their_shares_and_scores_their_windows(model, session):
    some = model.restricted(["extension", "fist"])
    counts = dict(zip(model.classes, model.description["class_windows"], strict=True))
    kept = np.array([counts["extension"], counts["fist"]]) + 1
    np.testing.assert_allclose(class_prior(some), kept / kept.sum())
    result = score_adapted(some, some.own_windows(session), "session", ANYTHING)
    assert result.accepted == 1
    assert result.adapted.windows.shards[0].classes == ("extension", "fist")
    assert result.adapted.probabilities.shape == (len(result.adapted.windows), 2)
    whole = score_adapted(model, session, "session", ANYTHING)
    places = np.isin(whole.adapted.windows.label, [1, 3])
    chosen = whole.unadapted[places][:, [3, 1]]
    np.testing.assert_allclose(result.unadapted, chosen / chosen.sum(1, keepdims=True), rtol=1e-4)
    assert model.classes == tuple(small_shards.CLASSES), "the model given is as it was"


def test_on_the_first_recording_the_later_ones_are_scored(model, session):
    result = score_adapted(model, session, "first", ANYTHING)
    assert set(result.adapted.windows.record) == {session[1].record}
    assert result.sessions[0]["seconds"] == pytest.approx(len(session[0].signal) / model.rate)


# --- the scripts ---------------------------------------------------------------------------------------------------


def test_evaluate_has_the_same_of_the_model_as_it_was(trained, run_here):
    common = ("evaluate.py", "--checkpoint", trained / "run" / "best_model.ckpt", "--device", "cpu", "--quiet")
    run_here(*common, "--out", trained / "plain")
    run_here(*common, "--out", trained / "adapted", "--adapt", "session")
    plain, adapted = (json.loads((trained / name / "metrics.json").read_text()) for name in ("plain", "adapted"))
    unadapted = adapted["unadapted"]
    assert set(unadapted) <= set(plain)
    assert unadapted["confusion"] == plain["confusion"]
    assert adapted["adaptation"]["mode"] == "session"
    (one,) = adapted["adaptation"]["sessions"]
    assert one["subject"] == "05"
    assert one["accepted"] == (not one["reason"])
    assert one["seconds"] > 0 and one["computing"] > 0


def test_evaluate_adapts_a_model_of_some_gestures(trained, run_here, model, tmp_path):
    words = ("--checkpoint", trained / "run" / "best_model.ckpt", "--device", "cpu", "--out", tmp_path / "r")
    done = run_here("evaluate.py", *words, "--adapt", "session", "--no-idle", "--amp", "bf16")
    output = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert output["classes"] == list(model.classes[1:])
    assert output["unadapted"]["classes"] == output["classes"]
    assert "windows of idle are left out" in done.stdout
    assert output["adaptation"]["settings"]["amp"] == "bf16"


def test_first_of_sessions_of_one_recording_is_an_error(trained, run_here):
    words = ("--checkpoint", trained / "run" / "best_model.ckpt", "--subset", "val", "--out", trained / "none")
    done = run_here("evaluate.py", *words, "--adapt", "first", "--device", "cpu", code=1)
    expected = "expected labelled windows to score after a session's first recording, found none in 1 session"
    assert expected in done.stderr
    assert not (trained / "none").exists()


def test_a_result_names_the_recordings_that_were_adapted_to_and_not_scored(trained, run_here, session, tmp_path):
    """Of --adapt first it named the scored ones alone; `sweep.py` took each such result for one of other data."""
    expected = {shard.record: shard.content for shard in session}
    data = ("--shards", trained / "shards", "--split", trained / "split")
    network = (*data, "--checkpoint", trained / "run" / "best_model.ckpt", "--device", "cpu", "--out", tmp_path / "e")
    rival = (*data, "--features", "rms", "--classifiers", "lda", "--out", tmp_path / "b")
    run_here("evaluate.py", *network, "--adapt", "first", "--quiet")
    run_here("baselines.py", *rival, "--adapt", "first", "--quiet")
    run_here("calibrate.py", *network[:-1], tmp_path / "c", "--repetitions", 1, "--epochs", 1, "--adapt", "first")
    for path in (tmp_path / name / "metrics.json" for name in ("e", "c", "b/lda-rms")):
        assert json.loads(path.read_text())["data"]["checksums"] == expected


def test_a_result_names_the_recordings_without_windows_too(session):
    """Their signal is in the session's statistics."""
    empty = replace(session[1], windows=session[1].windows[:0])
    scored = ScoredWindows.of(WindowSet([session[0], empty]))
    assert set(scored.data["checksums"]) == {shard.record for shard in session}


def test_online_and_adapt_do_not_go_together(trained, run_here):
    words = ("--checkpoint", trained / "run" / "best_model.ckpt", "--adapt", "session", "--normalize", "online")
    assert "--adapt session: expected --normalize trained" in run_here("evaluate.py", *words, code=2).stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seed", 1], "--seed: expected --adapt with it; without it nothing is drawn"),
        (["--adapt", "none", "--seed", 1], "--seed: expected --adapt with it"),
        (["--adapt", "session", "--workers", 2], "--workers: expected without --adapt session"),
        (["--normalize", "online", "--workers", 2], "--workers: expected without --normalize online"),
    ],
)
def test_flags_that_would_change_nothing_are_refused(trained, run_here, flags, told):
    words = ("--checkpoint", trained / "run" / "best_model.ckpt", *flags)
    assert told in run_here("evaluate.py", *words, code=2).stderr


@pytest.mark.parametrize("of", ["run.ckpt", "one.hdf5", "two.hdf5"])
def test_adapt_never_replaces_what_it_reads(tmp_path, of):
    """Not with --overwrite either: a recording may be the only copy."""
    inputs = [tmp_path / name for name in ("run.ckpt", "one.hdf5", "two.hdf5")]
    for path in inputs:
        path.touch()
    words = [*map(str, inputs), "--out", str(tmp_path / ".." / tmp_path.name / of), "--overwrite"]
    with pytest.raises(UsageError, match="expected another place, found that of"):
        check(arguments().parse_args(words))


def test_adapt_refuses_facts_of_tables_where_there_is_no_table():
    words = ["run.ckpt", "one.hdf5", "--out", "own.ckpt"]
    with pytest.raises(UsageError, match=r"--rate: expected a table .* found one\.hdf5; leave it out"):
        check(arguments().parse_args([*words, "--rate", "2000"]))


def test_adapt_refuses_a_recording_that_is_there_twice():
    with pytest.raises(UsageError, match=r"one\.hdf5: expected each recording once, found it twice"):
        check(arguments().parse_args(["run.ckpt", "one.hdf5", "two.hdf5", "one.hdf5", "--out", "own.ckpt"]))


def test_tables_of_one_session_have_one_unit(trained, tmp_path, run_here, model):
    """Each by itself would be brought to the usual strength, and rest be as strong as a fist."""

    def write(rest):
        for name, strength in (("rest", rest), ("fist", 0.2)):
            noise = np.random.default_rng(0).normal(0, strength, (int(20 * model.rate), len(model.channels)))
            np.save(tmp_path / f"{name}.npy", noise)

    out = tmp_path / "own.ckpt"
    words = ("adapt.py", trained / "run" / "best_model.ckpt", tmp_path / "rest.npy", tmp_path / "fist.npy")
    words += ("--rate", model.rate, "--out", out)
    write(rest=1e-5)
    errors = run_here(*words, code=1).stderr
    assert "rest.npy: expected an RMS near the others'" in errors
    assert "it is in another unit; if all are in one unit, --unit says which" in errors
    assert not out.exists()
    write(rest=4e-3)
    assert "is of another unit: multiplied by 1000" in run_here(*words).stderr
    found = open_checkpoint(out)
    run_here(*words, "--overwrite", "--unit", "mV")
    said = open_checkpoint(out)
    assert all(torch.equal(found.tensors[name], said.tensors[name]) for name in found.tensors)


def test_what_is_said_of_many_tables_of_a_session_is_counted(trained, tmp_path, run_here, model):
    for name in "abcde":
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(0, 9, (2000, len(model.channels))))
    paths = sorted(tmp_path.glob("*.npy"))
    words = ("adapt.py", trained / "run" / "best_model.ckpt", *paths, "--rate", model.rate / 2, "--unit", "uV")
    lines = run_here(*words, "--out", tmp_path / "own.ckpt").stderr.splitlines()
    said = [line for line in lines if "resampled" in line]
    assert [line.partition(": resampled")[0] for line in said[:3]] == [f"warning: {path}" for path in paths[:3]]
    assert len(said) == 4 and said[3].startswith("warning: 2 more recordings: resampled from")


def test_adapt_keeps_a_model_that_every_script_takes(trained, tmp_path, run_script, run_here, model):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "session.npy", 50 * rng.normal(size=(int(40 * model.rate), len(model.channels))))
    out, recording = tmp_path / "person.ckpt", tmp_path / "session.npy"
    words = ("adapt.py", trained / "run" / "best_model.ckpt", recording, "--rate", model.rate, "--out", out)
    words += ("--classes", "fist", "flexion", "idle")
    done = run_script(*words)
    kept = TrainedModel.open(out, "cpu")
    assert (kept.classes, kept.classes_left_out) == (("fist", "flexion", "idle"), ("extension",))
    assert f"{out}: " in done.stdout
    output = open_checkpoint(out).description["adapted"]
    assert output["recordings"] == ["session.npy"]
    assert output["accepted"] or "was not adapted" in done.stderr  # noise: whichever way the safeguard sees it
    predicted = ("predict.py", recording, "--rate", model.rate, "--checkpoint", out, "--out", tmp_path / "predicted")
    run_here(*predicted)
    run_here(*predicted[:-1], tmp_path / "again", "--adapt")
    assert (tmp_path / "predicted" / "session.csv").exists()
    assert "expected no file there, found one; --overwrite replaces it" in run_here(*words, code=1).stderr


def test_a_model_that_is_adapted_again_still_tells_of_the_first_time(trained, tmp_path, run_here, model):
    np.save(tmp_path / "short.npy", np.random.default_rng(0).normal(size=(int(model.rate), len(model.channels))))
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    for old, new in ((trained / "run" / "best_model.ckpt", first), (first, second)):
        run_here("adapt.py", old, tmp_path / "short.npy", "--rate", model.rate, "--out", new)
    told = [open_checkpoint(path).description["adapted"] for path in (first, second)]
    assert "earlier" not in told[0]
    assert told[1]["earlier"] == told[0]


# --- adapt.py --repetitions --------------------------------------------------------------------------------------

ONCE = small_shards.labels(1).astype(int)  # each gesture once
NO_LABEL = np.full_like(ONCE, -1)


def table_of(path, told, column="TRAJ_GT", **others):
    """A recording in which each gesture is made once, as a CSV. told: the labels in it, which may be others; others:
    other columns."""
    loud = 20 + 60 * (np.arange(24)[None] % len(small_shards.CLASSES) == ONCE[:, None])
    signal = np.random.default_rng(5).normal(size=(len(ONCE), 24)) * loud
    table = pd.DataFrame(signal.round(2), columns=[f"EMG_{one}" for one in range(1, 25)])
    table.assign(**{column: np.array([*small_shards.CLASSES, "fistt", ""])[told]}, **others).to_csv(path, index=False)
    return path


@pytest.fixture
def person(trained, tmp_path, run_here, model, monkeypatch):
    """Run adapt.py on tables: `person("name", labels of each, flags=[...])` gives what it said and the model kept."""
    monkeypatch.setattr(adapt_script, "Adaptation", lambda **given: replace(ANYTHING, **given))

    def go(name, *told, flags=("--repetitions", 1), code=0, **of_table):
        tables = [table_of(tmp_path / f"{name}{place}.csv", labels, **of_table) for place, labels in enumerate(told)]
        out = tmp_path / f"{name}.ckpt"
        words = ("adapt.py", trained / "run" / "best_model.ckpt", *tables, "--rate", model.rate, "--out", out)
        done = run_here(*words, *flags, "--threads", 1, code=code)
        return done, None if code else TrainedModel.open(out, "cpu")

    return go


def weights(model):
    return torch.cat([value.flatten() for value in model.network.state_dict().values()])


def test_first_repetitions_calibrate_the_model_before_it_adapts(person, model):
    _, unlabelled = person("unlabelled", ONCE, ONCE, flags=())
    said, kept = person("kept", ONCE, ONCE)
    _, later_unknown = person("later", ONCE, NO_LABEL)
    _, usual_column = person("usual", ONCE, ONCE, column="label")
    _, later_wrong = person("wrong", ONCE, (ONCE + 1) % 4)
    _, first_wrong = person("first", (ONCE + 1) % 4, ONCE)
    assert "calibrating with 1 repetition of each gesture" in said.stdout
    assert "kept.ckpt: calibrated, and adapted to" in said.stdout
    output = open_checkpoint(kept.path).description["adapted"]
    assert (output["calibration"]["repetitions"], output["accepted"]) == (1, True)
    for same in (later_unknown, usual_column, later_wrong):
        assert torch.equal(weights(same), weights(kept)), "labels of later repetitions are not looked at"
    for other in (unlabelled, first_wrong, model):
        assert not torch.equal(weights(other), weights(kept))


def test_repetitions_count_over_recordings_in_the_order_given(person):
    """Those too short for a window do not count."""
    _, spread = person("spread", np.where(ONCE < 2, ONCE, -1), np.where(ONCE < 2, -1, ONCE))
    _, whole = person("whole", ONCE, ONCE)
    assert torch.equal(weights(spread), weights(whole)), "the recordings' signals are the same"
    made = np.zeros(3, int)
    first = calibration._counted_on(made, np.array([0, 0, 1]), np.array([0, 2, 0]))
    second = calibration._counted_on(made, np.array([0, 0, 1]), np.array([1, 1, 4]))
    assert (first.tolist(), second.tolist(), made.tolist()) == ([0, 1, 0], [2, 2, 1], [3, 2, 0])


def test_trials_right_after_each_other_are_repetitions_of_their_own(person):
    """As for import_csv.py; they were one repetition, so more labels were used than --repetitions says."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ONCE)) + 1])
    own = np.searchsorted(starts, np.arange(len(ONCE)), side="right") - 1
    place = np.arange(len(ONCE)) - starts[own]
    later = place >= np.bincount(own)[own] // 2
    _, trials = person("trials", ONCE, trial=1 + 2 * own + later)
    _, first = person("first", np.where(later, -1, ONCE))
    assert torch.equal(weights(trials), weights(first))


def test_what_cannot_be_calibrated_on_is_said(person):
    errors = person("none", ONCE, column="pose", code=1)[0].stderr
    assert "expected labels to calibrate on, in the column 'TRAJ_GT' or 'label', found none; " in errors
    assert "join files of one gesture each to a table with that column, or leave out --repetitions" in errors
    lacking = person("lacking", np.where(ONCE == 2, -2, ONCE), code=1)[0].stderr
    assert "every gesture of the model to calibrate on, found none of flexion; record each gesture" in lacking
    assert "windows of fistt are not used" in lacking, "perhaps that one is misspelt"
    some = ("--repetitions", 1, "--classes", "idle", "fist", "extension")
    assert person("some", np.where(ONCE == 2, -1, ONCE), flags=some)[1].classes == ("idle", "fist", "extension")


def test_whoever_scores_a_calibrated_model_is_told_whose_labels_it_has_seen(tmp_path, run_here, person):
    _, kept = person("seen", ONCE)
    again = tmp_path / "again.ckpt"
    table = table_of(tmp_path / "later.csv", np.where(ONCE == 2, -1, ONCE))
    run_here("adapt.py", kept.path, table, "--rate", 5120, "--out", again)
    told = "THE MODEL WAS CALIBRATED ON LABELS OF seen0.csv"
    for checkpoint in (kept.path, again):  # adapted once more without labels, it has still seen them
        for script in ("evaluate.py", "calibrate.py"):
            out = ("--out", tmp_path / script, *(("--epochs", 1) if script == "calibrate.py" else ()))
            assert told in run_here(script, "--checkpoint", checkpoint, *out).stderr
            assert json.loads((tmp_path / script / "metrics.json").read_text())["calibrated_on"] == ["seen0.csv"]
    predict = ("--rate", 5120, "--checkpoint", kept.path, "--out", tmp_path / "predicted")
    flattered = "seen0.csv: the model was calibrated on labels of this recording"
    assert flattered in run_here("predict.py", tmp_path / "seen0.csv", *predict).stderr
    assert "calibrated on" not in run_here("predict.py", table, *predict).stderr
    (tmp_path / "other").mkdir()
    another = table_of(tmp_path / "other" / "seen0.csv", (ONCE + 1) % 4)
    assert "calibrated on" not in run_here("predict.py", another, *predict).stderr, "people's files have the same names"
    moved = (tmp_path / "seen0.csv").rename(tmp_path / "moved.csv")
    assert flattered.replace("seen0", "moved") in run_here("predict.py", moved, *predict).stderr
    predict = ("--rate", 5120, "--checkpoint", again, "--out", tmp_path / "predicted")
    assert flattered.replace("seen0", "moved") in run_here("predict.py", moved, *predict).stderr


@pytest.mark.parametrize("accepted", [True, False])
def test_whoever_scores_an_adapted_model_is_told_to_whose_signals(trained, tmp_path, run_here, accepted):
    """Its scores stood beside those of a model as it was trained, without a word."""
    best, own = open_checkpoint(trained / "run" / "best_model.ckpt"), tmp_path / "own.ckpt"
    earlier = {"recordings": ["his.csv"], "accepted": True}
    adapted = {"recordings": ["hers.csv"], "accepted": accepted, "earlier": earlier}
    write_checkpoint(own, {**best.description, "adapted": adapted}, best.tensors)
    files = ["hers.csv", "his.csv"] if accepted else ["his.csv"]
    done = run_here("evaluate.py", "--checkpoint", own, "--out", tmp_path / "out")
    told = f"THE MODEL WAS ADAPTED TO SIGNALS OF {', '.join(files)}. It is not new to that person."
    assert told in done.stderr
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["adapted_to"] == files
    plain = run_here("evaluate.py", "--checkpoint", best.path, "--out", tmp_path / "plain")
    assert "ADAPTED" not in plain.stderr
    assert "adapted_to" not in json.loads((tmp_path / "plain" / "metrics.json").read_text())


def test_calibration_has_its_own_epochs_and_rate(person):
    """When it diverged, no flag could be lowered."""
    flags = ("--repetitions", 1, "--epochs", 2, "--lr", 0.01)
    kept = open_checkpoint(person("shorter", ONCE, flags=flags)[1].path).description["adapted"]["calibration"]
    assert (kept["epochs"], kept["optimizer"]["lr"]) == (2, 0.01)
    errors = person("diverged", ONCE, flags=("--repetitions", 1, "--lr", 1e15), code=1)[0].stderr
    assert re.search(r"step \d+: expected .* gradient.*, found .*; try a smaller --lr than 1e\+15\n", errors)
    for flag in ("--epochs", "--lr"):
        errors = person("unlabelled", ONCE, flags=(flag, 2), code=2)[0].stderr
        assert f"{flag}: expected --repetitions with it" in errors


def test_a_model_of_another_tune_is_kept_as_what_it_became(trained, tmp_path, run_here, model):
    """Calibration trains the whole backbone, so LoRA's matrices are merged, and the checkpoint must say so."""
    data = ("--shards", trained / "shards", "--split", trained / "split")
    run_here("train.py", *data, "--out", tmp_path / "lora", *TINY, "--tune", "lora", "--quiet")
    table, out = table_of(tmp_path / "once.csv", ONCE), tmp_path / "person.ckpt"
    words = ("adapt.py", tmp_path / "lora" / "best_model.ckpt", table, "--rate", model.rate, "--out", out)
    run_here(*words, "--repetitions", 1, "--threads", 1)
    assert TrainedModel.open(out, "cpu").network.config.tune == "full"


def test_the_calibrated_model_is_kept_if_the_session_is_too_short_to_adapt_to(person, monkeypatch, model):
    monkeypatch.setattr(adapt_script, "Adaptation", Adaptation)
    said, kept = person("short", ONCE)
    assert "short.ckpt: the calibrated model; next" in said.stdout
    assert "the model was not adapted: " in said.stderr
    assert not torch.equal(weights(kept), weights(model))
