"""predict.py: offline as in evaluation, streamed as offline where the settings are the same, never looking ahead."""

import csv
import json
import re
import shlex
import sys

import numpy as np
import pytest
import recordings
import torch

import predict
import preprocess
from model import GPT2Classifier, ModelConfig
from semg.common.errors import DataError, SettingError, UsageError
from semg.data import putemg, tables
from semg.data.normalization import ChannelNormalization, transform_from
from semg.data.shards import open_shard
from semg.data.tables import read_recording
from semg.evaluation import signal_figures
from semg.evaluation.smoothing import MarkovFilter
from semg.inference import batch
from semg.inference import recordings as inference_recordings
from semg.inference.checkpoint import write_checkpoint
from semg.inference.online_normalization import Given, OnlineNormalization
from semg.inference.trained_model import TrainedModel

SECONDS, WINDOW, STRIDE = 4, 1280, 640
CPU = torch.device("cpu")
CLASSES = list(putemg.GESTURES.values())


def arguments(*, causal):
    """A shard's arguments as preprocess.py makes them."""
    filters = {"low": 20.0, "high": 700.0, "order": 4, "notch": (50.0,), "causal": causal}
    windows = {"window": WINDOW, "stride": STRIDE, "labels": "TRAJ_GT", "rest": False, "transition_margin": 0.0}
    return preprocess.Arguments(
        channels=tuple(range(1, 25)), montage="monopolar", label_rule="whole-window", **filters, **windows
    )


def checkpoint(path, normalize="session", *, causal=False, frontend="both", whitening="none", **changes):
    """A small network with random weights, as train.py would leave it."""
    torch.manual_seed(0)
    channel_normalization = ChannelNormalization(normalize, whitening)
    shape = {"samples": WINDOW, "patch": 64, "layers": 1, "width": 16, "heads": 2}
    model = GPT2Classifier(ModelConfig(channels=24 * channel_normalization.copies, frontend=frontend, **shape))
    torch.nn.init.normal_(model.head.weight)
    data = {"rate": 5120.0, "channels": list(putemg.CHANNEL_COLUMNS), "classes": CLASSES}
    data["arguments"] = arguments(causal=causal).as_json()
    description = {
        "model": model.config.to_dict(),
        "data": data,
        "normalize": channel_normalization.to_dict(),
        **changes,
    }
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    write_checkpoint(path, description, tensors | {"train_gain": torch.full((24,), 1 / 500)})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One recording, which gets three times louder half way, and checkpoints of three kinds."""
    folder = tmp_path_factory.mktemp("data")
    table = recordings.frame(samples=SECONDS * recordings.RATE)
    for name in putemg.CHANNEL_COLUMNS:
        half = len(table) // 2
        table[name] = np.concatenate([np.round(table[name][:half] / 3), table[name][half:]])
    recordings.write(folder, table)
    checkpoint(folder / "session.ckpt", whitening="append")
    checkpoint(folder / "live.ckpt", causal=True, whitening="append")
    checkpoint(folder / "train.ckpt", "train", causal=True)
    return folder


@pytest.fixture
def recording(data):
    return data / f"{recordings.record_name()}.hdf5"


@pytest.fixture
def here(monkeypatch, capsys):
    """Run predict.py in this process; returns (exit code, what was said, errors and warnings)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words), "--device", "cpu"])
        code = predict.main()
        return code, *capsys.readouterr()

    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(path):
    """(n,) times and (n, K) probabilities."""
    table = rows(path)
    return (
        np.array([float(row["time_s"]) for row in table]),
        np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in table]),
    )


def streamed(trained, samples, normalization, block=128):
    """(n,) ends and (n, K) probabilities of a stream fed with counts."""
    stream = trained.stream(scale=putemg.MICROVOLTS_PER_COUNT, normalization=normalization)
    result = [one for at in range(0, len(samples), block) for one in stream.push(samples[at : at + block])]
    return np.array([one.end for one in result]), np.stack([one.probabilities for one in result])


def test_as_a_user_runs_it_and_one_wrong_recording_does_not_stop_the_others(run_script, data, recording, tmp_path):
    wrong = tmp_path / "wrong.hdf5"
    wrong.write_bytes(b"no")
    words = [wrong, recording, "--checkpoint", data / "session.ckpt", "--out", tmp_path / "out", "--device", "cpu"]
    done = run_script("predict.py", *words, "--plot", "--vote", 3, "--json", code=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "wrong.hdf5" in errors[0]
    output = json.loads(done.stdout)
    assert output["failed"] == 1
    name = recordings.record_name()
    assert list(output["recordings"]) == [name]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}.csv", f"{name}.png"]
    table = rows(tmp_path / "out" / f"{name}.csv")
    assert list(table[0]) == ["time_s", "gesture", "voted", *[f"p_{c}" for c in CLASSES], "truth"]
    assert [float(row["time_s"]) for row in table] == pytest.approx(0.25 + 0.125 * np.arange(31))
    # a third idle, a third fist, a third in no gesture; of the windows across a change no truth is known
    assert [row["truth"] for row in table] == ["idle"] * 9 + [""] * 2 + ["fist"] * 9 + [""] * 11
    right = sum(row["gesture"] == row["truth"] for row in table)
    assert output["recordings"][name]["accuracy"] == pytest.approx(right / 18)
    for row in table:
        p = [float(row[f"p_{c}"]) for c in CLASSES]
        assert sum(p) == pytest.approx(1, abs=1e-5)
        assert row["gesture"] == CLASSES[int(np.argmax(p))]


def test_offline_gives_what_evaluation_gives(here, data, recording, tmp_path):
    here(recording, "--checkpoint", data / "session.ckpt", "--out", tmp_path)
    time, actual = numbers(tmp_path / f"{recording.stem}.csv")
    job = preprocess.Conversion(recording, tmp_path / recording.stem, arguments(causal=False), False)
    assert preprocess.process(job).state == "done"
    shard = open_shard(tmp_path / recording.stem)
    trained = TrainedModel.open(data / "session.ckpt", CPU)
    scores = trained.score([shard])
    windows, expected = scores.windows, scores.probabilities
    place = {round(t, 6): i for i, t in enumerate(time)}
    both = [(i, place[t]) for i, s in enumerate(windows.start) if (t := round((s + WINDOW) / 5120, 6)) in place]
    assert len(both) >= 9
    ours, theirs = actual[[b for _, b in both]], expected[[a for a, _ in both]]
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert np.ptp(actual, axis=0).max() > 0.05, "the windows differ"


def test_streamed_and_offline_agree_where_the_settings_are_the_same(here, data, recording, tmp_path):
    flags = ["--checkpoint", data / "train.ckpt", "--out"]
    here(recording, *flags, tmp_path / "offline")
    code, said, output = here(recording, *flags, tmp_path / "stream", "--stream", "--block", "7ms", "--json")
    assert (code, output) == (0, "")
    facts = json.loads(said)["recordings"][recording.stem]
    assert 0 < facts["computing_ms_p50"] <= facts["computing_ms_p99"] <= facts["delay_ms_max"]
    offline, stream = (numbers(tmp_path / name / f"{recording.stem}.csv") for name in ("offline", "stream"))
    assert np.array_equal(offline[0], stream[0])
    np.testing.assert_allclose(offline[1], stream[1], atol=1e-3)
    # a decision waits for the end of its block, of 36 samples or of what is left, and for the computing
    *before_last, _ = rows(tmp_path / "stream" / f"{recording.stem}.csv")
    for row in before_last:
        wait = -round(float(row["time_s"]) * 5120) % 36 / 5.12
        assert wait < float(row["delay_ms"])


def test_streamed_and_offline_agree_with_the_same_session_statistics(data, recording):
    trained = TrainedModel.open(data / "live.ckpt", CPU)
    source = read_recording(recording, trained.signal_path.electrodes, trained.signal_path.labels)
    signal = trained.signal_path.apply(source.samples, source.scale, causal=True)
    offline = trained.predict_filtered(signal)
    wide = signal.astype(np.float64)
    transform = transform_from(wide.T @ wide / len(wide), trained.channel_normalization)
    starts = np.linspace(0, len(signal) - WINDOW, batch.STATISTICS_WINDOWS).astype(np.int64)
    x = torch.from_numpy(
        np.stack([signal[at : at + WINDOW] for at in np.unique(starts)]).astype(np.float32) @ transform
    )
    statistics = trained.network.finish_statistics(trained.network.token_statistics(x.transpose(1, 2)))
    end, actual = streamed(trained, source.samples, Given(trained.network, transform, statistics, CPU))
    assert np.array_equal(end, offline.end)
    np.testing.assert_allclose(actual, offline.probabilities, atol=1e-3)


@pytest.fixture(scope="module")
def live(data):
    """The live model, and the recording's counts."""
    trained = TrainedModel.open(data / "live.ckpt", CPU)
    return trained, read_recording(
        data / f"{recordings.record_name()}.hdf5", trained.signal_path.electrodes, "TRAJ_GT"
    ).samples


def test_online_normalisation_never_looks_ahead(live):
    trained, samples = live
    changed = samples.copy()
    changed[10_000:] = changed[10_000:] * 5 + 100
    end, first = streamed(trained, samples, OnlineNormalization(trained.network, trained.channel_normalization, CPU))
    _, second = streamed(trained, changed, OnlineNormalization(trained.network, trained.channel_normalization, CPU))
    before = end <= 10_000
    assert 0 < before.sum() < len(end)
    assert np.array_equal(first[before], second[before])
    assert (np.abs(first[~before] - second[~before]).max(1) > 0).all()


def test_the_length_of_blocks_changes_nothing(live):
    trained, samples = live
    end, actual = streamed(trained, samples, OnlineNormalization(trained.network, trained.channel_normalization, CPU))
    for block in (1, 1000, len(samples)):
        part = samples if block > 1 else samples[:2600]
        other_end, other = streamed(
            trained, part, OnlineNormalization(trained.network, trained.channel_normalization, CPU), block=block
        )
        assert np.array_equal(other_end, end[: len(other_end)])
        np.testing.assert_allclose(other, actual[: len(other)], atol=1e-3)


def renewed(online, monkeypatch):
    """Let the transform be that of all that has been heard, and the kept windows' tokens those under it."""
    monkeypatch.setattr("semg.inference.online_normalization.RENEWAL_GROWTH", 1.0)
    for _ in range(10):
        online.prepare()


@pytest.mark.parametrize("frontend", ["bands", "both", "raw"])
def test_online_statistics_come_to_those_of_the_whole(tmp_path, monkeypatch, frontend):
    """The loudness changes on the way: early tokens, summed under early gains, must count as under the last one."""
    trained = TrainedModel.open(checkpoint(tmp_path / "m.ckpt", frontend=frontend), CPU)
    random = np.random.default_rng(0)
    loud = np.repeat([20.0, 40.0, 80.0], 2560)[:, None] * random.uniform(0.5, 2, 24)
    signal = (random.normal(size=(7680, 24)) * loud).astype(np.float16)
    online = OnlineNormalization(trained.network, trained.channel_normalization, CPU)
    for at in range(0, 7680, WINDOW):
        online.see(signal[at : at + WINDOW])
        online.normalized(online.features(signal[at : at + WINDOW]))
    renewed(online, monkeypatch)
    x, statistics = online.scaled(signal[-WINDOW:]), online.statistics()
    gain = 1 / np.sqrt(np.square(signal.astype(np.float64)).mean(0))
    np.testing.assert_allclose(np.diag(online.transform), gain, rtol=1e-5)
    np.testing.assert_allclose(x[0].numpy().T, signal[-WINDOW:].astype(np.float64) * gain, rtol=1e-4, atol=1e-5)
    whole = torch.from_numpy(signal.reshape(6, WINDOW, 24) * gain.astype(np.float32)).transpose(1, 2)
    expected = trained.network.finish_statistics(trained.network.token_statistics(whole))
    # the floor under powers is the one thing that does not scale with the gain
    np.testing.assert_allclose(statistics[0].numpy(), expected.numpy(), atol=0.05)


def test_online_whitening_comes_to_that_of_the_whole(tmp_path, monkeypatch):
    trained = TrainedModel.open(checkpoint(tmp_path / "m.ckpt", frontend="bands", whitening="append"), CPU)
    random = np.random.default_rng(0)
    skin = np.eye(24) + 0.4 * np.eye(24, k=1)
    signal = (random.normal(size=(30 * WINDOW, 24)) @ skin * 20).astype(np.float16)
    online = OnlineNormalization(trained.network, trained.channel_normalization, CPU)
    for at in range(0, len(signal), WINDOW):
        online.see(signal[at : at + WINDOW])
        online.normalized(online.features(signal[at : at + WINDOW]))
    renewed(online, monkeypatch)
    statistics = online.statistics()
    wide = signal.astype(np.float64)
    transform = transform_from(wide.T @ wide / len(wide), trained.channel_normalization)
    np.testing.assert_allclose(online.transform, transform, atol=0.01 * np.abs(transform).max())
    whole = torch.from_numpy(signal.reshape(30, WINDOW, 24).astype(np.float32) @ transform).transpose(1, 2)
    expected = trained.network.finish_statistics(trained.network.token_statistics(whole))
    np.testing.assert_allclose(statistics[0].numpy(), expected.numpy(), atol=0.1)


def test_a_stream_waits_for_its_warm_up(here, data, recording, tmp_path):
    words = [recording, "--checkpoint", data / "session.ckpt", "--stream", "--out", tmp_path]
    _, said, output = here(*words, "--start-after", 2)
    assert "trained on zero-phase" in output
    assert "first 2 s" in said
    assert numbers(tmp_path / f"{recording.stem}.csv")[0][0] == 2.0
    code, _, output = here(*words, "--start-after", 4.1)
    assert code == 1
    assert "--start-after" in output


def test_tables_give_what_the_recording_gives(here, data, recording, tmp_path):
    flags = ["--checkpoint", data / "session.ckpt", "--out", tmp_path / "out"]
    here(recording, *flags)
    _, expected = numbers(tmp_path / "out" / f"{recording.stem}.csv")
    counts = read_recording(recording, tuple(range(1, 25)), "TRAJ_GT").samples
    np.save(tmp_path / "counts.npy", counts)
    swapped = np.concatenate([counts[:, :1] * 0, counts[:, ::-1]], axis=1) * putemg.MICROVOLTS_PER_COUNT
    header = ",".join(["time", *[f"c{i}" for i in range(24)]])
    np.savetxt(tmp_path / "micro.csv", swapped, delimiter=",", header=header, comments="", fmt="%.4f")
    assert here(tmp_path / "counts.npy", *flags, "--rate", 5120, "--unit", "counts")[0] == 0
    order = ",".join(str(n) for n in range(25, 1, -1))
    assert here(tmp_path / "micro.csv", *flags, "--rate", 5120, "--channels", order)[0] == 0
    for name in ("counts", "micro"):
        assert "truth" not in rows(tmp_path / "out" / f"{name}.csv")[0]
    np.testing.assert_allclose(numbers(tmp_path / "out" / "counts.csv")[1], expected, atol=1e-5)
    np.testing.assert_allclose(numbers(tmp_path / "out" / "micro.csv")[1], expected, atol=5e-3)


def test_another_rate_is_resampled_and_said(here, data, tmp_path):
    tone = 300 * np.sin(2 * np.pi * np.outer(np.arange(4000) / 2000, np.linspace(30, 400, 24)))
    fine = 300 * np.sin(2 * np.pi * np.outer(np.arange(10240) / 5120, np.linspace(30, 400, 24)))
    np.save(tmp_path / "slow.npy", tone)
    np.save(tmp_path / "fast.npy", fine)
    flags = ["--checkpoint", data / "session.ckpt", "--out", tmp_path, "--rate"]
    code, _, output = here(tmp_path / "slow.npy", *flags, 1600, "--quiet")
    assert (code, "nothing above 800" in output, "resampled from 1600 Hz" in output) == (0, False, True)
    _, _, output = here(tmp_path / "slow.npy", *flags, 1000)
    assert "nothing above 500 Hz" in output
    assert here(tmp_path / "slow.npy", *flags, 2000)[0] == 0
    assert here(tmp_path / "fast.npy", *flags, 5120)[0] == 0
    (slow_time, slow), (fast_time, fast) = numbers(tmp_path / "slow.csv"), numbers(tmp_path / "fast.csv")
    assert np.array_equal(slow_time, fast_time)
    assert np.abs(slow - fast)[2:-2].mean() < 0.05, "the same tones give nearly the same, but for the ends"
    code, _, output = here(tmp_path / "slow.npy", *flags, 2000, "--stream")
    assert code == 1
    assert "looks ahead" in output


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"1,2\n3,4\n", "24 channels, found 2 columns"),
        ("a.csv", b"", "found no row"),
        ("a.csv", b"x\ny\n", "no column of samples"),
        ("a.csv", (b"1," * 23 + b"nan\n") * 2000, "finite numbers, found nan at sample 0"),
        ("a.csv", (b"1," * 23 + b"1\n") * 1279, "at least a window, 1280 samples, found 1279"),
        ("a.csv", ((b"1," * 23 + b"1\n") + (b"9e9," * 23 + b"9e9\n")) * 1000, "--unit"),
        ("a.npy", b"no", "NumPy array"),
        ("none.npy", None, "no such file"),
    ],
)
def test_wrong_tables_are_named(here, data, tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    flags = ["--checkpoint", data / "session.ckpt", "--out", tmp_path / "out", "--rate", 5120]
    code, _, errors = here(tmp_path / name, *flags)
    assert code == 1
    assert told in errors
    assert name in errors
    assert not (tmp_path / "out").exists()


def test_what_looks_wrong_in_a_table_is_said(here, data, tmp_path):
    noise = np.random.default_rng(0).normal(0, 30, (4000, 24))
    noise[:, 2] = 0
    noise[:, 5] = noise[:, 4]
    header = ",".join(["t", *[f"c{i}" for i in range(24)], "traj_gt"])
    table = np.column_stack([np.arange(4000) / 5120, noise, np.full(4000, 77)])
    table = np.delete(table, np.arange(2000, 2512), axis=0)
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header=header, comments="", fmt="%.7g")
    flags = ["--checkpoint", data / "session.ckpt", "--out", tmp_path / "out", "--rate"]
    code, _, errors = here(tmp_path / "a.csv", *flags, 5120)
    assert code == 0
    assert "its channels are called c0 to c23, the model's are EMG_1 to EMG_24: taken in their order" in errors
    assert "dead channels 3, equal channels 5=6 of the model's" in errors
    assert "lost samples: 0.1 s in 1 gap, at 0.3906 s; times of decisions do not count them" in errors
    assert "no label is one of the model's classes, " in errors
    assert errors.splitlines()[-1].endswith(": they are 77")
    code, _, errors = here(tmp_path / "a.csv", *flags, 4000)
    assert (code, "expected 4000 Hz, found 5120" in errors) == (1, True)
    np.save(tmp_path / "flat.npy", np.ones((4000, 24)))
    code, _, errors = here(tmp_path / "flat.npy", *flags, 5120)
    assert (code, "flat.npy: expected a signal, found channels that never change" in errors) == (1, True)


def test_the_last_line_says_how_to_see_the_decisions(here, data, tmp_path):
    noise = np.random.default_rng(0).normal(0, 30, (2000, 24))
    paths = [tmp_path / "a b.npy", tmp_path / "c.npy"]
    for path in paths:
        np.save(path, noise)
    flags = ["--checkpoint", data / "session.ckpt", "--out", tmp_path, "--rate", "5120"]
    _, said, _ = here(paths[0], paths[1], *flags)
    last = said.splitlines()[-1]
    assert "predictions of 2 recordings; next: " in last
    python, script, *words = shlex.split(last.partition("next: ")[2])
    assert (python, script, str(paths[1]) in words) == ("python", "predict.py", False)
    _, said, _ = here(*words)
    assert said.splitlines()[-1].endswith(f"look at {tmp_path / 'a b.png'}")
    assert (tmp_path / "a b.png").exists()


def test_the_last_line_names_a_recording_that_could_be_read(here, data, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 24)))
    np.save(tmp_path / "b.npy", np.random.default_rng(0).normal(0, 30, (2000, 24)))
    words = [tmp_path / "a.npy", tmp_path / "b.npy", "--checkpoint", data / "session.ckpt", "--rate", 5120]
    code, said, _ = here(*words, "--out", tmp_path / "out")
    assert (code, said.splitlines()[-1].endswith("1 failed, see above")) == (1, True)
    command = said.splitlines()[-1].partition("next: ")[2]
    assert ("a.npy" in command, "b.npy" in command) == (False, True)


def test_a_table_of_any_ending_is_read_and_another_format_is_named(here, data, tmp_path):
    noise = np.random.default_rng(0).normal(0, 30, (2000, 24))
    np.savetxt(tmp_path / "a.asc", noise, fmt="%.3f")
    flags = ["--checkpoint", data / "session.ckpt", "--out", tmp_path, "--rate", 5120]
    assert here(tmp_path / "a.asc", *flags)[0] == 0
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04" + bytes(99))
    code, _, errors = here(tmp_path / "a.xlsx", *flags)
    assert (code, "found an Excel workbook or a zip archive" in errors) == (1, True)


@pytest.mark.parametrize("flags", [["--out", "."], ["--stream", "--save-statistics", "mine.csv"]])
def test_no_recording_is_replaced_by_what_is_made_of_it(here, data, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("the only copy")
    np.save(tmp_path / "first.npy", np.zeros((4000, 24)))
    recordings_read = ["mine.csv"] if "--stream" in flags else ["first.npy", "mine.csv"]
    with pytest.raises(UsageError, match=r"^--\S+ \S+: expected another place, found that of mine\.csv"):
        here(*recordings_read, "--rate", 5120, "--checkpoint", data / "session.ckpt", *flags)
    assert (tmp_path / "mine.csv").read_text() == "the only copy"


def test_flags_for_streams_are_refused_without_one_only_if_they_were_given():
    parse = predict.arguments().parse_args
    predict.check(parse(["a.hdf5"]))
    for words in (["--block", "50ms"], ["--block", "25ms"], ["--start-after", "0"], ["--statistics", "a.npz"]):
        with pytest.raises(UsageError, match=f"{words[0]}: expected --stream with it"):
            predict.check(parse(["a.hdf5", *words]))


def test_wrong_flags_and_checkpoints(here, recording, tmp_path):
    with pytest.raises(DataError, match=r"a\.csv: expected a table of samples, found no such file"):  # not: give --rate
        here(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("1,2\n")
    with pytest.raises(UsageError, match="--rate"):
        here(tmp_path / "a.csv")
    with pytest.raises(UsageError, match="share a file"):
        here(recording, recording.with_suffix(".csv"), "--rate", 5120)
    for words in (["--rate", 5120], ["--unit", "mV"], ["--channels", "1-24"]):
        with pytest.raises(UsageError, match=rf"^{words[0]}: expected a table .* found {recording.name}; leave it out"):
            here(recording, *words)
    with pytest.raises(DataError, match=r"m\.ckpt: expected what .* trained on, found one without data.arguments.low"):
        how = {"window": WINDOW, "stride": 100}
        data = {"rate": 5120.0, "channels": list(putemg.CHANNEL_COLUMNS), "classes": CLASSES, "arguments": how}
        here(recording, "--checkpoint", checkpoint(tmp_path / "m.ckpt", data=data))


def test_the_vote_is_the_majority_over_the_last_decisions(here, data, recording, tmp_path):
    here(recording, "--checkpoint", data / "session.ckpt", "--out", tmp_path, "--vote", 3)
    table = rows(tmp_path / f"{recording.stem}.csv")
    said = [row["gesture"] for row in table]
    for place, row in enumerate(table):
        last = said[max(0, place - 2) : place + 1]
        most = max(last.count(name) for name in last)
        assert row["voted"] == next(name for name in reversed(last) if last.count(name) == most)


def test_smoothed_decisions_are_those_of_the_filter_over_the_recording(here, data, recording, tmp_path):
    flags = (
        recording,
        "--checkpoint",
        data / "session.ckpt",
        "--out",
        tmp_path,
        "--vote",
        3,
        "--smooth",
        4.1,
        "--plot",
    )
    assert here(*flags)[0] == 0
    assert (tmp_path / f"{recording.stem}.png").stat().st_size > 10_000
    table = rows(tmp_path / f"{recording.stem}.csv")
    assert list(table[0])[:4] == ["time_s", "gesture", "voted", "smoothed"]
    smooth = MarkovFilter(float(table[1]["time_s"]) - float(table[0]["time_s"]), 4.1)
    for row in table:
        shares = smooth(np.array([float(row[f"p_{name}"]) for name in CLASSES]))
        first, second = np.sort(shares)[[-1, -2]]
        if first - second > 1e-3:  # six decimals tell no closer
            assert row["smoothed"] == CLASSES[shares.argmax()]


@pytest.mark.parametrize(
    ("flags", "drawn"),
    [
        ([], ": decisions offline"),
        (["--vote", 3], ": decisions offline, majority of the last 3"),
        (["--smooth", 4.1], ": decisions offline, smoothed (4.1 s)"),
        (["--vote", 3, "--smooth", 4.1], ": decisions offline, smoothed (4.1 s)"),
    ],
)
def test_smoothed_decisions_are_scored_and_the_picture_says_which_it_shows(
    here, data, recording, tmp_path, monkeypatch, flags, drawn
):
    """The score was of single windows, and the picture of smoothed decisions, without a word."""
    titles = []
    monkeypatch.setattr(signal_figures, "timeline", lambda *given, **_: titles.append(given[9]))
    words = (recording, "--checkpoint", data / "session.ckpt", "--out", tmp_path, *flags)
    _, said, _ = here(*words, "--plot", "--json")
    assert titles[0].removeprefix(recording.stem).startswith(drawn)
    output = json.loads(said)["recordings"][recording.stem]
    known = [row for row in rows(tmp_path / f"{recording.stem}.csv") if row["truth"]]
    _, told, _ = here(*words)
    for name in ("voted", "smoothed"):
        assert (name in output) == (name in known[0]) == (f"; {name} macro-F1 " in told)
        if name in output:
            right = sum(row[name] == row["truth"] for row in known)
            assert output[name]["accuracy"] == pytest.approx(right / len(known))


def test_of_some_gestures_the_probabilities_are_renormalised_and_it_is_said(here, data, recording, tmp_path):
    flags = [recording, "--checkpoint", data / "session.ckpt"]
    here(*flags, "--out", tmp_path / "all")
    _, said, _ = here(*flags, "--out", tmp_path / "some", "--classes", "fist", "idle", "pinch small")
    assert "deciding between fist, idle, pinch small alone, probabilities renormalised" in said
    assert "left out: flexion, extension, pinch index" in said
    whole, some = (rows(tmp_path / name / f"{recording.stem}.csv") for name in ("all", "some"))
    assert list(some[0]) == ["time_s", "gesture", "p_fist", "p_idle", "p_pinch small", "truth"]
    for before, after in zip(whole, some, strict=True):
        kept = [float(before[f"p_{name}"]) for name in ("fist", "idle", "pinch small")]
        actual = [float(after[f"p_{name}"]) for name in ("fist", "idle", "pinch small")]
        rounding = 3e-6 / max(sum(kept), 1e-6)  # of six decimals
        np.testing.assert_allclose(actual, np.array(kept) / max(sum(kept), 1e-6), rtol=0, atol=rounding)
        assert after["truth"] == before["truth"]
    here(*flags, "--out", tmp_path / "active", "--no-idle")
    active = rows(tmp_path / "active" / f"{recording.stem}.csv")
    assert {row["truth"] for row in active} == {"", "fist"}, "idle is none of the gestures now"
    with pytest.raises(SettingError, match=r"classes: expected gestures of idle, fist.*'pinch small', found 'wave'"):
        here(*flags, "--classes", "fist", "wave")


@pytest.mark.parametrize("flags", [[], ["--adapt"], ["--one-session"]], ids=" ".join)
def test_what_is_said_of_many_recordings_is_counted(here, data, tmp_path, flags):
    """A data set has hundreds of files, each of which is resampled."""
    paths = [tmp_path / f"{name}.npy" for name in "abcde"]
    for place, path in enumerate(paths):
        np.save(path, 300 * np.random.default_rng(place).normal(size=(2000, 24)))
    code, _, errors = here(
        *paths, "--checkpoint", data / "session.ckpt", "--out", tmp_path, "--rate", 2000, "--unit", "uV", *flags
    )
    assert code == 0
    said = "resampled from 2000 Hz to the model's 5120 Hz"
    lines = [line for line in errors.splitlines() if said in line]
    assert lines == [*(f"warning: {path}: {said}" for path in paths[:3]), f"warning: 2 more recordings: {said}"]
    if "--adapt" in flags:
        assert "warning: 2 more recordings: the model was not adapted" in errors


@pytest.fixture
def repetitions(tmp_path):
    """Two tables of one session: the second is much stronger, as the file of a gesture beside that of rest."""
    random = np.random.default_rng(0)
    for name, strength in (("rest", 3), ("fist", 60)):
        np.save(tmp_path / f"{name}.npy", random.normal(0, strength, (2 * WINDOW, 24)))
    return [tmp_path / "rest.npy", tmp_path / "fist.npy"]


def test_recordings_of_one_session_are_normalised_together(here, data, repetitions, tmp_path):
    """By itself, a recording of rest has the strength of any other."""
    flags = ["--checkpoint", data / "session.ckpt", "--rate", 5120, "--unit", "uV"]
    _, said, _ = here(*repetitions, *flags, "--out", tmp_path / "alone")
    assert "by each whole recording's own statistics (offline); --one-session takes them together" in said
    told = "(offline); if this one holds a single gesture, give the session's others too, with --one-session\n"
    assert told in here(repetitions[0], *flags, "--out", tmp_path / "single")[1]
    _, said, _ = here(*repetitions, *flags, "--out", tmp_path / "together", "--one-session")
    assert "normalised by the statistics of all 2 recordings, as one session (offline)" in said
    words = shlex.split(said.splitlines()[-1].partition("next: ")[2])
    assert {str(path) for path in repetitions} < set(words), "fewer recordings would be another session"
    model = TrainedModel.open(data / "session.ckpt", CPU)
    signals = [model.signal_path.apply(np.load(path).astype(np.float32)) for path in repetitions]
    for path, signal in zip(repetitions, signals, strict=True):
        expected = model.predict_filtered(signal, model.session_of(*signals)).probabilities
        np.testing.assert_allclose(numbers(tmp_path / "together" / f"{path.stem}.csv")[1], expected, atol=2e-6)
        alone = numbers(tmp_path / "alone" / f"{path.stem}.csv")[1]
        np.testing.assert_allclose(alone, model.predict_filtered(signal).probabilities, atol=2e-6)
        assert np.abs(alone - expected).max() > 0.01


def test_trials_of_one_name_in_a_folder_for_each_gesture_are_told_apart(here, data, repetitions, tmp_path):
    flags = ["--checkpoint", data / "session.ckpt", "--rate", 5120, "--unit", "uV", "--one-session", "--json"]
    here(*repetitions, *flags, "--out", tmp_path / "expected")
    paths = [tmp_path / "P1" / path.stem / "trial.npy" for path in repetitions]
    for path, original in zip(paths, repetitions, strict=True):
        path.parent.mkdir(parents=True)
        path.write_bytes(original.read_bytes())
    code, said, _ = here(*paths, *flags, "--out", tmp_path / "out", "--plot")
    assert (code, list(json.loads(said)["recordings"])) == (0, ["rest-trial", "fist-trial"])
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {f"{name}-trial.{ending}" for name in ("rest", "fist") for ending in ("csv", "png")}
    for name in ("rest", "fist"):
        actual, expected = (tmp_path / "out" / f"{name}-trial.csv", tmp_path / "expected" / f"{name}.csv")
        assert actual.read_text() == expected.read_text()
    with pytest.raises(UsageError, match=r"^fist-trial: expected recordings of different names, found two"):
        here(*paths, paths[1], *flags)


def test_of_one_session_what_cannot_be_read_is_left_out(here, data, repetitions, tmp_path):
    flags = ["--checkpoint", data / "session.ckpt", "--rate", 5120, "--one-session"]
    np.save(tmp_path / "short.npy", np.zeros((4, 24)))
    code, said, errors = here(repetitions[0], tmp_path / "short.npy", repetitions[1], *flags, "--out", tmp_path / "a")
    assert (code, errors.count("error: ")) == (1, 1)
    assert "short.npy: expected at least a window" in errors
    assert "all 2 recordings" in said
    here(*repetitions, *flags, "--out", tmp_path / "b")
    for path in repetitions:
        assert (tmp_path / "a" / f"{path.stem}.csv").read_text() == (tmp_path / "b" / f"{path.stem}.csv").read_text()
    code, said, errors = here(tmp_path / "short.npy", *flags, "--out", tmp_path / "c")
    assert (code, errors.count("error: "), "predictions of 0 recordings; 1 failed" in said) == (1, 1, True)


def test_one_session_has_one_unit(here, data, repetitions):
    """Each table by itself would be brought to the usual strength, and rest be as strong as a fist."""
    for path, strength in zip(repetitions, (3e-9, 6e-5), strict=True):
        np.save(path, np.random.default_rng(0).normal(0, strength, (2 * WINDOW, 24)))
    told = r"rest.npy: expected an RMS near the others' 1\.\d+e-05, found 1\.\d+e-09: it is in another unit"
    with pytest.raises(DataError, match=told) as error:
        here(*repetitions, "--checkpoint", data / "session.ckpt", "--rate", 5120, "--one-session")
    assert error.value.hint == "if all are in one unit, {unit} says which"


def test_the_unit_of_one_session_is_found_from_all_its_tables(here, data, repetitions, tmp_path):
    """In millivolts, rest by itself is too weak for microvolts and a fist is not."""
    for path in repetitions:
        np.save(path, np.load(path) * 5e-3)
    flags = ["--checkpoint", data / "session.ckpt", "--rate", 5120, "--one-session"]
    here(*repetitions, *flags, "--unit", "mV", "--out", tmp_path / "said")
    _, _, warned = here(*repetitions, *flags, "--out", tmp_path / "found")
    told = "rest.npy, fist.npy: an RMS of 0.08"
    assert warned.count("is of another unit: multiplied by 1000") == warned.count(told) == 1
    for path in repetitions:
        found, said = (tmp_path / name / f"{path.stem}.csv" for name in ("found", "said"))
        assert found.read_text() == said.read_text()


def test_two_units_in_one_session_are_warned_of(here, data, repetitions):
    """Neither is a thousand times away from the median of two."""
    np.save(repetitions[0], np.load(repetitions[1]) / 1000)
    flags = ["--checkpoint", data / "session.ckpt", "--rate", 5120, "--one-session"]
    told = r"expected recordings in one unit, found an RMS of 0\.03\d* in rest\.npy and of 3\d\.\d in fist\.npy"
    assert re.search(told, here(*repetitions, *flags)[2])
    assert not re.search(told, here(*repetitions, *flags, "--unit", "uV")[2])


def test_one_session_adapts_one_model(here, repetitions, tmp_path):
    few_features = checkpoint(tmp_path / "bands.ckpt", frontend="bands")  # of whose tokens a PCA takes no seconds
    flags = ["--checkpoint", few_features, "--rate", 5120, "--out", tmp_path / "out", "--adapt"]
    assert here(*repetitions, *flags)[2].count("the model was not adapted") == 2
    assert here(*repetitions, *flags, "--one-session")[2].count("the model was not adapted") == 1


def test_one_session_needs_sessions(here, data, recording):
    with pytest.raises(UsageError, match="--one-session: expected no --stream with it"):
        here(recording, "--checkpoint", data / "session.ckpt", "--one-session", "--stream")
    with pytest.raises(SettingError, match="a model that is normalised by session, not by train"):
        here(recording, "--checkpoint", data / "train.ckpt", "--one-session")


def test_truth_is_known_where_one_label_covers_the_window():
    codes = np.array([0, 0, 0, 9, 9, 9, -1, -1, -1])
    assert predict.truth_of(codes, CLASSES, np.array([3, 4, 6, 9]), 3).tolist() == [0, -1, 7, -1]
    assert predict.truth_of(codes, [*CLASSES, "rest"], np.array([9]), 3).tolist() == [8]
    assert predict.truth_of(None, CLASSES, np.array([3]), 3).tolist() == [-1]


def test_a_table_in_another_unit_is_brought_to_the_usual_range_and_said(here, data, recording, tmp_path):
    flags = ["--checkpoint", data / "session.ckpt", "--out", tmp_path, "--rate", 5120]
    counts = read_recording(recording, tuple(range(1, 25)), "TRAJ_GT").samples * putemg.MICROVOLTS_PER_COUNT
    for name, scale in (("micro", 1.0), ("volts", 1e-6), ("adc", 1e5)):
        np.save(tmp_path / f"{name}.npy", counts * scale)
        code, _, output = here(tmp_path / f"{name}.npy", *flags, "--quiet")
        assert code == 0
        assert ("is of another unit: multiplied by" in output) == (name != "micro")
    for name in ("volts", "adc"):
        np.testing.assert_allclose(numbers(tmp_path / f"{name}.csv")[1], numbers(tmp_path / "micro.csv")[1], atol=2e-2)


@pytest.mark.parametrize(
    "end", ["", "\n3,4", "\n3,x," + ",".join(["4"] * 22)], ids=["whole rows", "half a row", "text"]
)
def test_a_table_that_is_still_being_written_is_said(here, data, tmp_path, monkeypatch, end):
    """What a recorder wrote while it was read was left out in silence, and an error was one of its own."""
    path, read_table = tmp_path / "growing.csv", inference_recordings.read_table
    rows_there = [",".join(map(str, row)) for row in np.random.default_rng(0).normal(0, 50, (2 * WINDOW, 24))]
    path.write_text("\n".join(rows_there) + (end or "\n"))

    def grows(*words):
        try:
            return read_table(*words)
        finally:
            with path.open("a") as file:
                file.write("1,2\n")

    flags = [path, "--checkpoint", data / "session.ckpt", "--rate", 5120, "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(inference_recordings, "read_table", grows)
        code, _, errors = here(*flags)
    told = "growing.csv: it changed while it was read, as if it were still being written: what came later is left out"
    refused = "growing.csv: expected a recording at rest, found it changed while it was read; run this again"
    assert (code, errors.count(told), errors.count(refused)) == ((1, 0, 1) if "x" in end else (0, 1, 0))
    assert ("has 2 cells of 24 and is left out: is the rest of it missing?" in errors) == (end == "\n3,4")


def test_a_vote_is_shown_with_its_share():
    said, votes = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1])
    assert predict.vote_shares(said, votes, 3).tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3, 1])


@pytest.mark.parametrize("column", ["TRAJ_GT", "label"])
def test_a_tables_labels_are_the_truth_as_a_recordings_are(here, data, recording, tmp_path, column):
    """In the column that the training data had them in, or in that of live.py --record."""
    flags = ["--checkpoint", data / "session.ckpt", "--out", tmp_path / "out", "--json"]
    source = read_recording(recording, tuple(range(1, 25)), "TRAJ_GT")
    names = [putemg.GESTURES.get(int(code), "") for code in source.codes]
    header = ",".join([column, *(f"c{i}" for i in range(24))])
    lines = [f"{name},{','.join(map(str, row))}" for name, row in zip(names, source.samples.tolist(), strict=True)]
    (tmp_path / "mine.csv").write_text("\n".join([header, *lines]) + "\n")
    _, said, _ = here(tmp_path / "mine.csv", *flags, "--rate", 5120, "--unit", "counts")
    _, expected, _ = here(recording, *flags)
    ours, theirs = (next(iter(json.loads(one)["recordings"].values())) for one in (said, expected))
    assert ours == theirs
    assert ours["with_truth"] == 18
    truth = [[row["truth"] for row in rows(tmp_path / "out" / f"{name}.csv")] for name in ("mine", recording.stem)]
    assert truth[0] == truth[1]


def test_labels_of_which_the_model_knows_only_some_are_named(here, data, tmp_path):
    """A name misspelt would otherwise cost windows of the score in silence."""
    samples = np.random.default_rng(0).normal(0, 30, (4 * WINDOW, 24)).round(3)
    names = np.repeat(["idle", "fist", "fistt", ""], WINDOW)
    header = ",".join([*(f"c{i}" for i in range(24)), "TRAJ_GT"])
    lines = [f"{','.join(map(str, row))},{name}" for row, name in zip(samples.tolist(), names, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join([header, *lines]) + "\n")
    flags = ["--checkpoint", data / "session.ckpt", "--out", tmp_path / "out", "--rate", 5120]
    assert (
        "a.csv: windows of fistt are not used: the model's classes are idle, fist, "
        in here(tmp_path / "a.csv", *flags)[2]
    )
    errors = here(tmp_path / "a.csv", *flags, "--no-idle")[2]
    assert "windows of fistt are not used" in errors, "idle was left out on purpose"


def test_labels_stay_with_a_recording_that_is_resampled():
    codes = np.repeat([0, 1, 2], 100)
    for rate, count in ((200.0, 600), (50.0, 150)):
        actual = tables.resampled(tables.RawRecording("a", np.zeros((300, 2)), 100.0, 1.0, codes), rate).codes
        assert np.array_equal(actual, np.repeat([0, 1, 2], count // 3))
