"""Which columns are channels: told from names and numbers, or asked."""

import numpy as np
import pytest

from semg.common.errors import DataError
from semg.data.columns import Roles, by_name, rises, taken_in_order, told_apart, unit_of_time, unwrapped

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
    assert by_name("a.csv", ["emg", "emg"], ["emg", "emg"]) is None, "they say nothing"


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


def test_the_unit_of_time():
    assert [unit_of_time(n) for n in ("time (s)", "t_ms", "Time [µs]", "ns", "time", "x")] == [
        1,
        1e-3,
        1e-6,
        1e-9,
        None,
        None,
    ]


def test_a_counter_of_some_bits_is_unwrapped_and_another_begin_is_none():
    np.testing.assert_array_equal(unwrapped(BYTE), COUNTER)
    again = np.concatenate([COUNTER, COUNTER])
    np.testing.assert_array_equal(unwrapped(again), again)
