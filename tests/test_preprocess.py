"""preprocess.py run as a user runs it, on recordings in putEMG's layout."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import recordings
from conftest import ROOT

import preprocess
from semg.data import windows
from semg.data.filters import FilterSpec, ZeroPhaseFilter
from semg.data.putemg import MICROVOLTS_PER_COUNT
from semg.data.shards import list_records, open_shard

SECONDS = 6
CODES = [0, 1, 2, 3, 6, 7, 8, 9]


def table(subject: int = 3, seed: int = 0, **columns) -> pd.DataFrame:
    """Six seconds: idle, then a gesture, a pause, another gesture; TRAJ_1 is half a second ahead."""
    result = recordings.frame(subject, samples=SECONDS * recordings.RATE, seed=seed)
    label = np.repeat([0.0, 1.0, -1.0, 9.0], [10240, 7680, 2560, 10240])
    result["TRAJ_GT"] = label
    result["TRAJ_1"] = np.concatenate([label[2560:], np.full(2560, label[-1])])
    for column, values in columns.items():
        result[column] = values
    return result


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    for subject in (3, 4):
        recordings.write(folder, table(subject), recordings.record_name(subject))
    return folder


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_shards_hold_the_filtered_signal_in_microvolts_and_the_windows(run_script, raw, tmp_path):
    done = run_script("preprocess.py", "--raw", raw, "--shards", tmp_path / "s", "--workers", 1)
    assert "2 shards written" in done.stdout.splitlines()[-1]
    assert "next: python create_dataset_files.py" in done.stdout
    assert list_records(tmp_path / "s") == [recordings.record_name(3), recordings.record_name(4)]
    shard = open_shard(tmp_path / "s" / recordings.record_name(3), verify=True)
    counts = table(3)["EMG_5"].to_numpy(np.float32)
    spec = FilterSpec(notch=(30, 50, 60, 90, 150))
    expected = ZeroPhaseFilter(spec.sections(5120.0), 5120.0, len(counts))(counts * np.float32(MICROVOLTS_PER_COUNT))
    np.testing.assert_allclose(shard.signal[:, 4].astype(float), expected, rtol=1e-3, atol=0.1)
    # idle from the start: 0, 640, ..., 8960; fist after the margin of 1280: 11520 ... 16640; small: 21760 ...
    starts = shard.windows["start"].tolist()
    assert starts[:15] == list(range(0, 8961, 640))
    assert starts[15:24] == list(range(11520, 16641, 640))
    assert starts[24:] == list(range(21760, 29441, 640))
    assert [shard.classes[i] for i in (0, 1, 7)] == ["idle", "fist", "pinch small"]
    assert np.unique(shard.windows["label"]).tolist() == [0, 1, 7]
    assert shard.arguments["window"] == 1280
    assert shard.meta["source"]["name"] == f"{recordings.record_name(3)}.hdf5"


def test_the_script_leaves_scipys_slow_import_to_its_workers():
    code = "import sys, preprocess; preprocess.shard_arguments(preprocess.arguments().parse_args([]))"
    code += "; print('scipy.signal' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_workers_do_not_change_a_byte_and_a_second_run_keeps_what_is_there(run_here, raw, tmp_path):
    run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "one", "--workers", 1)
    run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "two", "--workers", 2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert not [name for name in files(tmp_path / "one") if ".tmp" in name or ".lock" in name]
    again = run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "one", "--workers", 1)
    assert "0 shards written, 2 kept" in again.stdout


def test_a_run_for_each_person_makes_the_same_shards(run_here, raw, tmp_path):
    (tmp_path / "raw").mkdir()
    recordings.write(tmp_path / "raw", table(3), recordings.record_name(3))
    (tmp_path / "raw" / f"{recordings.record_name(5)}.hdf5").write_text("no HDF5")
    run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "one", "--workers", 1)
    words = ("--raw", raw, "--shards", tmp_path / "many", "--launch", "local", "--parallel", 2)
    done = run_here("preprocess.py", *words)
    assert "2 of 2 recordings have their shards; next: python create_dataset_files.py" in done.stdout
    shards = {name: data for name, data in files(tmp_path / "many").items() if not name.startswith(".jobs")}
    assert shards == files(tmp_path / "one")
    words = ("--raw", tmp_path / "raw", "--shards", tmp_path / "some", "--launch", "local", "--parallel", 2)
    done = run_here("preprocess.py", *words, code=1)
    assert re.search(r"error: subject 05: exit code 1, it said last: .*-05-.*; log: \S+", done.stderr)
    assert list_records(tmp_path / "some") == [recordings.record_name(3)]


class Nobody:
    """A launcher that keeps its jobs' names, and starts none."""

    def __init__(self):
        self.names = []

    def run(self, jobs, _name):
        self.names += [job.name for job in jobs]
        return iter([])


def test_a_recording_of_another_name_counts_as_failed_where_people_are_launched(tmp_path, monkeypatch, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.hdf5").touch()
    monkeypatch.setattr(preprocess.cli, "launcher", lambda *_: Nobody())
    monkeypatch.setattr(sys, "argv", ["p", "--raw", str(tmp_path / "raw"), "--shards", str(tmp_path), "--json"])
    assert preprocess.main() == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 1


def test_shards_made_with_other_arguments_are_refused_before_anything_is_filtered_or_launched(
    run_here, raw, tmp_path, monkeypatch
):
    words, shards = ("preprocess.py", "--raw", raw, "--shards", tmp_path, "--workers", 1), tmp_path
    run_here(*words, "--subjects", 4)
    processed = []
    monkeypatch.setattr(
        preprocess, "process", lambda one: processed.append(one.shard) or preprocess.Outcome("x", "done")
    )
    refused = run_here(*words, "--low", 30, code=1)
    assert "low 30.0, found 20.0; --overwrite redoes it" in refused.stderr
    assert processed == [shards / recordings.record_name(3)]
    (shards / recordings.record_name(4) / "shard.json").write_text("{}")
    nobody = Nobody()
    monkeypatch.setattr(preprocess.cli, "launcher", lambda *_: nobody)
    refused = run_here(*words, code=1)
    assert "expected shard format" in refused.stderr and nobody.names == ["subject 03"]


def test_other_arguments_are_named_and_overwrite_redoes(run_here, raw, tmp_path):
    words, shards = ("--raw", raw, "--workers", 1), tmp_path / "s"
    run_here("preprocess.py", *words, "--shards", shards, "--subjects", 3)
    assert len(list_records(shards)) == 1
    refused = run_here("preprocess.py", *words, "--shards", shards, "--low", 30, code=1)
    assert "low 30.0, found 20.0; --overwrite redoes it" in refused.stderr
    assert len(list_records(shards)) == 2, "the recording without a shard is done all the same"
    run_here("preprocess.py", *words, "--shards", shards, "--low", 30, "--overwrite")
    assert open_shard(shards / recordings.record_name(3)).arguments["low"] == 30.0


@pytest.mark.parametrize(
    ("flags", "channels", "names"),
    [
        (["--channels", "9-16"], 8, ["EMG_9", "EMG_16"]),
        (["--montage", "bipolar"], 16, ["EMG_1-EMG_9", "EMG_16-EMG_24"]),
        (["--montage", "car"], 24, ["EMG_1", "EMG_24"]),
    ],
)
def test_channels_and_montages(run_here, raw, tmp_path, flags, channels, names):
    run_here("preprocess.py", "--raw", raw, "--shards", tmp_path, "--subjects", "03", *flags)
    shard = open_shard(tmp_path / recordings.record_name(3))
    assert shard.signal.shape[1] == channels
    assert [shard.channels[0], shard.channels[-1]] == names
    if "car" in flags:
        assert np.abs(np.asarray(shard.signal, np.float32).mean(axis=1)).max() < 0.5
    if "bipolar" in flags:
        run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "mono", "--subjects", "03")
        mono = np.asarray(open_shard(tmp_path / "mono" / recordings.record_name(3)).signal, np.float32)
        np.testing.assert_allclose(np.asarray(shard.signal[:, 0], np.float32), mono[:, 0] - mono[:, 8], atol=2.0)


def test_rest_prompted_labels_causal_filter_and_lengths(run_here, raw, tmp_path):
    flags = [
        "--rest",
        "--labels",
        "TRAJ_1",
        "--causal",
        "--window",
        640,
        "--stride",
        "62.5ms",
        "--transition-margin",
        0,
    ]
    run_here("preprocess.py", "--raw", raw, "--shards", tmp_path, "--subjects", "03", "--no-notch", *flags)
    shard = open_shard(tmp_path / recordings.record_name(3))
    assert shard.classes[-1] == "rest"
    assert 8 in shard.windows["label"]
    assert shard.windows["start"][shard.windows["label"] == 1][0] == 7680, "prompted half a second before"
    assert (shard.arguments["window"], shard.arguments["stride"], shard.arguments["notch"]) == (640, 320, [])


def test_the_paper_preset_and_flags_over_it(run_here, raw, tmp_path):
    run_here("preprocess.py", "--raw", raw, "--shards", tmp_path, "--preset", "paper", "--subjects", "03")
    how = open_shard(tmp_path / recordings.record_name(3)).arguments
    assert (how["window"], how["stride"], how["order"]) == (2500, 1250, 5)
    assert (how["low"], how["high"], how["causal"]) == (20.0, 700.0, False)
    assert how["notch"] == [30.0, 49.99, 60.0, 90.0, 150.0]
    assert how["label_rule"] == "last-sample"
    flags = ["--preset", "paper", "--window", "1280", "--overwrite"]
    run_here("preprocess.py", "--raw", raw, "--shards", tmp_path, "--subjects", "03", *flags)
    how = open_shard(tmp_path / recordings.record_name(3)).arguments
    assert (how["window"], how["stride"], how["label_rule"]) == (1280, 1250, "last-sample")


def test_some_gestures_alone_and_in_the_order_named(run_here, raw, tmp_path):
    words = ("preprocess.py", "--raw", raw, "--workers", 1, "--subjects", "03", "--shards")
    run_here(*words, tmp_path / "all")
    run_here(*words, tmp_path / "some", "--classes", "pinch small", "fist")
    whole, some = (open_shard(tmp_path / name / recordings.record_name(3), verify=True) for name in ("all", "some"))
    assert (some.classes, some.rest_classes) == (("pinch small", "fist"), ())
    kept = np.isin(whole.windows["label"], [1, 7])
    assert some.windows["start"].tolist() == whole.windows["start"][kept].tolist()
    assert [some.classes[one] for one in some.windows["label"]] == [
        whole.classes[one] for one in whole.windows["label"][kept]
    ]
    assert some.arguments == whole.arguments
    message = run_here(*words, tmp_path / "some", code=1).stderr
    assert "expected classes ['idle'," in message
    assert "--overwrite redoes it" in message
    done = run_here(*words, tmp_path / "active", "--no-idle", "--preset", "paper")
    assert "7 classes: fist, flexion" in done.stdout
    active = open_shard(tmp_path / "active" / recordings.record_name(3))
    assert set(active.windows["label"].tolist()) == {0, 6}


def test_wrong_recordings_are_named_and_the_others_done(run_script, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    good = recordings.write(raw, table(3), recordings.record_name(3))
    recordings.write(raw, table(5), recordings.record_name(4))  # subject 5 in the column
    (raw / f"{recordings.record_name(6)}.hdf5").write_bytes(good.read_bytes()[:20_000])
    recordings.write(raw, table(7, TRAJ_GT=-1.0), recordings.record_name(7))
    recordings.write(raw, table(8, EMG_2=np.nan), recordings.record_name(8))
    (raw / "notes.hdf5").write_bytes(b"")
    done = run_script("preprocess.py", "--raw", raw, "--shards", tmp_path / "s", code=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 5
    for output in ("expected subject 04", "HDF5", "at least a window", "EMG_2", "record name"):
        assert [line for line in errors if output in line], output
    assert list_records(tmp_path / "s") == [recordings.record_name(3)]
    assert "1 shard written, 0 kept" in done.stdout
    assert "5 recordings failed" in done.stdout


def test_recordings_that_fail_alike_are_counted_after_the_first(run_here, tmp_path):
    names = [recordings.record_name(subject) for subject in range(1, 7)]
    for name in names:
        (tmp_path / f"{name}.hdf5").write_bytes(b"no HDF5")
    failed = run_here("preprocess.py", "--raw", tmp_path, "--shards", tmp_path / "s", "--workers", 1, code=1)
    lines = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert [name in line for name, line in zip(names, lines[:3], strict=False)] == [True] * 3
    assert len(lines) == 4 and lines[3].startswith("error: 3 more recordings: expected ")
    assert "6 recordings failed, see above" in failed.stdout


def test_dead_saturated_and_equal_channels_are_reported(run_here, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    result = table(3, EMG_2=7.0)
    result["EMG_3"] = 2047.0
    result.loc[result.index[:100], "EMG_3"] = 0.0
    result["EMG_9"] = result["EMG_10"]
    recordings.write(raw, result, recordings.record_name(3))
    done = run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "s")
    assert "warning" in done.stderr
    for output in ("dead channels 2", "saturated channels 3", "equal channels 9=10"):
        assert output in done.stderr
    meta = json.loads((tmp_path / "s" / recordings.record_name(3) / "shard.json").read_text())
    assert meta["faults"] == {"dead": [2], "saturated": [3], "duplicate": [[9, 10]], "gaps": [], "still": []}


def test_amplitudes_that_a_shard_cannot_hold_cost_one_recording(run_here, tmp_path):
    """Counts at both ends of what is read, of opposite signs in neighbouring rings, whose difference is taken."""
    raw = tmp_path / "raw"
    raw.mkdir()
    square = np.where(np.arange(SECONDS * recordings.RATE) // 26 % 2, 4095.0, -4095.0)
    loud = {f"EMG_{n}": square * (1 if n <= 8 else -1) for n in range(1, 17)}
    recordings.write(raw, table(3, **loud), recordings.record_name(3))
    recordings.write(raw, table(4), recordings.record_name(4))
    done = run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "s", "--montage", "bipolar", code=1)
    assert f"{recordings.record_name(3)}: expected amplitudes below 65 mV" in done.stderr
    assert list_records(tmp_path / "s") == [recordings.record_name(4)]


def test_missing_samples_are_reported_and_no_window_spans_them(run_here, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    whole = table(3)
    times = whole.index.to_numpy()
    kept = np.delete(np.arange(len(whole)), [*range(14_000, 16_560), *range(25_000, 25_005)])  # half a second; 1 ms
    recordings.write(raw, whole.iloc[kept], recordings.record_name(3))
    for flags in ([], ["--preset", "paper"]):
        done = run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "s", "--overwrite", *flags)
        assert "lost samples: 0.501 s in 2 gaps, at 2.734, 4.383 s" in done.stderr
        shard = open_shard(tmp_path / "s" / recordings.record_name(3))
        assert shard.meta["faults"]["gaps"] == [[14_000, 2560], [22_440, 5]]
        assert shard.meta["measured_rate"] == pytest.approx(5120)
        start = shard.windows["start"]
        lengths = times[kept][start + shard.window - 1] - times[kept][start]
        assert len(start)
        assert lengths.max() < (shard.window + 10) / 5120


def test_mains_hum_is_said_and_recorded_and_the_default_notches_take_it_out(run_here, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    result = recordings.frame(3, samples=10 * recordings.RATE)
    hum = np.round(150 * np.sin(2 * np.pi * 60 * result.index.to_numpy()))
    result[[f"EMG_{n}" for n in range(1, 25)]] += hum[:, None]
    recordings.write(raw, result, recordings.record_name(3))
    done = run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "s")
    assert "mains hum: 60 Hz in 1 recording; taken out" in done.stdout
    assert open_shard(tmp_path / "s" / recordings.record_name(3)).meta["mains"] == 60
    done = run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "t", "--notch", 50)
    assert "60 Hz is left in (--notch)" in done.stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_among_the_recordings_is_named_and_waited_for_by_nobody(run_script, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    recordings.write(raw, table(3), recordings.record_name(3))
    os.mkfifo(raw / f"{recordings.record_name(4)}.hdf5")
    done = run_script("preprocess.py", "--raw", raw, "--shards", tmp_path / "s", "--workers", 1, code=1)
    assert "expected a recording, found a pipe" in done.stderr
    assert list_records(tmp_path / "s") == [recordings.record_name(3)]


def test_files_of_the_system_are_no_recordings(tmp_path):
    name = f"{recordings.record_name()}.hdf5"
    for foreign in (".DS_Store", "Thumbs.db", f"._{name}", f".{name}.tmp", name):
        (tmp_path / foreign).touch()
    for foreign in ("@eaDir", "lost+found", ".ipynb_checkpoints"):
        (tmp_path / foreign).mkdir()
    assert preprocess.find_recordings(tmp_path, None) == [tmp_path / name]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--window", "0"], "above 0"),
        (["--window", "1.5"], "samples (1280) or time"),
        (["--stride", "500ms"], "at most the window"),
        (["--low", "700", "--high", "20"], "--low 700: expected above 0 and below --high, 20 Hz"),
        (["--high", "2560"], "Nyquist"),
        (["--notch", "2600"], "--notch 2600"),
        (["--notch", "50", "60", "50.0"], "--notch 50 60 50.0: expected each frequency once, found 50 Hz twice"),
        (["--channels", "0-3"], "from 1 to 24"),
        (["--channels", "25"], "from 1 to 24"),
        (["--channels", "1,1"], "each number once"),
        (["--channels", "9-16", "--montage", "bipolar"], "neighbouring rings"),
        (["--channels", "3", "--montage", "car"], "expected monopolar where --channels is a single one"),
        (["--rest", "--preset", "paper"], "--rest"),
        (
            ["--transition-margin", "0.1", "--preset", "paper"],
            "--transition-margin: --preset paper leaves windows near",
        ),
        (["--classes", "fist", "wave"], "--classes fist wave: expected gestures of idle, fist"),
        (["--classes", "fist", "rest"], "found 'rest'"),
        (["--no-idle", "--rest"], "--no-idle: expected no --rest with it"),
        (["--order", "0"], "at least 1"),
        (["--transition-margin", "-1"], "at least 0"),
        (["--guard", "0.1"], "--guard: is now called --transition-margin"),
        (["--subjects", "abc"], "subject number"),
        (["--workers", "0"], "at least 1"),
    ],
)
def test_wrong_flags_exit_with_2_and_write_nothing(run_here, raw, tmp_path, flags, told):
    done = run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "s", *flags, code=2)
    assert told in done.stderr
    assert not (tmp_path / "s").exists()


def test_missing_folders_and_people_are_told(run_here, raw, tmp_path):
    done = run_here("preprocess.py", "--raw", tmp_path / "none", "--shards", tmp_path / "s", code=1)
    assert "download_putemg.py or simulate_putemg.py" in done.stderr
    (tmp_path / "empty").mkdir()
    done = run_here("preprocess.py", "--raw", tmp_path / "empty", "--shards", tmp_path / "s", code=1)
    assert "expected recordings named" in done.stderr
    done = run_here("preprocess.py", "--raw", raw, "--shards", tmp_path / "s", "--subjects", 53, code=1)
    assert "subject 53" in done.stderr
    (tmp_path / "empty" / "other.hdf5").touch()
    done = run_here("preprocess.py", "--raw", tmp_path / "empty", "--shards", tmp_path / "s", "--subjects", 3, code=1)
    assert "there are none of any subject" in done.stderr


def test_two_files_of_one_recording_are_refused(run_here, tmp_path):
    name = recordings.record_name(3)
    (tmp_path / f"{name}.hdf5").touch()
    (tmp_path / f"{name}.HDF5").touch()
    done = run_here("preprocess.py", "--raw", tmp_path, "--shards", tmp_path / "s", code=1)
    assert f"expected each recording once, found {name}.HDF5 and {name}.hdf5" in done.stderr
    assert not (tmp_path / "s").exists()


def test_a_label_that_flickers_is_named_with_its_recording(run_here, tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MOST_SEGMENTS", 1)
    data = table()
    data["TRAJ_GT"] = np.repeat([1.0, -1.0, 1.0], [10240, 10240, 10240])
    path = recordings.write(tmp_path, data, recordings.record_name(3))
    done = run_here("preprocess.py", "--raw", tmp_path, "--shards", tmp_path / "s", "--workers", 1, code=1)
    assert f"{path}: expected at most 1 segments of a gesture" in done.stderr
