"""Which columns are channels: told from names and numbers, or asked."""

import numpy as np
import pytest

from semg.common.errors import DataError
from semg.data.columns import Roles, by_name, rises, taken_in_order, told_apart, unit_of_signal, unit_of_time
from semg.data.counters import Cycle, cycle_of, unwrapped

N = 400
RANDOM = np.random.default_rng(0)
EMG = RANDOM.normal(0, 30, N)
INT8 = np.round(EMG)
TIME = np.arange(N) / 200
COUNTER = np.arange(float(N))
BYTE = np.arange(float(N)) % 256
PACKETS = np.repeat(np.arange(N // 4), 4) + 17e8
LABEL = np.repeat([0.0, 1.0], N // 2)


def roles(columns: dict[str, np.ndarray | None], chosen=None, labels=None) -> Roles:
    return told_apart("a.csv", tuple(columns), list(columns.values()), chosen, labels)


def channels(n=3, signal=EMG):
    return {f"ch{i}": np.roll(signal, i) for i in range(1, n + 1)}


@pytest.mark.parametrize(
    "name",
    ["time", "t", "Time (s)", "timestamp", "Time_Stamp", "time [ms]", "X[s]", "seconds", "elapsed time", "systemTime"],
)
@pytest.mark.parametrize("values", [TIME, TIME * 1e3, np.sort(TIME + RANDOM.uniform(0, 0.1, N)), PACKETS, TIME % 1.0])
def test_a_time_is_no_channel(name, values):
    actual = roles({name: values, **channels()})
    assert (actual.channels, actual.time) == ((1, 2, 3), 0)
    assert actual.left_out == {name: "a time"}


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "index", "sample", "Sample Index", "packet_counter", "n", "frame"])
@pytest.mark.parametrize("values", [COUNTER, COUNTER + 1, BYTE, PACKETS])
def test_a_counter_is_no_channel(name, values):
    actual = roles({**channels(), name: values})
    assert (actual.channels, actual.time) == ((0, 1, 2), 3)


@pytest.mark.parametrize("values", [TIME, COUNTER, BYTE, PACKETS])
def test_numbers_that_rise_are_no_channel_whatever_their_name(values):
    assert roles({"what": values, "left": EMG, "right": EMG}).channels == (1, 2)
    assert roles({"1": values, "2": EMG, "3": INT8}).channels == (1, 2), "columns without a header"


def test_a_time_before_a_counter():
    assert roles({"counter": BYTE, **channels(), "time": TIME}).time == 4


def test_a_device_with_a_time_for_each_sensor():
    slow = np.concatenate([np.arange(N // 10) / 20, np.full(N - N // 10, np.nan)])
    columns = {
        "X [s]": slow,
        "Trigno sensor 1: ACC X 1 [g]": np.where(np.isfinite(slow), EMG, np.nan),
        "X [s].1": TIME,
        "Trigno sensor 1: EMG 1 [V]": EMG,
        "X [s].2": TIME,
        "Trigno sensor 2: EMG 2 [V]": INT8,
    }
    actual = roles(columns)
    assert (actual.channels, actual.time) == ((3, 5), 2)
    assert actual.left_out["Trigno sensor 1: ACC X 1 [g]"] == "another sensor's signal"


@pytest.mark.parametrize("name", ["Accel Channel 0", "AccX1", "gyro_z", "IMU 3 gyr y", "magnetometer"])
def test_sensors_of_movement_are_no_channels(name):
    assert roles({**channels(), name: EMG}).channels == (0, 1, 2)
    assert roles({f"{name} EMG {n}": EMG for n in (1, 2)}).channels == (0, 1)


def test_labels_facts_texts_and_other_sensors_are_no_channels():
    columns = {
        "ch1": EMG,
        "ch2": INT8,
        "label": LABEL,
        "trial": np.where(LABEL > 0, np.nan, 1.0),
        "Subject ID": LABEL * 0 + 7,
        "note": None,
        "acc_x": EMG,
        "Gyro Y": EMG,
        "temp": LABEL * 0 + 36.6,
    }
    actual = roles(columns, labels=2)
    assert actual.channels == (0, 1)
    assert set(actual.left_out.values()) == {"no signal", "text", "another sensor's signal"}
    assert "label" not in actual.left_out
    assert roles(columns).left_out["label"] == "no signal"


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"time": EMG, **channels()}, "'time' in column 1, which by its name is a time .* such as channels 2-4"),
        ({"index": EMG, **channels()}, "'index' in column 1, which by its name is a counter"),
        ({"trial": EMG, **channels()}, "'trial' in column 1, which by its name is no channel"),
        ({**channels(), "ch4": COUNTER}, "'ch4' in column 4, which by its name is a channel and by its numbers a time"),
        ({**channels(), "reference": EMG}, "expected channels alone beside ch1 to ch3, found 'reference' in column 4"),
        ({**channels(), "adc1": EMG, "adc2": EMG}, "found 'adc1' in column 4; .* such as channels 1-3"),
        ({"time": TIME, "label": LABEL}, "expected channels, found no column of samples"),
    ],
)
def test_what_could_be_either_is_asked(columns, told):
    with pytest.raises(DataError, match=told):
        roles(columns)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({**channels(2), "ch3": None}, r"expected numbers in column 3 \(ch3\), found cells such as '1,234\.5'"),
        ({"ch1": None, "ch2": None, "note": None}, r"expected numbers in column 1 \(ch1\)"),
    ],
)
def test_a_channel_of_text_is_an_error_and_a_note_is_none(columns, told):
    texts = {place: "1,234.5" for place, values in enumerate(columns.values()) if values is None}
    with pytest.raises(DataError, match=told):
        told_apart("a.csv", tuple(columns), list(columns.values()), texts=texts)
    assert roles({**channels(2), "note 1": None}).channels == (0, 1)


def test_channels_are_found_by_their_names_or_not_at_all():
    names = ["time", " CH2", "ch1", "label"]
    assert by_name("a.csv", names, ["ch1", "ch2"]) == [2, 1]
    assert by_name("a.csv", names, ["EMG_1", "EMG_2"]) is None
    with pytest.raises(DataError, match=r"a\.csv: expected the model's channel ch3, found time,  CH2, ch1, label"):
        by_name("a.csv", names, ["ch1", "ch3"])
    with pytest.raises(DataError, match="expected one channel 'ch1', found two"):
        by_name("a.csv", [*names, "Ch1"], ["ch1", "ch2"])
    assert by_name("a.csv", ["1", "2", "3"], ["2", "3", "4"]) is None, "columns without a header"
    for names in (["emg", "emg"], ["a1", "A1"]):
        assert by_name("a.csv", names, names) is None, "they say nothing"


def test_that_channels_are_taken_in_order_is_said_where_names_differ():
    told = taken_in_order(["E1", "E2"], ["ch1", "ch2"])
    assert told == "its channels are called E1 to E2, the model's are ch1 to ch2: taken in their order"
    assert taken_in_order(["CH1", "ch2 "], ["ch1", "ch2"]) == taken_in_order(["1", "2"], ["ch1", "ch2"]) == ""


def test_columns_that_somebody_chose_are_channels_but_no_time_text_or_label():
    columns = {"time": TIME, **channels(), "reference": EMG, "label": None}
    assert roles(columns, chosen=[4, 1]).channels == (4, 1)
    assert roles(columns, chosen=[4, 1]).time == 0
    with pytest.raises(DataError, match="in column 1, found 'time', which holds a time; the channels are channels 2-5"):
        roles(columns, chosen=[0, 1, 2])
    with pytest.raises(DataError, match="in column 6, found 'label', which holds text"):
        roles(columns, chosen=[1, 5])
    with pytest.raises(DataError, match="in column 3, found '3', which holds a counter"):
        roles({"1": EMG, "2": EMG, "3": COUNTER}, chosen=[0, 1, 2])


@pytest.mark.parametrize("values", [EMG, INT8, EMG * 0, np.abs(EMG), np.cumsum(EMG), LABEL, np.sin(TIME)])
def test_no_signal_rises(values):
    assert not rises(values)


def test_few_rows_say_nothing():
    assert not rises(np.arange(15.0))
    assert roles({"time": TIME[:8], "ch1": EMG[:8]}).channels == (1,)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        *((one, "uV") for one in ("ch1_uV", "ch1 uV", "µV", "EMG 1 [microvolts]")),
        *((one, "mV") for one in ("EMG 2 (mV)", "Millivolts", "emg mv")),
        *((one, "V") for one in ("[V]", "Volts", "EMG 2 V")),
        *((one, "") for one in ("ch_v", "lev", "%MVC", "ch1", "", "muv")),
    ],
)
def test_the_unit_of_a_signal(text, unit):
    assert unit_of_signal(text) == unit


def test_the_unit_of_time():
    assert [unit_of_time(n) for n in ("time (s)", "t_ms", "Time [µs]", "ns", "time", "x")] == [
        1,
        1e-3,
        1e-6,
        1e-9,
        None,
        None,
    ]


@pytest.mark.parametrize("length", [4, 10, 16, 100, 128, 250, 256])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("held", [1, 4])
def test_a_counter_that_begins_anew_is_none_of_the_channels_whatever_its_length(length, first, held):
    n = 3 * length * held + 50
    values = first + np.arange(n) // held % length * 1.0
    signals = {name: RANDOM.normal(0, 30, n) for name in ("left", "right")}
    for name in ("what", "counter", ""):
        actual = roles({**signals, name: values})
        assert (actual.channels, actual.time, actual.counter) == ((0, 1), 2, True)
    cycle = cycle_of(values)
    assert cycle == Cycle(1.0, length)
    np.testing.assert_array_equal(unwrapped(values, cycle), first + np.arange(n) // held)


def test_what_is_lost_where_a_counter_begins_anew_is_counted():
    lost = np.delete(np.arange(1000.0), [*range(95, 103), *range(340, 350)])
    cycle = cycle_of(lost % 100)
    assert cycle == Cycle(1.0, 100.0)
    np.testing.assert_array_equal(unwrapped(lost % 100, cycle), lost)


@pytest.mark.parametrize(
    "values",
    [
        np.concatenate([COUNTER, COUNTER]),  # once, after no length that counters have
        np.concatenate([np.arange(400.0), np.arange(390.0), np.arange(405.0)]),
        np.concatenate([COUNTER, COUNTER[:100], COUNTER[:150], COUNTER]),
        COUNTER,
        np.tile([0.0, 1.0], 100),
        TIME % 1.0,
    ],
)
def test_another_begin_is_no_cycle(values):
    assert cycle_of(values) is None
    assert unwrapped(values, None) is values


@pytest.mark.parametrize(
    "values",
    [
        np.repeat(np.tile([0.0, 1.0, 2.0, 3.0], 10), 100),  # gestures in turn, each for as long
        np.tile([0.0, 1.0], 200),
        np.sign(np.round(RANDOM.normal(size=400))),
        np.repeat(np.tile(np.arange(8.0), 5), 200),
    ],
)
def test_labels_in_turn_and_small_numbers_do_not_rise(values):
    assert not rises(values)


@pytest.mark.parametrize("name", ["trial", "Repetition", "subject_id"])
def test_a_number_of_the_trial_counts_no_samples(name):
    trial = np.repeat(np.arange(1.0, 41.0), N // 40)
    actual = roles({name: trial, **channels()})
    assert (actual.channels, actual.time, actual.facts) == ((1, 2, 3), None, (0,))


# --- exports as devices' programs and data sets write them ---------------------------------------------------

HELD = np.repeat([0.0, 3.0], N // 2)
OPENBCI = {
    "Sample Index": BYTE,
    **{f"EXG Channel {n}": np.roll(EMG, n) for n in range(8)},
    **{f"Accel Channel {n}": EMG for n in range(3)},
    "Other": HELD * 0,
    **{f"Other.{n}": HELD * 0 for n in range(1, 7)},
    **{f"Analog Channel {n}": HELD * 0 for n in range(3)},
    "Timestamp": 17e8 + TIME,
    "Other.7": HELD * 0,
    "Timestamp (Formatted)": None,
}
SHIMMER = {
    "Shimmer_5E2C_Timestamp_Unix_CAL": 17e11 + TIME * 1e3,
    "Shimmer_5E2C_Accel_LN_X_CAL": EMG,
    "Shimmer_5E2C_Battery_CAL": EMG,
    "Shimmer_5E2C_ECG_EMG_Status1_CAL": HELD * 0 + 128,
    "Shimmer_5E2C_EMG_CH1_24BIT_CAL": EMG,
    "Shimmer_5E2C_EMG_CH2_24BIT_CAL": INT8,
    "Shimmer_5E2C_Event_Marker_CAL": HELD,
}
NINAPRO = {
    **{f"emg_{n}": np.roll(EMG, n) for n in range(10)},
    **{f"acc_{n}": EMG for n in range(3)},
    **{f"glove_{n}": EMG for n in range(22)},
    **{f"inclin_{n}": EMG for n in range(2)},
    **dict.fromkeys(("stimulus", "restimulus", "repetition", "rerepetition", "object", "reobject"), HELD),
    **dict.fromkeys(("subject", "exercise", "age", "daytesting", "circumference"), HELD * 0 + 2),
    "height": HELD * 0 + 1.78,
    "frequency": HELD * 0 + 200,
    "gender": None,
}
BIOSEMI = {"Time": TIME, **{f"{bank}{n}": np.roll(EMG, n) for bank in "AB" for n in range(1, 33)}, "Status": HELD}
GRID = {"time_s": TIME, **{f"r{r}c{c}": np.roll(EMG, 8 * r + c) for r in range(1, 9) for c in range(1, 9)}}
TRIGNO = {
    "X[s]": TIME,
    **{f"Trigno Avanti {s}: EMG {s}{half} [V]": np.roll(EMG, s) for s in (1, 2, 3) for half in "AB"},
    **{f"Trigno Avanti {s}: ACC.{axis} {s} [g]": EMG for s in (1, 2, 3) for axis in "XYZ"},
}
NORAXON = {
    "Frame": COUNTER,
    "time,s": TIME,
    "Ultium EMG-LT BICEPS BR. (uV)": EMG,
    "Ultium EMG-LT TRICEPS (uV)": INT8,
    "Ultium EMG.Internal Accel 1 Ax (mG)": EMG,
    "Switch": HELD,
    "Activity": None,
}
CAPGMYO = {**{f"ch{n}": np.roll(EMG, n) for n in range(1, 129)}, "gesture_id": HELD, "trial_index": HELD, "user": HELD}
EPN = {"timepoint": COUNTER % 100, **{f"emg_ch{n}": np.roll(INT8, n) for n in range(1, 9)}, "gestureName": None}


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (OPENBCI, "EXG Channel"),
        (SHIMMER, "Shimmer_5E2C_EMG"),
        (NINAPRO, "emg_"),
        (BIOSEMI, ("A", "B")),
        (GRID, "r"),
        (TRIGNO, tuple(f"Trigno Avanti {s}: EMG" for s in (1, 2, 3))),
        (NORAXON, "Ultium EMG-LT"),
        (CAPGMYO, "ch"),
        (EPN, "emg_ch"),
    ],
    ids=["openbci", "shimmer", "ninapro", "biosemi", "grid", "trigno", "noraxon", "capgmyo", "epn"],
)
def test_the_channels_of_an_export_are_its_emg(columns, wanted):
    names = list(columns)
    actual = roles(columns)
    assert [names[place] for place in actual.channels] == [name for name in names if name.startswith(wanted)]


def test_labels_without_a_name_are_no_channel_and_a_dead_channel_is_one():
    columns = {"1": EMG, "2": INT8, "3": np.repeat(np.arange(4.0), N // 4), "4": HELD * 0}
    assert roles(columns).channels == (0, 1, 3)
    assert roles(columns, labels=3).channels == (0, 1)
    assert roles({"ch1": EMG, "ch2": HELD}).channels == (0, 1), "its name promises a channel"
