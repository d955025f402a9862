"""The classical features against LibEMG's on the same windows: the time of each, and whether their values agree.

Output: a table of ratios and benchmarks/results/features.json. LibEMG gets windows in its own layout and type, float64
(windows, channels, samples), already in memory. This project's extractor gets what shards hold, float16 (windows,
samples, channels); its time includes the conversion to float32 in LibEMG's layout. Times are processor time of one
thread for 256 windows of 250 ms, 24 channels of noise with the amplitude of EMG. Definitions are the usual ones, with
LibEMG's thresholds: none for ZC and SSC.

Only this benchmark needs LibEMG (`pip install --no-deps libemg==2.0.3 PyWavelets`). Only its file of features is
read, because the package would import device drivers and a graphical interface.

  python benchmarks/features.py            # about ten seconds
"""

import importlib.util
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from measuring import Row, arguments, in_turns, read, report
from threadpoolctl import threadpool_limits

from semg.common import cli
from semg.common.errors import DataError
from semg.evaluation.hand_crafted_features import FeatureExtractor, Thresholds

RATE, SAMPLES, CHANNELS = 5120.0, 1280, 24
LIMITS = Thresholds(zc=0.0, ssc=0.0, wamp=10.01)  # between the steps of float16: no difference lies exactly on it
NAMES = ("RMS", "MAV", "IAV", "VAR", "WL", "ZC", "SSC", "WAMP")
APART = 1e-3  # of a value: float32 against float64


def libemg() -> Any:
    """LibEMG's feature extractor. DataError if it isn't installed."""
    package = importlib.util.find_spec("libemg")
    if package is None or not package.submodule_search_locations:
        raise DataError("libemg: expected LibEMG 2.0.3, found none; pip install --no-deps libemg==2.0.3 PyWavelets")
    where = f"{package.submodule_search_locations[0]}/feature_extractor.py"
    spec = importlib.util.spec_from_file_location("libemg_features", where)
    assert spec and spec.loader  # noqa: S101  a file of Python has both
    for name in ("librosa", "pywt"):  # used by features that are not compared here
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = stand_in = ModuleType(name)
            vars(stand_in).update(lpc=None, wavedec=None, upcoef=None)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FeatureExtractor()


def theirs(extractor: Any, name: str, windows: np.ndarray) -> np.ndarray:
    """(B, C) a feature of (B, C, T) windows by LibEMG."""
    limits = {"WAMP": {"WAMP_threshold": LIMITS.wamp}, "SSC": {"SSC_threshold": LIMITS.ssc}}
    return getattr(extractor, f"get{name}feat")(windows, **limits.get(name, {}))


def both(
    extract: FeatureExtractor, stored: np.ndarray, other: Any, names: Sequence[str], ready: np.ndarray, repeats: int
) -> dict[str, float]:
    """Seconds that each takes for the features called `names`."""

    def ours() -> object:
        return extract(stored)

    def libemgs() -> object:
        return [theirs(other, name, ready) for name in names]

    return in_turns({"ours": ours, "LibEMG": libemgs}, repeats, time.process_time)


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = read(arguments(__doc__, "features", repeats=15))
    other = libemg()
    count = 32 if args.quick else 256
    stored = (np.random.default_rng(0).standard_normal((count, SAMPLES, CHANNELS)) * 50).astype(np.float16)
    ready = np.ascontiguousarray(stored.transpose(0, 2, 1), np.float64)
    rows, apart = [], {}
    with threadpool_limits(1):
        for names in [*((name,) for name in NAMES), NAMES]:
            extract = FeatureExtractor(names=names, rate=RATE, thresholds=LIMITS)
            ours, expected = extract(stored), np.hstack([theirs(other, name, ready) for name in names])
            what = names[0] if len(names) == 1 else "all of them at once"
            apart[what] = float(np.max(np.abs(ours - expected) / np.maximum(np.abs(expected), 1e-9)))
            if apart[what] > APART:
                raise DataError(f"{what}: expected LibEMG's values to {APART:g}, found {apart[what]:.2g} apart")
            seconds = both(extract, stored, other, names, ready, args.repeats)
            rows.append(Row(what, "LibEMG's", seconds["ours"] / seconds["LibEMG"], 1.0, seconds=seconds))
    return report(args, rows, windows=count, largest_relative_difference=apart)


if __name__ == "__main__":
    cli.run(main)
