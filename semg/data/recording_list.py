"""The list that says who made which recording and when: a table in CSV, as import_csv.py takes it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath

from semg.common.errors import DataError
from semg.common.schema import text
from semg.data import records
from semg.data.delimited_text import DelimitedText
from semg.data.records import Record

COLUMNS = ("file", "subject", "session", "date", "task")
_NEEDED = COLUMNS[:2]


@dataclass(frozen=True)
class Entry:
    """A row of the list: the recording and its facts."""

    path: Path
    facts: Record


@dataclass(frozen=True)
class _Row:
    """What a row says. where: file and line; name: the record's; when: the date, if there is one."""

    where: str
    place: int
    path: Path
    name: str
    subject: str
    session: str
    when: datetime | None
    task: str


def read_list(path: Path) -> list[Entry]:
    """The recordings that a list names, in its order. DataError, naming the line, for a row that is wrong."""
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
    return [_entry(path, row, rows) for row in rows]


def _row(path: Path, where: str, place: int, row: dict[str, str]) -> _Row:
    cells = {key: _without_fraction(row.get(key, "")) for key in COLUMNS}
    if not text(cells["file"]):
        raise DataError(f"{where}: expected a file's path, found {cells['file']!r}")
    if not cells["file"]:
        raise DataError(f"{where}: expected a file, found none")
    try:
        when = datetime.fromisoformat(cells["date"]).replace(tzinfo=None) if cells["date"] else None
    except ValueError:
        raise DataError(f"{where}: expected a date such as 2024-03-01, found {cells['date']!r}") from None
    session = cells["session"] or (when.date().isoformat() if when else "1")
    for what, name in (("subject", cells["subject"]), ("session", session), ("task", cells["task"] or "task")):
        if not records.is_name(name):
            raise DataError(f"{where}: expected a {what} of {records.NAME_FORM}, found {name!r}")
    file = _file(path.parent, cells["file"])
    return _Row(where, place, file, _name(cells["file"]), cells["subject"], session, when, cells["task"])


def _without_fraction(cell: str) -> str:
    """`1.0` -> `1`: spreadsheets and pandas write whole numbers so, and a person or session has one name."""
    return re.sub(r"^(\d+)\.0+$", r"\1", cell)


def _file(folder: Path, cell: str) -> Path:
    """The file that a list names; it may come from a system with backslashes, or where capitals are no matter."""
    path = folder / cell
    if path.exists():
        return path
    path = folder / cell.replace("\\", "/")
    if path.exists() or not path.parent.is_dir():
        return path
    alike = [one for one in path.parent.iterdir() if one.name.casefold() == path.name.casefold()]
    return alike[0] if len(alike) == 1 else path


def _name(file: str) -> str:
    """A recording's name from its path: P1/day 2/fist.csv -> P1-day_2-fist."""
    path = PurePath(file.replace("\\", "/"))
    parts = [part for part in (*path.parent.parts, path.stem) if part not in (path.anchor, ".", "..")]
    return re.sub(r"^\W+", "", re.sub(r"[^\w.+=@~-]", "_", "-".join(parts)))


def _check_names(rows: Sequence[_Row]) -> None:
    """DataError for two recordings of one name, and for what may be one person under two names."""
    seen: dict[str, _Row] = {}
    numbered: dict[str, str] = {}
    for row in rows:
        where = row.where
        if not records.is_name(row.name):
            raise DataError(f"{where}: expected a file whose name can be a folder's, found {row.path.name!r}")
        if other := seen.get(row.name.casefold()):
            raise DataError(
                f"{where}: expected recordings of different names, found {row.path.name} after {other.path.name}, "
                f"which both become {row.name}"
            )
        seen[row.name.casefold()] = row
        number = row.subject.casefold().lstrip("0")
        if (known := numbered.setdefault(number, row.subject)) != row.subject:
            raise DataError(f"{where}: expected one name for one person, found {row.subject} after {known}")


def _entry(path: Path, row: _Row, rows: Sequence[_Row]) -> Entry:
    """With the row's place in time among its subject's. DataError if dates tell only some of those apart."""
    of_subject = [other for other in rows if other.subject == row.subject]
    dated = [(other.when, other.place) for other in of_subject if other.when]
    if dated and len(dated) < len(of_subject):
        raise DataError(f"{path}: expected a date for all of subject {row.subject}'s recordings or for none of them")
    order = sorted(dated).index((row.when, row.place)) if row.when else of_subject.index(row)
    return Entry(row.path, Record(row.name, row.subject, row.session, order + 1, row.task))
