"""live.py: real streams of the Lab Streaming Layer on this machine are decided as predict.py --stream decides."""

import _thread
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from unittest import mock

import loopback
import numpy as np
import pytest
import recordings
from conftest import ROOT
from test_predict import CLASSES, checkpoint
from waiting import LONGEST, beside, wait_for

loopback.on_this_machine_alone()  # before anybody loads liblsl

import live  # noqa: E402
import predict  # noqa: E402
from semg.common.errors import DataError, SettingError, UsageError  # noqa: E402
from semg.data import putemg  # noqa: E402
from semg.inference import lsl  # noqa: E402
from semg.inference.live_decoder import Chunk, LiveDecoder  # noqa: E402
from semg.inference.lsl_replay import read_playable  # noqa: E402
from semg.inference.online_normalization import OnlineNormalization  # noqa: E402
from semg.inference.trained_model import TrainedModel  # noqa: E402

RATE, SECONDS = recordings.RATE, 4
LABELS = list(putemg.CHANNEL_COLUMNS)
BARE = {"rate": None, "channels": None, "resample": False}
RUNNING = threading.Event()  # whether a script runs here, which Ctrl-C then stops


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine may answer late; that no stream has another's name, a test need not wait a second to see."""
    monkeypatch.setattr(lsl, "_CONNECT", LONGEST)
    monkeypatch.setattr(lsl, "_TWINS", 0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A recording, and a small network for it."""
    folder = tmp_path_factory.mktemp("data")
    recordings.write(folder, recordings.frame(samples=SECONDS * RATE))
    checkpoint(folder / "live.ckpt", causal=True)
    return folder


@pytest.fixture(scope="module")
def recording(data):
    return data / f"{recordings.record_name()}.hdf5"


@pytest.fixture(scope="module")
def model(data):
    return TrainedModel.open(data / "live.ckpt", "cpu")


@pytest.fixture(scope="module")
def microvolts(recording):
    return read_playable(recording, None, None, None).samples


@pytest.fixture
def here(monkeypatch, capsys, data):
    """Run a script in this process; returns (exit code, what was said, errors and warnings)."""

    def run(script, *words):
        model = [] if "--replay" in words else ["--checkpoint", data / "live.ckpt", "--device", "cpu"]
        patience = ["--wait", LONGEST] if "--lsl" in words else []
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, [*words, *model, *patience])])
        RUNNING.set()
        try:
            code = script.main()
        except KeyboardInterrupt:
            pytest.fail("stopped before it could read")
        finally:
            RUNNING.clear()
        return code, *capsys.readouterr()

    return run


def then_ctrl_c(work):
    """`work` with Ctrl-C behind it, however it ends: live.py waits for no less, and nothing else is to get it."""

    def both():
        try:
            work()
        finally:
            if RUNNING.is_set():
                _thread.interrupt_main()

    return both


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def decided(folder, count):
    """Whether that many decisions are in the one table of a folder."""
    tables = list(folder.glob("*.csv"))
    return bool(tables) and len(tables[0].read_text().splitlines()) > count


def shares(table):
    """(n, K) probabilities of a table's rows."""
    return np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in table])


def streamed(here, recording, out, *words):
    """What predict.py --stream makes of a recording."""
    assert here(predict, recording, "--stream", "--out", out, *words)[0] == 0
    return rows(out / f"{recording.stem}.csv")


def reader_of(name, model, **changes):
    settings = {**BARE, "warn": pytest.fail, **changes}
    return lsl.StreamReader(name, lambda facts: lsl.layout_for(facts, model.signal_path, **settings), LONGEST)


def received(reader, last):
    """All chunks up to the sample that its device stamped `last`."""
    chunks = []

    def whole():
        if (chunk := reader.pull(0.1)) is not None:
            chunks.append(chunk)
        return bool(chunks) and sent_at(reader, chunks[-1])[-1] > last - 1e-6

    wait_for(whole, "the last sample")
    return chunks


def sent_at(reader, chunk):
    """(n,) time stamps as the device gave them; ours say when that was by our clock, known to a millisecond or so."""
    return chunk.stamps - reader._first_correction


def test_a_stream_is_decided_as_the_recording_is_by_predict(here, recording, microvolts, tmp_path):
    """In the table, on the outlet, in datagrams; and the record of it is a recording of the same decisions."""
    import pylsl

    expected = streamed(here, recording, tmp_path / "predict")
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    listener.settimeout(LONGEST)
    out, heard, idle = tmp_path / "live", [], []

    def feed():
        wait_for(device.outlet.have_consumers, "live.py")
        actual = pylsl.resolve_byprop("name", f"{device.name}-gestures", 1, LONGEST)
        inlet = pylsl.StreamInlet(actual[0])
        idle.append(pylsl.StreamInlet(actual[0]))  # a consumer that never takes anything
        idle[0].open_stream(LONGEST)
        inlet.open_stream(LONGEST)
        device.send(microvolts)
        wait_for(lambda: decided(out, len(expected)), "all decisions")
        heard.extend(inlet.pull_sample(LONGEST) for _ in expected)
        heard.append(inlet.info(LONGEST))

    words = ["--lsl", device.name, "--out", out, "--record", tmp_path / "record.csv", "--json"]
    with beside(then_ctrl_c(feed)):
        code, said, errors = here(live, *words, "--udp", f"127.0.0.1:{listener.getsockname()[1]}")
    assert (code, errors) == (130, "")
    output = json.loads(said)
    assert (output["decisions"], output["lost"], output["interruptions"]) == (len(expected), 0, 0)
    assert f"record.csv --rate {RATE:g} --unit uV --checkpoint" in output["message"]
    assert 0 < output["computing_ms_p50"] <= output["computing_ms_p99"]
    result = rows(tmp_path / "live" / output["csv"].split("/")[-1])
    assert [row["gesture"] for row in result] == [row["gesture"] for row in expected]
    np.testing.assert_allclose(shares(result), shares(expected), atol=1.5e-6)
    np.testing.assert_allclose(
        [float(row["time_s"]) for row in result], [float(row["time_s"]) for row in expected], atol=1e-5
    )
    *samples, info = heard
    assert info.get_channel_labels() == ["gesture", *[f"p_{name}" for name in CLASSES]]
    assert [CLASSES[int(values[0])] for values, _ in samples] == [row["gesture"] for row in result]
    np.testing.assert_allclose([values[1:] for values, _ in samples], shares(expected), atol=1.5e-6)
    lines = [json.loads(listener.recv(4096)) for _ in expected]
    assert [line["gesture"] for line in lines] == [row["gesture"] for row in result]
    for (_, stamp), line, row in zip(samples, lines, result, strict=True):
        assert stamp == pytest.approx(float(row["lsl_time"]), abs=1e-3)
        assert line["lsl_time"] == pytest.approx(stamp, abs=1e-3)
        assert line["probability"] == max(line["probabilities"].values())
        assert float(row["delay_ms"]) >= float(row["computing_ms"]) >= 0
    listener.close()
    again = streamed(here, tmp_path / "record.csv", tmp_path / "again", "--rate", RATE, "--unit", "uV")
    assert shares(again).tolist() == shares(expected).tolist()


def test_a_stream_that_goes_away_is_waited_for(here, model, microvolts, tmp_path):
    """After it, windows begin anew; what the session's loudness is was learnt before."""
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)
    half = len(microvolts) // 2
    decoder = LiveDecoder(model, RATE, 1.0, warn=pytest.fail)
    stamps = np.arange(len(microvolts)) / RATE
    expected = decoder.push(Chunk(microvolts[:half], stamps[:half], 0.0))
    decoder.begin_anew()
    expected += decoder.push(Chunk(microvolts[half:], stamps[half:] + 9.0, 0.0))
    out = tmp_path / "live"

    def feed():
        device.send(microvolts[:half])
        wait_for(lambda: decided(out, (half - model.window) // model.stride + 1), "decisions before")
        device.off()
        device.on()
        device.send(microvolts[half:], at=half + 9 * RATE)
        wait_for(lambda: decided(out, len(expected)), "decisions after")

    with beside(then_ctrl_c(feed)):
        code, said, errors = here(live, "--lsl", device.name, "--out", out, "--json")
    output = json.loads(said)
    assert (code, output["interruptions"], output["lost"]) == (130, 1, 0)
    assert "is back" in errors
    result = rows(next(out.glob("*.csv")))
    np.testing.assert_allclose(shares(result), [one.probabilities for one in expected], atol=1.5e-6)
    np.testing.assert_allclose([float(row["time_s"]) for row in result], [one.time for one in expected], atol=0.05)


@pytest.mark.parametrize(("rate", "unit"), [(RATE / 2, "microvolts"), (RATE, "millivolts")])
def test_a_stream_that_returns_with_another_rate_or_unit_is_refused(model, rate, unit):
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)
    reader = reader_of(device.name, model, resample=True)
    device.off()
    returned = loopback.Device(device.name, rate, LABELS, unit)

    def refused():
        try:
            reader.pull(0.1)
        except DataError as error:
            return str(error)
        return None

    found = []
    wait_for(lambda: found.append(refused()) or found[-1], "the stream's return")
    assert "expected the stream to return as it was" in found[-1]
    assert f"found {rate:g} Hz, unit" in found[-1]
    returned.off()


def test_a_session_goes_on_from_the_statistics_of_another(here, recording, microvolts, tmp_path):
    """As predict.py's streams do; and with too little signal to adapt to, that is said."""
    statistics, out = tmp_path / "heard.npz", tmp_path / "live"
    streamed(here, recording, tmp_path / "first", "--save-statistics", tmp_path / "first.npz")
    expected = streamed(here, recording, tmp_path / "second", "--statistics", tmp_path / "first.npz")
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)

    def feed():
        device.send(microvolts)
        wait_for(lambda: decided(out, len(expected)), "all decisions")

    words = ["--lsl", device.name, "--out", out, "--statistics", tmp_path / "first.npz"]
    with beside(then_ctrl_c(feed)):
        code, said, _ = here(live, *words, "--save-statistics", statistics, "--adapt")
    assert code == 130
    assert "not adapted: less than 30 s of signal" in said
    np.testing.assert_allclose(shares(rows(next(out.glob("*.csv")))), shares(expected), atol=1.5e-6)
    streamed(here, recording, tmp_path / "third", "--statistics", statistics)


def test_statistics_of_less_than_a_window_are_not_stored_and_not_said_to_be(here, model, microvolts, tmp_path):
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)
    record, few = tmp_path / "record.csv", model.window // 2

    def feed():
        device.send(microvolts[:few])
        wait_for(lambda: record.exists() and record.read_bytes().count(b"\n") == few + 1, "the record")

    words = ["--lsl", device.name, "--out", tmp_path / "live", "--record", record]
    with beside(then_ctrl_c(feed)):
        code, said, errors = here(live, *words, "--save-statistics", tmp_path / "heard.npz")
    assert code == 130
    assert f"{tmp_path / 'heard.npz'}: expected at least a window of signal for statistics, found less" in errors
    assert "--statistics" not in said
    assert not (tmp_path / "heard.npz").exists()


def test_statistics_are_kept_where_a_stream_that_returns_ends_the_session(here, microvolts, tmp_path):
    """A device that came back with another setting cost those of the hour before."""
    device, out, returned = loopback.Device(loopback.unique("device"), RATE, LABELS), tmp_path / "live", []

    def feed():
        device.send(microvolts)
        wait_for(lambda: decided(out, 1), "a decision")
        device.off()
        returned.append(loopback.Device(device.name, RATE, LABELS, "millivolts"))

    with beside(feed), pytest.raises(DataError, match="expected the stream to return as it was"):
        here(live, "--lsl", device.name, "--out", out, "--save-statistics", tmp_path / "heard.npz")
    returned[0].off()
    assert (tmp_path / "heard.npz").is_file()


def test_a_host_that_cannot_be_is_named_before_a_file_is_written(here, tmp_path):
    """An empty record stayed behind, and the next run refused to replace it."""
    words = ["--lsl", "nobody", "--udp", "two..dots:5005", "--out", tmp_path / "live", "--record", tmp_path / "a.csv"]
    with pytest.raises(DataError, match=r"two\.\.dots: expected a host to send to"):
        here(live, *words)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_statistics_are_computed_leaves_none_half_done(here, microvolts, tmp_path, monkeypatch):
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)
    add, added = OnlineNormalization._add_to, []

    def interrupted(self, renewal):
        if not added:
            signal.raise_signal(signal.SIGINT)
        waiting = len(renewal.waiting)
        add(self, renewal)
        added.append((waiting - len(renewal.waiting), renewal.count))

    monkeypatch.setattr(OnlineNormalization, "_add_to", interrupted)
    with beside(lambda: device.send(microvolts)):
        code, *_ = here(live, "--lsl", device.name, "--out", tmp_path, "--save-statistics", tmp_path / "heard.npz")
    assert code == 130
    assert sum(few for few, _ in added) == added[0][1]  # the renewal was finished, all its windows added
    assert (tmp_path / "heard.npz").is_file()


def test_samples_that_a_reader_was_too_slow_for_are_counted(model, microvolts):
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)
    reader = reader_of(device.name, model)
    samples = np.concatenate([microvolts, microvolts, microvolts])
    assert len(samples) > 2 * lsl.BUFFER * RATE
    device.send(samples)
    wait_for(lambda: reader._inlet.samples_available() >= lsl.BUFFER * RATE - 100, "a full buffer")
    decoder = LiveDecoder(model, RATE, 1.0, warn=[].append)  # a warning says that fewer come than announced
    first, *others = received(reader, device.begin + (len(samples) - 1) / RATE)
    before = round((sent_at(reader, first)[0] - device.begin) * RATE)  # no stamp before them says that they were lost
    count = sum(len(chunk.samples) for chunk in (first, *others))
    assert count < len(samples)
    result = [one for chunk in (first, *others) for one in decoder.push(chunk)]
    assert decoder.finish() == len(samples) - count - before
    assert result[-1].stamp > others[-1].stamps[-1] - model.stride / RATE


def test_samples_without_a_time_are_read_as_if_they_had_come_evenly(model, microvolts):
    """Their decisions were at a time that is no number, in the table and in JSON."""
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)
    reader = reader_of(device.name, model)
    wait_for(device.outlet.have_consumers, "the reader")
    for sample in microvolts[:50]:
        device.outlet.push_sample(sample, float("nan"))
    device.send(microvolts[:200])
    stamps = []

    def whole():
        if (chunk := reader.pull(0.1)) is not None:
            stamps.extend(chunk.stamps)
        return len(stamps) == 250

    wait_for(whole, "all samples")
    np.testing.assert_allclose(np.diff(stamps[:50]), 1 / RATE, atol=1e-7)
    assert abs(stamps[0] - lsl.clock()) < LONGEST


def test_another_rate_is_refused_unless_it_is_to_be_resampled(model, microvolts):
    device = loopback.Device(loopback.unique("device"), 2000.0, LABELS)
    with pytest.raises(DataError, match="expected the model's 5120 Hz, found 2000 Hz; resample resamples it"):
        reader_of(device.name, model)
    warned = []
    reader = reader_of(device.name, model, resample=True, warn=warned.append)
    device.send(microvolts[:4000])
    decoder = LiveDecoder(model, reader.layout.rate, 1.0, warn=pytest.fail)
    result = [one for chunk in received(reader, device.begin + 3999 / 2000) for one in decoder.push(chunk)]
    assert len(result) == (2 * 5120 - model.window) // model.stride + 1
    np.testing.assert_allclose([one.time for one in result[:3]], [0.25, 0.375, 0.5], atol=1e-3)
    device = loopback.Device(loopback.unique("device"), 0.0, LABELS)
    with pytest.raises(DataError, match="expected a stream with a sampling rate, found none; rate says it"):
        reader_of(device.name, model)
    assert reader_of(device.name, model, rate=5120.0).layout.rate == 5120


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "double64"])
def test_samples_of_any_kind_of_number_are_the_same(model, microvolts, kind):
    whole = np.clip(np.round(microvolts[:300]), -128, 127)
    device = loopback.Device(loopback.unique("device"), RATE, LABELS, numbers=kind)
    reader = reader_of(device.name, model)
    device.send(whole.astype(kind.replace("double", "float")))
    result = np.concatenate([chunk.samples for chunk in received(reader, device.begin + 299 / RATE)])
    np.testing.assert_array_equal(result, whole)


def test_a_stream_of_texts_is_refused(here):
    device = loopback.Device(loopback.unique("device"), RATE, LABELS, numbers="string")
    with pytest.raises(DataError, match=f"{device.name}: expected a stream of numbers, found one of texts"):
        here(live, "--lsl", device.name)


def test_two_read_one_stream(model, microvolts):
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)
    readers = [reader_of(device.name, model) for _ in range(2)]
    device.send(microvolts[:300])
    for reader in readers:
        result = np.concatenate([chunk.samples for chunk in received(reader, device.begin + 299 / RATE)])
        np.testing.assert_array_equal(result, microvolts[:300])


def test_channels_are_taken_by_label_else_in_order_or_refused(model, microvolts):
    turned = LABELS[::-1]
    device = loopback.Device(loopback.unique("device"), RATE, ["trigger", *turned])
    reader = reader_of(device.name, model)
    assert reader.layout.unit == "uV"
    device.send(np.column_stack([np.zeros(200), microvolts[:200, ::-1]]).astype(np.float32))
    got = np.concatenate([chunk.samples for chunk in received(reader, device.begin + 199 / RATE)])
    np.testing.assert_array_equal(got, microvolts[:200])

    def layout(labels, unit="", channels=0, **changes):
        warned = []
        device = loopback.Device(loopback.unique("device"), RATE, labels, unit, channels=channels)
        return reader_of(device.name, model, warn=warned.append, **changes).layout, warned

    assert layout([], channels=24)[0].places == tuple(range(24))
    taken, warned = layout([f"ch{n}" for n in range(24)])
    assert taken.places == tuple(range(24)) and taken.unit is None
    assert "its channels are called ch0 to ch23, the model's are EMG_1 to EMG_24: taken in their order" in warned[0]
    with pytest.raises(DataError, match="expected the model's 24 channels, found 8; channels chooses"):
        layout([], channels=8)
    with pytest.raises(DataError, match="expected the model's channel EMG_24, found EMG_1, "):
        layout([*LABELS[:23], "other"])


def test_a_stream_is_found_by_name_source_id_or_type_and_else_told_what_there_is(model, monkeypatch):
    import pylsl

    device = loopback.Device(loopback.unique("device"), RATE, LABELS, kind=loopback.unique("EMG"))
    assert reader_of(f"{device.name}-source", model).facts.name == device.name
    assert reader_of(device._info.type(), model).facts.name == device.name

    def told():  # of the streams that answer within a second
        with pytest.raises(DataError, match=r"nobody: expected a stream .* within 0.1 s, found ") as caught:
            lsl.StreamReader("nobody", pytest.fail, 0.1)
        return re.search(r"found device-\w+ \(\S+, \d+ channels", str(caught.value))

    wait_for(told, "the stream's answer")
    twin = loopback.Device(device.name, RATE, LABELS)
    wait_for(lambda: len(pylsl.resolve_byprop("name", device.name, 2, 1)) == 2, "both streams")
    monkeypatch.setattr(lsl, "_TWINS", LONGEST)
    with pytest.raises(DataError, match="expected one stream, found"):
        reader_of(device.name, model)
    twin.off()


def test_a_recording_is_played_as_it_is_and_in_its_own_time(model, recording, microvolts, here, monkeypatch):
    import pylsl

    name = loopback.unique("replay")
    chunks, totals, progress = [], [], live.cli.Console.progress

    def announced(console, *items, total, **settings):
        totals.append(total)
        return progress(console, *items, total=total, **settings)

    monkeypatch.setattr(live.cli.Console, "progress", announced)

    def read():
        reader = reader_of(name, model)
        while sum(len(chunk.samples) for chunk in chunks) < RATE:
            if (chunk := reader.pull(0.1)) is not None:
                chunks.append(chunk)

    begun = pylsl.local_clock()
    with beside(read):
        code, said, _ = here(live, "--replay", recording, "--name", name, "--seconds", 1)
    assert code == 0
    assert f"{name}: played 1.0 s" in said
    assert totals == [RATE], "progress is through what is played, not through the whole recording"
    assert pylsl.local_clock() - begun >= 1.0
    np.testing.assert_array_equal(np.concatenate([chunk.samples for chunk in chunks]), microvolts[:RATE])
    stamps = np.concatenate([chunk.stamps for chunk in chunks])
    np.testing.assert_allclose(np.diff(stamps), 1 / RATE, atol=1e-7)


def test_a_table_is_played_with_its_own_labels(tmp_path):
    table = tmp_path / "mine.csv"
    random = np.random.default_rng(0).normal(size=(50, 2)).round(3)
    lines = [f"{place / 100:.2f},{a},{b},fist" for place, (a, b) in enumerate(random.tolist())]
    table.write_text("\n".join(["time,left,right,label", *lines]))
    playable = read_playable(table, 100.0, "mV", None)
    assert (playable.labels, playable.rate, playable.unit) == (("left", "right"), 100, "millivolts")
    np.testing.assert_allclose(playable.samples, random, atol=1e-6)
    with pytest.raises(DataError, match="expected a sampling rate for a table"):
        read_playable(table, None, None, None)


def test_a_table_that_is_played_while_it_is_being_written_is_said(here, tmp_path, monkeypatch):
    table, read = tmp_path / "growing.csv", live.read_playable
    table.write_text("left,right\n" + "1,-2\n-2,1\n" * 20)

    def grows(*words):
        playable = read(*words)
        table.write_text(table.read_text() + "1,-2\n")
        return playable

    monkeypatch.setattr(live, "play", lambda *_, **__: None)
    monkeypatch.setattr(live, "read_playable", grows)
    assert f"{table}: it changed while it was read" in here(live, "--replay", table, "--rate", 100)[2]


def test_what_is_missing_from_a_table_that_is_played_is_said(tmp_path):
    table, random = tmp_path / "own.csv", np.random.default_rng(0).normal(size=(350, 2)).round(3)
    lines = [f"{place % 100},{a},{b}" for place, (a, b) in enumerate(random.tolist())]
    del lines[140:190]
    table.write_text("\n".join(["n,left,right", *lines]))
    told: list[str] = []
    assert read_playable(table, 100.0, "mV", None, told.append).labels == ("left", "right")
    assert f"{table}: lost samples are judged by n, which wraps around after 100" in told[0]
    assert told[1:] == [f"{table}: lost samples: 0.5 s in 1 gap, at 1.4 s"]


def test_killed_it_leaves_what_came_in_and_what_was_decided(data, microvolts, tmp_path):
    device = loopback.Device(loopback.unique("device"), RATE, LABELS)
    out, record = tmp_path / "live", tmp_path / "record.csv"
    words = ["--lsl", device.name, "--out", out, "--record", record, "--quiet"]
    words += ["--checkpoint", data / "live.ckpt", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, ROOT / "live.py", *map(str, words)], stdout=subprocess.DEVNULL)
    try:
        device.send(microvolts[:RATE])
        wait_for(lambda: record.exists() and record.read_bytes().count(b"\n") == RATE + 1, "the record")
        wait_for(lambda: decided(out, 7), "its decisions")
    finally:
        process.kill()
        process.wait()
    assert [float(row["time_s"]) for row in rows(next(out.glob("*.csv")))] == pytest.approx(
        [0.25 + 0.125 * n for n in range(7)], abs=1e-4
    )
    kept = np.array([[float(row[name]) for name in LABELS] for row in rows(record)], np.float32)
    np.testing.assert_array_equal(kept, microvolts[:RATE])


def test_without_the_library_one_line_says_so(tmp_path):
    broken = tmp_path / "liblsl.so"
    broken.write_text("no library")
    output = {**os.environ, "PYLSL_LIB": str(broken)}
    command = [sys.executable, ROOT / "live.py", "--lsl", "x"]
    done = subprocess.run(command, capture_output=True, text=True, env=output)
    assert done.returncode == 1
    assert done.stderr.startswith("error: pylsl: expected the Lab Streaming Layer's library, found: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", [live, predict])
def test_a_warm_up_is_refused_by_a_model_that_has_nothing_to_warm_up(monkeypatch, tmp_path, script):
    """It was taken for none, without a word."""
    fixed = checkpoint(tmp_path / "train.ckpt", "train", causal=True)
    words = ["--lsl", "nobody"] if script is live else ["a.hdf5", "--stream", "--out", tmp_path]
    words = [script.__name__, *words, "--checkpoint", fixed, "--device", "cpu", "--start-after", "2"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    with pytest.raises(SettingError) as caught:
        script.main()
    text = live.cli.in_words(caught.value)
    assert text == "--start-after 2: expected a model that is normalised by session, not by train"


def test_a_warning_about_a_stream_that_returns_is_printed_above_the_redrawn_lines(here, monkeypatch):
    facts = lsl.StreamFacts("it", "EMG", "", "", 24, RATE, True, tuple(f"ch{n}" for n in range(24)))
    told = []

    def found(_name, layout_of, _wait):
        layout_of(facts)
        raise DataError("seen")

    monkeypatch.setattr(lsl, "StreamReader", found)
    monkeypatch.setattr(live.Watched, "warn", lambda _, text: told.append(text))
    with pytest.raises(DataError, match="seen"):
        here(live, "--lsl", "it")
    assert len(told) == 1 and "taken in their order" in told[0]


def test_a_model_of_some_gestures_says_which(monkeypatch, tmp_path, capsys):
    """As predict.py says it."""
    some = checkpoint(tmp_path / "some.ckpt", causal=True, classes_of_training=[*CLASSES, "wave"])
    monkeypatch.setattr(lsl, "StreamReader", mock.Mock(side_effect=DataError("seen")))
    monkeypatch.setattr(sys, "argv", ["live.py", "--lsl", "it", "--checkpoint", str(some), "--device", "cpu"])
    with pytest.raises(DataError, match="seen"):
        live.main()
    assert "renormalised over them; left out: wave" in capsys.readouterr().out


def test_the_process_that_adapts_is_there_before_the_stream_is_opened_and_ends_with_it(here, monkeypatch):
    """It takes seconds to start, and LSL keeps few: the stream's first seconds were lost."""
    events = []

    class Adapting:
        def close(self):
            events.append("closed")

    def found(*_):
        events.append("stream")
        raise DataError("seen")

    monkeypatch.setattr(live.OnlineAdaptation, "in_background", lambda _: events.append("process") or Adapting())
    monkeypatch.setattr(lsl, "StreamReader", found)
    with pytest.raises(DataError, match="seen"):
        here(live, "--lsl", "it", "--adapt")
    assert events == ["process", "stream", "closed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--record", "{}/x.csv", "--save-statistics", "{}/x.csv"], "--record .*: expected a place of its own"),
        (["--record", "{}/x.csv", "--save-statistics", "{}/../{}/x.csv"], "expected a place of its own, found that of"),
        (["--record", "{}/out", "--out", "{}/out"], "--record .*out: expected a place of its own, found that of --out"),
        (["--save-statistics", "{}/out", "--out", "{}/out/deep"], "--save-statistics .*: expected a place of its own"),
        (["--save-statistics", "{checkpoint}"], "expected another place, found that of .*live.ckpt"),
        (["--record", "{checkpoint}", "--overwrite"], "expected another place, found that of .*live.ckpt"),
        (["--record", "{}"], "expected a file's name for the incoming samples, found a folder"),
        (["--record", "{}/there.csv"], "expected no recording there, found one"),
        (["--out", "{}/there.csv"], "there.csv: expected a folder, to write the decisions under it, found a file"),
    ],
)
def test_outputs_have_places_of_their_own(here, data, tmp_path, words, message):
    """What was written first was lost, or a session ended with an error: now nothing begins."""
    (tmp_path / "there.csv").write_text("the only copy")
    words = [word.replace("{checkpoint}", str(data / "live.ckpt")) for word in words]
    words = [word.replace("{}/../{}", f"{tmp_path}/../{tmp_path.name}").replace("{}", str(tmp_path)) for word in words]
    with pytest.raises((UsageError, DataError), match=message):
        here(live, "--lsl", "nobody", *words)
    assert (tmp_path / "there.csv").read_text() == "the only copy"


def test_flags_that_do_not_go_together(here):
    for words in ([], ["--lsl", "a", "--replay", "b.hdf5"]):
        with pytest.raises(UsageError, match="expected --lsl NAME or --replay RECORDING"):
            here(live, *words)
    with pytest.raises(UsageError, match="--name: expected --replay"):
        here(live, "--lsl", "a", "--name", "b")
    for words in (
        ["--record", "a.csv"],
        ["--udp", "a:1"],
        ["--save-statistics", "a.npz"],
        ["--start-after", 2],
        ["--adapt"],
        ["--smooth", 4],
        ["--out", "elsewhere"],
        ["--wait", 3],
        ["--wait", 10],
        ["--out", "results/live"],
        ["--device", "auto"],
    ):
        with pytest.raises(UsageError, match=f"{words[0]}: expected --lsl with it"):
            here(live, "--replay", "b.hdf5", *words)
    with pytest.raises(UsageError, match=r"--unit: expected a table .* found b\.hdf5; leave it out"):
        here(live, "--replay", "b.hdf5", "--unit", "mV")
    for words in (["--lsl", ""], ["--replay", "b.hdf5", "--name", ""]):
        with pytest.raises(UsageError, match=f"{words[-2]}: expected the name of a stream, found an empty text"):
            here(live, *words)
    with pytest.raises(UsageError, match="--overwrite: expected --record"):
        here(live, "--lsl", "a", "--overwrite")
    assert live.address("[::1]:80") == ("::1", 80)
    for wrong in ("localhost", "a:0", "a:70000", ":1"):
        with pytest.raises(live.argparse.ArgumentTypeError, match="expected HOST:PORT"):
            live.address(wrong)
