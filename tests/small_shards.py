"""Small shards and splits for tests, written by the real writer: each class is louder on channels of its own."""

from pathlib import Path

import numpy as np

from semg.data.shards import write_shard
from semg.data.windows import whole_windows

RINGS = [[*range(first, first + 8)] for first in (0, 8, 16)]
CLASSES = ["idle", "fist", "flexion", "extension"]
WINDOW, STRIDE, RATE = 320, 160, 5120.0
ARGUMENTS = {"window": WINDOW, "stride": STRIDE, "low": 20.0, "high": 700.0, "causal": False, "transition_margin": 0.0}


def name(subject: int, trajectory: str = "repeats_long", day: int = 11) -> str:
    return f"emg_gestures-{subject:02d}-{trajectory}-2018-05-{day:02d}-10-00-00-000"


def labels(repetitions: int = 3, length: int = 960) -> np.ndarray:
    return np.tile(np.repeat(np.arange(len(CLASSES), dtype=np.int8), length), repetitions)


def write(
    folder: Path, subject: int, trajectory: str = "repeats_long", day: int = 11, repetitions: int = 3, **changes
) -> str:
    """Write one shard; returns its record name. `changes` replace what shard.json says."""
    random = np.random.default_rng([subject, len(trajectory), day])
    label = labels(repetitions)
    loud = 20.0 + 60.0 * (np.arange(24)[None] % len(CLASSES) == label[:, None])
    signal = (random.normal(size=(len(label), 24)) * loud * random.uniform(0.5, 2)).astype(np.float16)
    record = name(subject, trajectory, day)
    meta = {
        "record": record,
        "subject": f"{subject:02d}",
        "session": f"2018-05-{day:02d}",
        "order": day,
        "task": trajectory,
        "rate": RATE,
        "unit": "uV",
        "channels": [f"EMG_{i}" for i in range(1, 25)],
        "rings": RINGS,
        "classes": CLASSES,
        "rest_classes": ["idle"],
        "simulated": False,
        "arguments": ARGUMENTS,
        **changes,
    }
    window = meta["arguments"]["window"]
    write_shard(
        folder / record, meta, signal, whole_windows(label, range(len(CLASSES)), window, STRIDE, transition_margin=0)
    )
    return record


def write_split(folder: Path, **subsets: list[str]) -> Path:
    """Write a split by hand, as a person would: three lists of names."""
    folder.mkdir(parents=True, exist_ok=True)
    for subset in ("train", "val", "test"):
        (folder / f"{subset}.txt").write_text("".join(f"{line}\n" for line in subsets[subset]))
    return folder


def write_all(folder: Path) -> tuple[Path, Path]:
    """Five people's shards, and a split of three, one and one: (shards, split)."""
    shards = folder / "shards"
    records = [write(shards, subject) for subject in range(1, 6)]
    return shards, write_split(folder / "split", train=records[:3], val=records[3:4], test=records[4:])
