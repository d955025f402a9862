"""import_csv.py: a unit changes nothing but the unit; faults, missing samples, mains hum and rates."""

import re

import numpy as np
import pandas as pd
import pytest
from csv_study import RATE, table

from semg.common.errors import UsageError
from semg.data.normalization import ChannelNormalization, transform_of

SCALES = {"uV": 1.0, "mV": 1e-3, "V": 1e-6, "counts": 1e6, "adc": 1 / 0.02235, "nV": 1e3}


def test_a_wrong_unit_is_one_error_and_no_shard(study):
    study.write(lambda t: t.assign(**(t.filter(like="ch") * 1e4)), people=4)
    with pytest.raises(UsageError, match=r"unit: expected a unit in which surface EMG has an RMS of 0.1 to 10000 uV"):
        study.run("--unit", "V")
    assert not (study.folder / "shards").exists()
    assert study.run()[0] == 0, "without --unit any scale will do"


def test_a_unit_that_the_names_contradict_is_doubted(study):
    names = {f"ch{n}": f"EMG {n} (mV)" for n in range(1, 9)}
    study.write(lambda t: t.assign(**t.filter(like="ch") / 100).rename(columns=names))
    assert "p1.csv: its unit is mV by the names of its channels, --unit says uV" in study.run("--unit", "uV")[2]
    assert study.run("--unit", "mV", "--overwrite")[2] == study.run("--overwrite")[2] == ""


def test_the_same_signal_in_any_unit_is_the_same_within_float16s_rounding(study):
    signals, transformed = {}, {}
    for name, scale in SCALES.items():
        study.write(lambda t, scale=scale: t.assign(**(t.filter(like="ch") * scale)))
        assert study.run(shards=name)[0] == 0
        shards = study.shards(name)
        assert {shard.meta["unit"] for shard in shards} == {"arbitrary"}
        signals[name] = np.asarray(shards[0].signal, np.float64) / shards[0].arguments["scale"] / scale
        transform = transform_of(shards, ChannelNormalization("session"))[0]
        transformed[name] = np.asarray(shards[0].signal, np.float32) @ transform
        assert transformed[name].std(axis=0) == pytest.approx(np.ones(8), abs=2e-3)
    for name in SCALES:
        np.testing.assert_allclose(signals[name], signals["uV"], rtol=2e-3, atol=2e-4 * signals["uV"].std())
        np.testing.assert_allclose(transformed[name], transformed["uV"], rtol=2e-3, atol=1e-3)
    for name in ("mV", "V", "nV", "counts"):  # powers of ten: the same float16s, but for a last digit here and there
        assert np.isclose(signals[name], signals["uV"], rtol=1e-6, atol=0).mean() > 0.9


def test_a_unit_that_is_given_makes_microvolts(study):
    study.write().run("--unit", "uV", shards="uV")
    study.write(lambda t: t.assign(**(t.filter(like="ch") * 1e-3))).run("--unit", "mV", shards="mV")
    one, other = study.shards("uV")[0], study.shards("mV")[0]
    assert (one.meta["unit"], one.arguments["scale"], other.arguments["scale"]) == ("uV", 1.0, 1000.0)
    np.testing.assert_allclose(one.signal, other.signal, rtol=2e-3, atol=0.02)


def test_a_recording_in_another_unit_than_the_others_is_named(study):
    study.write(people=3)
    result = table(2)
    result.assign(**(result.filter(like="ch") * 1e-6)).to_csv(study.folder / "p2.csv", index=False)
    for flags, unit in ((["--unit", "uV"], " uV"), ([], "")):
        code, out, errors = study.run(*flags, "--overwrite")
        assert code == 1
        told = (
            rf"p2\.csv: expected an RMS near the others' \d+\.?\d*{unit}, found [\d.]+e-05{unit}: it is in another unit"
        )
        assert re.search(told, errors)
        assert "2 shards written" in out


@pytest.mark.parametrize(("factor", "warned"), [(1e-3, True), (0.05, False)])
def test_two_units_are_warned_of_where_neither_is_the_usual_one(study, factor, warned):
    """The median is then between the two, and none is a thousand times away from it."""
    study.write(people=4)
    for person in (3, 4):
        result = table(person)
        result.assign(**(result.filter(like="ch") * factor)).to_csv(study.folder / f"p{person}.csv", index=False)
    code, _, errors = study.run()
    told = r"expected recordings in one unit, found an RMS of 0\.\d+ in p[34]\.csv and of [\d.]+ in p[12]\.csv,"
    assert (code, bool(re.search(told, errors))) == (0, warned), errors


def test_a_recording_without_a_signal_is_refused(study):
    study.write(people=2)
    table(2).assign(**{f"ch{n}": 5.0 for n in range(1, 9)}).to_csv(study.folder / "p2.csv", index=False)
    code, out, errors = study.run()
    assert code == 1
    assert "p2.csv: expected a signal, found channels that never change" in errors
    assert "1 shard written" in out


def test_a_rectified_signal_is_doubted_and_counts_from_0_are_not(study):
    def changed(change):
        study.write(lambda t: t.assign(**{name: change(t[name]) for name in t.columns[:-1]}))
        return study.run("--overwrite")[2]

    told = "p1.csv: its samples are never below 0 and most lie near it: a rectified signal or an envelope"
    assert told in changed(abs)
    assert told in changed(lambda one: (one**2).rolling(20, min_periods=1).mean() ** 0.5)
    assert changed(lambda one: np.round(one * 4) + 2048) == ""


def test_dead_and_equal_channels_are_reported(study):
    _, _, errors = study.write(lambda t: t.assign(ch3=0.0, ch6=t["ch5"])).run()
    assert "p1: dead channels ch3, equal channels ch5=ch6" in errors
    assert study.shards()[0].meta["faults"] == {
        "dead": [3],
        "saturated": [],
        "duplicate": [[5, 6]],
        "gaps": [],
        "still": [],
    }


def test_a_dead_channel_of_a_table_without_a_header_is_named_by_its_column(study):
    """As --channels counts it: a time stood before it, so that it was said to be another."""
    study.write(lambda t: t.assign(ch8=7.0).set_index(np.arange(len(t)) / RATE), header=False, index=True)
    errors = study.run("--labels", 10)[2]
    assert "p1: dead channels 9 (" in errors
    assert study.shards()[0].meta["faults"]["dead"] == [8]
    assert "dead" not in study.run("--labels", 10, "--channels", "2-8", "--overwrite")[2]


def test_a_signal_that_stands_still_is_reported(study):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        channels = [name for name in table if name.startswith("ch")]
        table.loc[701:800, channels] = table.loc[700, channels].to_numpy()
        return table

    errors = study.write(change).run()[2]
    assert "p1: no channel changes for 0.505 s, at 3.5 s: were samples lost there?" in errors
    assert study.shards()[0].meta["faults"]["still"] == [[700, 101]]


def test_missing_samples_are_reported_and_no_window_spans_them(study):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.insert(0, "time", np.arange(len(table)) / RATE)
        return table.drop(index=table.index[700:800])

    errors = study.write(change).run()[2]
    assert "p1: lost samples: 0.5 s in 1 gap, at 3.5 s" in errors
    shard = study.shards()[0]
    assert shard.meta["faults"]["gaps"] == [[700, 100]]
    start = shard.windows["start"]
    assert not ((start < 700) & (start + shard.window > 700)).any()


def test_how_long_recordings_last_is_said_for_without_a_time_nothing_else_shows_a_wrong_rate(study):
    assert "at 200 Hz, a recording lasts 24 s, all together 48 s\n" in study.write().run()[1]
    longer = pd.concat([table(2)] * 15)
    longer.assign(ch1=longer["ch1"] + np.arange(len(longer)) % 2).to_csv(study.folder / "p2.csv", index=False)
    assert "at 200 Hz, a recording lasts 24 s to 6 min, all together 6.4 min\n" in study.run("--overwrite")[1]


def test_a_rate_that_the_time_contradicts_is_named_with_the_flag(study):
    study.write(lambda t: t.assign(time=np.arange(len(t)) / 1000))
    code, _, errors = study.run()
    assert code == 1
    assert "expected 200 Hz, found 1000 Hz by the times in column 10 (time); --rate is another" in errors


@pytest.mark.parametrize("mains", [50, 60])
def test_hum_is_said_recorded_and_taken_out(study, mains):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        hum = 40 * np.sin(2 * np.pi * mains * np.arange(len(table)) / RATE)
        return table.assign(**table.filter(like="ch").add(hum, axis=0))

    out = study.write(change).run()[1]
    assert f"{mains} Hz out; mains hum: {mains} Hz in 2 of 2" in out
    shard = study.shards()[0]
    assert (shard.meta["mains"], shard.arguments["notch"]) == (mains, [mains])
    out = study.run("--notch", 30, "--overwrite")[1]
    assert "30 Hz out; mains hum" in out


def test_without_hum_50_hertz_are_taken_out_as_ever(study):
    assert "50 Hz out; mains hum: not heard" in study.write().run()[1]
    assert study.shards()[0].meta["mains"] is None


@pytest.mark.parametrize(("rate", "high"), [(200, 90), (1000, 450), (2000, 700)])
def test_no_flag_but_the_rate_is_needed(study, rate, high):
    study.write()
    for subject in (1, 2):
        table(subject, rate, seconds=1.5).to_csv(study.folder / f"p{subject}.csv", index=False)
    assert study.run(rate=rate)[0] == 0
    shard = study.shards()[0]
    assert (shard.arguments["low"], shard.arguments["high"]) == (20, high)
    assert shard.window == rate // 4
