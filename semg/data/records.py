"""What splits and sessions need to know about a recording: the person, the session, and the order in time.

A shard's shard.json states these facts. Names that follow putEMG's scheme contain them too, so a split of putEMG can be
made and read without shards.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from semg.common.files import is_system_file
from semg.data import putemg

LONGEST = 200  # bytes of a name, which becomes a folder name
_NAME = re.compile(rf"\w[\w.+=@~-]{{0,{LONGEST - 1}}}")
NAME_FORM = "letters, digits and . _ - + = @ ~, a letter or digit first"


@dataclass(frozen=True)
class Record:
    """The facts of a recording.

    session: name of the session, unique for the subject; the electrodes stayed in place during it. order: increases
    with time over the subject's recordings. task: what the subject was asked to do; may be unspecific.
    """

    name: str
    subject: str
    session: str
    order: int
    task: str = ""

    @property
    def session_key(self) -> str:
        """Subject and session, which together identify a session among all people's."""
        return f"{self.subject}/{self.session}"


def from_name(name: str) -> Record:
    """The facts in a name that follows putEMG's scheme. DataError for another name."""
    parsed = putemg.parse_record(name)
    order = int("".join(filter(str.isdigit, parsed.date + parsed.time)))
    return Record(name, parsed.subject, parsed.date, order, parsed.trajectory)


def from_meta(meta: Mapping[str, Any]) -> Record:
    """The facts in a shard's shard.json, after it has been checked."""
    return Record(meta["record"], meta["subject"], meta["session"], meta["order"], meta["task"])


def is_name(text: object) -> bool:
    """Whether `text` may name a recording, a subject or a session: it must work as a folder name and as a word in a
    list."""
    if not isinstance(text, str) or not _NAME.fullmatch(text) or is_system_file(text):
        return False
    return len(text.encode()) <= LONGEST  # file systems count bytes


def in_time(records: Iterable[Record]) -> list[Record]:
    """Sorted by subject, then by order of recording."""
    return sorted(records, key=lambda record: (counting_order(record.subject), record.order, record.name))


def counting_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts P2 before P10, and fold2 before fold10."""
    pieces = re.split(r"([0-9]+)", name)
    return [(int(piece), "") if piece.isascii() and piece.isdigit() else (-1, piece) for piece in pieces]
