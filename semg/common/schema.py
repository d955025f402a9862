"""Checks of an object read from JSON: fields by name, each with a test of its value.

A checksum shows that a file is unchanged, not that this program wrote it. Code that opens a file from outside checks
its fields once, here, and can then rely on their types.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from semg.common.errors import DataError

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Field:
    """A field whose value must pass `holds`, which `words` describe; it may be absent unless it is `needed`."""

    words: str
    holds: Callable[[Any], bool]
    needed: bool = True


def check_fields(
    where: object, content: Mapping[str, Any], fields: Mapping[str, Field], what: str, advice: str
) -> None:
    """DataError, beginning with `where`, unless `content` has the `fields`; `data.rate` means the field rate in
    data."""
    for name, field in fields.items():
        value: Any = content
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None and not field.needed:
            continue
        if value is None:
            raise DataError(f"{where}: expected {what}, found one without {name}", advice)
        if not field.holds(value):
            shortened = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
            raise DataError(f"{where}: expected {field.words} for {name}, found {shortened}", advice)


def is_whole(value: Any, low: int = 1) -> bool:
    """A whole number of at least `low` that fits 64 bits; True and False are not numbers."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63


def is_finite(value: Any, above: float = -math.inf) -> bool:
    """A finite number above `above`; a whole number must fit 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return above < value < 2**63 if isinstance(value, int) else math.isfinite(value) and value > above


def text(value: Any) -> bool:
    """A text that can be printed, written and used as a path: no control characters, no incomplete characters."""
    return isinstance(value, str) and not _CONTROL.search(value)


def texts(value: Any) -> bool:
    """A non-empty list of texts."""
    return isinstance(value, list) and bool(value) and all(map(text, value))


def folder_name(value: Any) -> bool:
    """The name of a single folder that leads to no other place."""
    return text(value) and value not in ("", ".", "..") and not set(value) & set("/\\") and len(value.encode()) <= 255


def numbers(value: Any) -> bool:
    """A list of finite numbers above 0, possibly empty."""
    return isinstance(value, list) and all(is_finite(one, above=0) for one in value)


def flag(value: Any) -> bool:
    """True or False."""
    return isinstance(value, bool)


POSITIVE = Field("a number above 0", lambda value: is_finite(value, above=0))
COUNT = Field("a whole number above 0", is_whole)
TEXT = Field("a text", text)
TEXTS = Field("a list of names", texts)
OBJECT = Field("an object", lambda value: isinstance(value, dict))
