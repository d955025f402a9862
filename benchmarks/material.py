"""Data for the benchmarks: noise in putEMG's layout, because content does not change how long most work takes.

Adaptation is the exception: it ends early if it does not find all gestures, so it gets a simulated session.
"""

from pathlib import Path

import measuring  # noqa: F401  finds the checkout
import numpy as np
import pandas as pd

import simulate_putemg
from semg.data import putemg
from semg.data.preprocessing import rings
from semg.data.records import from_name
from semg.data.shards import write_shard
from semg.data.simulation import simulate
from semg.data.windows import whole_windows

SECONDS = 300  # of a long putEMG recording
WINDOW, STRIDE = 1280, 640
HELD = 5  # seconds of one label


def labels(samples: int) -> np.ndarray:
    """(samples,) the codes of all gestures in turn, each held for a few seconds."""
    held = int(HELD * putemg.RATE)
    codes = np.resize(np.array(list(putemg.GESTURES)), -(-samples // held))
    return np.repeat(codes, held)[:samples].astype(np.int8)


def simulated(seconds: float) -> np.ndarray:
    """(time, channels) float32 microvolts of a simulated session, in which all gestures follow each other early."""
    counts = simulate(0, 2, 1, "sequential", seconds).counts
    return counts.astype(np.float32) * np.float32(putemg.MICROVOLTS_PER_COUNT)


def recording(folder: Path, seconds: float, subject: int = 3, day: int = 1) -> Path:
    """Write one recording as pandas does, and return its path."""
    samples = int(seconds * putemg.RATE)
    random = np.random.default_rng(subject)
    counts = np.rint(random.standard_normal((samples, putemg.N_CHANNELS), np.float32) * 60).astype(np.float64)
    frame = pd.DataFrame(counts, columns=list(putemg.CHANNEL_COLUMNS), index=np.arange(samples) / putemg.RATE)
    held = labels(samples).astype(np.float64)
    frame["TRAJ_1"] = held
    frame["type"] = pd.Categorical(["emg_gestures"] * samples)
    frame["subject"] = float(subject)
    frame["trajectory"] = pd.Categorical(["repeats_long"] * samples)
    frame["date_time"] = pd.Timestamp("2018-05-11 11:05:00")
    frame["TRAJ_GT_NO_FILTER"] = held
    frame["VIDEO_STAMP"] = frame.index.to_numpy()
    frame["TRAJ_GT"] = held
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{simulate_putemg.record_name(subject, day, 'repeats_long')}.hdf5"
    path.write_bytes(simulate_putemg.hdf5(frame))
    return path


def shard(folder: Path, seconds: float = SECONDS, subject: int = 3) -> Path:
    """Write one shard, and return its path."""
    samples = int(seconds * putemg.RATE)
    random = np.random.default_rng(subject)
    signal = (random.standard_normal((samples, putemg.N_CHANNELS), np.float32) * 50).astype(np.float16)
    record = simulate_putemg.record_name(subject, 1, "repeats_long")
    write_shard(folder / record, meta(record), signal, windows(samples))
    return folder / record


def windows(samples: int) -> np.ndarray:
    """The windows of such a recording."""
    return whole_windows(labels(samples), list(putemg.GESTURES), WINDOW, STRIDE, transition_margin=0)


def meta(record: str) -> dict[str, object]:
    """What such a shard says of itself."""
    known = from_name(record)
    return {
        "record": record,
        **{key: getattr(known, key) for key in ("subject", "session", "order", "task")},
        "rate": putemg.RATE,
        "unit": "uV",
        "channels": list(putemg.CHANNEL_COLUMNS),
        "rings": rings(range(1, putemg.N_CHANNELS + 1), "monopolar"),
        "classes": list(putemg.GESTURES.values()),
        "rest_classes": ["idle"],
        "simulated": True,
        "arguments": {"window": WINDOW, "stride": STRIDE},
    }
