"""semg/inference/prior.py: what a stream starts from."""

import numpy as np
import pytest
import small_shards
import torch
from test_evaluate import trained  # noqa: F401  a fixture

from semg.data.normalization import moment_of, transform_from
from semg.data.shards import WindowSet, open_shards
from semg.data.splits import read_split
from semg.evaluation import metrics
from semg.inference.prior import Prior
from semg.inference.trained_model import TrainedModel


@pytest.fixture(scope="module")
def model(trained):  # noqa: F811
    return TrainedModel.open(trained / "run" / "best_model.ckpt", "cpu")


def test_training_keeps_what_its_sessions_have_in_common(model, trained):  # noqa: F811
    shards = open_shards(trained / "shards", read_split(trained / "split", trained / "shards").train)
    expected = Prior.of(shards, model.statistics(shards, model.transforms(shards)))
    np.testing.assert_allclose(model.prior.moment, expected.moment)
    torch.testing.assert_close(model.prior.statistics, expected.statistics)
    powers = np.stack([np.diag(moment_of([shard])) for shard in shards])
    np.testing.assert_allclose(np.diag(model.prior.moment), np.exp(np.log(powers).mean(0)))


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
        found = other.decide_online(windows).argmax(1)
        scores[name] = metrics.macro_f1(metrics.confusion(windows.label, found, len(model.classes)))
    assert scores["with"] > scores["without"]


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
