"""Times as device programs write them, as dates or times of day, converted to seconds; and dates as people write
them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np

DAY, HOUR = 86400.0, 3600.0  # seconds
_ZONE = re.compile(r"(?:Z|([+-])(\d\d):?(\d\d))$")
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?")
_OF_DAY = re.compile(r"(?:^|[ T])(?:(\d{1,2}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)(?: ?([ap])\.?m\.?)?$", re.IGNORECASE)
_OF_GREENWICH = re.compile(r" ?(UTC|GMT)$")
_NAME_BESIDE = re.compile(r"(?<=[\dZ])\[[\w/+-]+\]$")  # `+01:00[Europe/Paris]` states the zone twice
_BEFORE_ZONE = re.compile(r" (?=[+-]\d\d)|(?<=\d) (?=Z$)")


@dataclass(frozen=True)
class Moment:
    """A date, optionally with a time of day and a zone, as it was `written`.

    local: by a local clock, midnight without a time; ahead: seconds by which this clock is ahead of Greenwich, None
    without a zone.
    """

    written: str
    local: datetime
    has_time: bool
    ahead: float | None

    @property
    def seconds(self) -> float:
        """A number for comparing moments, provided that all have a zone or none has."""
        return self.local.replace(tzinfo=UTC).timestamp() - (self.ahead or 0.0)


def moment_of(written: str) -> Moment:
    """From an ISO date such as 2024-03-01 or 2024-03-01T10:30:00+01:00. Raises ValueError for anything else."""
    text = _BEFORE_ZONE.sub("", _OF_GREENWICH.sub("Z", _NAME_BESIDE.sub("", written)))
    when = datetime.fromisoformat(text)
    try:
        date.fromisoformat(text)
    except ValueError:
        has_time = True
    else:
        has_time = False
    offset = when.utcoffset()
    return Moment(written, when.replace(tzinfo=None), has_time, None if offset is None else offset.total_seconds())


def ends_in_a_zones_name(written: str) -> bool:
    """Whether a text is a date with a time, followed by a zone's name such as `CET` or `Europe/Berlin`."""
    text, _, name = written.rpartition(" ")
    try:
        return moment_of(text).has_time and name[:1].isupper()
    except ValueError:
        return False


def seconds_of(cells: Sequence[str]) -> np.ndarray | None:
    """(T,) seconds since some moment, for times in order; None if one of them cannot be read.

    It reads ISO dates with a time, `2024-03-01T10:30:00.005+01:00`. In all other formats it reads the time of day at
    the end of a cell, such as `01.03.2024 10:30:00,005` or `10:30:00.005 PM`, or minutes and seconds, `0:05.25`. If
    these fall by more than half a day (or half an hour), the next day (or hour) has begun.
    """
    zoned = [_without_zone(cell) for cell in cells]
    if all(_ISO.fullmatch(text) for text, _ in zoned):
        try:
            moments = np.array([text.replace(",", ".").replace(" ", "T") for text, _ in zoned], "datetime64[ns]")
        except ValueError:
            return None
        return (moments - moments[0]).astype(np.float64) / 1e9 - np.array([offset for _, offset in zoned])
    of_day = [_second_of_day(text) for text, _ in zoned]
    times = np.array([np.nan if second is None else second for second in of_day])
    if not np.isfinite(times).all():
        return None
    whole = DAY if any(text.count(":") > 1 for text, _ in zoned) else HOUR
    begun = np.concatenate([[0.0], np.cumsum(np.diff(times) < -whole / 2)])
    return times + whole * begun


def _without_zone(cell: str) -> tuple[str, float]:
    """A time without the zone at its end, and the seconds by which that zone is ahead of Greenwich."""
    match = _ZONE.search(cell) if ":" in cell else None
    if match is None:
        return cell, 0.0
    ahead = 60.0 * (60 * int(match[2]) + int(match[3])) if match[1] else 0.0
    return cell[: match.start()].strip(), -ahead if match[1] == "-" else ahead


def _second_of_day(text: str) -> float | None:
    match = _OF_DAY.search(text)
    if match is None:
        return None
    hours, half = int(match[1] or 0), (match[4] or "").casefold()
    if half:
        hours = hours % 12 + (12 if half == "p" else 0)
    return HOUR * hours + 60 * int(match[2]) + float(match[3].replace(",", "."))
