"""Tables of samples: samples and labels of the same rows, channels told apart, gaps and rates judged by times."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semg.common.errors import DataError
from semg.data.gaps import Gap
from semg.data.tables import RawRecording, Table, in_order, is_table, label, read_table, resampled

N, RATE = 800, 200.0
SIGNAL = np.random.default_rng(0).normal(0, 30, (N, 3)).round(3)
LABELS = np.repeat(["rest", "fist", "", "fist"], N // 4)


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame(
        {"time": np.arange(N) / RATE, **{f"ch{i + 1}": SIGNAL[:, i] for i in range(3)}, "label": LABELS, **columns}
    )


def written(path: Path, table: pd.DataFrame | None = None, **settings) -> Path:
    (frame() if table is None else table).to_csv(path, **{"index": False, **settings})
    return path


@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.txt", "a.tsv", "a"])
def test_samples_and_labels_are_of_the_same_rows(tmp_path, name):
    table = Table(written(tmp_path / name), texts=["label"])
    place = table.find("Label")
    roles = table.roles(labels=place)
    assert (roles.channels, roles.time, table.n_samples) == ((1, 2, 3), 0, N)
    np.testing.assert_array_equal(table.samples(roles.channels), SIGNAL)
    np.testing.assert_array_equal(table.labels(place), LABELS)
    assert table.gaps(roles, RATE) == []


def test_which_files_are_tables():
    assert [is_table(Path(name)) for name in ("a.csv", "A.CSV", "a.Txt", "a.tsv", "a.npy", "a.hdf5", "a.CSV.hdf5")] == [
        *[True] * 5,
        *[False] * 2,
    ]


@pytest.mark.parametrize("header", [True, None], ids=["said", "told from the file"])
def test_a_header_of_numbers_is_no_sample(tmp_path, header):
    table = frame().drop(columns="time").rename(columns={"ch1": 0, "ch2": 1, "ch3": 2})
    actual = Table(written(tmp_path / "a.csv", table), header=header)
    assert (actual.names, actual.n_samples) == (("0", "1", "2", "label"), N)
    actual = Table(written(tmp_path / "b.csv", table.drop(columns="label")), header=header)
    assert actual.n_samples == N


def test_an_open_quote_is_an_error_with_its_line_and_an_inch_mark_is_none(tmp_path):
    note = np.full(N, "", object)
    path = written(tmp_path / "a.csv", frame(note=note))
    lines = path.read_text().splitlines()
    lines[100] += '"slipped'
    lines[300] += '"again'
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"a\.csv:101: expected a quote to end on its line"):
        Table(path)
    path.write_text("\n".join(lines).replace('"slipped', 'moved 1" up').replace('"again', ""))
    table = Table(path)
    assert table.n_samples == N
    assert table.roles().left_out["note"] == "text"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "1.0", "01", " 1 ", "1e0"], "1"),
        (["0", "-0", "0.0"], "0"),
        (["1.5", "1.50"], "1.5"),
        (["", " ", "nan", "NaN"], ""),
        (["fist"], "fist"),
        (["1_0"], "1_0"),
        (["-1", "-1.0"], "-1"),
    ],
)
def test_labels_that_are_one_class(cells, expected):
    assert {label(cell) for cell in cells} == {expected}


def test_numeric_labels_sort_as_numbers():
    assert in_order(["10", "2", "fist", "-1", "1.5", "2", "Fist"]) == ["-1", "1.5", "2", "10", "Fist", "fist"]


def test_numbers_as_labels_with_and_without_a_point_and_with_gaps(tmp_path):
    for column in (np.repeat([1, 2], N // 2), np.repeat([1.0, 2.0], N // 2)):
        table = Table(written(tmp_path / "a.csv", frame(label=column)), texts=["label"])
        np.testing.assert_array_equal(table.labels(table.find("label")), np.repeat(["1", "2"], N // 2))
    part = np.where(np.arange(N) < 100, np.nan, 3.0)
    table = Table(written(tmp_path / "a.csv", frame(label=part), sep=";", decimal=","), texts=["label"])
    assert np.unique(table.labels(table.find("label"))).tolist() == ["", "3"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.replace("\n0.005,", "\n0.005,x", 1), r":3: expected a number in column 2 \(ch1\), found 'x"),
        (
            lambda t: t.replace("\n0.005,", "\n0.005,nan,1,2,rest\n0.0051,", 1),
            r"expected finite numbers, found nan at sample 1 in column 2 \(ch1\); take such rows out",
        ),
        (
            lambda t: t.replace("\n0.005,", "\n0.005,inf,1,2,rest\n0.0051,", 1),
            "expected finite numbers, found inf at sample 1",
        ),
        (lambda t: t.replace("\n0.005,", "\n0.005,1_0,1,2,rest\n0.0051,", 1), "found '1_0'"),
        (lambda t: t.replace("\n0.005,", "\n0.005,,1,2,rest\n0.0051,", 1), "found ''"),
        (lambda t: t.replace("ch2", "label"), "expected one column 'label', found columns 3 and 5"),
    ],
)
def test_wrong_cells_are_named(tmp_path, change, told):
    path = written(tmp_path / "a.csv")
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=told):
        table = Table(path, texts=["label"])
        table.samples(table.roles(labels=table.find("label")).channels)


def test_a_wrong_cell_in_a_column_that_nobody_asks_for_is_none(tmp_path):
    path = written(tmp_path / "a.csv", frame(aux=np.where(np.arange(N) == 700, "?", "1.5")))
    assert read_table(path, RATE, 1.0, (2, 3, 4), 3).samples.shape == (N, 3)


# --- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "time",
    [
        {"time": np.arange(N) / RATE},
        {"time_ms": np.arange(N) * 5},
        {"Timestamp": 17e8 + np.arange(N) / RATE},
        {"": np.arange(N)},
        {"counter": np.arange(N) % 256},
        {"time": pd.Timestamp("2024-03-01 10:00") + pd.to_timedelta(np.arange(N) / RATE, unit="s")},
        {"time": (pd.Timestamp(0) + pd.to_timedelta(np.arange(N) / RATE, unit="s")).strftime("%H:%M:%S.%f")},
    ],
    ids=["s", "ms", "epoch", "pandas index", "a byte", "dates", "time of day"],
)
def test_missing_samples_are_found_by_whatever_counts_them(tmp_path, time):
    ((name, values),) = time.items()
    table = frame().drop(columns="time")
    table.insert(0, name, values)
    actual = Table(written(tmp_path / "a.csv", table.drop(index=table.index[300:420])))
    roles = actual.roles(labels=actual.find("label"))
    assert roles.time == 0
    assert actual.gaps(roles, RATE) == [Gap(300, 120)]


def counted(length: int, first: int = 0, **columns) -> pd.DataFrame:
    table = frame(**columns).drop(columns="time")
    table.insert(0, "n", first + np.arange(N) % length)
    return table


@pytest.mark.parametrize(("length", "first"), [(10, 0), (100, 0), (100, 1), (250, 1), (256, 0)])
def test_lost_samples_are_judged_by_a_counter_of_any_length(tmp_path, length, first):
    table = counted(length, first, label=np.roll(LABELS, 37))
    whole = Table(written(tmp_path / "a.csv", table))
    assert whole.gaps(whole.roles(), RATE) == []
    lossy = Table(written(tmp_path / "b.csv", table.drop(index=[97, 98, 99, 100, 350])))
    found = lossy.roles()
    assert lossy.gaps(found, RATE) == [Gap(97, 4), Gap(346, 1)]
    assert lossy.judged_by(found) == f"n, which wraps around after {length}"
    assert bool(lossy.assumed(found)) == (length != 256)


@pytest.mark.parametrize(
    ("columns", "cycle"),
    [
        ({"label": "fist", "trial": np.arange(N) // 100}, False),
        ({"label": np.repeat(["", "fist", "rest", "open"], N // 4)}, False),
        ({"label": "fist"}, True),  # nothing says that trials stand below each other: which is said
        ({"label": np.repeat(["fist", "rest"], [N // 2, N // 2])}, True),  # by chance
        ({"label": np.repeat(["fist", "rest", "fist"], [150, 250, N - 400])}, True),
    ],
)
def test_trials_below_each_other_are_no_cycle_of_their_counter(tmp_path, columns, cycle):
    table = Table(written(tmp_path / "a.csv", counted(100, **columns)), texts=["label"])
    found = table.roles(labels=table.find("label"))
    assert found.channels == (1, 2, 3)
    assert bool(table.cycle(found)) == cycle
    assert [gap.start for gap in table.gaps(found, RATE)] == ([] if cycle else list(range(100, N, 100)))


@pytest.mark.parametrize(
    ("column", "values", "rate"),
    [("time", np.arange(N) / 1000, 1000), ("t_ms", np.arange(N) * 1.0, 1000), ("t", np.arange(N) / 210, 210)],
)
def test_a_rate_that_the_time_contradicts_is_an_error(tmp_path, column, values, rate):
    table = Table(written(tmp_path / "a.csv", frame().rename(columns={"time": column}).assign(**{column: values})))
    with pytest.raises(DataError, match=f"expected 200 Hz, found {rate} Hz by the times in column 1"):
        table.gaps(table.roles(), RATE)
    assert table.gaps(table.roles(), rate) == []


def test_a_time_in_ticks_of_its_own_and_a_rate_a_little_off_say_nothing_against_it(tmp_path):
    for values in (np.arange(N) * 7.3e4, np.arange(N) / 198.5):
        table = Table(written(tmp_path / "a.csv", frame(time=values)))
        assert table.gaps(table.roles(), RATE) == []


def stamps(form: str, hours: float = 0.0) -> list[str]:
    moments = pd.Timestamp("2024-03-31 23:59:58") + pd.to_timedelta(np.arange(N) / RATE + 3600 * hours, unit="s")
    return [f"{one:{form}}" for one in moments]


ISO = "%Y-%m-%dT%H:%M:%S.%f"


@pytest.mark.parametrize(
    "times",
    [
        stamps(ISO),
        stamps("%Y-%m-%d %H:%M:%S.%fZ"),
        stamps(ISO + "+01:00"),
        stamps(ISO + "+0100", 1.0)[:300] + stamps(ISO + "-0230", -2.5)[300:],
        stamps("%d.%m.%Y %H:%M:%S,%f"),
        stamps("%m/%d/%Y %I:%M:%S.%f %p"),
        stamps("%H:%M:%S.%f"),
        stamps("%M:%S.%f"),
    ],
    ids=["iso", "Z", "zone", "zones", "german", "american", "of day", "minutes"],
)
def test_times_as_text_are_judged_across_midnight_and_zones(tmp_path, times, recwarn):
    rows = frame(time=times)
    table = Table(written(tmp_path / "a.csv", rows.drop(index=rows.index[350:470]), sep=";"))
    found = table.roles()
    assert table.gaps(found, RATE) == [Gap(350, 120)]
    assert table.judged_by(found) == "time"
    with pytest.raises(DataError, match="expected 100 Hz, found 200 Hz by the times in column 1"):
        table.gaps(found, 100)
    assert [one for one in recwarn if one.category is not ResourceWarning] == []  # of what earlier tests left open


def test_times_that_cannot_be_read_say_nothing(tmp_path):
    table = Table(written(tmp_path / "a.csv", frame(time=[f"about {n}" for n in range(N)])))
    assert (table.gaps(table.roles(), RATE), table.judged_by(table.roles())) == ([], "")


def test_a_time_whose_name_says_its_unit_is_believed_however_far_it_is_off(tmp_path):
    table = Table(written(tmp_path / "a.csv", frame().rename(columns={"time": "time (s)"})))
    with pytest.raises(DataError, match="expected 4000 Hz, found 200 Hz"):
        table.gaps(table.roles(), 4000)


@pytest.mark.parametrize(
    ("name", "values", "units"),
    [
        ("Zeit", np.arange(N) / RATE, ""),  # no counter has steps of a fraction
        ("1", np.arange(N) / RATE, ""),
        ("Zeit (ms)", np.arange(N) * 5, ""),
        ("Zeit", np.arange(N) * 5, "ms,mV,mV,mV,"),
    ],
)
def test_a_time_of_another_name_contradicts_a_rate_too(tmp_path, name, values, units):
    table = frame(time=values).rename(columns={"time": name})
    lines = written(tmp_path / "a.csv", table).read_text().splitlines()
    lines[1:1] = [units] if units else []
    (tmp_path / "a.csv").write_text("\n".join(lines))
    read = Table(tmp_path / "a.csv", header=True, texts=["label"])
    found = read.roles(labels=4)
    assert read.gaps(found, RATE) == []
    with pytest.raises(DataError, match="expected 400 Hz, found 200 Hz by the times in column 1"):
        read.gaps(found, 2 * RATE)


def test_a_row_of_units_says_the_rate_and_the_unit(tmp_path):
    lines = written(tmp_path / "a.csv", frame().drop(columns="time")).read_text().splitlines()
    lines[1:1] = ["mV,mV,mV,", "200 Hz,200 Hz,200 Hz,"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    table = Table(tmp_path / "a.csv", texts=["label"])
    found = table.roles(labels=3)
    assert (table.gaps(found, RATE), table.unit(found.channels), table.n_samples) == ([], "mV", N)
    with pytest.raises(DataError, match=r"expected 1000 Hz, found 200 Hz below the name of column 1 \(ch1\)"):
        table.gaps(found, 1000)


@pytest.mark.parametrize("said", ["200,5 Hz", "200.5Hz"])
@pytest.mark.parametrize("decimal", [",", "."])
@pytest.mark.parametrize("digits", [0, 2])
def test_a_row_of_rates_may_have_another_decimal_mark_than_the_samples(tmp_path, said, decimal, digits):
    table = frame().drop(columns="time").round(digits)
    table = table.astype({f"ch{n}": int for n in (1, 2, 3)}) if digits == 0 else table
    lines = written(tmp_path / "a.csv", table, sep=";", decimal=decimal).read_text().splitlines()
    lines[1:1] = [f"{said};{said};{said};"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    table = Table(tmp_path / "a.csv", texts=["label"])
    assert table.gaps(table.roles(labels=3), RATE) == []
    with pytest.raises(DataError, match=r"expected 300 Hz, found 200\.5 Hz below the name of column 1"):
        table.gaps(table.roles(labels=3), 300)


def test_gaps_and_trials_stay_where_they_are_when_the_rate_is_changed():
    source = RawRecording("a", SIGNAL.astype(np.float32), RATE, 1.0, missing=(Gap(300, 120),), cuts=(200, 500))
    for rate, missing, cuts in ((2 * RATE, Gap(600, 240), (400, 1000)), (RATE / 2, Gap(150, 60), (100, 250))):
        actual = resampled(source, rate)
        assert (actual.missing, actual.cuts) == ((missing,), cuts)


@pytest.mark.parametrize("last", [1, 2, 3, 7])
@pytest.mark.parametrize("rate", [200.0, 300.0, 3000.0])
def test_a_trial_begins_with_its_labels_when_the_rate_is_changed(rate, last):
    """At 200 Hz nothing is left of a last trial of two samples, which was taken for one after the recording's end."""
    codes = np.repeat(["fist", "open", "fist"], [201, 299 - last, last])
    source = RawRecording("a", np.zeros((500, 2), np.float32), 1000.0, 1.0, codes, cuts=(201, 500 - last))
    actual = resampled(source, rate)
    assert actual.codes is not None
    assert actual.cuts == tuple(np.flatnonzero(actual.codes[1:] != actual.codes[:-1]) + 1)


@pytest.mark.parametrize("factor", [0.2, 2])
def test_an_offset_makes_no_steps_at_the_ends_when_the_rate_is_changed(factor):
    """Electrodes have offsets of many times the signal, which the filter removes; the step to zero beyond the ends had
    1000 times the signal's size."""
    plain = RawRecording("a", SIGNAL.astype(np.float32), RATE, 1.0)
    lifted = RawRecording("a", SIGNAL.astype(np.float32) + np.float32(4096), RATE, 1.0)
    one, other = (resampled(source, factor * RATE).samples for source in (plain, lifted))
    np.testing.assert_allclose(other - 4096, one, atol=0.02)


# --- predicting --------------------------------------------------------------------------------------------


def test_the_models_own_names_are_found_in_any_order_else_all_channels_are_taken(tmp_path):
    table = frame(label=1.0)[["label", "ch3", "time", "ch1", "ch2"]]
    path = written(tmp_path / "a.csv", table)
    actual = read_table(path, RATE, 1000.0, None, 3, ("ch1", "ch2", "ch3"))
    np.testing.assert_array_equal(actual.samples, SIGNAL.astype(np.float32))
    assert (actual.rate, actual.scale) == (RATE, 1000.0)
    actual = read_table(path, RATE, 1000.0, None, 3, ("EMG_1", "EMG_2", "EMG_3"))
    np.testing.assert_array_equal(actual.samples, SIGNAL[:, [2, 0, 1]].astype(np.float32))


def test_names_in_other_capitals_are_the_models_own(tmp_path):
    path = written(tmp_path / "a.csv", frame().rename(columns=str.upper)[["CH3", "TIME", "CH1", "CH2"]])
    actual = read_table(path, RATE, 1.0, None, 3, ("ch1", "ch2", "ch3"))
    np.testing.assert_array_equal(actual.samples, SIGNAL.astype(np.float32))
    with pytest.raises(DataError, match="expected the model's channel ch4, found CH3, TIME, CH1, CH2"):
        read_table(path, RATE, 1.0, None, 3, ("ch1", "ch2", "ch4"))


def test_predicting_judges_the_time_too(tmp_path):
    path = written(tmp_path / "a.csv", frame().drop(index=range(300, 420)))
    assert read_table(path, RATE, 1.0, None, 3).missing == (Gap(300, 120),)
    with pytest.raises(DataError, match="expected 400 Hz, found 200 Hz by the times in column 1"):
        read_table(path, 400, 1.0, None, 3)


def test_predicting_says_that_a_last_line_was_cut_off(tmp_path):
    path = written(tmp_path / "a.csv")
    path.write_text(path.read_text() + "4.0,1.5\n")
    source = read_table(path, RATE, 1.0, None, 3)
    assert source.samples.shape == (N, 3)
    assert source.assumed == "its last line, 802, has 2 cells of 5 and is left out: is the rest of it missing?"


def test_a_table_on_its_side_or_without_rows_is_named_as_such(tmp_path):
    np.save(tmp_path / "a.npy", SIGNAL.T)
    with pytest.raises(DataError, match="found 800 columns; its 3 rows are the channels: transpose it, so that each"):
        read_table(tmp_path / "a.npy", RATE, 1.0, None, 3)
    np.save(tmp_path / "a.npy", SIGNAL[None])
    with pytest.raises(DataError, match=r"shape \(time, channels\), found float64 of shape \(1, 800, 3\)"):
        Table(tmp_path / "a.npy")
    with pytest.raises(DataError, match="expected a row a sample below the names of the columns, found none"):
        Table(written(tmp_path / "a.csv", frame().iloc[:0]))


def test_a_time_is_no_channel_with_or_without_a_header(tmp_path):
    columns = frame().drop(columns="label")
    for name, header in (("a.csv", True), ("b.csv", False)):
        path = written(tmp_path / name, columns, header=header)
        np.testing.assert_array_equal(read_table(path, RATE, 1.0, None, 3).samples, SIGNAL.astype(np.float32))
        with pytest.raises(DataError, match=r"expected a channel in column 1.*; the channels are channels 2-4"):
            read_table(path, RATE, 1.0, (1, 2, 3), 3)
    np.save(tmp_path / "a.npy", columns.to_numpy())
    np.testing.assert_array_equal(read_table(tmp_path / "a.npy", RATE, 1.0, None, 3).samples, SIGNAL.astype(np.float32))
    with pytest.raises(DataError, match="expected a channel in column 1"):
        read_table(tmp_path / "a.npy", RATE, 1.0, (1, 2, 3), 3)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "int8", "int16", "float16"])
@pytest.mark.parametrize("counter", [False, True])
def test_columns_of_any_type_of_number_are_told_apart(tmp_path, kind, counter):
    """Unsigned numbers have no negative steps, so that every channel seemed to rise, as a counter does."""
    samples = np.round(SIGNAL * 10 / np.abs(SIGNAL).max() + (50 if kind.startswith("u") else 0))
    columns = [np.arange(len(samples))[:, None] % 100, samples] if counter else [samples]
    np.save(tmp_path / "a.npy", np.concatenate(columns, axis=1).astype(kind))
    actual = read_table(tmp_path / "a.npy", RATE, 1.0, None, 3)
    np.testing.assert_array_equal(actual.samples, samples)
    assert actual.missing == ()


def test_a_large_offset_costs_no_digits(tmp_path):
    np.save(tmp_path / "a.npy", SIGNAL * 1e-3 + [0, 2**23, -(2**31)])
    actual = read_table(tmp_path / "a.npy", RATE, 1.0, None, 3).samples
    np.testing.assert_allclose(actual - actual[0], (SIGNAL - SIGNAL[0]) * 1e-3, atol=1e-6)


def header_of(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{",
        header_of("(10, 3)"),
        header_of("(10**12, 8)") + bytes(80),
        header_of("(1000000000000, 8)") + bytes(80),
        header_of("(-1, 8)") + bytes(80),
        header_of("(2, 2, 2)") + bytes(64),
        header_of("(8,)") + bytes(64),
        header_of("(8, 0)"),
        header_of("(2, 2)", "'|O'") + bytes(64),
        header_of("(2, 2)", "'<M8[s]'") + bytes(64),
        header_of("(2, 2)", "'nonsense'") + bytes(64),
        header_of("(2, 2)", "[('a', '<f8'") + bytes(64),
        header_of("((2), 'x')") + bytes(64),
        header_of("(" * 150 + ")" * 150) + bytes(64),
        b"PK\x03\x04" + bytes(60),
        b"\x80\x04K\x01.",
    ],
)
def test_damaged_and_lying_numpy_files_are_refused(tmp_path, raw):
    (tmp_path / "a.npy").write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.npy: expected") as caught:
        Table(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_numpy_header_is_refused_or_of_another_table(tmp_path_factory, changes):
    raw = bytearray(header_of("(8, 3)") + SIGNAL[:8].tobytes())
    for place, value in changes:
        raw[place % len(raw)] = value
    path = tmp_path_factory.getbasetemp() / "fuzz.npy"
    path.write_bytes(raw)
    try:
        table = Table(path)
        table.samples(table.roles().channels)
    except DataError as error:
        assert "\n" not in str(error)
