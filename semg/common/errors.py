"""The errors for a run that fails because of its inputs.

The library names settings, such as `batch_size`; only scripts know which flag sets one and what the user typed.
Therefore a text here refers to a setting in braces, `a smaller {lr}`: `str(error)` gives "a smaller lr", and a script
inserts the flag (see semg/common/cli.py).
"""

import errno
import lzma
import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping

_REFERENCE = re.compile(r"\{(\w+)\}")


def with_names(text: str, name_of: Callable[[str], str] = str) -> str:
    """`text` with each reference to a setting, such as {batch_size}, replaced by `name_of(setting)`."""
    return _REFERENCE.sub(lambda match: name_of(match[1]), text)


def short(error: Exception, most: int = 160) -> str:
    """The message of another library's error, on one line of at most `most` characters; its type if the message is
    empty."""
    return " ".join(str(error).split())[:most] or type(error).__name__


class DataError(Exception):
    """An input is wrong. The message is one line: file, expected, found, what to do.

    hint: what to do, if that refers to settings; it follows the message after a semicolon. Exit code 1.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def in_words(self, name_of: Callable[[str], str] = str) -> str:
        """The message, with `name_of(setting)` for each setting that the hint refers to."""
        return f"{self.message}; {with_names(self.hint, name_of)}" if self.hint else self.message

    def __str__(self) -> str:
        return self.in_words()


class UsageError(Exception):
    """The flags cannot be combined, or one is out of range. Scripts end with exit code 2."""


class SettingError(UsageError, ValueError):
    """A setting has an impossible value.

    field: the setting, by its name in the code. expected: words; `{}` stands for each of `limits`, which are in the
    setting's own unit, and `{patch}` for the setting patch. actual: the value, None if `expected` says everything.
    hint: what to do.
    """

    def __init__(
        self, field: str, expected: str, actual: object = None, limits: tuple[float, ...] = (), hint: str = ""
    ) -> None:
        super().__init__(field, expected, actual, limits, hint)
        self.field, self.expected, self.actual, self.limits, self.hint = field, expected, actual, limits, hint

    def translated(self, say: Callable[[float], str], names: Mapping[str, str] | None = None) -> "SettingError":
        """The same error for a caller with other units or other names for its settings.

        say: converts a value in the setting's unit into words. names: settings here -> settings of the caller.
        """
        renamed = dict(names or {})

        def rename(text: str) -> str:
            return _REFERENCE.sub(lambda match: f"{{{renamed.get(match[1], match[1])}}}", text)

        number = isinstance(self.actual, int | float) and not isinstance(self.actual, bool)
        actual = say(self.actual) if number else self.actual  # type: ignore[arg-type]
        if isinstance(self.actual, tuple | list):
            actual = tuple(map(say, self.actual))
        expected = rename(_with_limits(self.expected, [say(limit) for limit in self.limits]))
        return SettingError(renamed.get(self.field, self.field), expected, actual, (), rename(self.hint))

    def requirement(self, name_of: Callable[[str], str] = str) -> str:
        """`expected ...`, with limits and names of other settings inserted."""
        return "expected " + with_names(_with_limits(self.expected, [f"{limit:g}" for limit in self.limits]), name_of)

    def __str__(self) -> str:
        several = isinstance(self.actual, tuple | list)
        value = " ".join(map(str, self.actual)) if several else self.actual  # type: ignore[call-overload]
        actual = "" if self.actual is None else f", found {value}"
        hint = f"; {with_names(self.hint)}" if self.hint else ""
        return f"{self.field}: {self.requirement()}{actual}{hint}"


def _with_limits(text: str, limits: list[str]) -> str:
    for limit in limits:
        text = text.replace("{}", limit, 1)
    return text


# What NumPy's readers raise for a damaged array: its header is parsed as Python. MemoryError: the header gives a far
# larger array than there is.
DAMAGED_NPY = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError),
    *(SyntaxError, tokenize.TokenError, RecursionError, MemoryError),
)
# What zipfile raises as well for a damaged .npz. RuntimeError: an entry is said to be encrypted, or compressed in an
# unknown way.
DAMAGED_NPZ = (*DAMAGED_NPY, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota or a limit on file size
