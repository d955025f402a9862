"""semg/inference/prior.py: what a stream starts from."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import small_shards
import torch
from test_evaluate import trained  # noqa: F401  a fixture

from semg.data.normalization import moment_of, transform_from
from semg.data.shards import WindowSet, open_shards
from semg.data.splits import read_split
from semg.evaluation import metrics
from semg.inference.prior import HALVES, USUAL_HALF, Prior, best_half
from semg.inference.trained_model import TrainedModel


@pytest.fixture(scope="module")
def model(trained):  # noqa: F811
    return TrainedModel.open(trained / "run" / "best_model.ckpt", "cpu")


def test_training_keeps_what_its_sessions_have_in_common(model, trained):  # noqa: F811
    shards = open_shards(trained / "shards", read_split(trained / "split", trained / "shards").train)
    expected = Prior.of(shards, model.statistics(shards, model.transforms(shards)))
    np.testing.assert_allclose(model.prior.moment, expected.moment)
    assert model.prior.half == expected.half
    torch.testing.assert_close(model.prior.statistics, expected.statistics)
    powers = np.stack([np.diag(moment_of([shard])) for shard in shards])
    np.testing.assert_allclose(np.diag(model.prior.moment), np.exp(np.log(powers).mean(0)))


def test_each_training_session_counts_alike_in_the_prior(tmp_path):
    """However many recordings it has: correlations and spreads are averaged over sessions."""
    records = [
        small_shards.write(tmp_path, 3),
        small_shards.write(tmp_path, 3, "sequential"),
        small_shards.write(tmp_path, 4),
    ]
    shards = open_shards(tmp_path, records)
    one, two = torch.tensor([[1.0, -2.0], [3.0, 0.5]]), torch.tensor([[5.0, 0.0], [4.0, 1.5]])
    prior = Prior.of(shards, torch.stack([one, one, two]))
    torch.testing.assert_close(prior.statistics[0], torch.tensor([3.0, -1.0]))
    torch.testing.assert_close(prior.statistics[1], torch.tensor([(9 + 16) / 2, (0.25 + 2.25) / 2]).sqrt())
    moments = [moment_of(shards[:2]), moment_of(shards[2:])]
    root = np.sqrt(np.sqrt(np.diag(moments[0]) * np.diag(moments[1])))
    expected = np.mean([correlation(moment) for moment in moments], axis=0) * root[:, None] * root
    np.testing.assert_allclose(prior.moment, expected)


def correlation(moment):
    root = np.sqrt(np.diag(moment))
    return moment / root[:, None] / root


def test_a_session_begins_from_the_prior_and_forgets_it(model, trained):  # noqa: F811
    record = small_shards.write(trained / "long", 8, repetitions=40)
    shards = open_shards(trained / "long", [record])
    signal, length = np.array(shards[0].signal), model.window
    online = model.online()
    online.see(signal[:1])
    np.testing.assert_allclose(
        online.transform, transform_from(model.prior.moment, model.channel_normalization), rtol=0.05, atol=1e-4
    )
    online = model.online()
    for end in range(length, len(signal) + 1, length):
        online.see(signal[end - length : end])
        online.normalized(online.features(signal[end - length : end]))
        online.prepare()
    whole = model.session_of(signal)
    np.testing.assert_allclose(online.transform, whole.transform, atol=0.1 * np.abs(whole.transform).max())


def test_the_first_seconds_are_decided_better_than_without(model, trained):  # noqa: F811
    record = small_shards.write(trained / "first", 9, repetitions=1)
    windows = WindowSet(open_shards(trained / "first", [record]))
    scores = {}
    for name, prior in (("with", model.prior), ("without", None)):
        other = model.with_network(model.network)
        other.__dict__["prior"] = prior
        actual = other.decide_online(windows).argmax(1)
        scores[name] = metrics.macro_f1(metrics.confusion(windows.label, actual, len(model.classes)))
    assert scores["with"] > scores["without"]


@dataclass
class Recording:
    """What is asked of a shard."""

    signal: np.ndarray
    session: str
    order: int = 0
    window: int = 50


def recordings(loudness: float, gestures: float) -> list[Recording]:
    """Ten people's sessions of two recordings; people's and gestures' powers differ by such standard deviations of
    their logarithm. Four gestures of 100 windows follow one another, in each person's own order."""
    random, result = np.random.default_rng(0), []
    own = gestures * random.normal(size=(4, 8))
    for person in range(10):
        level = loudness * random.normal(size=8)
        for order, half in enumerate(np.split(random.permutation(4), 2)):
            root = np.exp((level + np.repeat(own[half], 5000, 0)) / 2)
            result.append(Recording((root * random.normal(size=root.shape)).astype(np.float16), f"{person}", order))
    return result


def test_the_prior_counts_for_long_where_people_are_alike_and_gestures_are_not():
    alike, apart = best_half(recordings(0.1, 1.5)), best_half(recordings(1.5, 0.1))
    assert alike > 200 > 25 > apart, "windows, of sessions of 400"
    assert {alike, apart} <= set(HALVES)
    assert best_half(recordings(0.1, 1.5)[:2]) == USUAL_HALF, "one session has no other to be guessed from"


def test_how_long_a_prior_counts_is_read_back_and_older_checkpoints_have_the_usual(model):
    tensors, shape = model.prior.tensors(), (24, model.network.frontend.n_features)
    assert Prior.from_tensors(tensors, *shape).half == model.prior.half
    older = {name: value for name, value in tensors.items() if name != "prior.half"}
    assert Prior.from_tensors(older, *shape).half == USUAL_HALF
    for wrong in (torch.zeros(1), torch.ones(2), torch.tensor([float("nan")])):
        with pytest.raises(ValueError, match="expected a prior that counts for"):
            Prior.from_tensors({**tensors, "prior.half": wrong}, *shape)


def test_a_stream_hears_longer_on_a_prior_that_counts_for_longer(model, trained):  # noqa: F811
    shards = open_shards(trained / "shards", read_split(trained / "split", trained / "shards").test)
    signal, apart = np.array(shards[0].signal), []
    for half in (2.0, 2000.0):
        other = model.with_network(model.network)
        other.__dict__["prior"] = replace(model.prior, half=half)
        online = other.online()
        online.see(signal[: 10 * model.window])
        usual = transform_from(model.prior.moment, model.channel_normalization)
        apart.append(np.abs(online.transform - usual).max() / np.abs(usual).max())
    assert apart[0] > 0.05 > 0.01 > apart[1]


def test_priors_of_another_shape_are_refused(model):
    tensors = model.prior.tensors()
    with pytest.raises(ValueError, match="expected a prior of 8 channels"):
        Prior.from_tensors(tensors, 8, model.network.frontend.n_features)
    assert Prior.from_tensors({}, 24, 5) is None


@pytest.mark.parametrize("place", [(0, 0), (0, 1)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -2.0])
def test_priors_that_no_signals_have_are_refused(value, place):
    """They ended in NumPy's own error when a stream was decided (found by make fuzz)."""
    moment, statistics = torch.eye(8, dtype=torch.float64), torch.ones(2, 4)
    assert Prior.from_tensors({"prior.moment": moment, "prior.statistics": statistics}, 8, 4) is not None
    moment[place] = moment[place[::-1]] = value
    with pytest.raises(ValueError, match="found numbers that none have"):
        Prior.from_tensors({"prior.moment": moment, "prior.statistics": statistics}, 8, 4)


@pytest.mark.parametrize(("value", "row"), [(float("nan"), 0), (float("inf"), 1), (-2.0, 1)])
def test_priors_of_tokens_that_none_are_are_refused(value, row):
    """A standard deviation is never negative; a mean may be."""
    moment, statistics = torch.eye(8, dtype=torch.float64), torch.ones(2, 4)
    statistics[0, 1] = -2.0
    assert Prior.from_tensors({"prior.moment": moment, "prior.statistics": statistics}, 8, 4) is not None
    statistics[row, 0] = value
    with pytest.raises(ValueError, match="found numbers that none have"):
        Prior.from_tensors({"prior.moment": moment, "prior.statistics": statistics}, 8, 4)
