"""Times as devices' programs write them, as dates or times of day, in seconds."""

import re
from collections.abc import Sequence

import numpy as np

DAY, HOUR = 86400.0, 3600.0  # seconds
_ZONE = re.compile(r"(?:Z|([+-])(\d\d):?(\d\d))$")
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?")
_OF_DAY = re.compile(r"(?:^|[ T])(?:(\d{1,2}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)(?: ?([ap])\.?m\.?)?$", re.IGNORECASE)


def seconds_of(cells: Sequence[str]) -> np.ndarray | None:
    """(T,) seconds since some moment, of times in order; None where one of them can't be read.

    Read are ISO dates with a time, `2024-03-01T10:30:00.005+01:00`, and of all else the time of day at the end of a
    cell, such as `01.03.2024 10:30:00,005` or `10:30:00.005 PM`, or minutes and seconds, `0:05.25`; where that falls by
    more than half a day, or half an hour, the next one has begun.
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
    """A time without the zone at its end, and by how many seconds that is ahead of Greenwich."""
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
