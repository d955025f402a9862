"""evaluate.py --normalize online: causal, as a stream would decide, and said in the results."""

import numpy as np
import pytest
import small_shards
import torch
from test_evaluate import here, trained  # noqa: F401  fixtures

from semg.data.shards import WindowSet, open_shards
from semg.inference.trained_model import TrainedModel

STRIDE = small_shards.STRIDE


@pytest.fixture(scope="module")
def opened(trained):  # noqa: F811
    """The trained model, and two recordings of one session of a person it has not seen."""
    folder = trained / "more"
    records = [small_shards.write(folder, 7, name, repetitions=4) for name in ("repeats_long", "repeats_short")]
    return TrainedModel.open(trained / "run" / "best_model.ckpt", "cpu"), open_shards(folder, records)


def online(opened, shards):
    return opened[0].decide_online(WindowSet(shards), batch_size=7)


class Changed:
    """A shard whose signal is another from some sample on."""

    def __init__(self, shard, since):
        self.signal = np.array(shard.signal)
        self.signal[since:] = self.signal[since:] * 3 + 50
        self._shard = shard

    def __getattr__(self, name):
        return getattr(self._shard, name)


def test_no_window_is_decided_by_what_comes_after_it(opened):
    shards = opened[1]
    since = 6000
    first, second = online(opened, shards), online(opened, [Changed(shards[0], since), shards[1]])
    windows = WindowSet(shards)
    before = (windows.shard == 0) & (windows.start + windows.window <= since)
    assert 0 < before.sum() < len(windows)
    assert np.array_equal(first[before], second[before])
    assert np.abs(first - second)[~before].max(1).min() > 0, "also the next recording of the session"


def test_on_the_grid_it_is_what_a_stream_computes(opened):
    model, shards = opened
    stream = model.online()
    windows, signal, expected = WindowSet(shards[:1]), shards[0].signal, {}
    for at in range(0, len(signal) - windows.window + 1, STRIDE):
        stream.see(signal[0 if at == 0 else at + windows.window - STRIDE : at + windows.window])
        with torch.inference_mode():
            tokens = stream.normalized(stream.features(np.array(signal[at : at + windows.window])))
            expected[at] = model.network.classify(tokens).softmax(1)[0].numpy()
        stream.prepare()
    actual = online(opened, shards[:1])
    places = [place for place, at in enumerate(windows.start) if at in expected]
    assert len(places) > 20
    np.testing.assert_allclose(
        actual[places], np.stack([expected[at] for at in windows.start[places]]), rtol=1e-3, atol=1e-4
    )


def test_late_in_a_session_it_comes_to_whole_session_normalisation(opened):
    model, shards = opened
    whole = model.score(shards).probabilities
    apart = np.abs(online(opened, shards) - whole).max(1)
    assert apart.mean() < 0.05, "from the first window on, by the training people's prior"
    assert apart[-30:].mean() < 0.02


def test_results_say_which_normalisation_they_are_of(here, tmp_path):  # noqa: F811
    output = here(tmp_path / "r", "--normalize", "online")
    usual = here(tmp_path / "s")
    assert (output["normalize"], usual["normalize"]) == ("online", "session")
    assert output["n_windows"] == usual["n_windows"]


def test_a_model_that_is_not_normalised_by_session_is_not_normalised_online(run_here, trained, tmp_path):  # noqa: F811
    data = ["--shards", trained / "shards", "--split", trained / "split"]
    flags = ["--init", "random", "--layers", 1, "--width", 16, "--patch", 64, "--epochs", 1, "--normalize", "train"]
    run_here("train.py", *data, "--out", tmp_path / "run", *flags, "--device", "cpu")
    words = ["--checkpoint", tmp_path / "run" / "best_model.ckpt", "--normalize", "online", "--out", tmp_path / "r"]
    done = run_here("evaluate.py", *words, code=2)
    assert "expected a model that is normalised by session, not by train" in done.stderr
