"""The layout of putEMG's share, and a careful reader of its lists of names: no name can lead elsewhere."""

import re
from dataclasses import dataclass

from semg.common.errors import DataError
from semg.data.putemg import is_record, parse_record
from semg.download.webdav import Listed


@dataclass(frozen=True)
class Medium:
    """One kind of files: the folder that they are in and the ending of their names."""

    folder: str
    ending: str


MEDIA = {
    "data-hdf5": Medium("Data-HDF5", ".hdf5"),
    "data-csv": Medium("Data-CSV", ".zip"),
    "depth": Medium("Depth", ".zip"),
    "video-1080p": Medium("Video-1080p", ".mp4"),
    "video-576p": Medium("Video-576p", ".mp4"),
}


@dataclass(frozen=True)
class Wanted:
    """A file to download: its path in the share and in OUTDIR, and what is known about it (None: unknown)."""

    name: str
    size: int | None = None  # bytes
    md5: str | None = None
    version: str = ""  # an ETag or a modification time, from the server

    @property
    def is_archive(self) -> bool:
        """Whether it can be unpacked."""
        return self.name.endswith(".zip")


def read_records(text: str, experiments: list[str]) -> tuple[list[str], list[str]]:
    """The record names of `experiments` in records.txt, by subject and time, and the lines that are not names."""
    lines = [line.rstrip("\r").strip(" \t") for line in text.split("\n")]
    names = {line for line in lines if is_record(line)}
    refused = [line for line in lines if line and not line.startswith("#") and not is_record(line)]
    if not names:
        raise DataError("expected record names, found none")
    records = sorted(parse_record(name) for name in names)
    return [record.name for record in records if record.experiment in experiments], refused


def of_subjects(records: list[str], subjects: list[str] | None) -> list[str]:
    """The records of `subjects` (None: all). DataError if one of them has none."""
    people = sorted({parse_record(name).subject for name in records})
    missing = sorted(set(subjects or []) - set(people))
    if missing or not records:
        raise DataError(
            f"records.txt: expected recordings of subjects {' '.join(missing) or 'any'}, found none; "
            f"it has {' '.join(people) or 'nobody in this experiment'}"
        )
    return [name for name in records if subjects is None or parse_record(name).subject in subjects]


def names_of(record: str, medium: Medium, listing: dict[str, Listed] | None) -> list[str]:
    """The names of a record's files: as listed, or otherwise as documented elsewhere."""
    usual = f"{record}{medium.ending}"
    if listing is None or medium.ending == ".hdf5" or usual in listing:
        return [usual]
    form = re.compile(re.escape(record) + r"[A-Za-z0-9._-]{0,60}" + re.escape(medium.ending))
    return sorted(name for name in listing if form.fullmatch(name)) or [usual]


def read_md5sums(text: str, folder: str) -> tuple[dict[str, str], int]:
    """Name -> MD5, and the number of unusable lines: malformed, with a path elsewhere, or contradicting another.

    Lines have the format of md5sum (`MD5  NAME`, also with one space) or of BSD (`MD5 (NAME) = MD5`).
    """
    sums: dict[str, str] = {}
    contradicted: set[str] = set()
    wrong = 0
    for line in filter(None, (line.rstrip("\r") for line in text.split("\n"))):
        bsd = re.fullmatch(r"MD5 ?\((.+)\) ?= ?([0-9a-fA-F]{32})", line)
        plain = re.fullmatch(r"([0-9a-fA-F]{32}) [ *]?(.+)", line)
        md5, path = (bsd[2], bsd[1]) if bsd else (plain[1], plain[2]) if plain else ("", "")
        place = re.fullmatch(r"(?:\./)?(?:([A-Za-z0-9-]+)/)?([A-Za-z0-9._-]+)", path)
        if not place or place[1] not in (None, folder):
            wrong += 1
        elif sums.setdefault(place[2], md5.lower()) != md5.lower():
            contradicted.add(place[2])
    return {name: md5 for name, md5 in sums.items() if name not in contradicted}, wrong + len(contradicted)
