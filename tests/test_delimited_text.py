"""Text in rows and columns, as other programs write it: read whole and exactly, or refused with the line."""

import bz2
import csv
import gzip
import io
import lzma

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semg.common.errors import DataError
from semg.data.delimited_text import DelimitedText, as_written, is_header, number

HEADER = ["t", "ch1", "ch2", "label"]
ROWS = [["0.005", "1.5", "-2", "rest"], ["0.01", "1e-3", "3.25", "rest"], ["0.015", "-4.5", "0", ""]]
TABLE = pd.DataFrame(ROWS, columns=HEADER).astype({"t": float, "ch1": float, "ch2": float})


def read(path, raw: bytes | str, **settings) -> DelimitedText:
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return DelimitedText(path, "a recording", **settings)


def values(text: DelimitedText) -> list[list[float | str]]:
    return [[*map(text.number, row[:3]), row[3]] for _, row in text.rows()]


EXPECTED = [[0.005, 1.5, -2, "rest"], [0.01, 1e-3, 3.25, "rest"], [0.015, -4.5, 0, ""]]
COMMAS = TABLE.to_csv(index=False)


@pytest.mark.parametrize(
    "raw",
    [
        COMMAS,
        COMMAS.replace("\n", "\r\n"),
        COMMAS.replace("\n", "\r"),
        COMMAS.replace("\n", "\n\n"),
        COMMAS.removesuffix("\n"),
        COMMAS.replace(",", ", "),
        COMMAS.replace("\n", ",\n"),
        COMMAS.replace("\n", ",,\n").replace("label,,", "label"),
        COMMAS + ",,,\n" * 3,
        COMMAS + ",\n\n",
        "sep=,\n" + COMMAS,
        "# a device\n% and more\n" + COMMAS,
        "# " + COMMAS,
        "# " + COMMAS.replace(",", " , "),
        "# " + "x" * 200_000 + "\n" + COMMAS,
        TABLE.to_csv(index=False, sep=";"),
        TABLE.to_csv(index=False, sep="|", decimal=","),
        COMMAS.replace("label\n", "label\ns,mV,mV,\n"),
        COMMAS.replace("label\n", "label\n(s),[µV],uV,-\n200 Hz,200 Hz,200 Hz,\n"),
        "Device: an armband\nDate,2024-01-01\nGain,2.5\n\n" + COMMAS,
        "Device;an armband\nGain;2.5\n" + TABLE.to_csv(index=False, sep=";", decimal=","),
        "Device,an armband,,\n" + COMMAS,
        "Device: an armband\n" + TABLE.to_csv(index=False, sep="\t").replace("label\n", "label\ns\tmV\tmV\t\n"),
        TABLE.to_csv(index=False, sep="\t"),
        TABLE.to_csv(index=False, sep=";", decimal=","),
        TABLE.to_csv(index=False, sep="\t", decimal=","),
        TABLE.to_csv(index=False, quoting=csv.QUOTE_ALL),
        TABLE.to_csv(index=False, quoting=csv.QUOTE_ALL, sep=";", decimal=","),
        b"\xef\xbb\xbf" + COMMAS.encode(),
        COMMAS.encode("utf-16"),
        COMMAS.encode("utf-16-le"),
        COMMAS.encode("utf-16-be"),
        b"\xfe\xff" + COMMAS.encode("utf-16-be"),
    ],
)
def test_the_same_table_in_other_forms(tmp_path, raw):
    text = read(tmp_path / "a", raw)
    assert text.names == tuple(HEADER)
    assert values(text) == EXPECTED


def test_columns_between_blanks(tmp_path):
    text = read(
        tmp_path / "a", '  t  ch1   ch2 label \n 0.005  1.5 -2  rest\n0.01 1e-3   3.25 rest  \n 0.015 -4.5 0 ""\n'
    )
    assert text.names == tuple(HEADER)
    assert values(text) == EXPECTED


def test_a_western_code_page_is_read_in_names(tmp_path):
    text = read(tmp_path / "a", COMMAS.replace("ch1", "EMG (µV)").encode("cp1252"))
    assert text.names[1] == "EMG (µV)"


@pytest.mark.parametrize("header", [None, True])
def test_a_comment_of_as_many_words_as_columns_is_no_header_above_one(tmp_path, header):
    text = read(tmp_path / "a", "# by hand, on, a, Monday\n" + COMMAS, header=header)
    assert text.names == tuple(HEADER)
    assert next(text.rows())[0] == 3


def test_lines_are_the_files_own(tmp_path):
    text = read(tmp_path / "a", "# one\n\n" + COMMAS.replace("\n0.01", "\n\n\n0.01"))
    assert [line for line, _ in text.rows()] == [4, 7, 10]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "expected a recording, found no row"),
        (b"\n\n", "found no row"),
        (b'""\n', "found no row"),
        (b"# only a comment\n", "found no row"),
        (b"PK\x03\x04" + b"\0" * 99, "found an Excel workbook or a zip archive; save the sheet as CSV"),
        (b"\x01\x02\0\0\x05" * 40, "binary data"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "found a file packed by gzip; unpack it"),
        (bz2.compress(b"a,b\n1,2\n"), "found a file packed by bzip2; unpack it"),
        (lzma.compress(b"a,b\n1,2\n"), "found a file packed by xz; unpack it"),
        (b"\xff\xfea", "in utf-16, as it begins, found other bytes"),
        (COMMAS.replace("-4.5,", ""), ":4: expected 4 cells as in the other rows, found 3"),
        (COMMAS.replace("-4.5,", "-4.5,7,8,"), ":4: expected 4 cells as in the other rows, found 6"),
        (COMMAS.replace("0.01,", ",,,\n0.01,"), ":3: expected a sample, found a row without one"),
        (COMMAS.replace("rest\n0.01", '"rest\n0.01'), ":2: expected a quote to end on its line"),
        (COMMAS + '0.02,1,2,"rest\n' + "0.025,1,2,rest\n" * 20000, ":5: expected"),
        (TABLE.to_csv(index=False, sep=";", decimal=",") + "1.5;2;3;rest\n", "one decimal mark, found 0,005 and 1.5"),
        ("device,x\n1,2,3,rest\n" + COMMAS.partition("\n")[2], ":1: expected 4 names"),
        ("a,b\n" + "1,5,2,5\n" * 5, ":1: expected 4 names, .* found 2; a decimal comma makes two cells of one"),
        ("a,b\n" + "1,2,3\n" * 5, ":1: expected 3 names, as many as the rows below have cells, found 2"),
    ],
)
def test_what_cannot_be_told_is_an_error_with_its_line(tmp_path, raw, told):
    with pytest.raises(DataError, match=told) as caught:
        values(read(tmp_path / "a", raw))
    assert str(tmp_path / "a") in str(caught.value)


@pytest.mark.parametrize("header", [True, None])
def test_rows_without_a_number_are_units_only_if_they_say_nothing_else(tmp_path, header):
    for row in ("NA,NA,NA,rest", "s,mV,mV,rest"):
        text = read(tmp_path / "a", COMMAS.replace("label\n", f"label\n{row}\n"), header=header)
        assert next(text.rows())[1] == (row.split(",") if header else HEADER)
    listed = read(tmp_path / "list", "file,subject\ng,s\np1.csv,1\n", header=True)
    assert [row for _, row in listed.rows()] == [["g", "s"], ["p1.csv", "1"]]


def test_a_last_row_that_was_cut_off_is_left_out_where_samples_are_read(tmp_path):
    """A device that is switched off leaves one; in the middle, and in a list, such a row is an error."""
    cut = read(tmp_path / "a", COMMAS + "0.02,1.2\n\n", may_be_cut=True)
    assert values(cut) == EXPECTED
    assert cut.cut == "its last line, 5, has 2 cells of 4 and is left out"
    assert read(tmp_path / "a", COMMAS, may_be_cut=True).cut == ""
    for raw, where in ((COMMAS + "0.02,1.2\n0.025,1,2,rest\n", 5), (COMMAS + "0.02,1,2,rest,\n" + "1,2,3,4,5\n", 6)):
        with pytest.raises(DataError, match=f":{where}: expected 4 cells as in the other rows"):
            values(read(tmp_path / "a", raw, may_be_cut=True))
    with pytest.raises(DataError, match=":5: expected 4 cells as in the other rows, found 2"):
        values(read(tmp_path / "a", COMMAS + "0.02,1.2\n"))


def test_files_that_are_none(tmp_path):
    for path, output in ((tmp_path / "none", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=output):
            DelimitedText(path, "a recording")


@pytest.mark.parametrize(
    ("first", "below", "expected"),
    [
        ("ch1 ch2", ["1 2"], True),
        ("0 1 2", ["5 7 9", "3 1 2"], True),  # pandas' names
        ("1 2 3 label", ["5 7 9 rest"], True),
        ("0 1 2 rest", ["5 7 9 rest"], False),
        ("0 1", ["5 7"], False),  # two whole numbers may be samples
        ("3 1 2", ["5 7 9"], False),
        ("0.5 1.5 rest", ["1 2 fist"], False),
        ("a b", [], True),
        ("1 2", [], False),
    ],
)
def test_whether_the_first_row_is_a_header(first, below, expected):
    assert is_header(first.split(), [row.split() for row in below], ".") is expected


@pytest.mark.parametrize("cell", ["", "x", "1_0", "1,5", "0x10"])
def test_what_is_no_number(cell):
    with pytest.raises(ValueError):
        number(cell)
    with pytest.raises(ValueError):
        number("1.234,5", ",")
    with pytest.raises(ValueError):
        number("1.5", ",")


cells = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**6), 10**6).map(str),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=5),
)


@given(st.lists(st.tuples(cells, cells, st.integers().map(str)), min_size=1, max_size=20), st.sampled_from(",;\t"))
def test_what_csv_writes_is_read_back_or_refused_with_a_line(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.getbasetemp() / "fuzz"
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows([("name one", "name two", "n"), *rows])
    try:
        text = read(path, out.getvalue(), header=True)
        actual = [row for _, row in text.rows()]
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert actual == [[as_written(cell).strip() for cell in row] for row in rows]


def test_cells_are_told_apart_before_their_characters_are(tmp_path):
    """A Greek question mark is a semicolon to Unicode, and would have made two cells of one."""
    text = read(tmp_path / "a.csv", "ch1;\u03c4\u03b9\u037e;ferme\u0301\n1;2;3\n4;5;6\n", header=True)
    assert text.names == ("ch1", "\u03c4\u03b9;", "ferm\u00e9")
    assert [row for _, row in text.rows()] == [["1", "2", "3"], ["4", "5", "6"]]
