"""The reader of a recording: what pandas writes is read exactly, whatever else there is gets one clear line."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import recordings
import tables
from hypothesis import given, settings
from hypothesis import strategies as st

from semg.common.errors import DataError
from semg.data.gaps import Gap
from semg.data.putemg_recording import Recording, check_layout

ALL = tuple(range(1, 25))
SOME = (9, 1, 24)


def refused(path: Path, message: str, channels: tuple[int, ...] = ALL, labels: str = "TRAJ_GT") -> None:
    """Opening or reading `path` ends in one line that names the file and matches `message`."""
    with pytest.raises(DataError, match=message) as caught, Recording(path) as recording:
        recording.read(channels, labels)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def same_as_pandas(path: Path, table: pd.DataFrame) -> None:
    with Recording(path) as recording:
        counts, labels = recording.read(SOME, "TRAJ_GT")
        assert recording.n_samples == len(table)
        assert recording.rate == pytest.approx(5120)
        assert recording.record is not None and recording.record.subject == "03"
    assert counts.dtype == np.int16 and labels.dtype == np.int8
    np.testing.assert_array_equal(counts, table[[f"EMG_{n}" for n in SOME]].to_numpy())
    np.testing.assert_array_equal(labels, table["TRAJ_GT"].to_numpy())
    check_layout(path)


# --- what is accepted ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"complevel": 5},
        {"complevel": 9, "complib": "blosc"},
        {"complevel": 5, "complib": "blosc:zstd"},
        {"complevel": 5, "complib": "bzip2"},
        {"data_columns": True},
        {"data_columns": ["TRAJ_GT", "EMG_3"]},
    ],
    ids=str,
)
def test_whatever_pandas_writes_is_read_exactly(tmp_path: Path, storage: dict) -> None:
    table = recordings.frame()
    same_as_pandas(recordings.write(tmp_path, table, **storage), table)


def float32(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({name: np.float32 for name in table if name.startswith("EMG_")})


def integers(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({name: np.int16 for name in table if name.startswith(("EMG_", "TRAJ_"))})


def mixed(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({"EMG_1": np.float32, "EMG_9": np.int32})


def backwards(table: pd.DataFrame) -> pd.DataFrame:
    return table[list(table.columns[::-1])]


def categorical_subject(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(subject=pd.Categorical(["03"] * len(table), categories=["02", "03", "11"]))


def numeric_category(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(subject=pd.Categorical([3] * len(table), categories=[1, 3]))


def text_subject(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(subject="03")


def further_column(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(comment=1.0)


def other_start(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_axis(table.index + 17.5)


@pytest.mark.parametrize(
    "change",
    [
        float32,
        integers,
        mixed,
        backwards,
        categorical_subject,
        numeric_category,
        text_subject,
        further_column,
        other_start,
    ],
)
def test_other_forms_of_the_same_content_are_accepted(tmp_path: Path, change: Callable) -> None:
    table = change(recordings.frame())
    same_as_pandas(recordings.write(tmp_path, table), table)


def test_prompted_labels_can_be_asked_for(tmp_path: Path) -> None:
    table = recordings.frame().assign(TRAJ_1=7.0)
    with Recording(recordings.write(tmp_path, table)) as recording:
        assert set(recording.read((1,), "TRAJ_1")[1]) == {7}


def test_a_file_longer_than_one_block_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = recordings.frame(samples=5000)
    path = recordings.write(tmp_path, table)
    monkeypatch.setattr("semg.data.putemg_recording._BLOCK_BYTES", 1)
    same_as_pandas(path, table)
    late = table.assign(EMG_24=table["EMG_24"].where(table.index < 4999 / 5120, 0.5))
    refused(recordings.write(tmp_path, late), "EMG_24: expected whole ADC counts .* found 0.5 at sample 4999")


# --- what is refused -------------------------------------------------------------------------------------


def changed(**columns: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.assign(**columns)


def at(column: str, row: int, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.iloc[row, table.columns.get_loc(column)] = value
        return table

    return change


def time(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.set_axis(change(table.index.to_numpy().copy()))


def swapped(times: np.ndarray) -> np.ndarray:
    times[[100, 101]] = times[[101, 100]]
    return times


def repeated(times: np.ndarray) -> np.ndarray:
    times[100] = times[99]
    return times


def unknown(times: np.ndarray) -> np.ndarray:
    times[100] = np.nan
    return times


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="EMG_24"), "expected putEMG's columns, found none named EMG_24"),
        (lambda t: t.drop(columns=["EMG_1", "TRAJ_GT"]), "found none named EMG_1, TRAJ_GT"),
        (lambda t: t.drop(columns=[f"EMG_{n}" for n in range(1, 13)]), "EMG_8 and 4 more"),
        (changed(EMG_25=0.0), "expected 24 channels, found also EMG_25"),
        (lambda t: t.rename(columns={"subject": "person"}), "found none named subject"),
        (at("EMG_7", 50, np.nan), "EMG_7: expected whole ADC counts .* found nan at sample 50"),
        (at("EMG_7", 50, np.inf), "EMG_7: .* found inf at sample 50"),
        (at("EMG_7", 50, -np.inf), "EMG_7: .* found -inf at sample 50"),
        (at("EMG_7", 50, 1.25), "EMG_7: .* found 1.25 at sample 50"),
        (at("EMG_7", 50, 1e6), "EMG_7: .* found 1000000.0 at sample 50"),
        (at("EMG_7", 50, 2.0**32), "EMG_7: .* found 4294967296.0 at sample 50"),
        (changed(EMG_3="12"), "EMG_3: expected numbers, found text or categories"),
        (changed(TRAJ_GT="idle"), "TRAJ_GT: expected numbers, found text or categories"),
        (lambda t: t.assign(TRAJ_GT=pd.Categorical(t["TRAJ_GT"])), "TRAJ_GT: expected numbers, found text"),
        (at("TRAJ_GT", 20, 4.0), "TRAJ_GT: expected labels -1 and 0, 1, 2.* found 4.0 at sample 20"),
        (at("TRAJ_GT", 20, np.nan), "TRAJ_GT: expected labels .* found nan at sample 20"),
        (at("TRAJ_GT", 20, 1.5), "TRAJ_GT: expected labels .* found 1.5 at sample 20"),
        (at("TRAJ_GT", 20, 257.0), "TRAJ_GT: expected labels .* found 257.0 at sample 20"),
        (time(swapped), "expected time to rise .* at sample 101"),
        (time(repeated), "expected time to rise .* at sample 100"),
        (time(unknown), "expected time to rise .* found nan s at sample 100"),
        (time(lambda t: t[::-1]), "expected 5120 Hz within 1%, found nan"),
        (time(lambda t: t * 1.02), r"expected 5120 Hz within 1%, found 5019.6\d* Hz"),
        (time(lambda t: t * 0.98), "expected 5120 Hz within 1%, found 5224"),
        (time(lambda t: np.arange(len(t), dtype=float)), "expected 5120 Hz within 1%, found 1 Hz"),
        (lambda t: t.iloc[:1], "expected a recording of some seconds, found 1 sample"),
        (changed(subject=4.0), "expected subject 03 as in the file's name, found 4"),
        (changed(subject="04"), "expected subject 03 .* found 04"),
        (changed(subject="nobody"), "expected subject 03 .* found nobody"),
        (lambda t: t.assign(subject=pd.Categorical(["11"] * len(t))), "expected subject 03 .* found 11"),
        (
            lambda t: t.assign(subject=pd.Categorical([None, *["03"] * (len(t) - 1)])),
            "expected a category for code -1 of values_block_.*, found a missing value",
        ),
    ],
)
def test_wrong_content_is_named(tmp_path: Path, change: Callable, message: str) -> None:
    refused(recordings.write(tmp_path, change(recordings.frame())), message)


def test_a_rate_within_one_percent_is_accepted(tmp_path: Path) -> None:
    """The authors' own filter code assumes 5124.072 Hz."""
    table = recordings.frame()
    with Recording(recordings.write(tmp_path, table.set_axis(table.index * 5120 / 5124.072))) as recording:
        assert recording.rate == pytest.approx(5124.072)


def test_the_name_must_be_a_records(tmp_path: Path) -> None:
    path = recordings.write(tmp_path, recordings.frame(), "renamed")
    with pytest.raises(DataError, match="expected a record name"):
        Recording(path)
    check_layout(path)  # which a file that is still being fetched has to pass, whatever its name
    with Recording(path, check_name=False) as recording:
        assert recording.record is None


def test_files_that_are_no_recordings(tmp_path: Path) -> None:
    path = tmp_path / f"{recordings.record_name()}.hdf5"
    refused(path, "expected a recording, found no such file")
    path.write_bytes(b"")
    refused(path, "expected an HDF5 recording, found an empty file; fetch it again")
    path.write_bytes(b"<html>" * 1000)
    refused(path, "expected an HDF5 recording, found .*; fetch it again")
    path.unlink()
    path.mkdir()
    refused(path, "expected a recording, found a folder")
    path.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)  # nobody writes to it: whoever opens it waits
        refused(path, "expected a recording, found a pipe")
        path.unlink()
        path.symlink_to("/dev/zero")
        refused(path, "expected a recording, found a device")


def test_other_hdf5_files(tmp_path: Path) -> None:
    table = recordings.frame()
    refused(recordings.write(tmp_path, table, key="other"), "a pandas table under the key 'data', found other")
    refused(recordings.write(tmp_path, table[["EMG_1"]], format="fixed"), "a pandas table under the key 'data'")
    path = tmp_path / f"{recordings.record_name()}.hdf5"
    with h5py.File(path, "w"):
        pass
    refused(path, "a pandas table under the key 'data', found nothing")
    with h5py.File(path, "w") as file:
        file["data/table"] = np.zeros((10, 2))
    refused(path, "found another kind of object")
    with h5py.File(path, "w") as file:
        file["data/table"] = h5py.SoftLink("/data/table")
    refused(path, "its own pandas table under the key 'data', found a link to '/data/table'")


# --- data that lies elsewhere ----------------------------------------------------------------------------


def moved(path: Path) -> h5py.File:
    """The recording, open, its table under another name: a place for something that points to it."""
    file = h5py.File(path, "r+")
    file.move("data", "elsewhere")
    file.create_group("data")
    return file


def external_link(path: Path, other: Path) -> None:
    with moved(path) as file:
        file["data/table"] = h5py.ExternalLink(other.name, "/data/table")


def external_group(path: Path, other: Path) -> None:
    with moved(path) as file:
        del file["data"]
        file["data"] = h5py.ExternalLink(other.name, "/data")


def soft_link(path: Path, _other: Path) -> None:
    with moved(path) as file:
        file["data/table"] = h5py.SoftLink("/elsewhere/table")


def external_storage(path: Path, _other: Path) -> None:
    with moved(path) as file:
        table = file["elsewhere/table"]
        (path.parent / "samples.bin").write_bytes(table[:].tobytes())
        size = table.shape[0] * table.dtype.itemsize
        stored = file.create_dataset(
            "data/table", table.shape, table.dtype, external=[(str(path.parent / "samples.bin"), 0, size)]
        )
        stored.attrs.update(table.attrs)


def virtual(path: Path, source: str, name: str) -> None:
    with moved(path) as file:
        table = file["elsewhere/table"]
        layout = h5py.VirtualLayout(table.shape, table.dtype)
        layout[:] = h5py.VirtualSource(source, name, table.shape, table.dtype)
        file["data"].create_virtual_dataset("table", layout).attrs.update(table.attrs)


def virtual_of_another(path: Path, other: Path) -> None:
    virtual(path, other.name, "data/table")


def virtual_of_itself(path: Path, _other: Path) -> None:
    virtual(path, ".", "data/table")  # to read it would end the process


@pytest.mark.parametrize(
    ("point", "found"),
    [
        (external_link, "a link to '.*other.hdf5:/data/table'"),
        (external_group, "a link to '.*other.hdf5:/data'"),
        (soft_link, "a link to '/elsewhere/table'"),
        (external_storage, "in another file, '.*samples.bin'"),
        (virtual_of_another, "a virtual data set"),
        (virtual_of_itself, "a virtual data set"),
    ],
)
def test_samples_that_lie_elsewhere_are_refused_unread(tmp_path: Path, point: Callable, found: str) -> None:
    other = recordings.write(tmp_path, recordings.frame(), "other")
    path = recordings.write(tmp_path, recordings.frame(seed=1))
    point(path, other)
    refused(path, f"(expected its own|of its own).*{found}")
    with pytest.raises(DataError, match=found):
        check_layout(path)


def test_categories_that_lie_elsewhere_are_refused_unread(tmp_path: Path) -> None:
    path = recordings.write(tmp_path, categorical_subject(recordings.frame()))
    with h5py.File(path, "r+") as file:
        (meta,) = (f"data/meta/{name}/meta/table" for name in file["data/meta"] if b"03" in file_values(file, name))
        del file[meta]
        file[meta] = h5py.ExternalLink("/etc/passwd", "/")
    refused(path, "found a link to '/etc/passwd:/'")


def test_categories_that_are_no_table_are_refused(tmp_path: Path) -> None:
    path = recordings.write(tmp_path, categorical_subject(recordings.frame()))
    with h5py.File(path, "r+") as file:
        (meta,) = (f"data/meta/{name}/meta/table" for name in file["data/meta"] if b"03" in file_values(file, name))
        del file[meta]
        file.create_group(meta)
    refused(path, "expected a category for code 1 of values_block_.*, found a group in place of its table")


def file_values(file: h5py.File, block: str) -> list[bytes]:
    return list(file[f"data/meta/{block}/meta/table"]["values"])


# --- sizes, locks and types ------------------------------------------------------------------------------


def with_table(path: Path, rows: int, dtype: np.dtype, **storage: object) -> None:
    """Put a table of `rows` rows that hold nothing in the place of the recording's, with its attributes."""
    with moved(path) as file:
        result = file.create_dataset("data/table", (rows,), dtype, **storage)
        result.attrs.update(file["elsewhere/table"].attrs)
        if storage.get("compression"):
            result[-1:] = np.zeros(1, dtype)


def test_a_small_file_that_unfolds_to_gigabytes_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = recordings.write(tmp_path, recordings.frame())
    with h5py.File(path) as file:
        dtype = file["data/table"].dtype
    with_table(path, 40_000_000, dtype, chunks=(100_000,), compression="gzip")
    assert path.stat().st_size < 2e6
    refused(path, "expected a recording, packed to a tenth, found .* MB that unfold to .* MB")


def test_room_without_data_one_huge_chunk_and_a_huge_row_are_refused(tmp_path: Path) -> None:
    path = recordings.write(tmp_path, recordings.frame())
    with h5py.File(path) as file:
        dtype = file["data/table"].dtype
    with_table(path, 600, dtype)
    refused(path, "expected 600 samples, found room for them and no data")
    path = recordings.write(tmp_path, recordings.frame())
    with_table(path, 600, dtype, chunks=(2_000_000,), maxshape=(None,), compression="gzip")
    refused(path, "MB that unfold to")
    path = recordings.write(tmp_path, recordings.frame())
    with_table(path, 2, np.dtype([("index", "<f8"), ("values_block_0", "<f8", (10_000_000,))]))
    refused(path, "expected rows of 24 channels, found rows of")


def test_a_recording_open_elsewhere_is_no_damage(tmp_path: Path) -> None:
    path = recordings.write(tmp_path, recordings.frame())
    with tables.open_file(str(path), "a"), pytest.raises(DataError, match="has open for writing; close it") as caught:
        Recording(path)
    assert "need not be fetched again" in str(caught.value)
    Recording(path).__exit__(None, None, None)


def test_a_drive_without_locks_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = recordings.frame()
    path = recordings.write(tmp_path, table)
    real = h5py.File

    def no_locks(name: Path, mode: str, locking: bool | None = None) -> h5py.File:
        if locking is not False:
            raise OSError(errno.ENOLCK, "Unable to synchronously open file (unable to lock file, errno = 37)")
        return real(name, mode, locking=locking)

    monkeypatch.setattr("semg.data.putemg_recording.h5py.File", no_locks)
    same_as_pandas(path, table)


@pytest.mark.parametrize(
    ("number", "told", "advice"),
    [
        (errno.EACCES, "Permission denied", "you may not read"),
        (errno.EIO, "Input/output error", "try again"),
        (None, "Unable to open file (file is already open for write/SWMR write)", "h5clear"),
        (None, "Unable to open file (truncated file: eof = 20000)", "fetch it again"),
    ],
)
def test_the_true_reason_is_told_and_the_way_on(tmp_path, monkeypatch, number, told, advice) -> None:
    path = recordings.write(tmp_path, recordings.frame())

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, told) if number else OSError(told)

    monkeypatch.setattr("semg.data.putemg_recording.h5py.File", refuse)
    refused(path, advice)


@pytest.mark.parametrize(
    "index", [lambda n: [f"t{i}" for i in range(n)], lambda n: [f"{i / 5120:.6f}" for i in range(n)]]
)
def test_a_text_index_is_refused(tmp_path: Path, index: Callable) -> None:
    table = recordings.frame()
    refused(
        recordings.write(tmp_path, table.set_axis(index(len(table)))), "expected time in seconds as index, found text"
    )


def test_rows_of_more_dimensions_are_refused(tmp_path: Path) -> None:
    for field in (("index", "<f8", (2,)), ("values_block_3", "<f8", (29, 2))):
        path = recordings.write(tmp_path, recordings.frame())
        with h5py.File(path, "r+") as file:
            old = file["data/table"]
            dtype = np.dtype([field if field[0] == name else (name, old.dtype[name]) for name in old.dtype.names])
            attrs = dict(old.attrs)
            del file["data/table"]
            file["data/table"] = np.zeros(600, dtype)
            file["data/table"].attrs.update(attrs)
        refused(path, f"expected a value or a row of values in {field[0]}, found more dimensions")


def stored_otherwise(path: Path, field: str, member: h5py.h5t.TypeID) -> None:
    """Write the recording's table anew with another type in the file for `field`, of as many bytes."""
    with moved(path) as file:
        old = file["elsewhere/table"]
        stored = old.id.get_type()
        result = h5py.h5t.create(h5py.h5t.COMPOUND, stored.get_size())
        for number in range(stored.get_nmembers()):
            name = stored.get_member_name(number)
            kept = stored.get_member_type(number)
            result.insert(name, stored.get_member_offset(number), member if name == field.encode() else kept)
        place = h5py.h5s.create_simple(old.shape)
        plain = h5py.h5d.create(file["data"].id, b"table", result, place)
        plain.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones((len(old), stored.get_size()), np.uint8), result)
        file["data/table"].attrs.update(old.attrs)


def a_float_that_numpy_widens() -> h5py.h5t.TypeID:
    """Of 8 bytes, its exponents so large that only a float of 16 bytes holds them: a float64 with a damaged byte."""
    result = h5py.h5t.IEEE_F64LE.copy()
    result.set_ebias(15)
    return result


@pytest.mark.parametrize("field", ["index", "values_block_3"])
def test_a_number_that_would_be_widened_over_the_next_one_is_refused_unread(tmp_path: Path, field: str) -> None:
    """Reading it ended the process: HDF5 wrote beyond the rows' memory (found by `make fuzz`)."""
    path = recordings.write(tmp_path, recordings.frame())
    wide = a_float_that_numpy_widens()
    stored_otherwise(path, field, h5py.h5t.array_create(wide, (29,)) if field == "values_block_3" else wide)
    refused(path, "expected an HDF5 recording, found (damage in the description of index|.* requires 482 bytes)")


def test_numbers_that_lie_in_each_others_place_are_refused(tmp_path: Path) -> None:
    path = recordings.write(tmp_path, recordings.frame(), complevel=5)
    whole = path.read_bytes()
    name = b"values_block_1\0"
    place = whole.index((9).to_bytes(4, "little"), whole.index(name))  # its offset in a row
    for offset in (8, 10, 249, 2**31):
        path.write_bytes(whole[:place] + offset.to_bytes(4, "little") + whole[place + 4 :])
        refused(path, "expected a pandas table under the key 'data', found a damaged one .*fetch it again")


@pytest.mark.parametrize("dtype", [h5py.string_dtype(), h5py.ref_dtype, np.dtype([("a", "f4"), ("b", "i2")])], ids=str)
def test_values_that_pandas_does_not_write_are_refused_unread(tmp_path: Path, dtype: np.dtype) -> None:
    path = recordings.write(tmp_path, recordings.frame())
    with h5py.File(path) as file:
        old = file["data/table"].dtype
    with_table(path, 600, np.dtype([*((name, old[name]) for name in old.names), ("comment", dtype)]), chunks=(600,))
    refused(path, "expected numbers or text of a fixed length in comment, found")


@pytest.mark.parametrize("value", ["EMG_1", np.arange(3), np.zeros((), [("a", "f4")])], ids=["varying", "row", "table"])
def test_column_names_that_pandas_does_not_write_are_refused_unread(tmp_path: Path, value: object) -> None:
    path = recordings.write(tmp_path, recordings.frame())
    with h5py.File(path, "r+") as file:
        file["data/table"].attrs["values_block_3_kind"] = value
    refused(path, "attribute values_block_3_kind of type")


# --- missing samples -------------------------------------------------------------------------------------


def test_missing_samples_are_found_and_change_neither_the_rate_nor_what_is_read(tmp_path: Path) -> None:
    table = recordings.frame(samples=60_000)
    table = table.drop(index=table.index[20_000:50_000])  # half of it: by its ends, the rate would be half
    with Recording(recordings.write(tmp_path, table)) as recording:
        counts, _ = recording.read(SOME, "TRAJ_GT")
        assert recording.rate == pytest.approx(5120)
        assert recording.gaps() == [Gap(20_000, 30_000)]
    np.testing.assert_array_equal(counts, table[[f"EMG_{n}" for n in SOME]].to_numpy())


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = recordings.recording_bytes()
    path = tmp_path / f"{recordings.record_name()}.hdf5"
    for length in [1, 7, 8, 95, 96, 512, *np.linspace(600, len(whole) - 1, 40, dtype=int)]:
        path.write_bytes(whole[:length])
        refused(path, "expected an HDF5 recording, found .*; fetch it again")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_without_effect(data: st.DataObject, tmp_path_factory: object) -> None:
    """Nothing but a DataError comes out of a damaged file. (putEMG's files have no checksums inside.)"""
    whole = bytearray(recordings.recording_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / f"{recordings.record_name()}.hdf5"
    path.write_bytes(whole)
    try:
        with Recording(path) as recording:
            counts, labels = recording.read(ALL, "TRAJ_GT")
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert counts.shape == (len(labels), 24)


class Malicious:
    """Unpickling this runs a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_never_executed(tmp_path: Path, protocol: int) -> None:
    path = recordings.write(tmp_path, recordings.frame())
    trace = tmp_path / "executed"
    attack = pickle.dumps(Malicious(trace), protocol)
    with h5py.File(path, "r+") as file:
        for name in list(file["data/table"].attrs):
            if name.endswith("_kind"):
                file["data/table"].attrs[name] = np.bytes_(attack)
        for name in ("non_index_axes", "info", "values_cols"):
            file["data"].attrs[name] = np.bytes_(attack)
    refused(path, "expected the column names of .*, found a pickle with the instruction")
    assert not trace.exists()
    pickle.loads(attack)  # noqa: S301  the attack works where somebody unpickles it
    assert trace.exists()
