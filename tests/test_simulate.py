"""The simulator: putEMG's layout to the byte, honest labels, signals neither silent nor trivial, safe re-runs."""

import json
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from full_disks import files_of_at_most
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import simulate_putemg
from semg.common.errors import DataError
from semg.common.files import checksum
from semg.data import putemg, simulation
from semg.data.faults import find_faults
from semg.data.putemg_recording import Recording
from semg.data.windows import segments, whole_windows
from simulate_putemg import Planned, make

CHANNELS = tuple(range(1, 25))
ACTIVE = [gesture for gesture in putemg.GESTURES if gesture > 0]
SMALL = ("--people", 2, "--days", 1, "--seconds", 20, "--workers", 1)


@pytest.fixture(scope="module")
def folder(run_script, tmp_path_factory):
    """Two people's day, as the script writes it. Tests that change it copy it first."""
    out = tmp_path_factory.mktemp("simulated") / "raw"
    run_script("simulate_putemg.py", out, *SMALL)
    return out


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "raw")


@pytest.fixture(scope="module")
def minute():
    """A recording of the default length."""
    return simulation.simulate(0, 1, 1, "repeats_short", 60)


def recordings(folder):
    return sorted(folder.glob("*.hdf5"), key=lambda path: putemg.parse_record(path.stem))


def listing(folder):
    return json.loads((folder / "simulated.json").read_text())


# --- files -------------------------------------------------------------------------------------------------


def test_every_person_has_the_three_trajectories_in_putemgs_order(folder):
    records = [putemg.parse_record(path.stem) for path in recordings(folder)]
    assert [(r.subject, r.trajectory) for r in records] == [(s, t) for s in ("01", "02") for t in putemg.TRAJECTORIES]
    assert len({(r.subject, r.date) for r in records}) == 2


def test_pandas_reads_putemgs_columns_types_and_time(folder):
    path = recordings(folder)[1]
    frame = pd.read_hdf(path)
    assert tuple(frame.columns) == putemg.COLUMNS
    texts = ("type", "trajectory")
    numbers = [name for name in frame if name not in (*texts, "date_time")]
    assert all(frame[name].dtype == np.float64 for name in numbers)
    assert all(isinstance(frame[name].dtype, pd.CategoricalDtype) for name in texts)
    assert frame["date_time"].dtype.kind == "M"
    np.testing.assert_array_equal(frame.index, np.arange(20 * 5120) / 5120)
    first = frame.iloc[0]
    assert (first["type"], first["trajectory"], first["subject"]) == ("emg_gestures", "sequential", 1.0)
    date = putemg.parse_record(path.stem)
    assert f"{first['date_time']:%Y-%m-%d-%H-%M-%S}" == f"{date.date}-{date.time[:8]}"
    assert h5py.File(path)["data/table"].compression == "gzip"  # every reader has it


def test_the_production_reader_finds_the_samples_made(folder):
    path = recordings(folder)[2]
    result = simulation.simulate(0, 1, 1, "repeats_short", 20)
    with Recording(path) as recording:
        assert recording.rate == pytest.approx(5120)
        counts, truth = recording.read(CHANNELS, "TRAJ_GT")
        _, prompted = recording.read(CHANNELS, "TRAJ_1")
    np.testing.assert_array_equal(counts, result.counts)
    np.testing.assert_array_equal(truth, result.truth)
    np.testing.assert_array_equal(prompted, result.prompted)
    assert str(find_faults(counts, CHANNELS)) == ""


def test_the_listing_says_simulated_and_vouches_for_every_file(folder):
    output = listing(folder)
    assert "simulated, not putEMG" in output["notice"]
    assert sorted(output["recordings"]) == sorted(path.name for path in recordings(folder))
    for path in recordings(folder):
        entry = output["recordings"][path.name]
        assert entry["sha256"] == checksum(path)
        assert entry["arguments"]["seed"] == 0
        assert entry["arguments"]["seconds"] == 20


def test_a_second_run_makes_only_what_is_missing_and_the_same_bytes(run_here, copy, folder):
    gone, kept = recordings(copy)[:2]
    gone.unlink()
    before = kept.stat().st_mtime_ns
    done = json.loads(run_here("simulate_putemg.py", copy, *SMALL, "--json").stdout)
    assert (done["done"], done["kept"]) == (1, 5)
    assert kept.stat().st_mtime_ns == before
    assert gone.read_bytes() == (folder / gone.name).read_bytes()


def test_a_run_killed_before_its_entry_was_written_keeps_the_file(run_here, copy):
    output = listing(copy)
    name = recordings(copy)[0].name
    expected = dict(output["recordings"][name])
    output["recordings"][name] |= {"sha256": None, "bytes": None}
    (copy / "simulated.json").write_text(json.dumps(output))
    done = json.loads(run_here("simulate_putemg.py", copy, *SMALL, "--json").stdout)
    assert done["kept"] == 6
    assert listing(copy)["recordings"][name] == expected


def test_fewer_people_and_more_workers_give_the_same_files(run_script, tmp_path, folder):
    run_script("simulate_putemg.py", tmp_path, "--people", 1, "--days", 1, "--seconds", 20, "--workers", 2)
    result = recordings(tmp_path)
    assert len(result) == 3
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in result)


def test_another_seed_is_refused_naming_the_file_and_replaces_with_overwrite(run_here, copy):
    before = {path.name: checksum(path) for path in recordings(copy)}
    other = (*SMALL, "--seed", 1)
    refused = run_here("simulate_putemg.py", copy, *other, code=1).stderr
    assert recordings(copy)[0].name in refused
    assert "made with --seed 1, found --seed 0" in refused
    assert "--overwrite" in refused
    assert {path.name: checksum(path) for path in recordings(copy)} == before
    done = run_here("simulate_putemg.py", copy, "--people", 1, *other[2:], "--overwrite")
    assert "3 recordings made with other arguments" in done.stderr  # the second person's stay
    after = {path.name: checksum(path) for path in recordings(copy)}
    assert [before[name] == after[name] for name in sorted(before)] == [False] * 3 + [True] * 3


def test_a_damaged_recording_is_named(run_here, copy):
    path = recordings(copy)[3]
    path.write_bytes(path.read_bytes()[:-100])
    message = run_here("simulate_putemg.py", copy, *SMALL, code=1).stderr
    assert path.name in message
    assert "contents" in message


def test_a_folder_of_other_recordings_is_refused_even_with_overwrite(run_here, tmp_path):
    real = tmp_path / "emg_gestures-03-sequential-2018-05-11-11-10-50-475.hdf5"
    real.write_bytes(b"a measurement")
    message = run_here("simulate_putemg.py", tmp_path, *SMALL, "--overwrite", code=1).stderr
    assert real.name in message
    assert "another folder" in message
    assert [path.name for path in tmp_path.iterdir()] == [real.name]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_place_of_the_folder_is_named(run_here, tmp_path, place):
    (tmp_path / "file").write_text("a text")
    message = run_here("simulate_putemg.py", tmp_path / place, *SMALL, code=1).stderr
    assert f"{tmp_path / 'file'}: expected a folder, to write the recordings under it, found a file" in message


@pytest.mark.parametrize("content", ["{}", '{"recordings": []}', '{"recordings": {"a": 1}}'])
def test_a_listing_of_something_else_is_refused_and_nothing_is_to_be_deleted(run_here, tmp_path, content):
    (tmp_path / "simulated.json").write_text(content)
    message = run_here("simulate_putemg.py", tmp_path, *SMALL, code=1).stderr
    assert "simulated.json: expected the list of simulated recordings, found another file" in message
    assert "choose another folder" in message
    assert "delete" not in message


def test_another_length_is_named_as_it_is_typed(run_here, copy):
    message = run_here("simulate_putemg.py", copy, *SMALL[:-3], 25.5, "--workers", 1, code=1).stderr
    assert "made with --seconds 25.5, found --seconds 20;" in message


def test_recordings_that_are_replaced_make_room_for_the_new_ones(monkeypatch, tmp_path):
    one = Planned(tmp_path / "one.hdf5", 0, 1, 1, "sequential", 20.0)
    monkeypatch.setattr(simulate_putemg.shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    with pytest.raises(DataError, match="expected 4 MB of free disk, found 3 MB; fewer --people, --days or"):
        simulate_putemg.check_disk(tmp_path, [one])
    one.path.write_bytes(bytes(1_000_000))
    simulate_putemg.check_disk(tmp_path, [one])


def test_a_full_disk_is_told_and_leaves_no_half_recording(tmp_path):
    with files_of_at_most(100_000), pytest.raises(DataError, match=r"one.hdf5: could not be written"):
        make(Planned(tmp_path / "one.hdf5", 0, 1, 1, "sequential", 20.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [["--seconds", "19"], ["--people", "0"], ["--sed", "1"]])
def test_wrong_flags_end_with_2_and_write_nothing(run_here, tmp_path, flags):
    message = run_here("simulate_putemg.py", tmp_path / "raw", *flags, code=2).stderr
    assert flags[0] in message
    assert not (tmp_path / "raw").exists()


def test_help_says_that_nothing_is_measured(run_here):
    assert "NOT MEASUREMENTS" in run_here("simulate_putemg.py", "--help").stdout


# --- labels ------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.floats(simulation.SHORTEST, 400), st.sampled_from(putemg.TRAJECTORIES), st.integers(0, 2**32))
def test_every_schedule_is_in_order_and_holds_every_gesture(seconds, trajectory, seed):
    movements = simulation.schedule(trajectory, seconds, np.random.default_rng(seed))
    times = [0.0]
    for m in movements:
        times += [m.prompt, m.onset, m.held, m.unprompt, m.release, m.idle]
        assert m.release - m.held >= 0.8
        assert m.prompt - times[-7] >= 0.2  # idle between gestures, as prompted
    assert times == sorted(times)
    assert times[-1] <= seconds
    result = [m.gesture for m in movements]
    assert {result.count(gesture) for gesture in ACTIVE} == {len(result) // len(ACTIVE)}


@pytest.mark.parametrize("trajectory", putemg.TRAJECTORIES)
def test_a_minute_holds_every_gesture_three_seconds_and_more_than_once(trajectory):
    truth = simulation.simulate(3, 5, 1, trajectory, 60).truth
    _, _, values = segments(truth)
    for gesture in ACTIVE:
        assert np.sum(truth == gesture) / putemg.RATE >= 3
        assert np.sum(values == gesture) >= 2
    assert 0.3 < np.mean(truth == 0) < 0.7


def test_the_prompt_comes_before_the_movement_and_the_label(minute):
    for prompt, seen, truth in zip(
        *(segments(labels)[0][segments(labels)[2] > 0] for labels in (minute.prompted, minute.seen, minute.truth)),
        strict=True,
    ):
        assert 0.2 <= (seen - prompt) / putemg.RATE <= 0.35
        assert truth > seen


def test_movement_is_excluded_on_both_sides_of_a_hold(minute):
    _, _, values = segments(minute.truth)
    holds = np.flatnonzero(values > 0)
    assert (values[holds - 1] == putemg.REST).all()
    assert (values[holds + 1] == putemg.REST).all()
    assert set(values) == {putemg.REST, *putemg.GESTURES}
    assert not (minute.seen == putemg.REST).any()


# --- signal ------------------------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_bytes_and_any_other_does_not():
    base = (0, 1, 1, "sequential")
    first = simulation.simulate(*base, 20).counts
    assert simulation.simulate(*base, 20).counts.tobytes() == first.tobytes()
    for other in ((1, 1, 1, "sequential"), (0, 2, 1, "sequential"), (0, 1, 2, "sequential"), (0, 1, 1, "repeats_long")):
        assert not np.array_equal(simulation.simulate(*other, 20).counts, first)


def test_amplitudes_are_like_putemgs(minute):
    assert minute.counts.dtype == np.int16
    assert np.abs(minute.counts).max() < 2048
    idle = minute.counts[minute.truth == 0].std(axis=0)
    fist = minute.counts[minute.truth == 1].std(axis=0)
    assert (idle > 1).all()
    assert (idle < 30).all()
    assert (fist > idle).all()
    assert 15 < fist.max() < 200


def test_counts_are_clipped_to_12_bits(monkeypatch):
    monkeypatch.setattr(simulation, "_COUNTS", 5000.0)
    counts = simulation.simulate(0, 1, 1, "sequential", 20).counts
    assert (counts.min(), counts.max()) == (-2048, 2047)


def test_mains_stand_out_of_the_spectrum(minute):
    start, stop, values = segments(minute.truth)
    idle = np.argmax((stop - start) * (values == 0))
    part = minute.counts[start[idle] : start[idle] + 5120]
    power = np.abs(np.fft.rfft(part * np.hanning(len(part))[:, None], axis=0)) ** 2  # bins of 1 Hz
    around = np.median(power[[40, 42, 44, 56, 58, 60]], axis=0)
    assert np.median(power[50] / around) > 10


def test_flexion_and_extension_are_loudest_on_opposite_sides():
    """Electrode 1 lies over the ulna, then clockwise: flexors under electrodes 2-4, extensors under 6-8."""
    for subject in (1, 2, 3):
        result = simulation.simulate(0, subject, 1, "sequential", 20)
        ring = [result.counts[result.truth == gesture, :8].std(axis=0) for gesture in (2, 3)]
        assert np.argmax(ring[0]) + 1 in (2, 3, 4)
        assert np.argmax(ring[1]) + 1 in (6, 7, 8)


def test_units_are_recruited_small_to_large_and_fire_faster_when_driven_more():
    units = simulation.person(0, 1).units
    fired = []
    for level in (0.0, 0.1, 0.5):
        drive = np.full((units.muscle.max() + 1, 320), level)
        when, unit = simulation.spikes(units, drive, np.random.default_rng(0))
        assert ((when >= 0) & (when <= 320 * 32)).all()
        fired.append(np.bincount(unit, minlength=len(units.size)))
    assert fired[0].sum() == 0
    assert 0 < np.count_nonzero(fired[1]) < np.count_nonzero(fired[2])
    one = units.muscle == 0
    assert units.size[one][fired[1][one] > 0].max() < units.size[one][fired[1][one] == 0].min()
    both = fired[1] > 0
    assert fired[2][both].mean() > 1.5 * fired[1][both].mean()
    assert fired[2].max() <= 2 * 30 * 1.2  # 2 s at most about 30 Hz


def test_spikes_are_those_of_the_rate_asked_for():
    units = simulation.person(0, 1).units
    drive = np.full((units.muscle.max() + 1, 160 * 20), 0.3)
    _, unit = simulation.spikes(units, drive, np.random.default_rng(0))
    rate = np.bincount(unit, minlength=len(units.size)) / 20
    lowest = units.threshold == units.threshold.min()
    np.testing.assert_allclose(rate[lowest], 8 + 40 * (0.3 - 0.02), rtol=0.1)


def test_a_potential_is_wider_the_farther_away():
    times = np.linspace(-20, 20, 4001)
    widths = [np.sum(np.abs(simulation.potential(mm, times)) > 0.5) for mm in (7, 14, 28)]
    assert widths[0] < widths[1] < widths[2]


def test_potentials_reach_the_rings_one_after_another():
    """A unit near the elbow is seen later towards the wrist: 35 mm at 4 m/s are 8.75 ms."""
    someone = simulation.person(0, 1)
    unit = int(np.argmin(np.abs(someone.units.innervation)))
    angles = np.tile(np.arange(8) * 45.0, (3, 1))
    seen = simulation.surface(someone, angles, np.array([1000.0]), np.array([unit]), 4000)
    loudest = np.array([np.abs(seen[8 * ring : 8 * ring + 8]).max(axis=0).argmax() for ring in range(3)])
    np.testing.assert_allclose(np.diff(loudest) / 5.12, 8.75, atol=1.5)


def test_gestures_of_new_people_can_be_told_apart_but_not_at_a_glance():
    """LDA on each person's z-scored log amplitudes, trained on three people, tested on one: no foregone end."""
    features, labels = zip(*(amplitudes(subject) for subject in (1, 2, 3, 4)), strict=True)
    scores = []
    for out in range(4):
        rest = [i for i in range(4) if i != out]
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
        lda.fit(np.concatenate([features[i] for i in rest]), np.concatenate([labels[i] for i in rest]))
        scores.append(lda.score(features[out], labels[out]))
    assert 0.55 < np.mean(scores) < 0.95, scores


def amplitudes(subject):
    """(windows, 24) z-scored log RMS of the differenced signal, and labels, of one person's recording."""
    result = simulation.simulate(0, subject, 1, "sequential", 60)
    signal = np.diff(result.counts, axis=0)  # a crude high-pass against mains and drift
    windows = whole_windows(result.truth[:-1], list(putemg.GESTURES), 1280, 640, 1280)
    rms = np.log([signal[at : at + 1280].std(axis=0) for at in windows["start"]])
    return (rms - rms.mean(axis=0)) / rms.std(axis=0), windows["label"]
