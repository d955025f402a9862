"""The beginning of a file that is being downloaded, and a note of which version of the file it is."""

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
    """The version of the file whose beginning a part file holds."""

    size: int | None  # None: not declared
    validator: str  # for If-Range; empty: the version cannot be recognised, so no resuming
    modified: str  # as stated by the server


class PartialFile:
    """`NAME.part` and the note beside it. Every change in size is passed to `report`."""

    def __init__(self, target: Path, report: Callable[[int], None]) -> None:
        self._target, self._report = target, report
        self.path, self._note_path = part_names(target)
        self._reported = 0

    def size(self) -> int:
        """Bytes on disk."""
        return part_size(self._target)

    def resume(self, listed: int | None) -> Note | None:
        """The note, if the bytes on disk can be continued; otherwise they are discarded."""
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
        """An empty part file of the version in `note`. The old bytes are deleted before the new note is written: see
        resume."""
        self.discard()
        write_json(self._note_path, asdict(note))

    def grew(self, by: int) -> None:
        """Bytes were added."""
        self._report(by)
        self._reported += by

    def discard(self) -> None:
        """Delete the bytes and their note."""
        clear_part(self._target)
        self._report(-self._reported)
        self._reported = 0

    def finish(self) -> None:
        """Give the file its name and the server's modification time."""
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
    """The path of `target`'s beginning until it is complete, and that of the note about its version."""
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


def clear_part(target: Path) -> None:
    """Remove everything that an attempt to download `target` can have left beside it."""
    part, note = part_names(target)
    for path in (part, note, temporary_name(note)):
        path.unlink(missing_ok=True)


def part_size(target: Path) -> int:
    """Number of bytes of `target` that are on disk already."""
    part = part_names(target)[0]
    return part.stat().st_size if part.is_file() else 0
