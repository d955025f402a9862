"""Choosing some of the gestures: which ones are meant, and shards with only their windows."""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from semg.common.errors import DataError, SettingError
from semg.data.shards import Shard

_NO_GESTURE = ("no movement", "nomovement", "no motion", "no gesture")
REST_NAMES = ("idle", "rest", "resting", "relax", "relaxed", "neutral", *_NO_GESTURE)
FEWEST = 2  # classes; with fewer there is nothing to decide


def is_rest(name: str) -> bool:
    """Whether a class of that name is assumed to have no gesture, if nobody says which classes have none."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold() in REST_NAMES


def chosen(
    classes: Sequence[str], rest_classes: Collection[str], named: Sequence[str] | None, *, no_idle: bool = False
) -> tuple[str, ...]:
    """Those of `classes` in `named`, in that order; with `no_idle`, all but the rest classes; otherwise all.

    Raises SettingError, of the setting `classes` or `no_idle`, for an unknown name, a name given twice, or fewer than
    two classes.
    """
    if named is None:
        remaining = tuple(name for name in classes if not (no_idle and name in rest_classes))
        if no_idle and len(remaining) == len(classes):
            hint = "import_csv.py {rest_classes} says which are; {classes} names those to keep"
            raise SettingError("no_idle", f"a class without a gesture among {_listed(classes)}, found none", hint=hint)
        return _enough(remaining, "no_idle", classes)
    if unknown := [name for name in named if name not in classes]:
        raise SettingError("classes", f"gestures of {_listed(classes)}", repr(unknown[0]))
    if len(set(named)) < len(named):
        raise SettingError("classes", "each gesture once")
    return _enough(tuple(named), "classes", classes)


def _enough(remaining: tuple[str, ...], setting: str, classes: Sequence[str]) -> tuple[str, ...]:
    if len(remaining) < FEWEST:
        raise SettingError(setting, f"at least {FEWEST} gestures to be left of {_listed(classes)}")
    return remaining


def _listed(classes: Sequence[str]) -> str:
    """The names as they are typed in a shell: those of two words in quotes."""
    return ", ".join(f"'{name}'" if " " in name else name for name in classes)


def windows_of(windows: np.ndarray, places: Sequence[int]) -> np.ndarray:
    """The windows whose labels are in `places`; each label becomes its place in that list. windows: of
    WINDOW_FIELDS."""
    remaining = windows[np.isin(windows["label"], places)].copy()
    label = np.full(max([*windows["label"].tolist(), *places], default=0) + 1, -1, remaining["label"].dtype)
    label[list(places)] = np.arange(len(places))
    remaining["label"] = label[remaining["label"]]
    return remaining


def restricted(shard: Shard, classes: Sequence[str]) -> Shard:
    """The shard with only the windows of these classes. Its signal stays complete, because session statistics use all
    of it.

    meta["classes_left_out"] lists the other classes, and meta["classes_reordered"] is true if the order is another one
    than in the shard. DataError for a class that the shard does not have.
    """
    if missing := [name for name in classes if name not in shard.classes]:
        actual = f"found {_listed(shard.classes)}"
        raise DataError(f"{shard.path}: expected windows of {_listed(missing)} among the classes, {actual}")
    if tuple(classes) == shard.classes:
        return shard
    places = [shard.classes.index(name) for name in classes]
    meta = {
        **shard.meta,
        "classes": list(classes),
        "classes_reordered": places != sorted(places),
        "rest_classes": [name for name in classes if name in shard.rest_classes],
        "classes_left_out": [name for name in shard.classes if name not in classes],
    }
    return replace(shard, meta=meta, windows=windows_of(shard.windows, places))
