"""Shared by the benchmarks: timing alternatives in turns (A B A B ...), medians, and a record of machine and commit."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from the checkout, nothing is installed

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import expect_place, write_json
from semg.common.provenance import commit, versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Row:
    """One line of a table: the time of `what` is `ratio` times that of `against`.

    With `at_least` the ratio is one of rates, of which more is better. reach: the goal, which the ratio should not
    exceed (with `at_least`: not fall below), or None. seconds: the medians measured. facts: anything else.
    """

    what: str
    against: str
    ratio: float
    reach: float | None = None
    at_least: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the ratio meets its goal; None without a goal."""
        if self.reach is None:
            return None
        return self.ratio >= self.reach if self.at_least else self.ratio <= self.reach

    def __str__(self) -> str:
        goal = "" if self.reach is None else f"  (goal: at {'least' if self.at_least else 'most'} {self.reach:g})"
        return f"{self.what:<44} {self.ratio:7.2f} x {self.against}{goal}"


def arguments(manual: str | None, name: str, repeats: int | None = 5) -> argparse.ArgumentParser:
    """The flags that every benchmark has. name: of the benchmark, for its file; repeats: the default of --repeats, None
    for a benchmark that measures once and has no such flag."""
    parser = cli.parser(manual)
    parser.set_defaults(name=name, repeats=1)
    usual = f"benchmarks/results/{name}.json, with --quick none"
    parser.add_argument("--out", type=Path, help=f"JSON file to write (default: {usual})")
    if repeats is not None:
        words = "measure so many times and take the median"
        parser.add_argument("--repeats", type=cli.whole(1), default=repeats, help=words)
    parser.add_argument("--quick", action="store_true", help="measure little and only once, to see that it runs")
    return parser


def read(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The flags typed. UsageError or DataError, before anything is measured, for flags that contradict each other and a
    file that cannot be written."""
    args = parser.parse_args()
    if args.quick and cli.given("repeats"):
        raise UsageError("--repeats: expected no --quick beside it, which measures once")
    args.repeats = 1 if args.quick else args.repeats
    if place := destination(args):
        if place.suffix != ".json":
            raise UsageError(f"--out {place}: expected a name that ends in .json")
        expect_place(place, "the results")
    return args


def destination(args: argparse.Namespace) -> Path | None:
    """The file to write; None for a quick look, whose numbers must not replace those of a full run."""
    if args.out or args.quick:
        return args.out
    return RESULTS / f"{args.name}.json"


def in_turns(
    ways: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds of each way: the median of `repeats`, taken in turns so that a slow spell meets all ways alike.

    One round before them does not count. clock: time.process_time counts this process's processor time alone.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, work in ways.items():
            began = clock()
            work()
            times[name].append(clock() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


@dataclass(frozen=True)
class Finished:
    """What a program took: seconds from start to end, seconds of processor time, and the most memory that one of its
    processes held, bytes; and what it said."""

    seconds: float
    processor: float
    memory: int
    output: str


# Linux counts what a process held before it became another program, so a small one has to start the script
_LAUNCH = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stdout, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def run_python(*words: object) -> Finished:
    """Run Python with `words` behind it to its end. DataError, with the last line it printed, if it fails."""
    command = [sys.executable, *map(str, words)]
    began = time.perf_counter()
    launched = subprocess.run([sys.executable, "-c", _LAUNCH, *command], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    code, output, processor, memory = json.loads(launched.stdout)
    if code:
        said = output.strip().rpartition("\n")[2] or f"exit code {code}"
        raise DataError(f"{' '.join(command)}: expected it to succeed, found: {said}")
    return Finished(seconds, processor, memory * (1 if sys.platform == "darwin" else 1024), output)


def run_script(name: str, *words: object) -> Finished:
    """Run a script of this project to its end. DataError, with the last line it printed, if it fails."""
    return run_python(ROOT / name, "--quiet", *words)


def where() -> dict[str, Any]:
    """The machine, how busy it is, versions and commit, for JSON."""
    machine = {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
    busy = {"load_average": round(os.getloadavg()[0], 1)} if hasattr(os, "getloadavg") else {}
    return {"machine": machine | busy, "versions": versions("numpy", "torch", "transformers"), "commit": commit()}


def report(args: argparse.Namespace, rows: Sequence[Row], **facts: Any) -> int:
    """Print the table and write the JSON file, if there is one to write."""
    console = cli.console(args)
    for row in rows:
        console.say(str(row))
    place = destination(args)
    written = f"{place}: written" if place else "nothing was written, because of --quick; --out names a file"
    console.finish(written, rows=save(args, rows, **facts))
    return 0


def save(args: argparse.Namespace, rows: Sequence[Row], **facts: Any) -> list[dict[str, Any]]:
    """Write the JSON file, if there is one to write; returns the rows as they are in it."""
    table = [asdict(row) | {"reached": row.reached} for row in rows]
    if place := destination(args):
        write_json(place, {"repeats": args.repeats, "quick": args.quick, **facts, "rows": table, **where()})
    return table
