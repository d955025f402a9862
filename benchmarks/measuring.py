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
from semg.common.files import write_json
from semg.common.provenance import commit, versions

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One line of a table: `what` takes `ratio` times what `against` does; `reach` is the ratio wished for.

    at_least: whether more is better, as for a rate. seconds: what was measured, medians. facts: anything else.
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
        """Whether the ratio is as wished; None where nothing was wished."""
        if self.reach is None:
            return None
        return self.ratio >= self.reach if self.at_least else self.ratio <= self.reach

    def __str__(self) -> str:
        wish = "" if self.reach is None else f"  (to reach: at {'least' if self.at_least else 'most'} {self.reach:g})"
        return f"{self.what:<44} {self.ratio:7.2f} x {self.against}{wish}"


def arguments(manual: str | None, name: str, repeats: int = 5) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    parser = cli.parser(manual)
    out = Path(f"benchmarks/results/{name}.json")
    parser.add_argument("--out", type=Path, default=out, help="file to write")
    parser.add_argument("--repeats", type=cli.whole(1), default=repeats, help="the median of so many")
    parser.add_argument("--quick", action="store_true", help="one repeat of little work, to see that it runs")
    return parser


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
    """Run Python with `words` behind it to its end. Raises RuntimeError, with what it said, if it fails."""
    command = [sys.executable, *map(str, words)]
    began = time.perf_counter()
    launched = subprocess.run([sys.executable, "-c", _LAUNCH, *command], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    code, output, processor, memory = json.loads(launched.stdout)
    if code:
        raise RuntimeError(f"{' '.join(command)}: {output}")
    return Finished(seconds, processor, memory * (1 if sys.platform == "darwin" else 1024), output)


def run_script(name: str, *words: object) -> Finished:
    """Run a script of this project to its end. Raises RuntimeError, with what it said, if it fails."""
    return run_python(ROOT / name, "--quiet", *words)


def where() -> dict[str, Any]:
    """The machine, how busy it is, versions and commit, for JSON."""
    machine = {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
    busy = {"load_average": round(os.getloadavg()[0], 1)} if hasattr(os, "getloadavg") else {}
    return {"machine": machine | busy, "versions": versions("numpy", "torch", "transformers"), "commit": commit()}


def report(args: argparse.Namespace, rows: Sequence[Row], **facts: Any) -> int:
    """Print the table and write the JSON file."""
    console = cli.console(args)
    for row in rows:
        console.say(str(row))
    console.finish(f"{args.out}: written", rows=save(args, rows, **facts))
    return 0


def save(args: argparse.Namespace, rows: Sequence[Row], **facts: Any) -> list[dict[str, Any]]:
    """Write the JSON file; returns the rows as they are in it."""
    table = [asdict(row) | {"reached": row.reached} for row in rows]
    write_json(args.out, {"repeats": args.repeats, "quick": args.quick, **facts, "rows": table, **where()})
    return table
