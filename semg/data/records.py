"""What splits and sessions need to know of a recording: whose it is, of which session, and when it was made.

A shard says these facts in its shard.json. Names of putEMG's form say them too, so that a split of putEMG can be
made and read where no shards are.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from semg.common.files import is_system_file
from semg.data import putemg

LONGEST = 200  # characters of a name, which becomes a folder's
_NAME = re.compile(rf"\w[\w.+=@~-]{{0,{LONGEST - 1}}}")
NAME_FORM = "letters, digits and . _ - + = @ ~, a letter or digit first"


@dataclass(frozen=True)
class Record:
    """A recording's facts.

    session: name of the session among the subject's; the electrodes stayed on during it. order: rises with time over
    the subject's recordings. task: what the subject was asked to do, perhaps nothing in particular.
    """

    name: str
    subject: str
    session: str
    order: int
    task: str = ""

    @property
    def session_key(self) -> str:
        """Subject and session, which together name a session among everybody's."""
        return f"{self.subject}/{self.session}"


def from_name(name: str) -> Record:
    """The facts that a name of putEMG's form says. DataError for another form."""
    parsed = putemg.parse_record(name)
    order = int("".join(filter(str.isdigit, parsed.date + parsed.time)))
    return Record(name, parsed.subject, parsed.date, order, parsed.trajectory)


def from_meta(meta: Mapping[str, Any]) -> Record:
    """The facts in a shard's shard.json, once it is checked."""
    return Record(meta["record"], meta["subject"], meta["session"], meta["order"], meta["task"])


def is_name(text: object) -> bool:
    """Whether `text` may name a recording, a subject or a session: it can be a folder's name and a word of a list."""
    if not isinstance(text, str) or not _NAME.fullmatch(text) or is_system_file(text):
        return False
    return len(text.encode()) <= LONGEST  # bytes, as file systems count


def in_time(records: Iterable[Record]) -> list[Record]:
    """By subject, then in the order of recording."""
    return sorted(records, key=lambda record: (counting_order(record.subject), record.order, record.name))


def counting_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts P2 before P10, and fold2 before fold10."""
    pieces = re.split(r"([0-9]+)", name)
    return [(int(piece), "") if piece.isascii() and piece.isdigit() else (-1, piece) for piece in pieces]
