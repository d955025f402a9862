"""semg/inference/streaming.py: what is computed while a window comes in is what the whole window gives."""

import weakref

import numpy as np
import pytest
import torch

from model import GPT2Classifier, ModelConfig
from semg.common.errors import DataError
from semg.data.normalization import ChannelNormalization
from semg.inference import online_normalization
from semg.inference.online_normalization import Given, LatestSamples, OnlineNormalization
from semg.inference.streaming import Ahead, Stream, replay

SAMPLES, STRIDE, CHANNELS = 640, 320, 3
PASS = np.array([[1.0, 0, 0, 1, 0, 0]])  # a filter's section that changes nothing


def model_of(frontend: str) -> GPT2Classifier:
    torch.manual_seed(0)
    shape = {"samples": SAMPLES, "patch": 64, "frame": 160, "band_edges": (0.01, 0.05, 0.1), "classes": 4}
    return GPT2Classifier(
        ModelConfig(channels=CHANNELS, frontend=frontend, layers=1, width=16, heads=2, **shape)
    ).eval()


@pytest.fixture
def signal() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 30, (5 * SAMPLES, CHANNELS)).astype(np.float16)


@pytest.mark.parametrize("frontend", ["bands", "both", "raw"])
@pytest.mark.parametrize("block", [1, 37, 128, SAMPLES])
def test_features_computed_ahead_are_those_of_the_window(signal, frontend, block):
    model, transform = model_of(frontend), np.eye(CHANNELS, dtype=np.float32) * 0.1
    ahead = Ahead(model, torch.device("cpu"))
    window = signal[:SAMPLES]
    with torch.inference_mode():
        ahead.begin(transform, window[:STRIDE])
        for at in range(STRIDE, SAMPLES, block):
            ahead.add(window[at : at + block])
        expected = model.features(torch.from_numpy(window.astype(np.float32) @ transform).T[None])
        torch.testing.assert_close(ahead.features(), expected, rtol=1e-4, atol=1e-5)


class Changing(Given):
    """Its transform is another once three strides were heard: changed between two decisions (`ahead`), or at once."""

    def __init__(self, model: GPT2Classifier, *, ahead: bool) -> None:
        super().__init__(model, np.eye(CHANNELS, dtype=np.float32), None, torch.device("cpu"))
        self._when_asked, self._seen = not ahead, 0
        self._now = self.transform

    def see(self, block: np.ndarray) -> None:
        self._seen += len(block)
        if self._when_asked:
            self._change()

    def prepare(self) -> None:
        self._change()

    def _change(self) -> None:
        if self._seen >= 3 * STRIDE and self.transform is self._now:
            self.transform = self.transform * np.float32(0.5)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_window_is_mixed_by_what_holds_when_it_is_decided(signal, ahead):
    model = model_of("both")
    normalization = Changing(model, ahead=ahead)
    stream = Stream(model, normalization, PASS, np.eye(CHANNELS, dtype=np.float32), STRIDE)
    result = [one for at in range(0, len(signal), 100) for one in stream.push(signal[at : at + 100])]
    assert [one.end for one in result] == list(range(SAMPLES, len(signal) + 1, STRIDE))
    for place, one in enumerate(result):
        window = torch.from_numpy(signal[one.end - SAMPLES : one.end].astype(np.float32)).T[None]
        half = place > 1 or (place == 1 and not ahead)
        with torch.inference_mode():
            expected = model(window * (0.5 if half else 1.0)).softmax(1)[0].numpy()
        np.testing.assert_allclose(one.probabilities, expected, atol=1e-5)


def test_a_decision_is_late_by_the_wait_for_its_block_and_by_its_computing(signal):
    model = model_of("bands")
    normalization = Given(model, np.eye(CHANNELS, dtype=np.float32), None, torch.device("cpu"))
    stream = Stream(model, normalization, PASS, np.eye(CHANNELS, dtype=np.float32), STRIDE)
    decided = replay(stream, signal, 100, 1000.0)
    assert decided.end.tolist()[:3] == [640, 960, 1280]
    assert (decided.computing > 0).all()
    waited = np.ceil(decided.end / 100) / 10 - decided.end / 1000
    assert waited[0] == pytest.approx(0.06)
    np.testing.assert_allclose(decided.delay, waited + decided.computing)


@pytest.mark.parametrize("block", [1, 37, 500])
def test_latest_samples_are_those_of_the_whole_signal_whenever_they_are_joined(signal, block):
    latest = LatestSamples(SAMPLES, CHANNELS)
    assert latest.joined().shape == (0, CHANNELS)
    for at in range(0, len(signal), block):
        latest.add(signal[at : at + block])
        if at % 3 == 0:
            np.testing.assert_array_equal(latest.joined(), signal[: at + block][-SAMPLES:])
    np.testing.assert_array_equal(latest.joined(), signal[-SAMPLES:])


@pytest.mark.parametrize("wrong", [np.nan, 1e9, 1e300])
def test_a_stream_goes_on_after_a_block_that_it_refused(signal, wrong):
    """The number stayed in the filter, which refused every block from then on."""
    model, section = model_of("bands"), np.array([[0.5, 0, 0, 1, -0.5, 0]])
    streams = [
        Stream(
            model,
            Given(model, np.eye(CHANNELS, dtype=np.float32), None, torch.device("cpu")),
            section,
            np.eye(CHANNELS, dtype=np.float32),
            STRIDE,
        )
        for _ in range(2)
    ]
    bad = signal[:50].astype(np.float64)
    bad[10, 1] = wrong
    streams[0].push(signal[:1000])
    with pytest.raises(DataError, match=r"expected (finite numbers|amplitudes below 65 mV)"):
        streams[0].push(bad)
    streams[1].push(signal[:1000])
    after, expected = (stream.push(signal[1000:]) for stream in streams)
    assert [one.end for one in after] == [one.end for one in expected]
    assert all(np.array_equal(a.probabilities, b.probabilities) for a, b in zip(after, expected, strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        *(np.ones((10, CHANNELS + 1)), np.ones((CHANNELS, 10)), np.ones(CHANNELS), np.ones((1, 10, CHANNELS)), 3.0),
        *(None, np.ones((10, CHANNELS), complex), np.ones((10, CHANNELS), bool), [["a"] * CHANNELS]),
    ],
)
def test_what_is_no_block_is_refused_in_a_line(wrong):
    """It ended in an error of NumPy or SciPy, or was taken for numbers."""
    model = model_of("bands")
    stream = Stream(model, online(), PASS, np.eye(CHANNELS, dtype=np.float32), STRIDE)
    with pytest.raises(DataError, match=rf"expected numbers of shape \(n, {CHANNELS}\), the model's channels, found "):
        stream.push(wrong)
    assert stream.push(np.ones((0, CHANNELS))) == stream.push([[1.0] * CHANNELS]) == []
    assert stream.seen == 1


def online() -> OnlineNormalization:
    return OnlineNormalization(model_of("bands"), ChannelNormalization("session"), torch.device("cpu"))


def test_statistics_between_two_decisions_are_of_all_samples_so_far(signal):
    """Products are computed after a decision, but whoever asks for them earlier gets all."""
    normalization, until = online(), 3 * SAMPLES + 100
    stream = Stream(model_of("bands"), normalization, PASS, np.eye(CHANNELS, dtype=np.float32), STRIDE)
    for at in range(0, until, 100):
        stream.push(signal[at : min(at + 100, until)])
    heard = stream.heard()
    wide = signal[:until].astype(np.float64)
    assert heard is not None and heard.samples == until
    np.testing.assert_allclose(heard.products, wide.T @ wide, rtol=1e-12)


def test_a_stream_that_never_completes_a_window_keeps_no_old_block(signal):
    """With a gap before each decision nothing calls `prepare`; memory would grow as long as the stream lasts."""
    normalization = online()
    first = signal[:100].copy()
    gone = weakref.ref(first)
    normalization.see(first)
    del first
    for at in range(100, len(signal), 100):
        normalization.see(signal[at : at + 100])
    assert gone() is None


def hear(normalization: OnlineNormalization, signal: np.ndarray, first: int, last: int) -> None:
    """The windows with these numbers, a stride apart and each decided as soon as it is there."""
    for at in range(first, last):
        end = SAMPLES + at * STRIDE
        normalization.see(signal[0 if at == 0 else end - STRIDE : end])
        with torch.inference_mode():
            normalization.normalized(normalization.features(signal[end - SAMPLES : end]))


def test_kept_windows_stand_for_all_that_were_decided_once_the_transform_is_another(monkeypatch):
    """Their tokens are computed again under it, each once, in several turns; the sums weigh as much as before."""
    monkeypatch.setattr(online_normalization, "MOST_KEPT", 12)
    signal = np.random.default_rng(0).normal(0, 30, (SAMPLES + 39 * STRIDE, CHANNELS)).astype(np.float16)
    normalization = online()
    hear(normalization, signal, 0, 40)
    before = normalization.transform
    normalization.prepare()
    assert normalization.transform is before, "more windows are kept than are computed again at once"
    heard = normalization.heard()
    assert heard is not None and heard.transform is not before
    assert (heard.decided, heard.every) == (40, 4)
    starts = range(0, 40 * STRIDE, 4 * STRIDE)
    np.testing.assert_array_equal(heard.kept, [signal[at : at + SAMPLES] for at in starts])
    model = model_of("bands")
    x = torch.from_numpy(np.stack(heard.kept).astype(np.float32) @ heard.transform).transpose(1, 2)
    with torch.inference_mode():
        expected = 4 * model.feature_sums(model.features(x)).numpy()
    np.testing.assert_allclose(heard.sums, expected, rtol=1e-5)


def test_the_transform_is_computed_again_when_the_signal_has_grown_by_a_tenth(signal):
    normalization = online()
    hear(normalization, signal, 0, 1)
    kept = normalization.transform
    normalization.see(signal[SAMPLES : round(1.09 * SAMPLES)])
    normalization.prepare()
    assert normalization.transform is kept
    normalization.see(signal[round(1.09 * SAMPLES) : round(1.11 * SAMPLES)])
    normalization.prepare()
    assert normalization.transform is not kept


def test_a_snapshot_normalises_as_its_stream_did_and_what_was_heard_stays_as_it_was(signal):
    normalization = online()
    hear(normalization, signal, 0, 3)
    snapshot, heard = normalization.snapshot(), normalization.heard()
    assert heard is not None
    features, products = torch.randn(1, 10, 2 * CHANNELS), heard.products.copy()
    expected = model_of("bands").normalized(features, normalization.statistics())
    hear(normalization, signal, 3, 8)
    normalization.prepare()
    torch.testing.assert_close(snapshot.normalized(features), expected)
    np.testing.assert_array_equal(heard.products, products)
