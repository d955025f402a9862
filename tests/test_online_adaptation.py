"""semg/training/online_adaptation.py: causal, label-free and reproducible; no decision waits for it."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_adaptation import ANYTHING, model, session, trained  # noqa: F401  fixtures
from waiting import LONGEST, wait_for

import evaluate
from semg.common.errors import UsageError
from semg.data.shards import WindowSet
from semg.inference.session_statistics import SessionStatistics
from semg.inference.trained_model import TrainedModel
from semg.training import online_adaptation
from semg.training.adaptation import Adaptation
from semg.training.online_adaptation import InBackground, OnlineAdaptation, Result, Schedule

EARLY = Schedule(first=0.5, growth=1.5, delay=0.1, delay_share=0.1)
BLOCK = 128


def in_signal_time(model, made=None, how=ANYTHING):  # noqa: F811
    """What `decide_online` takes; `made` collects the sessions' adaptations."""

    def begin(name):
        one = OnlineAdaptation.in_signal_time(model, how, EARLY)
        if made is not None:
            made[name] = one
        return one

    return begin


def online(model, windows, **more):  # noqa: F811
    return model.decide_online(windows, batch_size=7, **more)


class Changed:
    """A shard whose signal is another from some sample on."""

    def __init__(self, shard, since):
        self.signal = np.array(shard.signal)
        self.signal[since:] = self.signal[since:] * 3 + 50
        self._shard = shard

    def __getattr__(self, name):
        return getattr(self._shard, name)


def test_adapted_decisions_look_at_nothing_that_comes_later(model, session):  # noqa: F811
    since, windows = 8000, WindowSet(session)
    other = WindowSet([Changed(session[0], since), *session[1:]])
    first, second = (online(model, own, adaptation=in_signal_time(model)) for own in (windows, other))
    before = (windows.shard == 0) & (windows.start + windows.window <= since)
    assert np.array_equal(first[before], second[before])
    assert np.abs(first - second)[~before].max() > 0
    plain = online(model, windows)
    changed = np.abs(first - plain).max(1) > 0
    assert changed[before].any(), "some of them were adapted"
    assert not changed[windows.start + windows.window <= 0.6 * model.rate][0], "none before the first adaptation"


def test_labels_change_nothing_and_the_same_session_gives_the_same_decisions(model, session):  # noqa: F811
    windows, permuted = WindowSet(session), WindowSet(session)
    permuted.label[:] = np.random.default_rng(0).permutation(permuted.label)
    actual, again = (online(model, own, adaptation=in_signal_time(model)) for own in (windows, permuted))
    assert np.array_equal(actual, again)


def test_adaptations_begin_on_schedule_and_take_effect_later(model, session):  # noqa: F811
    actual = {}
    online(model, WindowSet(session), adaptation=in_signal_time(model, actual))
    (events,) = (one.events for one in actual.values())
    assert len(events) > 2
    stride = model.stride / model.rate
    due = EARLY.first
    for event in events:
        assert due <= event["began"] < due + max(stride, model.window / model.rate) + 0.2
        late = event["taken"] - event["began"] - EARLY.delay - EARLY.delay_share * event["seconds"]
        assert 0 <= late < 2 * model.window / model.rate
        due = EARLY.growth * event["began"]


def test_however_long_a_session_is_at_most_three_times_what_was_heard_is_adapted_to():
    """An hour, second by second, each adaptation done at once: on a slower machine fewer begin. docs/scale.md has what
    a second adapted to costs."""
    rate, adapted = 10, 0.0
    worker, normalization = Held(), SimpleNamespace(snapshot=lambda: None)
    adaptation = OnlineAdaptation(SimpleNamespace(network=None, rate=rate), worker)
    for second in range(1, 3601):
        begun = worker.begun
        adaptation.see(np.zeros((rate, 1), np.float16))
        adaptation.prepare(normalization)
        if worker.begun > begun:
            adapted += min(second, online_adaptation.KEPT_SECONDS)
            worker.ready = Result(None, {"accepted": False, "reason": ""})
        assert adapted <= 3 * second
    assert worker.begun > 8


def test_a_refused_adaptation_leaves_the_weights(model, session):  # noqa: F811
    built = {}
    nothing = Adaptation(least_seconds=1e9)
    windows = WindowSet(session)
    actual = online(model, windows, adaptation=in_signal_time(model, built, nothing))
    assert np.array_equal(actual, online(model, windows))
    (one,) = built.values()
    assert one.network is model.network
    assert "not adapted; the latest adaptation was rejected" in one.in_words()


def test_only_the_latest_signal_is_kept(model, session, monkeypatch):  # noqa: F811
    monkeypatch.setattr(online_adaptation, "KEPT_SECONDS", 1.0)
    given = []
    adapt = online_adaptation.adapt
    monkeypatch.setattr(online_adaptation, "adapt", lambda m, s, how: given.append(s) or adapt(m, s, how))
    online(model, WindowSet(session), adaptation=in_signal_time(model))
    lengths = [sum(len(one.samples) for one in own) / model.rate for own in given]
    assert max(lengths) <= 1.0
    assert lengths[-1] > 0.9
    assert any(len(own) == 2 for own in given), "over two recordings, which are not joined"


# --- streams -------------------------------------------------------------------------------------------------------


@pytest.fixture
def samples(session):  # noqa: F811
    return np.array(session[0].signal, np.float32)


class Held:
    """A worker whose result comes when it is let go."""

    def __init__(self):
        self.begun, self.ready = 0, None

    def hear(self, _block):
        pass

    def begin_recording(self):
        pass

    def begin(self, _session):
        self.begun += 1

    def result(self):
        actual, self.ready = self.ready, None
        return actual

    def close(self):
        pass


def pushed(stream, samples):
    return [one for at in range(0, len(samples), BLOCK) for one in stream.push(samples[at : at + BLOCK])]


def test_decisions_go_on_without_the_adaptation_and_weights_change_between_two(model, samples):  # noqa: F811
    worker, other = Held(), copy.deepcopy(model.network)
    torch.nn.init.normal_(other.head.weight)
    stream = model.stream(adaptation=OnlineAdaptation(model, worker, EARLY))
    half = 8000
    first = pushed(stream, samples[:half])
    assert worker.begun == 1, "another is not begun as long as one is held"
    before = [one.probabilities.copy() for one in first]
    worker.ready = Result(other, {"accepted": True})
    later = pushed(stream, samples[half:])
    assert all(np.array_equal(one.probabilities, was) for one, was in zip(first, before, strict=True))
    plain, replaced = pushed(model.stream(), samples), pushed(model.with_network(other).stream(), samples)
    actual = np.stack([one.probabilities for one in first + later])
    old, new = (np.stack([one.probabilities for one in built]) for built in (plain, replaced))
    ours, theirs = ([np.allclose(a, b, atol=1e-5) for a, b in zip(actual, built, strict=True)] for built in (old, new))
    swap = ours.index(False)
    assert len(first) <= swap <= len(first) + 1
    assert all(ours[:swap])
    assert all(theirs[swap:])


def test_no_decision_waits_for_the_process_that_adapts(model, samples):  # noqa: F811
    """The process is stopped while the whole recording is decided; let go, it gives weights that decide from then."""
    adaptation = OnlineAdaptation.in_background(model, ANYTHING, EARLY)
    worker = adaptation._worker
    try:
        os.kill(worker.pid, signal.SIGSTOP)
        stream = model.stream(adaptation=adaptation)
        actual = pushed(stream, samples)
        assert adaptation.events == []
        expected = pushed(model.stream(), samples)
        assert all(np.array_equal(a.probabilities, b.probabilities) for a, b in zip(actual, expected, strict=True))
        os.kill(worker.pid, signal.SIGCONT)
        wait_for(lambda: pushed(stream, samples[: model.stride]) and adaptation.events, "an adaptation")
        assert adaptation.events[0]["accepted"]
        assert adaptation.network is not model.network
        later = pushed(stream, samples[:8000])
        plain = pushed(model.stream(statistics=stream.heard()), samples[:8000])
        assert np.abs(later[-1].probabilities - plain[-1].probabilities).max() > 1e-4
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: pushed(stream, samples) and not adaptation.events[-1]["accepted"], "word of the process's end")
        assert "has ended" in adaptation.events[-1]["reason"]
        assert pushed(stream, samples), "and the stream goes on"
    finally:
        adaptation.close()


STREAM = """
import sys, time
from semg.inference.trained_model import TrainedModel
from semg.training.adaptation import Adaptation
from semg.training.online_adaptation import InBackground

worker = InBackground(TrainedModel.open(sys.argv[1], "cpu"), Adaptation())
print(worker.pid, flush=True)
time.sleep(1000)
"""


def test_the_process_that_adapts_ends_with_a_stream_that_was_killed(model):  # noqa: F811
    """Nobody is left to end it. It has inherited the stream's output, which closes when both have ended."""
    words = [sys.executable, "-c", STREAM, str(model.path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as stream:
        pid = int(stream.stdout.readline())
        try:
            stream.kill()
            stream.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGKILL)
            raise


def test_background_and_signal_time_come_to_the_same_weights(model, samples, tmp_path):  # noqa: F811
    """The model is the one that was opened, though its file was cut before the other process began."""
    model = TrainedModel.open(shutil.copy(model.path, tmp_path / "own.ckpt"), model.device)
    os.truncate(tmp_path / "own.ckpt", 9)
    worker = InBackground(model, ANYTHING)
    try:
        how = model.session_of(samples.astype(np.float16))
        worker.hear(samples)
        worker.begin(how)
        result = wait_for(worker.result, "new weights")
        here = online_adaptation.InSignalTime(model, ANYTHING, Schedule(delay=0, delay_share=0))
        here.hear(samples)
        here.begin(how)
        expected = here.result()
        for name, value in expected.network.state_dict().items():
            torch.testing.assert_close(result.network.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    finally:
        worker.close()


def test_statistics_and_adaptation_go_together(model, samples):  # noqa: F811
    stream = model.stream()
    pushed(stream, samples)
    heard = stream.heard()
    assert isinstance(heard, SessionStatistics)
    again = model.stream(statistics=heard, adaptation=OnlineAdaptation.in_signal_time(model, ANYTHING, EARLY))
    assert len(pushed(again, samples)) == len(pushed(model.stream(), samples))


# --- evaluate.py ---------------------------------------------------------------------------------------------------


def test_evaluate_scores_it_beside_the_model_as_it_was(trained, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(evaluate, "Schedule", lambda: EARLY)
    monkeypatch.setattr(evaluate, "Adaptation", lambda **_: ANYTHING)
    output = {}
    for name, flags in (("adapted", ["--adapt", "online"]), ("plain", [])):
        words = ["--checkpoint", trained / "run" / "best_model.ckpt", "--device", "cpu", "--out", tmp_path / name]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words), "--normalize", "online", *flags])
        assert evaluate.main() == 0
        output[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    said = capsys.readouterr().out
    assert "minute of the session" in said
    assert "recording of the session" in said
    adapted, plain = output["adapted"], output["plain"]
    assert adapted["unadapted"]["confusion"] == plain["confusion"]
    assert adapted["unadapted"]["by_minute"] == plain["by_minute"]
    assert adapted["adaptation"]["mode"] == "online"
    (events,) = adapted["adaptation"]["sessions"].values()
    assert any(one["accepted"] for one in events)
    assert list(plain["by_recording"]) == ["1", "2"]
    assert sum(one["n_windows"] for one in plain["by_recording"].values()) == plain["n_windows"]
    assert list(plain["by_minute"]) == ["1"], "the session lasts some seconds"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--adapt", "online"], "--adapt online: expected --normalize online"),
        (["--adapt", "session", "--normalize", "online"], "--adapt session: expected --normalize trained"),
    ],
)
def test_flags_that_do_not_go_together(monkeypatch, flags, told):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *flags])
    with pytest.raises(UsageError, match=told):
        evaluate.main()
