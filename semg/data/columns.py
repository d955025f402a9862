"""What the columns of a table of samples are: channels, a time or counter, labels, or something else.

This is decided by their names and, if a name says nothing, by their numbers: no electrode's signal rises from sample to
sample as a time does. Anything that remains ambiguous is an error that says how to resolve it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from semg.common.console import listed
from semg.common.errors import DataError
from semg.data.counters import steps_evenly

_FEW = 16  # with at least this many rows, numbers that always rise are no coincidence
_EVENLY = 0.95  # fraction of a counter's steps that are equal
_PACKET = 100  # most samples with the same number, for a counter that wraps around; labels last longer
_UNITS = {
    1.0: "s|secs?|seconds?",
    1e-3: "ms|msecs?|millis|milliseconds?",
    1e-6: "us|µs|μs|microseconds?",
    1e-9: "ns|nanoseconds?",
}
_UNIT = "|".join(_UNITS.values())
_WORDS = {  # words that name columns other than channels
    "fact": "label class gesture stimulus restimulus relabel target marker event trigger annotation subject "
    "participant person user patient session day date block run trial repetition rerepetition rep task movement phase "
    "object reobject exercise grasp grip pose posture position action activity cycle stage state status condition "
    "switch button age height weight gender sex laterality hand side circumference daytesting frequency",
    "sensor": "acc accel accelerometer acceleration gyr gyro gyroscope mag magnetometer quat quaternion imu euler roll "
    "pitch yaw temp temperature batt battery force torque angle pressure ecg ekg eeg ppg gsr eda respiration pulse "
    "glove cyberglove inclin inclinometer goniometer analog digital aux auxiliary other",
}
_UNIT_OF_OTHERS = re.compile(r"[\[(](m?g|m/s(\^?2|²)|(deg|°|rad)(/s)?|[mµμu]t|°c|bpm|mmhg)[\])]")  # not volts
_AROUND = re.compile(r"^shimmer \w+ |( unix)?( (un)?cal| raw)$")  # parts that Shimmer's programs put around a name
_MOVEMENT = r"(acc|accel|accelerometer|gyro?|gyroscope|mag|magnetometer|imu)[xyz]?\d*"
_ANY = {kind: "|".join(words.split()) for kind, words in _WORDS.items()}
_UNIT_OF_SIGNAL = re.compile(r"(?:^|[^a-z0-9%])(uv|µv|μv|mv|microvolts?|millivolts?|volts?|(?<!_)v)\W*$")
_EMG = re.compile("emg|exg")
_NUMBERED = "( ?(no|nr|number|index|id|count|counter))?"
_FORMS = {  # of a name in lower case, with blanks for everything but letters and digits
    "time": rf"(t|time|times|time ?stamps?|date ?time|clock|elapsed( time)?|.*[ a-z]time( ?stamp)?)( ({_UNIT}))?"
    rf"|{_UNIT}|x ({_UNIT})",
    "counter": rf"|unnamed( \d+)?|index|idx|i|n|no|nr|row|count(er)?|cnt|(sample|packet|frame|seq)s?{_NUMBERED}",
    "fact": rf"(({_ANY['fact']})(s|es)? ?)+(?<! ){_NUMBERED}|(.* )?status ?\d*",
    "sensor": rf"({_ANY['sensor']})( (channel|sensor|input))?( ?[xyzw])?( ?\d+)?( ?[xyzw])?",
}


@dataclass(frozen=True)
class Roles:
    """Places of columns, counted from 0. time: of a time or `counter`, if there is one; left_out: name -> reason.

    facts: columns of labels and others that say what a sample belongs to.
    """

    channels: tuple[int, ...]
    time: int | None
    counter: bool
    left_out: dict[str, str]
    facts: tuple[int, ...] = ()


def told_apart(
    path: object,
    names: Sequence[str],
    numbers: Sequence[np.ndarray | None],
    chosen: Sequence[int] | None = None,
    labels: int | None = None,
    texts: Mapping[int, str] | None = None,
) -> Roles:
    """Decide what each column is.

    names: the columns' names, or their numbers without a header; numbers: (T,) for each column, None if it holds text
    or nothing; chosen: the channels' places if the user gave them; labels: place of the label column; texts: for
    columns of text, the first cell that is not a number.
    Raises DataError, with advice, for columns that could be either, and for a time among the channels chosen.
    """
    kinds = [_kind(name, values) for name, values in zip(names, numbers, strict=True)]
    if labels is not None:
        kinds[labels] = "label"
    time = _best_time(kinds, numbers)
    counter = time is not None and kinds[time] == "counter"
    facts = tuple(place for place, kind in enumerate(kinds) if kind in ("fact", "text", "label") and place != time)
    if chosen is not None:
        wrong = [place for place in chosen if kinds[place] in ("time", "counter", "text", "label")]
        if wrong:
            others = _ranges([place for place, kind in enumerate(kinds) if kind in ("channel", "ambiguous")])
            raise DataError(
                f"{path}: expected a channel in column {wrong[0] + 1}, "
                f"found {names[wrong[0]]!r}, which holds {_HOLDS[kinds[wrong[0]]]}",
                hint=f"the channels are {{channels}} {others}" if others else "",
            )
        return Roles(tuple(chosen), time, counter, _left_out(names, kinds, chosen, labels), facts)
    if unclear := [place for place, kind in enumerate(kinds) if kind == "ambiguous"]:
        others = _ranges([place for place, kind in enumerate(kinds) if kind == "channel"])
        raise DataError(
            f"{path}: expected columns that can be told apart, found {names[unclear[0]]!r} in column {unclear[0] + 1}, "
            f"which by its {_AMBIGUOUS[_named(names[unclear[0]])]}",
            hint=f"say which columns are channels, such as {{channels}} {others or '1-8'}",
        )
    channels = [place for place, kind in enumerate(kinds) if kind == "channel"]
    stem, count = _commonest_stem([names[place] for place in channels])
    odd = [place for place in channels if _stem(names[place]) != stem]
    if count > 1 and odd:
        same = [place for place in channels if place not in odd]
        raise DataError(
            f"{path}: expected channels alone beside {names[same[0]]} to {names[same[-1]]}, found {names[odd[0]]!r} in "
            f"column {odd[0] + 1}",
            hint=f"say which columns are channels, such as {{channels}} {_ranges(same)}",
        )
    _check_texts(path, names, kinds, stem, texts or {})
    if not channels:
        raise DataError(f"{path}: expected channels, found no column of samples among {', '.join(names)}")
    return Roles(tuple(channels), time, counter, _left_out(names, kinds, channels, labels), facts)


def by_name(what: object, names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Places of the columns or channels with the names `wanted`, in that order; None if there is none of them.

    Upper and lower case and surrounding blanks do not matter. Names that are numbers, as without a header, count only
    if all of them are there. Names of which two are the same do not tell channels apart: the result is None, too.
    Raises DataError, beginning with `what`, if only some are there, or if one is there twice.
    """
    plain, sought = ([name.strip().casefold() for name in some] for some in (names, wanted))
    if len(set(sought)) < len(sought):
        return None
    missing = [name for name, one in zip(wanted, sought, strict=True) if one not in plain]
    if len(missing) == len(wanted) or (missing and all(name.isdigit() for name in wanted)):
        return None
    if missing:
        actual = listed(names)
        raise DataError(f"{what}: expected the model's channel {missing[0]}, found {actual}", "{channels} chooses")
    if twice := [name for name, one in zip(wanted, sought, strict=True) if plain.count(one) > 1]:
        raise DataError(f"{what}: expected one channel {twice[0]!r}, found two", "{channels} chooses")
    return [plain.index(one) for one in sought]


def names_a_person(name: str) -> bool:
    """Whether a column of that name says who was recorded."""
    return bool(re.fullmatch(rf"(subject|participant|person|user|patient)s?{_NUMBERED}", _plain(name)))


def names_a_trial(name: str) -> bool:
    """Whether a column of that name counts trials or repetitions."""
    return bool(re.fullmatch(rf"(trial|repetition|rerepetition|rep)s?{_NUMBERED}", _plain(name)))


def names_a_session(name: str) -> bool:
    """Whether a column of that name states the session or the day."""
    return bool(re.fullmatch(rf"(session|day)s?{_NUMBERED}", _plain(name)))


def taken_in_order(names: Sequence[str], wanted: Sequence[str]) -> str:
    """A message that channels with names other than `wanted` are used in their order.

    Empty if the names are the same, or if they are numbers because there is no header.
    """
    if not names or all(name.isdigit() for name in names):
        return ""
    if [name.strip().casefold() for name in names] == [name.strip().casefold() for name in wanted]:
        return ""
    called = f"{names[0]} to {names[-1]}, the model's are {wanted[0]} to {wanted[-1]}"
    return f"its channels are called {called}: taken in their order"


def _best_time(kinds: Sequence[str], numbers: Sequence[np.ndarray | None]) -> int | None:
    """Place of the column that shows missing samples best: a time without empty cells, otherwise a counter.

    A counter may start again with each packet; a time that ends early belongs to another, slower sensor.
    """
    times = [place for place, kind in enumerate(kinds) if kind in ("time", "counter")]

    def rank(place: int) -> tuple[bool, bool]:
        values = numbers[place]
        return values is not None and not np.isfinite(values).all(), kinds[place] != "time"

    return min(times, key=rank, default=None)


def _check_texts(
    path: object, names: Sequence[str], kinds: Sequence[str], stem: str | None, texts: Mapping[int, str]
) -> None:
    """DataError for a column that is named like the channels (or like any channel, if there are none) but does not hold
    numbers: numbers with grouped digits, or a failed sensor, must not silently shrink a recording."""
    for place, kind in enumerate(kinds):
        own = _stem(names[place]) if kind == "text" else None
        if own is not None and own == (stem or own):
            cell = texts.get(place, "")
            actual = f"cells such as {cell!r}" if cell else "empty cells"
            raise DataError(
                f"{path}: expected numbers in column {place + 1} ({names[place]}), found {actual}",
                "numbers are read without grouped digits; {channels} leaves a column out",
            )


_AMBIGUOUS = {
    "time": "name is a time and by its numbers none",
    "counter": "name is a counter and by its numbers none",
    "fact": "name is no channel and by its numbers one",
    "": "name is a channel and by its numbers a time or counter",
}


def _kind(name: str, values: np.ndarray | None) -> str:
    """channel, time, counter, fact, sensor, text or ambiguous."""
    named = _named(name)
    if values is None:
        return "time" if named == "time" else "text"
    if named == "sensor" or _names_a_movement(name):
        return "sensor"
    # differences of whole numbers of few bits, or without a sign, overflow
    values = values.astype(np.float64, copy=False)
    if named in ("time", "counter"):
        return named if _goes_on(values) else "ambiguous"
    known = values[np.isfinite(values)]
    whole = bool((known == np.round(known)).all())
    if named == "fact" and (whole or known.min() == known.max()):
        return named
    if rises(values):  # a name such as ch1 indicates a channel; without such a name the numbers decide
        if _stem(name) is not None:
            return "ambiguous"
        return "counter" if whole else "time"  # whatever its language: no counter has steps of a fraction
    if named == "fact":
        return "ambiguous"
    if whole and _stem(name) is None and _is_held(known):
        return "fact"
    return "channel"


def _named(name: str) -> str:
    """What a column's name says it is: time, counter, fact or sensor; empty for the name of a channel."""
    plain = _plain(name)
    return next((kind for kind, form in _FORMS.items() if re.fullmatch(form, plain)), "")


def _names_a_movement(name: str) -> bool:
    """Whether a name such as `Accel Channel 0` or `Trigno sensor 1: ACC X 1 [g]` is that of a movement sensor.

    Without such a unit, an additional EMG names the quantity measured, as in `IMU 1 EMG 2`; with one, it is part of the
    device's name.
    """
    words = _plain(name).split()
    if _UNIT_OF_OTHERS.search(name.casefold()):
        return True
    return any(re.fullmatch(_MOVEMENT, word) for word in words) and "emg" not in " ".join(words)


def _plain(name: str) -> str:
    name = re.sub(r"\.\d+$", "", name)  # the suffix that pandas adds to duplicate names
    return _AROUND.sub("", re.sub(r"[\W_]+", " ", name.casefold()).strip())


def unit_of_signal(text: str) -> str:
    """uV, mV or V if the end of a name, or a cell below it, states it: `EMG 2 (mV)`, `[V]`; otherwise empty."""
    match = _UNIT_OF_SIGNAL.search(text.strip().casefold())
    return {"m": "mV", "v": "V"}.get(match[1].replace("micro", "u")[0], "uV") if match else ""


def unit_of_time(name: str) -> float | None:
    """Seconds per unit of a time column, according to its name: `time (ms)` 0.001; None if it does not say."""
    last = _plain(name).split(" ")[-1]
    return next((seconds for seconds, form in _UNITS.items() if re.fullmatch(form, last)), None)


def rises(values: np.ndarray) -> bool:
    """Whether numbers rise from sample to sample as no signal does.

    values: (T,). A time never falls, however unevenly it rises. A counter has equal steps, and may wrap around. All
    samples of a packet may have the same number.
    """
    if len(values) < _FEW or not np.isfinite(values).all():
        return False
    steps = np.diff(values)
    changes = np.count_nonzero(steps)
    if steps.min() >= 0:
        return bool(changes >= max(_FEW - 1, len(values) / 1000))
    return bool(changes >= max(_FEW - 1, len(values) / _PACKET)) and steps_evenly(values, _EVENLY)


def _is_held(values: np.ndarray) -> bool:
    """Whether numbers stay the same for long and change now and then, as labels do and no signal does.

    A column that never changes is a dead channel, unless its name says otherwise.
    """
    changes = np.count_nonzero(np.diff(values))
    return bool(0 < changes < len(values) / _PACKET)


def _goes_on(values: np.ndarray) -> bool:
    """Whether a column named as a time may be one: its numbers rise, apart from a fall here and there.

    They may end before the table does, as for a slower sensor in the same table.
    """
    known = np.isfinite(values)
    if known.any() and not known.all() and known[: np.count_nonzero(known)].all():
        values = values[known]
    if len(values) < _FEW:
        return True
    if not np.isfinite(values).all() or values.max() == values.min():
        return False
    return bool(np.mean(np.diff(values) < 0) < 1 - _EVENLY) or rises(values)


def _stem(name: str) -> str | None:
    """`ch1` -> `ch`, `EMG 2 (mV)` -> `emg`, for a grid `r1c2` -> `rc`, and the same stem for banks A1, ..., B1, ...

    None for a name without a number at its end, or one that is only a number.
    """
    match = re.fullmatch(r"(.*[^\W\d_])[\W_]*\d+([\W_]+(uv|µv|μv|mv|v)\W*)?", name.strip().casefold())
    stem = re.sub(r"\d+", "", match[1]) if match else None
    return "bank" if stem is not None and re.fullmatch("[a-z]", stem) else stem


def _commonest_stem(names: Sequence[str]) -> tuple[str | None, int]:
    """The most frequent stem among names with a number, and how often it occurs; stems with EMG are preferred if they
    occur more than once."""
    numbered = Counter(stem for stem in map(_stem, names) if stem is not None)
    most = max(numbered, key=lambda one: (numbered[one] > 1 and bool(_EMG.search(one)), numbered[one]), default=None)
    return most, 0 if most is None else numbered[most]


def _left_out(
    names: Sequence[str], kinds: Sequence[str], channels: Sequence[int], labels: int | None
) -> dict[str, str]:
    others = [place for place in range(len(names)) if place not in channels and place != labels]
    return {names[place] or f"column {place + 1}": _HOLDS.get(kinds[place], "not chosen") for place in others}


_HOLDS = {
    "time": "a time",
    "counter": "a counter",
    "fact": "no signal",
    "sensor": "another sensor's signal",
    "text": "text",
    "label": "the labels",
}


def _ranges(places: Sequence[int]) -> str:
    """Places counted from 0, written as numbers counted from 1: `2-9`, `1,3-5`."""
    parts: list[list[int]] = []
    for place in places:
        if parts and place == parts[-1][-1] + 1:
            parts[-1].append(place)
        else:
            parts.append([place])
    return ",".join(str(part[0] + 1) if len(part) == 1 else f"{part[0] + 1}-{part[-1] + 1}" for part in parts)
