"""A small study in CSV, and import_csv.py run on it in this process; conftest.py has it as the fixture `study`."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import import_csv
from semg.data.shards import Shard, open_shards

GESTURES = ["idle", "fist", "open", "pinch"]
RATE = 200


def table(subject: int, rate: float = RATE, channels: int = 8, seconds: float = 3.0) -> pd.DataFrame:
    """Four gestures twice, each on channels of its own, in microvolts."""
    random, pattern = np.random.default_rng(subject), np.random.default_rng(7).uniform(0.3, 3, (4, channels))
    n = int(seconds * rate)
    signal = np.concatenate([random.normal(size=(n, channels)) * pattern[k] * 20 for _ in range(2) for k in range(4)])
    result = pd.DataFrame(signal, columns=[f"ch{i + 1}" for i in range(channels)])
    return result.assign(label=np.repeat(GESTURES * 2, n))


class Study:
    """A folder of recordings with its list, and import_csv.py run on it in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch
        self.list = folder / "recordings.csv"

    def write(self, change=lambda table: table, people: int = 2, name: str = "p{}.csv", **settings) -> "Study":
        names = [name.format(subject) for subject in range(1, people + 1)]
        for subject, file in enumerate(names, 1):
            change(table(subject)).to_csv(self.folder / file, **{"index": False, **settings})
        rows = "".join(f"{file},{subject}\n" for subject, file in enumerate(names, 1))
        self.list.write_text(f"file,subject\n{rows}")
        return self

    def run(self, *words, rate: float = RATE, shards: str = "shards") -> tuple[int, str, str]:
        flags = ["import_csv.py", self.list, "--rate", rate, "--shards", self.folder / shards, *words]
        self._monkeypatch.setattr(sys, "argv", list(map(str, flags)))
        return import_csv.main(), *self._capsys.readouterr()

    def shards(self, name: str = "shards") -> list[Shard]:
        folder = self.folder / name
        return open_shards(folder, sorted(path.name for path in folder.iterdir() if path.is_dir()))
