"""Fuzz the readers for as long as you like: damaged and hostile files, each target in a process of its own.

  python tests/faults/fuzz_long.py --minutes 20              all targets, one after the other; also `make fuzz`
  python tests/faults/fuzz_long.py csv zip --minutes 1 --seed 5000
  python tests/faults/fuzz_long.py csv --only 5017           one input again, in this process, with its traceback

A finding is an input that ends in anything but acceptance or the project's own error: another exception, the end of the
process by a signal, no answer for 20 s, or memory that grows by more than 1 GB. On Linux a process that others keep
from computing is given its 20 s first. Each finding is written to standard error with its seed, and the exit code is 1.
The last line of each target counts inputs, what was accepted and refused.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LONGEST = 20.0  # seconds for one input
MOST_MEMORY = 1 << 30  # bytes by which the process may grow over one input
LOOK = 0.1  # seconds between two looks at the process
IMPORTS = 120.0  # seconds until the first input is read
AT_ONCE = 100  # results taken before the clock is looked at
Reader = Callable[[int], bool]


@dataclass
class Counts:
    """What came of a target's inputs; findings: seed and what happened."""

    target: str
    accepted: int = 0
    refused: int = 0
    findings: list[tuple[int, str]] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused + len(self.findings)


def attempt(read: Reader, seed: int, expected: tuple[type[Exception], ...]) -> tuple[str, str]:
    """(`accepted`, `refused` or `finding`, what happened) of one input."""
    before = _peak()
    try:
        read(seed)
        kind, output = "accepted", ""
    except expected:
        kind, output = "refused", ""
    except MemoryError:
        kind, output = "finding", "MemoryError"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in frames[:-6:-1])
        kind, output = "finding", f"{type(error).__name__}: {str(error)[:200]} at {places}"
    grown = _peak() - before
    return (kind, output) if grown < MOST_MEMORY else ("finding", f"memory grew by {grown >> 20} MiB; {output}")


def _peak() -> int:
    """The most memory this process has held so far, in bytes.

    Linux's ru_maxrss would begin with what the starting process had held: it outlives fork and exec.
    """
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def child(make: Callable[[Path], Reader], expected: tuple, folder: Path, seed: int, out: Connection, now: Any) -> None:
    """Read input after input from `seed` on; tell each result. now[0]: the seed that is being read."""
    warnings.simplefilter("ignore")
    read = make(folder)
    while True:
        now[0] = seed
        kind, output = attempt(read, seed, expected)
        out.send((seed, kind, output))
        if "memory grew" in output:
            return  # the peak stays: only a fresh process can measure the next
        seed += 1


def fuzz(
    name: str,
    make: Callable[[Path], Reader],
    expected: tuple[type[Exception], ...],
    seconds: float,
    seed: int = 0,
    longest: float = LONGEST,
) -> Iterator[Counts]:
    """Read inputs for some `seconds`, in processes that are replaced where they end. Yields the counts as they grow."""
    counts, end = Counts(name), time.monotonic() + seconds
    while time.monotonic() < end:
        with (
            tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
            _process(make, expected, folder, seed) as (process, results, now),
        ):
            yield from _watch(process, results, now, counts, end, longest)
            seed = now[0] + 1
    yield counts


def _watch(process: Any, results: Connection, now: Any, counts: Counts, end: float, longest: float) -> Iterator[Counts]:
    """Count results until the process ends, an input takes too long, or the time is over."""
    late, used = time.monotonic() + IMPORTS, 0.0
    while time.monotonic() < end:
        ended = not process.is_alive()  # asked first: all that it told is there then
        taken = _take(results, counts, 0 if ended else LOOK)
        if taken:
            late, used = time.monotonic() + longest, _computed(process.pid)
        yield counts
        if ended and not taken:
            if process.exitcode != 0:
                _count(counts, now[0], "finding", f"the process ended with {process.exitcode}")
            return
        if not ended and time.monotonic() > late and not _starves(process.pid, used, longest):
            _count(counts, now[0], "finding", f"no answer for {longest:g} s")
            return


def _computed(pid: int) -> float:
    """Seconds for which a process has computed; 0 where there is no telling."""
    output = _stat(pid)
    return (int(output[11]) + int(output[12])) / os.sysconf("SC_CLK_TCK") if output else 0.0


def _starves(pid: int, used: float, longest: float) -> bool:
    """Whether others keep a process from computing, which had computed for `used` s when it last gave an answer."""
    output = _stat(pid)
    return bool(output) and output[0] != "S" and _computed(pid) - used < longest  # S: it waits for something by itself


def _stat(pid: int) -> list[str]:
    """What Linux says of a process, from its state on; nothing on other systems and of one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _take(results: Connection, counts: Counts, wait: float) -> int:
    """Count some of the results that are there; returns how many. A quick target tells more than can be counted."""
    for taken in range(AT_ONCE):
        try:
            if not results.poll(wait):
                return taken
            _count(counts, *results.recv())
        except EOFError:
            return taken
    return AT_ONCE


@contextmanager
def _process(make: Any, expected: tuple, folder: str, seed: int) -> Iterator[tuple[Any, Connection, Any]]:
    context = multiprocessing.get_context("spawn")
    results, out = context.Pipe(duplex=False)
    now = context.RawArray("q", [seed])
    process = context.Process(target=child, args=(make, expected, Path(folder), seed, out, now), daemon=True)
    process.start()
    out.close()
    try:
        yield process, results, now
    finally:
        process.kill()
        process.join()
        results.close()


def _count(counts: Counts, seed: int, kind: str, told: str) -> None:
    if kind == "accepted":
        counts.accepted += 1
    elif kind == "refused":
        counts.refused += 1
    else:
        counts.findings.append((seed, told))
        print(f"finding: {counts.target} {seed}: {told}", file=sys.stderr, flush=True)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    from fuzz_targets import EXPECTED, TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=20.0, help="for each target (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--only", type=int, metavar="SEED", help="read this input alone, in this process")
    args = parser.parse_args()
    if unknown := [name for name in args.targets if name not in TARGETS]:
        parser.error(f"expected targets of {', '.join(TARGETS)}, found {unknown[0]}")
    names = args.targets or list(TARGETS)
    if args.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                print(name, "accepted" if TARGETS[name](Path(folder))(args.only) else "")
        return 0
    actual = 0
    for name in names:
        spoken = time.monotonic()
        for counts in fuzz(name, TARGETS[name], EXPECTED, 60 * args.minutes, args.seed):
            if time.monotonic() - spoken > 60:
                spoken = time.monotonic()
                print(f"{name}: {counts.inputs:,} inputs, {len(counts.findings)} findings", file=sys.stderr, flush=True)
        output = asdict(counts) | {"inputs": counts.inputs, "findings": len(counts.findings)}
        print(json.dumps(output), flush=True)
        actual += len(counts.findings)
    return 1 if actual else 0


if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path += [str(ROOT), str(ROOT / "tests")]
    sys.exit(main())
