"""Text in rows and columns as programs write it: any usual delimiter, decimal mark and encoding.

This module does not know what the columns mean. A single parser, Python's csv, reads a file, so that everything taken
from the file refers to the same rows. Anything ambiguous is an error that names the line.
"""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import Any

from semg.common.errors import DataError
from semg.common.files import expect_file

_SAMPLE = 200  # rows from which delimiter, decimal mark and header are detected
_DELIMITERS = ("\t", ";", "|", ",", " ")  # in this order: with any delimiter but the comma, commas may be decimal marks
_COMMENTS = ("#", "%")  # start of lines above the table
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?|[+-]?\d+,")
_DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?|[+-]?\d+\.")
_UNIT = re.compile(  # a cell below a name that states the unit of the column, or its rate
    r"[\[(]?([nuµμmk]?v(olts?)?|(micro|milli)volts?|counts?|lsb|bits?|a\.?u\.?|[mµμun]?s(ec(onds?)?)?"
    r"|m?g|m/s(\^?2|²)|(deg|°|rad)(/s)?|[mµμu]?t|n|%|°?c|[\d.,]* ?hz)[\])]?",
    re.IGNORECASE,
)
_SEPARATOR_LINE = re.compile(r"sep=(.)", re.IGNORECASE)  # optional first line for Excel
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))  # zero-width blanks, which come with copied text
_BINARY = {
    b"PK\x03\x04": "an Excel workbook or a zip archive; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    b"\x1f\x8b": "a file packed by gzip; unpack it",
    b"BZh": "a file packed by bzip2; unpack it",
    b"\xfd7zXZ": "a file packed by xz; unpack it",
}
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class DelimitedText:
    """A file of rows and columns, read and understood.

    Attributes: `path`; `names` of the columns from the header, or None without a header; `units`, the rows below the
    names that contain only units and rates; `width`, the number of columns; `delimiter`; `decimal`, the decimal mark;
    `cut`, a message about a last row that `rows` has left out, otherwise empty.
    """

    def __init__(self, path: Path, what: str, *, header: bool | None = None, may_be_cut: bool = False) -> None:
        """Read `path`. what: the expected contents, for error messages. header: whether there is one (None: detect it).
        may_be_cut: leave out a last row that has too few cells.

        Raises DataError for anything that is not text in rows and columns.
        """
        self.path, self.cut, self._may_be_cut = path, "", may_be_cut
        lines = io.StringIO(decoded(path, what), newline="").readlines()
        self._lines, self._skipped, forced, comment = _table_lines(lines)
        if not self._lines:
            raise DataError(f"{path}: expected {what}, found no row")
        self.delimiter = forced or _delimiter(self._lines[:_SAMPLE])
        head = list(islice(self._parsed(), _SAMPLE))
        if not head:
            raise DataError(f"{path}: expected {what}, found no row")
        rows = [row for _, row in head]
        self.decimal = "." if self.delimiter == "," else self._decimal_mark(rows)
        place = 0 if header is False else _header_place(rows, self.decimal)
        first, below = rows[place], rows[place + 1 :]
        units = _rows_of_units(below, self.decimal)
        self.width = self._usual_width(first, below)
        self.names: tuple[str, ...] | None = None
        self.units: tuple[list[str], ...] = ()
        self._header_rows = 0
        above = _cells(comment or "", self.delimiter)
        named = header is not False and is_header(first, below[units:], self.decimal)
        words = named and any(cell and not is_number(cell, self.decimal) for cell in first)
        if len(above) == self.width and header is not False and not words:
            self.names = above  # numpy.savetxt writes the header as a comment
        elif header or named:
            self.names, self._header_rows = tuple(_without_tail(first, self.width)), place + 1 + units
            self.units = tuple(below[:units])
            if len(self.names) != self.width:
                problem = f"expected {self.width} names, as many as the rows below have cells, found {len(self.names)}"
                hint = "a decimal comma makes two cells of one" if self.delimiter == "," else ""
                raise DataError(f"{path}:{head[place][0]}: {problem}", hint)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line in the file, counted from 1; the cells, without surrounding blanks) of each row below the header.

        Blank lines are skipped, and so are rows of delimiters alone at the end. DataError, naming the line, for a row
        of another width, or for a row of delimiters alone in the middle of the others.
        """
        width, blank = self.width, 0
        for line, row in islice(self._parsed(), self._header_rows, None):
            if not any(row):
                blank = blank or line
                continue
            if blank:
                raise DataError(f"{self.path}:{blank}: expected a sample, found a row without one")
            cells = row if len(row) == width else _without_tail(row, width)
            if len(cells) < width and self._may_be_cut and not any(map(str.strip, self._lines[line - self._skipped :])):
                self.cut = f"its last line, {line}, has {len(cells)} cells of {width} and is left out"
                return
            if len(cells) != width:
                problem = f"expected {width} cells as in the other rows, found {len(row)}"
                raise DataError(f"{self.path}:{line}: {problem}")
            yield line, cells

    def number(self, cell: str) -> float:
        """The number in a cell. Raises ValueError for anything else."""
        return number(cell, self.decimal)

    def _parsed(self) -> Iterator[tuple[int, list[str]]]:
        """Every row that is not blank, with its line. DataError if a quote does not end on its line."""
        reader = _reader(self._lines, self.delimiter)
        last = 0
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{self.path}:{last + 1 + self._skipped}: expected cells, found {error}") from None
            if row is None:
                return
            if reader.line_num > last + 1:
                problem = "expected a quote to end on its line, found one left open"
                raise DataError(f"{self.path}:{last + 1 + self._skipped}: {problem}")
            last = reader.line_num
            if row and row != [""]:
                cells = row if "".join(row).isascii() else map(as_written, row)
                yield last + self._skipped, [cell.strip() for cell in cells]

    @staticmethod
    def _usual_width(first: Sequence[str], below: Sequence[Sequence[str]]) -> int:
        """How many cells most rows have, not counting empty cells at their ends that the first row does not have
        either."""
        least = len(_without_tail(first))
        widths = [len(_without_tail(row, least)) for row in below if any(row)] or [least]
        return max(set(widths), key=widths.count)

    def _decimal_mark(self, rows: Sequence[Sequence[str]]) -> str:
        widest = max(len(_without_tail(row)) for row in rows)
        rows = [row for row in rows if len(_without_tail(row)) > widest / 2]  # without lines above the table
        commas = next((cell for row in rows for cell in row if _DECIMAL_COMMA.fullmatch(cell)), None)
        points = next((cell for row in rows for cell in row if _DECIMAL_POINT.fullmatch(cell)), None)
        if commas and points:
            raise DataError(f"{self.path}: expected one decimal mark, found {commas} and {points}")
        return "," if commas else "."


def decoded(path: Path, what: str) -> str:
    """The text in `path`: UTF-8, UTF-16, or the Windows code page of Western languages. DataError for anything else."""
    expect_file(path, what)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected {what}, found: {error.strerror}") from None
    if binary := next((kind for mark, kind in _BINARY.items() if raw.startswith(mark)), None):
        raise DataError(f"{path}: expected {what} as text, found {binary}")
    marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if raw.startswith(mark)), None)
    try:
        text = raw.decode(marked or _unmarked(raw))
    except UnicodeDecodeError:
        if marked:
            raise DataError(f"{path}: expected {what} in {marked}, as it begins, found other bytes") from None
        # a header such as `EMG (µV)` from Windows; digits are the same in all encodings
        text = raw.decode("cp1252", "replace")
    if "\0" in text:
        raise DataError(f"{path}: expected {what} as text, found binary data")
    return text


def as_written(text: str) -> str:
    """A cell's text as a person sees it. An accent and its letter become one character (macOS writes them as two in
    file names), and invisible characters are removed. Not for whole lines: this would turn a Greek question mark into a
    semicolon."""
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(_INVISIBLE))


def _unmarked(raw: bytes) -> str:
    """UTF-8, or UTF-16 without a byte order mark, in which every other byte of plain text is zero."""
    head = raw[:400]
    if len(head) > 3 and head[1::2].count(0) > len(head) * 0.4:
        return "utf-16-le"
    if len(head) > 3 and head[0::2].count(0) > len(head) * 0.4:
        return "utf-16-be"
    return "utf-8"


def number(cell: str, decimal: str = ".") -> float:
    """The number in a cell; digits may not be grouped. Raises ValueError for anything else."""
    if "_" in cell or (decimal == "," and "." in cell):
        raise ValueError(cell)
    return float(cell.replace(",", ".") if decimal == "," else cell)


def is_number(cell: str, decimal: str = ".") -> bool:
    """Whether a cell holds a number; an empty cell does not."""
    try:
        number(cell, decimal)
    except ValueError:
        return False
    return True


def is_header(first: Sequence[str], below: Sequence[Sequence[str]], decimal: str) -> bool:
    """Whether the first row names the columns: it has text above numbers, or numbers the columns in order.

    pandas numbers columns from 0, other programs from 1; such a row of consecutive whole numbers is not a sample.
    """
    columns = list(zip(*[row for row in below if len(row) >= len(first)], strict=False))
    if not columns:
        return any(cell and not is_number(cell, decimal) for cell in first)
    numeric = [_is_numeric(column, decimal) for column in columns[: len(first)]]
    if any(cell and not is_number(cell, decimal) for cell, holds in zip(first, numeric, strict=False) if holds):
        return True
    numbers = [number(cell, decimal) for cell in first if is_number(cell, decimal)]
    if len(numbers) < 3 or numbers[0] not in (0, 1) or any(b - a != 1 for a, b in pairwise(numbers)):
        return False
    cells = zip(first, columns, strict=False)
    return all(cell not in column for cell, column in cells if cell and not is_number(cell, decimal))


def _header_place(rows: Sequence[Sequence[str]], decimal: str) -> int:
    """Which row names the columns: the first, unless there are lines about the recording above a row of names.

    Such lines have fewer cells than the names, and the names are above numbers. If this is not the case, the first row
    is used as usual, and anything that does not fit it is an error.
    """
    usual = Counter(len(_without_tail(row)) for row in rows).most_common(1)[0][0]
    place = next((place for place, row in enumerate(rows) if len(_without_tail(row)) >= max(2, usual)), 0)
    below = rows[place + 1 :]
    below = below[_rows_of_units(below, decimal) :]
    names = [cell for cell in rows[place] if cell]
    if any(is_number(cell, decimal) for cell in names) or not is_header(rows[place], below, decimal):
        return 0
    return place


def _rows_of_units(below: Sequence[Sequence[str]], decimal: str) -> int:
    """How many rows below the names contain only the units of numbers: device programs write one or two."""
    units = list(takewhile(_are_units, below))
    if not units or len(units) == len(below):
        return 0
    cells = zip(units[0], below[len(units)], strict=False)
    return len(units) if all(is_number(cell or "0", decimal) for unit, cell in cells if unit.strip("-")) else 0


def _are_units(row: Sequence[str]) -> bool:
    filled = [cell for cell in row if cell not in ("", "-")]
    return bool(filled) and all(_UNIT.fullmatch(cell) for cell in filled)


def _is_numeric(column: Iterable[str], decimal: str) -> bool:
    filled = [cell for cell in column if cell]
    return bool(filled) and all(is_number(cell, decimal) for cell in filled)


def _table_lines(lines: list[str]) -> tuple[list[str], int, str | None, str | None]:
    """The table's lines; the number of lines above them; the delimiter from the line for Excel; the last comment."""
    forced = comment = None
    for place, line in enumerate(lines):
        bare = line.strip()
        if bare.startswith(_COMMENTS):
            comment = bare.lstrip("".join(_COMMENTS)).strip()
        elif place == 0 and (match := _SEPARATOR_LINE.fullmatch(bare)):
            forced = match[1]
        elif bare:
            return lines[place:], place, forced, comment
    return [], len(lines), forced, comment


def _reader(lines: Iterable[str], delimiter: str) -> Any:  # csv.reader, whose type has no public name
    if delimiter == " ":  # blanks at the ends of a line are not columns
        lines = (line.strip() for line in lines)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _cells(line: str, delimiter: str) -> tuple[str, ...]:
    """The cells of a single line; none if it is too long for a cell and so no row of a table."""
    try:
        return tuple(as_written(cell).strip() for cell in next(_reader([line], delimiter), []))
    except csv.Error:
        return ()


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter with which all rows have the same width."""
    for delimiter in _DELIMITERS:
        try:
            rows = [row for row in _reader(lines, delimiter) if any(map(str.strip, row))]
        except csv.Error:
            continue
        width = len(_without_tail(rows[0])) if rows else 0
        if width > 1 and sum(len(_without_tail(row, width)) == width for row in rows) >= 0.9 * len(rows):
            return delimiter
    for delimiter in _DELIMITERS[:-1]:  # with lines about the recording above the table
        widths = Counter(len(line.split(delimiter)) for line in lines if line.strip())
        width, count = widths.most_common(1)[0]
        if width > 1 and 2 * count > widths.total():
            return delimiter
    return max(_DELIMITERS[:-1], key=lines[0].count) if any(mark in lines[0] for mark in _DELIMITERS[:-1]) else ","


def _without_tail(row: Sequence[str], width: int = 0) -> list[str]:
    """The row without empty cells at its end, but with at least `width` cells."""
    end = len(row)
    while end > width and not row[end - 1].strip():
        end -= 1
    return list(row[:end])
