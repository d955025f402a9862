"""What all scripts have in common on the command line: flags, their types, messages, exit codes.

Exit codes: 0 done, 1 an input was wrong or something is missing, 2 wrong flags, 130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import io
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from semg.common.console import Console as Console
from semg.common.console import counted as counted  # scripts import these from here
from semg.common.console import marked, one_line
from semg.common.console import next_command as next_command
from semg.common.console import printable as printable
from semg.common.errors import FULL_DISK, DataError, SettingError, UsageError, with_names
from semg.common.length import LARGEST, Length
from semg.common.stopping import Terminated as Terminated

if TYPE_CHECKING:
    from semg.common.launching import Launcher

N = TypeVar("N", int, float)
os.environ["MPLBACKEND"] = "agg"  # scripts draw into files; notebooks set a backend that only they can import
GOES_ON = "run the same command again to go on"  # message of a stopped script that keeps finished work
STARTS_ANEW = "the same command starts from the beginning"
_NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory")  # PyTorch's messages, for CPU and GPU


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it is written, and every flag's help followed by its default, if any, as one would type it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, [], "") or isinstance(action.default, bool) or not action.help:
            return action.help
        if isinstance(action.default, list | tuple):
            words = (f"{one:g}" if isinstance(one, float) else str(one) for one in action.default)
            return f"{action.help} (default: {' '.join(words)})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that remembers the command line it has read, so that `in_words` can name its flags."""

    latest: "ClassVar[CommandLine | None]" = None  # one per process, like sys.argv

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, but remembers the words typed."""
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            readable = word.encode(errors="backslashreplace").decode()
            if readable.encode() != word.encode(errors="surrogateescape"):
                self.error(
                    f"expected names in UTF-8, in which results say where they came from, found {readable}; rename it"
                )
        read = super().parse_args(args, namespace)
        Parser.latest = CommandLine(self, words)
        return read


@dataclass(frozen=True)
class CommandLine:
    """A parser and the words it has read: which flag sets which setting, and what the user typed for it."""

    parser: argparse.ArgumentParser
    words: list[str]

    def flag(self, setting: str) -> str:
        """`batch_size` -> `--batch-size`; for a setting without a flag in this script, the flag that it has
        elsewhere."""
        return (self.own_flags(setting) or ["--" + setting.replace("_", "-")])[0]

    def own_flags(self, setting: str) -> list[str]:
        """This script's flags for `setting`, long ones first."""
        return sorted(self._takes(setting), key=lambda name: not name.startswith("--"))

    def _takes(self, setting: str) -> dict[str, float]:
        """The flags for `setting`, and the largest number of words that each takes."""
        most = {None: 1, "?": 1, "*": math.inf, "+": math.inf}
        actions = [action for action in self.parser._actions if action.dest == setting]
        counts = [action.nargs if isinstance(action.nargs, int) else most[action.nargs] for action in actions]
        return {name: n for action, n in zip(actions, counts, strict=True) for name in action.option_strings}

    def typed(self, setting: str) -> list[str]:
        """What the user gave for `setting` last; empty if it has its default."""
        typed: list[str] = []
        for word, kind in self._told_apart(setting):
            if kind == "flag":
                typed = word.split("=", 1)[1:]
            elif kind == "value":
                typed.append(word)
        return typed

    def given(self, setting: str) -> bool:
        """Whether the user typed a flag for `setting`."""
        return any(kind == "flag" for _, kind in self._told_apart(setting))

    def without(self, *settings: str) -> list[str]:
        """The words typed, without the flags for `settings` and their values."""
        return [word for word, kind in self._told_apart(*settings) if not kind]

    def _told_apart(self, *settings: str) -> Iterator[tuple[str, str]]:
        """Each word typed, and whether it is a `flag` for one of `settings`, a `value` of such a flag, or neither,
        ""."""
        takes = {name: most for setting in settings for name, most in self._takes(setting).items()}
        left = 0.0  # values that may still follow
        for word in self.words:
            name, equals, _ = word.partition("=")
            if name in takes:
                left = 0 if equals else takes[name]
                yield word, "flag"
            elif left and (not word.startswith("-") or _NUMBER.fullmatch(word)):
                left -= 1
                yield word, "value"
            else:
                left = 0
                yield word, ""

    def in_words(self, error: SettingError) -> str:
        """`--patch 1: expected at least 2, ...`: the flag, what was typed, and what would be valid."""
        flags = self.own_flags(error.field)
        if not flags:
            return str(error)
        typed, default = self.typed(error.field), self.parser.get_default(error.field)
        if not typed and default not in (None, []) and not isinstance(default, bool):  # a switch has no value
            typed = [*map(str, default if isinstance(default, list | tuple) else [default]), "(the default)"]
        several = len(typed) != 1 and not isinstance(error.actual, tuple | list)
        actual = f", found {error.actual}" if several and error.actual is not None else ""
        hint = f"; {with_names(error.hint, self.flag)}" if error.hint else ""
        return f"{' '.join([flags[0], *typed])}: {error.requirement(self.flag)}{actual}{hint}"


def given(setting: str) -> bool:
    """Whether the user typed a flag for `setting`; one that is typed with its default value counts, too."""
    return Parser.latest is not None and Parser.latest.given(setting)


def flag(setting: str) -> str:
    """The running script's flag for `setting`, such as --no-precompute for precompute."""
    return Parser.latest.flag(setting) if Parser.latest else f"--{setting.replace('_', '-')}"


_NUMBER = re.compile(r"-\d+(\.\d*)?(e-?\d+)?")  # a value such as -1, in a place where a flag could be


def parser(manual: str | None) -> Parser:
    """An argument parser that prints a script's docstring as its manual and has the flags that all scripts share."""
    script_parser = Parser(description=manual, formatter_class=_Formatter, allow_abbrev=False)
    output = script_parser.add_argument_group("messages")
    output.add_argument("--quiet", action="store_true", help="print warnings, errors and the last line only")
    output.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
    output.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return script_parser


class _Absent(argparse.Action):
    """A flag that this script does not have, or no longer: exits with 2 and says what to give instead. It is not shown
    by --help."""

    def __init__(self, *flags: Any, advice: str, **settings: Any) -> None:
        hidden = {"nargs": "*", **dict.fromkeys(("dest", "default", "help"), argparse.SUPPRESS)}
        super().__init__(*flags, **settings | hidden)
        self._advice = advice

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parser.error(f"{self.option_strings[0]}: {self._advice}")


def moved(group: argparse._ActionsContainer, flag: str, instead: str) -> None:
    """Refuse a flag that no longer exists, and say what replaces it."""
    group.add_argument(flag, action=_Absent, advice=f"expected it no longer; instead: {instead}")


def renamed(group: argparse._ActionsContainer, old: str, new: str) -> None:
    """Refuse the flag `old`, and give its present name."""
    group.add_argument(old, action=_Absent, advice=f"is now called {new}")


def of_others(group: argparse._ActionsContainer, flag: str, instead: str) -> None:
    """Refuse a flag of other scripts, and say what is to be given instead."""
    group.add_argument(flag, action=_Absent, advice=f"expected {instead}")


LAUNCH = ("launch", "parallel", "partition", "cores", "gpus", "hours", "memory")  # settings of `launch_flags`
_SLURM = ("partition", "hours", "memory")


def launch_flags(parser: argparse.ArgumentParser, what: str, gpus: int = 0) -> None:
    """Add the flags that split a script's work into many jobs. what: the work of one job."""
    group = parser.add_argument_group("many at once")
    group.add_argument(
        "--launch",
        choices=("local", "slurm"),
        help=f"use one job for {what}, several at once, on this machine or by Slurm",
    )
    group.add_argument(
        "--parallel",
        type=whole(1),
        metavar="N",
        help="jobs at once (default: number of GPUs or cores here; by Slurm: 256)",
    )
    group.add_argument("--cores", type=whole(1), help="cores per job (default: its share of this machine; by Slurm: 2)")
    group.add_argument(
        "--gpus",
        type=whole(0),
        default=gpus,
        help="GPUs per job, which sees no others; 0: it sees none. A machine without GPUs needs no 0, a cluster does",
    )
    group.add_argument("--partition", help="Slurm: partition to use (default: the cluster's)")
    group.add_argument(
        "--hours",
        type=number(0.05),
        help="Slurm: time limit of a job, after which it is requeued and continues (default: 12)",
    )
    group.add_argument("--memory", type=number(0, above=True), metavar="GB", help="Slurm: memory per job")


def launcher(args: argparse.Namespace, folder: Path, console: Console) -> "Launcher | None":
    """The launcher that --launch asks for, for jobs that write to `folder`; None without --launch. UsageError for flags
    that do not fit."""
    launch_flags = filter(given, LAUNCH[1:])
    if idle := [name for name in launch_flags if not args.launch or (args.launch == "local" and name in _SLURM)]:
        expected = "--launch slurm" if idle[0] in _SLURM else "--launch local or slurm"
        raise UsageError(f"--{idle[0]}: expected {expected} beside it, found {args.launch or 'none'}")
    if not args.launch:
        return None
    if sys.platform == "win32":
        raise UsageError("--launch: expected Linux or macOS, found Windows; leave it out")
    if args.launch == "slurm" and (
        missing := [name for name in ("sbatch", "squeue", "srun") if not shutil.which(name)]
    ):
        raise UsageError(f"--launch slurm: expected Slurm's commands here, found no {missing[0]}")
    from semg.common.launching import Launcher, Place  # imports locks that Windows does not have

    wanted = {name: getattr(args, name) for name in LAUNCH[1:]}
    return Launcher(folder, Place(args.launch, **wanted | {"hours": args.hours or Place.hours}), console)


def part_of_this(script: Path, left_out: Iterable[str], *words: str) -> tuple[str, ...]:
    """The command line of a job that does part of this script's work: the words typed, without the flags for the
    settings `left_out` and those for messages and launching, plus `words`."""
    typed = Parser.latest.without(*LAUNCH, "quiet", "json", *left_out) if Parser.latest else []
    return (sys.executable, str(script), *typed, *words)


def console(args: argparse.Namespace) -> Console:
    """The console for --quiet and --json."""
    return Console(quiet=args.quiet, as_json=args.json)


def run(main: Callable[[], int | None], again: str = STARTS_ANEW) -> NoReturn:
    """Run a script's `main`, and exit with its code; an error becomes one line and an exit code. again: what a user who
    stops the script is told about running it again, unless the exception has a message of its own."""
    signal.signal(signal.SIGTERM, _terminate)
    _fill_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may contain characters that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(_exit_code(main, again))


def _fill_closed_streams() -> None:
    """Replace streams that the shell closed (`>&-`) by the null device. Otherwise the next file that is opened would
    get the number of such a stream, and printed text would end up in it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  must stay open


def _exit_code(main: Callable[[], int | None], again: str) -> int:
    try:
        return main() or 0
    except KeyboardInterrupt as stop:
        return _stopped(stop, again)
    except BrokenPipeError:  # `script | head`: the reader has closed the pipe
        sys.stderr.close()
        return 1
    except Exception as error:
        if behind := _stop_behind(error):
            return _stopped(behind, again)
        message = in_words(error)
        if not message or "--debug" in sys.argv:
            raise
        print(f"{marked('error')} {one_line(message)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _stopped(stop: KeyboardInterrupt, again: str) -> int:
    sys.unraisablehook = lambda _: None  # objects that the signal left half made complain when they are deleted
    print(f"\nstopped: {str(stop) or again}", file=sys.stderr)
    return 143 if isinstance(stop, Terminated) else 130


def _stop_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C or SIGTERM during whose handling `error` was raised: libraries that clean up may fail on the way."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def in_words(error: Exception) -> str:
    """An error that a user can do something about, in one line; empty for a bug, which needs a traceback.

    Settings are named by the script's flags, and their values are in the units in which they were typed.
    """
    if isinstance(error, SettingError):
        return Parser.latest.in_words(error) if Parser.latest else str(error)
    if isinstance(error, DataError):
        return error.in_words(Parser.latest.flag) if Parser.latest else str(error)
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, OSError):
        reason = error.strerror or " ".join(map(str, error.args))
        advice = "; free some and run again" if error.errno in FULL_DISK else ""
        return f"{error.filename or 'output'}: expected to read or write there, found: {reason}{advice}"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        detail = one_line(str(error)).partition(". ")[0][:100] or "none left"
        return f"expected enough memory, found too little ({detail}); less at once needs less: --batch-size, --workers"
    return ""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def has_gpu() -> bool:
    """Whether train.py would probably find a GPU here; judged by system files, without waiting for PyTorch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return shutil.which("nvidia-smi") is not None or any(
        Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd")
    )


# --- types of flags; argparse prints the message of an ArgumentTypeError and exits with 2 -----------------


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A whole number of at least `low` (and at most `high`)."""
    return _read(int, "a whole number", low, high)


def number(low: float, high: float | None = None, *, above: bool = False) -> Callable[[str], float]:
    """A finite number of at least `low` (with `above`: above it) and at most `high`."""
    return _read(float, "a number", low, high, above)


def _read(
    kind: Callable[[str], N], words: str, low: float, high: float | None, above: bool = False
) -> Callable[[str], N]:
    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {words}, found {text!r}") from None
        too_low = value <= low if above else value < low
        if value > (LARGEST if high is None else high) or too_low or not math.isfinite(value):
            expected = f"a number above {low:g}" if above else f"a number of at least {low:g}"
            # LARGEST is mentioned only if a value is above it
            most = LARGEST if high is None and value > LARGEST else high
            expected += "" if most is None else f" and at most {most:g}"
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text}")
        return value

    return parse


def renamed_values(**names: str) -> Callable[[str], str]:
    """The type of a flag some of whose values were renamed. names: old value -> new value; an old value is refused with
    the new one."""

    def parse(text: str) -> str:
        if text in names:
            raise argparse.ArgumentTypeError(f"{text!r} is now called {names[text]}")
        return text

    return parse


def length(text: str) -> Length:
    """A length of signal: samples (`1280`) or time (`250ms`, `0.25s`)."""
    try:
        return Length(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def subjects(text: str) -> str:
    """A person's two-digit number as in record names: `3` and `03` are the same person."""
    if not re.fullmatch(r"\d{1,2}", text):
        raise argparse.ArgumentTypeError(f"expected a subject number such as 03, found {text!r}")
    return f"{int(text):02d}"


def number_ranges(text: str) -> tuple[int, ...]:
    """`1-24` or `1,3,9-16`: distinct whole numbers in the order given."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
        if not match:
            raise argparse.ArgumentTypeError(f"expected numbers such as 1-24 or 1,3,9-16, found {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise argparse.ArgumentTypeError(f"expected a rising range, found {part!r}")
        numbers.extend(range(first, last + 1))
    if len(set(numbers)) != len(numbers):
        raise argparse.ArgumentTypeError(f"expected each number once, found {text!r}")
    return tuple(numbers)


def expanded(paths: Iterable[Path]) -> list[Path]:
    """`paths`, with each pattern such as `raw/*-03-*.hdf5` replaced by its matches, because Windows shells leave that
    to programs. A pattern without matches stays, so that the caller can report it."""
    named: list[Path] = []
    for path in paths:
        matches = [] if path.exists() else sorted(glob(str(path)))  # noqa: PTH207  `path` may be absolute
        named += map(Path, matches) if matches else [path]
    return named
