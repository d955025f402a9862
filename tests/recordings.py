"""Small recordings in putEMG's real layout, for tests: written by pandas, as the originals were."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

RATE = 5120
DAY, TIME = "2018-05-11", "11-05-00-695"


def record_name(subject: int = 3, trajectory: str = "repeats_long", day: str = DAY) -> str:
    return f"emg_gestures-{subject:02d}-{trajectory}-{day}-{TIME}"


def frame(subject: int = 3, trajectory: str = "repeats_long", samples: int = 600, seed: int = 0) -> pd.DataFrame:
    """A table with putEMG's columns and types: whole counts as float64, time in seconds as index."""
    counts = np.random.default_rng([seed, subject]).integers(-300, 300, (samples, 24)).astype(np.float64)
    result = pd.DataFrame(counts, columns=[f"EMG_{i}" for i in range(1, 25)], index=np.arange(samples) / RATE)
    labels = np.repeat([0.0, 1.0, -1.0], -(-samples // 3))[:samples]
    result["TRAJ_1"] = labels
    result["type"] = pd.Categorical(["emg_gestures"] * samples)
    result["subject"] = float(subject)
    result["trajectory"] = pd.Categorical([trajectory] * samples)
    result["date_time"] = pd.Timestamp("2018-05-11 11:05:00")
    result["TRAJ_GT_NO_FILTER"] = labels
    result["VIDEO_STAMP"] = result.index.to_numpy()
    result["TRAJ_GT"] = labels
    return result


def write(folder: Path, table: pd.DataFrame, name: str | None = None, **settings: object) -> Path:
    """Write `table` as a recording into `folder`; `settings` go to pandas."""
    path = folder / f"{name or record_name()}.hdf5"
    table.to_hdf(path, **{"key": "data", "format": "table", "mode": "w", **settings})
    return path


@cache
def recording_bytes(subject: int = 3, samples: int = 600, seed: int = 0, complevel: int = 5) -> bytes:
    """The bytes of a small recording of `subject`."""
    with TemporaryDirectory() as folder:
        return write(Path(folder), frame(subject, samples=samples, seed=seed), complevel=complevel).read_bytes()
