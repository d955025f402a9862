"""The beginning of a file that is being fetched, and the note of which version of the file it is."""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from semg.common.files import temporary_name, write_json


@dataclass(frozen=True)
class Note:
    """Which version of a file a part file holds the beginning of."""

    size: int | None  # None: declared by nobody
    validator: str  # for If-Range; empty: nothing to recognise the version by, so no resuming
    modified: str  # as the server says it


class PartialFile:
    """`NAME.part` and the note beside it. Every change in size is told to `report`."""

    def __init__(self, target: Path, report: Callable[[int], None]) -> None:
        self._target, self._report = target, report
        self.path, self._note_path = part_names(target)
        self._reported = 0

    def size(self) -> int:
        """Bytes on disk."""
        return part_size(self._target)

    def resume(self, listed: int | None) -> Note | None:
        """The note if the bytes on disk can be built upon; otherwise they are thrown away."""
        note, have = self._read_note(), self.size()
        usable = (
            note is not None
            and note.size is not None
            and 0 < have <= note.size
            and (note.validator != "" or have == note.size)
            and listed in (None, note.size)
        )
        if not usable:
            self.discard()
            return None
        self._report(have - self._reported)
        self._reported = have
        return note

    def begin(self, note: Note) -> None:
        """An empty part file of the version `note`. The old bytes go before the new note comes: see resume."""
        self.discard()
        write_json(self._note_path, asdict(note))

    def grew(self, by: int) -> None:
        """Bytes were added."""
        self._report(by)
        self._reported += by

    def discard(self) -> None:
        """Throw the bytes and their note away."""
        clear_part(self._target)
        self._report(-self._reported)
        self._reported = 0

    def finish(self) -> None:
        """Give the file its name and the server's time of change."""
        note = self._read_note()
        with contextlib.suppress(ValueError, TypeError, OverflowError, OSError):
            changed = int(parsedate_to_datetime(note.modified if note else "").timestamp())
            os.utime(self.path, (changed, changed))
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(self._target)
        clear_part(self._target)

    def _read_note(self) -> Note | None:
        try:
            value = json.loads(self._note_path.read_text(encoding="utf-8"))
            note = Note(**value)
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        texts = isinstance(note.validator, str) and isinstance(note.modified, str)
        return note if isinstance(note.size, int) and texts and note.validator.isprintable() else None


def part_names(target: Path) -> tuple[Path, Path]:
    """Where the beginning of `target` lies until it is whole, and the note that says which version it is."""
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


def clear_part(target: Path) -> None:
    """Remove what an attempt at `target` can have left beside it."""
    part, note = part_names(target)
    for path in (part, note, temporary_name(note)):
        path.unlink(missing_ok=True)


def part_size(target: Path) -> int:
    """Bytes of `target` that are on disk already."""
    part = part_names(target)[0]
    return part.stat().st_size if part.is_file() else 0
