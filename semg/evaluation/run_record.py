"""A training run's config.json and metrics.jsonl, checked, for tables and pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semg.common.errors import DataError
from semg.common.files import expect_file, is_system_file, json_value, read_json
from semg.common.schema import OBJECT, TEXT, check_fields, is_finite, is_whole
from semg.evaluation import metrics

_CONFIG = {"arguments": OBJECT, "derived": OBJECT, "versions": OBJECT, "commit": TEXT}


@dataclass(frozen=True)
class RunRecord:
    """A run; rows: one per epoch; `config`: how it was made and what followed, see train.py."""

    config: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def simulated(self) -> bool:
        """Whether it trained or validated on simulated recordings."""
        return says_simulated(self.config)


def says_simulated(config: dict[str, Any]) -> bool:
    """Whether a run's config.json says that recordings were simulated."""
    derived = config.get("derived")
    subsets = [derived.get(name) for name in ("train", "val")] if isinstance(derived, dict) else []
    return any(isinstance(one, dict) and one.get("simulated") is True for one in subsets)


def is_run(folder: Path) -> bool:
    """Whether train.py wrote `folder`."""
    return (folder / "metrics.jsonl").is_file() and (folder / "config.json").is_file()


def find_runs(path: Path) -> list[Path]:
    """The runs below `path`, sorted."""
    below = sorted(log.parent for log in path.rglob("metrics.jsonl") if is_run(log.parent))
    return [run for run in below if not any(map(is_system_file, run.relative_to(path).parts))]


def read_run_record(folder: Path) -> RunRecord:
    """Read a run's two files. DataError, naming the file, if they are not in the format of train.py."""
    path = folder / "config.json"
    config = read_json(path, "a run's configuration")
    check_fields(path, config, _CONFIG, "a run's configuration", "train.py writes it")
    return RunRecord(config, read_epochs(folder / "metrics.jsonl"))


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, at least one, with `epoch`, and loss and leading metric of both subsets as numbers.

    DataError for anything else.
    """
    expect_file(path, "the metrics.jsonl of a run")
    names = [f"{subset}/{one.name}" for one in (metrics.LOSS, metrics.METRICS[0]) for subset in ("train", "val")]
    try:
        rows = [json_value(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not rows:
            raise ValueError("nothing")
        for row in rows:
            if not isinstance(row, dict) or not is_whole(row.get("epoch")):
                raise ValueError("a line without an epoch")
            if wrong := [name for name in names if not is_finite(row.get(name))]:
                raise ValueError(f"no number for {wrong[0]} in epoch {row['epoch']}")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected one line of metrics an epoch, found {error}") from None
    return rows
