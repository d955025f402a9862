"""Live decoding without streams: time stamps, gaps, units, resampling, what a terminal shows."""

import copy
import io

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_predict import checkpoint

from semg.common.errors import DataError
from semg.common.terminal_view import TerminalView, bar
from semg.data.resampling import CausalResampler, resampling_ratio
from semg.evaluation.smoothing import filtered
from semg.inference.live_decoder import Chunk, LiveDecoder
from semg.inference.live_outputs import Datagrams, Recorder
from semg.inference.stream_clock import StreamClock, times_of
from semg.inference.trained_model import TrainedModel

RATE = 5120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return TrainedModel.open(checkpoint(tmp_path_factory.mktemp("model") / "live.ckpt", causal=True), "cpu")


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A model that takes no scale out again."""
    path = checkpoint(tmp_path_factory.mktemp("model") / "train.ckpt", "train", causal=True)
    return TrainedModel.open(path, "cpu")


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).normal(0, 60, (3 * int(RATE), 24)).astype(np.float32)


def clocked(stamps, packet=128, rate=RATE):
    """A clock that heard all stamps, in packets, and where it broke off."""
    clock, breaks = StreamClock(rate), []
    for at in range(0, len(stamps), packet):
        breaks += [at + place for place in clock.push(stamps[at : at + packet])]
    return clock, breaks


def test_samples_lost_between_exact_stamps_are_counted_to_the_last_one():
    whole = np.arange(60_000) / RATE
    lost = [range(10_000, 10_003), range(11_000, 11_500), range(30_000, 30_020)]
    kept = np.delete(whole, np.concatenate([list(one) for one in lost]))
    clock, breaks = clocked(kept)
    assert clock.finish() == 523
    assert breaks == [11_000 - 3, 30_000 - 503]  # a window may span three samples, 0.6 ms
    assert clocked(whole)[0].finish() == 0


def test_packets_that_come_late_are_not_lost():
    """Stamps made when packets came in: each is late by another time, one of them by a fifth of a second."""
    random = np.random.default_rng(0)
    count, packet = 400, 128
    late = random.uniform(0, 0.004, count)
    late[200] = 0.2
    stamps = np.arange(count * packet) / RATE + np.repeat(late, packet)
    assert clocked(stamps, packet)[0].finish() <= 0.0005 * RATE
    gone = np.delete(stamps, range(300 * packet, 310 * packet))
    clock, breaks = clocked(gone, packet)
    assert clock.finish() == pytest.approx(10 * packet, abs=0.001 * RATE)
    assert 300 * packet in breaks


def test_a_clock_that_is_another_loses_nothing():
    slow = np.arange(60_000) / RATE * (1 + 50e-6)
    assert clocked(slow)[0].finish() == 0
    back = np.concatenate([np.arange(20_000) / RATE + 1000, np.arange(20_000) / RATE])
    clock, breaks = clocked(back)
    assert (clock.finish(), breaks) == (0, [20_000])


@pytest.mark.parametrize(("rate", "wanted"), [(2000.0, 5120.0), (5120.0, 2000.0), (1000.0, 2000.0)])
@pytest.mark.parametrize("block", [1, 37, 1000])
def test_what_is_resampled_comes_later_and_is_the_same(rate, wanted, block):
    """A sine becomes the same sine, `delay` later; each sample out is made of none that came after it."""
    frequency, ratio = 100.0, resampling_ratio("x", rate, wanted)
    resampler = CausalResampler(ratio, rate)
    signal = np.sin(2 * np.pi * frequency * np.arange(1000) / rate)[:, None] * [1, -2]
    parts = [resampler(signal[at : at + block]) for at in range(0, len(signal), block)]
    result = np.concatenate([part for part, _ in parts])
    times = np.arange(len(result)) / wanted
    expected = np.sin(2 * np.pi * frequency * (times - resampler.delay))[:, None] * [1, -2]
    begun = times > 2 * resampler.delay
    np.testing.assert_allclose(result[begun], expected[begun], atol=5e-3)
    assert 0 < resampler.delay <= 10 / min(rate, wanted)
    places = np.concatenate([at * block + places for at, (_, places) in enumerate(parts)])
    np.testing.assert_array_equal(places, np.arange(len(result)) * ratio.denominator // ratio.numerator)


def test_no_window_spans_a_gap(model, samples):
    """After it, decisions are those of a stream that begins there, with the same normalisation."""
    half, gap = len(samples) // 2, 1.5
    stamps = np.arange(len(samples)) / RATE
    stamps[half:] += gap
    apart = LiveDecoder(model, RATE, 1.0, warn=pytest.fail)
    expected = apart.push(Chunk(samples[:half], stamps[:half], 0.0))
    apart.begin_anew()
    expected += apart.push(Chunk(samples[half:], stamps[half:], 0.0))
    decoder = LiveDecoder(model, RATE, 1.0, warn=pytest.fail)
    result = decoder.push(Chunk(samples, stamps, 0.0))
    assert [one.stamp for one in result] == [one.stamp for one in expected]
    np.testing.assert_allclose(
        [one.probabilities for one in result], [one.probabilities for one in expected], atol=1e-6
    )
    first = next(one for one in result if one.time > half / RATE + gap)
    assert first.time == pytest.approx(half / RATE + gap + model.window / RATE, abs=1e-6)
    assert decoder.finish() == round(gap * RATE)


class Adapting:
    """Its network is another once a window was decided; remembers what it was told."""

    def __init__(self, model):
        self.network, self.told = model.network, []

    def see(self, block):
        self.told.append(len(block))

    def begin_recording(self):
        self.told.append("another recording")

    def prepare(self, _normalization):
        self.network = copy.deepcopy(self.network)
        torch.nn.init.zeros_(self.network.head.weight)


def test_an_adapted_network_decides_also_after_a_gap(model, samples):
    half = len(samples) // 2
    adaptation = Adapting(model)
    decoder = LiveDecoder(model, RATE, 1.0, adaptation=adaptation, warn=pytest.fail)
    stamps = np.arange(len(samples)) / RATE + np.where(np.arange(len(samples)) < half, 0, 2)
    result = decoder.push(Chunk(samples, stamps, 0.0))
    flat = [bool(np.ptp(one.probabilities - result[1].probabilities) < 1e-6) for one in result]
    assert flat == [False, *[True] * (len(result) - 1)]
    output = adaptation.told
    assert sum(output[: output.index("another recording")]) == half
    assert sum(output[output.index("another recording") + 1 :]) == len(samples) - half


def test_the_warm_up_does_not_begin_anew_with_a_gap(model, samples):
    half = len(samples) // 2
    decoder = LiveDecoder(model, RATE, 1.0, start_after=half / RATE + 1e-3, warn=pytest.fail)
    assert decoder.push(Chunk(samples[:half], np.arange(half) / RATE, 0.0)) == []
    decoder.begin_anew()
    result = decoder.push(Chunk(samples[half:], np.arange(half, 2 * half) / RATE + 5, 0.0))
    assert result[0].time == pytest.approx(half / RATE + 5 + model.window / RATE)


def test_another_unit_is_seen_in_the_first_seconds(model, fixed, samples):
    stamps, warned = np.arange(len(samples)) / RATE, []
    known = LiveDecoder(model, RATE, 1.0, warn=pytest.fail).push(Chunk(samples, stamps, 0.0))
    decoder = LiveDecoder(model, RATE, None, name="band", warn=warned.append)
    volts = samples / np.float32(2**20)  # about a volt a microvolt, and exact
    result = [
        one
        for at in range(0, len(volts), 500)
        for one in decoder.push(Chunk(volts[at : at + 500], stamps[at : at + 500], 0.0))
    ]
    assert len(result) == len(known)
    assert "band: an RMS of 2.9" in warned[0] and "is of another unit: multiplied by 1e+07" in warned[0]
    agree = np.mean([a.probabilities.argmax() == b.probabilities.argmax() for a, b in zip(result, known, strict=True)])
    assert agree > 0.9
    with pytest.raises(DataError, match=r"band: expected an RMS of 0\.1 to 10000, found 2\.9"):
        LiveDecoder(fixed, RATE, None, name="band", warn=pytest.fail).push(Chunk(volts, stamps, 0.0))


def test_an_interruption_before_the_unit_is_known_loses_nothing(model, samples):
    """What it lasted was counted as lost, and reported as another rate."""
    stamps, at = np.arange(len(samples)) / RATE, int(RATE)
    decided = []
    for scale in (1.0, None):
        decoder = LiveDecoder(model, RATE, scale, warn=pytest.fail)
        result = decoder.push(Chunk(samples[:at], stamps[:at], 0.0))
        for begin, away in ((at, 9.0), (at + 2000, 90.0)):
            decoder.begin_anew()
            end = at + 2000 if begin == at else len(samples)
            result += decoder.push(Chunk(samples[begin:end], stamps[begin:end] + away, 0.0))
        assert decoder.finish() == 0
        decided.append(result)
    assert [one.time for one in decided[0]] == [one.time for one in decided[1]]
    for one, other in zip(*decided, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)


def test_samples_that_are_no_numbers_are_held_and_counted(model, samples):
    stamps, warned = np.arange(len(samples)) / RATE, []
    broken, held = samples.copy(), samples.copy()
    broken[[0, 1000, 1001], [3, 5, 5]] = np.nan
    held[0, 3], held[1000:1002, 5] = 0, samples[999, 5]
    decoder = LiveDecoder(model, RATE, 1.0, warn=warned.append)
    result = decoder.push(Chunk(broken[:1001], stamps[:1001], 0.0)) + decoder.push(
        Chunk(broken[1001:], stamps[1001:], 0.0)
    )
    expected = LiveDecoder(model, RATE, 1.0, warn=pytest.fail).push(Chunk(held, stamps, 0.0))
    np.testing.assert_allclose(
        [one.probabilities for one in result], [one.probabilities for one in expected], atol=1e-6
    )
    assert decoder.finish() == 3
    assert warned == ["stream: channels 4, 6 brought samples that are no numbers: the number before is taken for each"]
    with pytest.raises(DataError, match="expected amplitudes below 65 mV"):
        LiveDecoder(model, RATE, 1e6, warn=pytest.fail).push(Chunk(samples, stamps, 0.0))


@pytest.mark.parametrize("kind", ["no numbers", "constant", "constant integers"])
def test_a_channel_that_brings_nothing_is_named_once(model, samples, kind):
    """Decisions went on without a word."""
    broken, warned = np.concatenate([samples, samples]), []
    broken[:, [1, 7]] = np.nan if kind == "no numbers" else 5
    broken = broken.astype(np.int16) if kind == "constant integers" else broken
    decoder = LiveDecoder(model, RATE, 1.0, channels=[f"E{n}" for n in range(24)], warn=warned.append)
    stamps = np.arange(len(broken)) / RATE
    for at in range(0, len(broken), 500):
        decoder.push(Chunk(broken[at : at + 500], stamps[at : at + 500], 0.0))
    what = "brought samples that are no numbers" if kind == "no numbers" else "did not change for 2 s"
    assert len(warned) == 1 and warned[0].startswith(f"stream: channels E1, E7 {what}: ")


def test_a_faulty_channel_is_looked_for_once_the_decisions_are_out(model, samples):
    broken, warned = samples.copy(), []
    broken[:, 3] = 5
    decoder = LiveDecoder(model, RATE, 1.0, warn=warned.append)
    assert decoder.push(Chunk(broken, np.arange(len(broken)) / RATE, 0.0))
    assert not warned
    decoder.prepare()
    decoder.prepare()
    assert warned == ["stream: channel 4 did not change for 2 s: is the electrode connected?"]


def test_a_disturbance_costs_some_windows_and_not_the_session(model, samples):
    """An electrode that came off ended the program."""
    disturbed, warned = samples.copy(), []
    disturbed[[5000, 9000], 3] = 1e6
    decoder = LiveDecoder(model, RATE, 1.0, warn=warned.append)
    stamps = np.arange(len(samples)) / RATE
    result = []
    for at in range(0, len(samples), 128):
        result += decoder.push(Chunk(disturbed[at : at + 128], stamps[at : at + 128], 0.0))
    assert len(warned) == 1 and "expected amplitudes below 65 mV, found more: left out" in warned[0]
    assert decoder.finish() == 256
    assert result[-1].time == pytest.approx(len(samples) / RATE, abs=model.stride / RATE)
    assert all(np.isfinite(one.probabilities).all() for one in result)
    spans = [(one.time - model.window / RATE, one.time) for one in result]
    assert not [span for span in spans for bad in (5000 / RATE, 9000 / RATE) if span[0] < bad < span[1]]


@pytest.mark.parametrize("jump", [-100.0, -1.5, 2e9])
@pytest.mark.parametrize("at", [RATE, 7000])
def test_a_clock_that_is_set_loses_nothing_and_hides_no_loss(model, samples, jump, at):
    """Set back at a whole second, it hid what was lost later; set ahead, billions of samples were lost."""
    warned, at = [], int(at)
    stamps = np.arange(4 * len(samples)) / RATE
    stamps[at:] += jump
    stamps[40_000:] += 0.5
    decoder = LiveDecoder(model, RATE, 1.0, start_after=3600, warn=warned.append)
    for begin in range(0, len(stamps), 128):
        decoder.push(Chunk(samples[:128], stamps[begin : begin + 128], 0.0))
    assert decoder.finish() == round(0.5 * RATE)
    assert len(warned) == 1 and "its time stamps jumped, as the sender's clock was set" in warned[0]


def test_stamps_that_do_not_rise_are_told(model, samples):
    warned = []
    decoder = LiveDecoder(model, RATE, 1.0, start_after=3600, warn=warned.append)
    for _ in range(3):
        decoder.push(Chunk(samples, np.zeros(len(samples)), 0.0))
    assert warned == ["stream: its time stamps do not rise: neither its rate nor lost samples can be told"]


def test_stamps_that_are_no_time_count_on():
    stamps = np.array([np.nan, 1.0, np.inf, -np.inf, 1e300, 5.0])
    np.testing.assert_allclose(times_of(stamps, 0.5, 10.0), [0.6, 1.0, 1.1, 1.2, 1.3, 5.0])
    assert times_of(stamps[:1], None, 10.0).tolist() == [0.1]


def test_a_record_is_one_that_predict_takes_whatever_came_in(tmp_path):
    record = Recorder(tmp_path / "record.csv", ["a", "b"])
    record.write(Chunk(np.full((5, 2), np.nan, np.float32), np.arange(5.0), 0.0))
    record.write(Chunk(np.array([[1, 2], [3, np.inf], [5, 6]], np.float32), np.arange(5.0, 8.0), 0.0))
    record.close()
    assert record.samples == 2
    assert (tmp_path / "record.csv").read_text() == "time,a,b,label\n0.000000,1,2,\n2.000000,5,6,\n"


@pytest.mark.parametrize("host", ["two..dots", "a" * 64])
def test_hosts_that_there_cannot_be_are_named(host):
    """Names that no host can have ended in an error of Python's codec."""
    with pytest.raises(DataError, match=f"^{host}: expected a host to send to, found"):
        Datagrams((host, 5005), ["fist"])


def test_amplitudes_that_no_model_takes_are_refused_before_anything_is_learnt_of_them(samples):
    """Whitened, they ended in NumPy's own error."""
    model = TrainedModel.open(ROOT / "checkpoints/best_model.ckpt", "cpu")
    session = model.online()
    stream = model.stream(normalization=session)
    stream.push(samples[:2000])
    with pytest.raises(DataError, match="expected amplitudes below 65 mV"):
        stream.push(samples[2000:] * 1e30)
    result = model.stream(normalization=session).push(samples[:2000])
    assert result and all(np.isfinite(one.probabilities).all() for one in result)


def test_a_rate_that_is_not_as_announced_is_told(model, samples):
    warned = []
    decoder = LiveDecoder(model, RATE, 1.0, name="band", warn=warned.append)
    many = np.concatenate([samples, samples])
    stamps = np.arange(len(many)) / RATE * 2
    for at in range(0, len(many), 512):
        decoder.push(Chunk(many[at : at + 512], stamps[at : at + 512], 0.0))
    assert len(warned) == 1
    assert "band: announces 5120 Hz, but 2560 samples a second came by its time stamps" in warned[0]


def test_lines_are_drawn_over_those_before(monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    screen = io.StringIO()
    view = TerminalView(screen)
    view.draw(["one", "a line that is too long"])
    view.draw(["two\x1b[31m", ""])
    view.clear()
    view.clear()
    first, second, third = screen.getvalue().split("\x1b[2A\r\x1b[J")
    assert first == "\x1b[2Kone\n\x1b[2Ka line that\n"
    assert second == "\x1b[2Ktwo\\x1b[31m\n\x1b[2K\n"
    assert third == ""
    assert (bar(0.5, 4, "utf-8"), bar(2, 4, "ascii"), bar(0, 3, "latin-1")) == ("██░░", "####", "...")


def test_smoothed_probabilities_are_those_of_the_filter_over_a_recording_and_begin_anew_after_a_gap(model, samples):
    chunk = Chunk(samples, np.arange(len(samples)) / RATE, 0.0)
    alone = LiveDecoder(model, RATE, 1.0, warn=pytest.fail)
    smooth = LiveDecoder(model, RATE, 1.0, hold=0.5, warn=pytest.fail)
    for _ in range(2):  # the second time the clock begins anew, as after an interruption
        raw, actual = ([one.probabilities for one in decoder.push(chunk)] for decoder in (alone, smooth))
        assert len(raw) > 10
        places = np.arange(len(raw))
        expected = filtered(np.array(raw), 0 * places, places, model.stride / model.rate, 0.5, max_step=1)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
        assert not np.allclose(actual[1:], raw[1:], rtol=1e-3)
        alone.begin_anew()
        smooth.begin_anew()
