"""How a trained model was made, and where its training data are now."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from semg.common.console import listed
from semg.common.errors import DataError
from semg.common.files import places_near
from semg.common.schema import OBJECT, TEXT, TEXTS, Field, check_fields, folder_name, is_finite
from semg.data.splits import met_before
from semg.evaluation import metrics
from semg.inference.checkpoint import Checkpoint

_SHARDS = "preprocess.py makes it, and `make demo` that of the shipped example"
_FIELDS = {
    "run": Field("the name of a folder", folder_name),  # results are written under this name
    "shards": TEXT,
    "split.folder": TEXT,
    "split.name": TEXT,
    "split.train": TEXTS,
    "trained_on": TEXTS,
    "calibrated_on": replace(TEXTS, needed=False),
    "calibrated_on_sha256": replace(TEXTS, needed=False),
    **dict.fromkeys(("validation", "validation_per_subject"), replace(OBJECT, needed=False)),
    **{f"validation.val/{one.name}": Field("a number", is_finite, needed=False) for one in metrics.headlines()},
}


@dataclass(frozen=True)
class Origin:
    """The run, and the people, that a model was trained on. shards, split: the folders that train.py was given.
    judges: the validation people, on whom its epoch was chosen. calibrated_on: the files whose labels adapt.py used.
    adaptations: the files that adapt.py adapted it to without labels, each time that the safeguard accepted it, in
    order."""

    checkpoint: Path
    run: str
    shards: Path
    split: Path
    records: frozenset[str]
    subjects: frozenset[str]
    judges: frozenset[str]
    calibrated_on: frozenset[str]
    adaptations: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Origin":
        """Read from the checkpoint. DataError if it lacks them."""
        path, about = checkpoint.path, checkpoint.description
        check_fields(path, about, _FIELDS, "a trained model, best_model.ckpt", "train.py writes one")
        split, people = about["split"], frozenset(about["trained_on"])
        records, judges = frozenset(split["train"]), frozenset(about.get("validation_per_subject") or ())
        folders, taught = (Path(about["shards"]), Path(split["folder"])), frozenset(about.get("calibrated_on") or ())
        return cls(path, about["run"], *folders, records, people, judges, taught, _adaptations(path, about))

    def leaks(self, people: Collection[str], subset: str) -> dict[str, list[str]]:
        """Which of the people scored were trained on, and which others the model was chosen on, as metrics.json says
        it. A calibrated or adapted model also has the files whose labels or signals it has seen, because they do not
        say which person they are of."""
        return {
            **met_before(people, self.subjects, self.judges, subset),
            **({"calibrated_on": sorted(self.calibrated_on)} if self.calibrated_on else {}),
            **({"adapted_to": self._adapted_to} if self.adaptations else {}),
        }

    @property
    def _adapted_to(self) -> list[str]:
        return sorted(set(chain.from_iterable(self.adaptations)))

    def warnings(self) -> list[str]:
        """For whoever scores a model that has learnt from a person's recordings since its training; empty for
        others."""
        done = (("CALIBRATED ON LABELS OF", sorted(self.calibrated_on)), ("ADAPTED TO SIGNALS OF", self._adapted_to))
        return [f"THE MODEL WAS {how} {listed(files)}. It is not new to that person." for how, files in done if files]

    def folders(self, shards: Path | None, split: Path | None) -> tuple[Path, Path]:
        """The folders of shards and of a split: those given, otherwise those of the training.

        DataError if a folder of the training is not found, or has no shards.
        """
        shards = shards or self._found(self.shards, f"{_SHARDS}; {{shards}} names another")
        split = split or self._found(self.split, "{split} names another")
        if not shards.is_dir():
            raise DataError(f"{shards}: expected a folder of shards, found none", f"{_SHARDS}; is {{shards}} right?")
        return shards, split

    def _found(self, folder: Path, hint: str) -> Path:
        """A folder that training was given: as seen from here, or, if it is relative, from a folder above the
        checkpoint.

        DataError, which ends with the hint, if it is in none of these places.
        """
        _, *above = places = places_near(folder, self.checkpoint)
        for place in places:
            if place.is_dir():
                return place
        tried = f" here, nor in {', '.join(str(place.parent) for place in above)}" if above else ""
        found = f"expected this folder, with which {self.checkpoint} was trained, found none{tried}"
        raise DataError(f"{folder}: {found}", hint)


def _adaptations(path: Path, about: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """What adapt.py did with a model without labels, as in `Origin`. DataError if the checkpoint says something
    else."""
    done: list[tuple[str, ...]] = []
    key = "adapted"
    while about.get(key) is not None:
        check_fields(path, about, {key: OBJECT, f"{key}.recordings": TEXTS}, "what adapt.py did", "adapt it again")
        about, key = about[key], "earlier"
        if about.get("accepted"):
            done.insert(0, tuple(about["recordings"]))
    return tuple(done)
