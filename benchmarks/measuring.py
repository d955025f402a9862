"""What the benchmarks share: ways compared in turns (A B A B ...), medians, and where they were measured."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from the checkout, nothing is installed

from semg.provenance import commit, versions


def in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each way: the median of `repeats`, taken in turns so that a slow spell meets all ways alike.

    One round before them does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def where() -> dict[str, Any]:
    """The machine, how busy it is, versions and commit, for JSON."""
    machine = {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
    busy = {"load_average": round(os.getloadavg()[0], 1)} if hasattr(os, "getloadavg") else {}
    return {"machine": machine | busy, "versions": versions("numpy", "torch", "transformers"), "commit": commit()}
