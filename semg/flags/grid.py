"""Grids of settings: every combination of some flags' values, each with a name for its folder."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from semg.common.errors import UsageError
from semg.common.files import text_checksum

PRESETS = {"seed": ["tune=last:3,last:6,last:9,last:12", "lr=1e-5,5e-5,1e-4"]}
OWN_FLAGS = ("shards", "split", "out", "seed", "resume", "overwrite", "quiet", "json", "debug", "help")
LONGEST_NAME = 100  # characters of a setting's folder; file systems end at 255 bytes


@dataclass(frozen=True)
class Setting:
    """One point of the grid: flags of train.py with their values as text, sorted by flag."""

    values: tuple[tuple[str, str], ...]

    @property
    def flags(self) -> list[str]:
        """The flags as train.py takes them."""
        changed = [(flag, value) for flag, value in self.values if value != "default"]
        return [word for flag, value in changed for word in (f"--{flag}", *value.split())]

    @property
    def name(self) -> str:
        """The name of the setting's folder. It depends on this setting only, not on the rest of the grid."""
        if not self.values:
            return "default"
        text = "_".join(f"{flag}-{_file_name(value)}" for flag, value in self.values)
        return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 7]}-{text_checksum(text)[:6]}"


def _file_name(value: str) -> str:
    """`value` in characters that every file system accepts; with a hash if two values could otherwise get the same
    name."""
    plain = re.sub(r"[^A-Za-z0-9.+]+", "-", value).strip("-.")
    same = re.fullmatch(r"[A-Za-z0-9.:+-]+", value) and value.strip("-.") == value
    return plain if same else f"{plain}-{text_checksum(value)[:6]}"


def read_grid(words: Iterable[str]) -> list[Setting]:
    """All combinations of the FLAG=VALUE,VALUE,... words; the first flag varies slowest. UsageError for words of
    another form."""
    axes: dict[str, list[str]] = {}
    for word in words:
        flag, equals, text = word.partition("=")
        flag = flag.strip().removeprefix("--").replace("_", "-")
        values = [" ".join(value.split()) for value in text.split(",")]
        if not (flag and equals and all(values)):
            raise UsageError(f"--grid: expected FLAG=VALUE,VALUE,..., found {word!r}")
        if flag in OWN_FLAGS:
            raise UsageError(f"--grid: expected a flag that the sweep does not set itself, found {flag}; see --seeds")
        if flag in axes:
            raise UsageError(f"--grid: expected each flag once, found {flag} again")
        if len(set(values)) < len(values):
            raise UsageError(f"--grid: expected each value once, found {word!r}")
        axes[flag] = values
    combined = itertools.product(*axes.values())
    return [Setting(tuple(sorted(zip(axes, values, strict=True)))) for values in combined]
