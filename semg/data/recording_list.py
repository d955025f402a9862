"""The list of recordings for import_csv.py: a CSV table that says who made which recording and when."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath

from semg.common.errors import DataError
from semg.common.schema import text
from semg.data import records
from semg.data.delimited_text import DelimitedText, as_written
from semg.data.records import Record
from semg.data.tables import label
from semg.data.times import DAY, Moment, ends_in_a_zones_name, moment_of

COLUMNS = ("file", "subject", "session", "date", "task", "label")
_NEEDED = COLUMNS[:2]


@dataclass(frozen=True)
class Entry:
    """A row of the list: the recording and its facts. label: the gesture of the whole recording; empty if the
    recording's own table names its gestures."""

    path: Path
    facts: Record
    label: str = ""


@dataclass(frozen=True)
class _Row:
    """The contents of a row. where: file and line; name: the record's; when: the date, if there is one; names_session:
    whether the row names a session; otherwise the day of the date is the session."""

    where: str
    place: int
    path: Path
    name: str
    subject: str
    session: str
    when: Moment | None
    names_session: bool
    task: str
    label: str


def read_list(path: Path) -> list[Entry]:
    """The recordings in a list, in its order. DataError, naming the line, for an invalid row."""
    try:
        table = DelimitedText(path, "a list of recordings", header=True)
    except DataError as error:
        if "found no row" not in str(error):
            raise
        raise DataError(f"{path}: expected a header {','.join(COLUMNS)} and a row a recording, found no row") from None
    names = [name.strip().casefold() for name in table.names or ()]
    if not set(_NEEDED) <= set(names):
        actual = ", ".join(table.names or ())
        raise DataError(f"{path}: expected columns {', '.join(_NEEDED)} in a list of recordings, found {actual}")
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise DataError(f"{path}: expected one column {twice[0]}, found {names.count(twice[0])}")
    rows: list[_Row] = []
    for line, cells in table.rows():
        rows.append(_row(path, f"{path}:{line}", len(rows), dict(zip(names, cells, strict=True))))
    if not rows:
        raise DataError(f"{path}: expected a row a recording below the header, found no row")
    _check_names(rows)
    orders: dict[_Row, int] = {}
    for subject in {row.subject for row in rows}:
        own = [row for row in rows if row.subject == subject]
        orders |= {row: place for place, row in enumerate(_in_time(path, own), 1)}
    return [
        Entry(one.path, Record(one.name, one.subject, one.session, orders[one], one.task), one.label) for one in rows
    ]


def meant(name: str) -> str:
    """The same text for all names that mean one person or one session: `P01`, `p1`."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name.casefold())


def _row(path: Path, where: str, place: int, row: dict[str, str]) -> _Row:
    cells = {key: row.get(key, "") for key in COLUMNS}
    cells |= {key: _without_fraction(cells[key]) for key in COLUMNS if key != "file"}
    if not text(cells["file"]):
        raise DataError(f"{where}: expected a file's path, found {cells['file']!r}")
    if not cells["file"]:
        raise DataError(f"{where}: expected a file, found none")
    when = _when(where, cells["date"]) if cells["date"] else None
    session = cells["session"] or (when.local.date().isoformat() if when else "1")
    for what, name in (("subject", cells["subject"]), ("session", session), ("task", cells["task"] or "task")):
        if not records.is_name(name):
            raise DataError(f"{where}: expected a {what} of {records.NAME_FORM}, found {name!r}")
    file = _file(path.parent, cells["file"])
    name, told = _name(cells["file"]), bool(cells["session"])
    return _Row(where, place, file, name, cells["subject"], session, when, told, cells["task"], label(cells["label"]))


def _when(where: str, cell: str) -> Moment:
    try:
        return moment_of(cell)
    except ValueError:
        form = "a date such as 2024-03-01 or 2024-03-01T10:30"
        if ends_in_a_zones_name(cell):  # not all of these names distinguish summer time from winter time
            form = "a zone by its numbers, such as +01:00 or Z"
        raise DataError(f"{where}: expected {form}, found {cell!r}") from None


def _without_fraction(cell: str) -> str:
    """`1.0` -> `1`: spreadsheets and pandas write whole numbers like this, but a person or session must have one
    name."""
    return re.sub(r"^(\d+)\.0+$", r"\1", cell)


def _file(folder: Path, cell: str) -> Path:
    """The file that a list names; the list may come from a system with backslashes, or one that ignores case."""
    path = folder / cell
    if path.exists():
        return path
    path = folder / cell.replace("\\", "/")
    if path.exists() or not path.parent.is_dir():
        return path
    alike = [one for one in path.parent.iterdir() if as_written(one.name).casefold() == path.name.casefold()]
    return alike[0] if len(alike) == 1 else path


def _name(file: str) -> str:
    """A recording's name from its path: P1/day 2/fist.csv -> P1-day_2-fist."""
    path = PurePath(file.replace("\\", "/"))
    parts = [part for part in (*path.parent.parts, path.stem) if part not in (path.anchor, ".", "..")]
    return re.sub(r"^\W+", "", re.sub(r"[^\w.+=@~-]", "_", "-".join(parts)))


def _check_names(rows: Sequence[_Row]) -> None:
    """DataError for two recordings with the same name, and for two names that may mean the same person, or the same
    session of a person."""
    seen: dict[str, _Row] = {}
    people: dict[str, str] = {}
    sessions: dict[tuple[str, str], str] = {}
    for row in rows:
        where = row.where
        if (length := len(row.name.encode())) > records.LONGEST:
            named = f"a path of at most {records.LONGEST} bytes, which names the recording"
            raise DataError(
                f"{where}: expected {named}, found {length}",
                "put the list into the folder of the recordings, and write paths from there",
            )
        if not records.is_name(row.name):
            raise DataError(f"{where}: expected a file whose name can be a folder's, found {row.path.name!r}")
        if other := seen.get(row.name.casefold()):
            raise DataError(
                f"{where}: expected recordings of different names, found {row.path.name} after {other.path.name}, "
                f"which both become {row.name}"
            )
        seen[row.name.casefold()] = row
        if (known := people.setdefault(meant(row.subject), row.subject)) != row.subject:
            raise DataError(f"{where}: expected one name for one person, found {row.subject} after {known}")
        if (known := sessions.setdefault((row.subject, meant(row.session)), row.session)) != row.session:
            of = f"one session of {row.subject}"
            raise DataError(f"{where}: expected one name for {of}, found {row.session} after {known}")


def _in_time(path: Path, rows: Sequence[_Row]) -> list[_Row]:
    """A subject's rows sorted by date, or in the order of the list if there are no dates.

    DataError for dates that define no order, and, if no sessions are named, for dates that leave the day open.
    """
    subject, dates = rows[0].subject, [row.when for row in rows if row.when]
    if not dates:
        return list(rows)
    if len(dates) < len(rows):
        raise DataError(f"{path}: expected a date for all of subject {subject}'s recordings or for none of them")
    if other := next((one for one in dates if (one.ahead is None) != (dates[0].ahead is None)), None):
        found = f"found {dates[0].written} and {other.written}"
        raise DataError(f"{path}: expected a zone in all of subject {subject}'s dates or in none, {found}")
    in_order = [row for _, _, row in sorted((row.when.seconds, row.place, row) for row in rows if row.when)]
    for row, later in pairwise(in_order):
        if row.when and later.when and not (row.names_session and later.names_session):
            near = later.when.seconds - row.when.seconds < DAY
            if near and row.when.ahead != later.when.ahead:
                both = f"{row.when.written} and {later.when.written}, whose zones differ"
                raise DataError(f"{path}: expected a session for subject {subject}'s recordings of {both}")
    return in_order
