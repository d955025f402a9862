"""Which data a run was made from, so that runs with different data are not mistaken for each other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from semg.data.shards import Shard, data_checksum, open_shards
from semg.data.splits import SUBSETS, Split


def shards_of(splits: Iterable[Split], folder: Path) -> dict[str, Shard]:
    """All shards that the splits contain, by name."""
    records = sorted({name for split in splits for subset in SUBSETS for name in split.records(subset)})
    return dict(zip(records, open_shards(folder, records), strict=True))


@dataclass(frozen=True)
class Inputs:
    """The data of a fold's runs: the checksum of the split's lists, a common checksum of the shards for training and
    validation, and a checksum of each shard that is scored."""

    split: str
    shards: str
    scored: dict[str, str]

    @classmethod
    def of(cls, split: Split, shards: Mapping[str, Shard]) -> "Inputs":
        """shards: by name, at least those in the split."""
        trained = [shards[name] for subset in ("train", "val") for name in split.records(subset)]
        scored = {name: shards[name].content for name in split.records("test")}
        return cls(split.checksum, data_checksum(trained), scored)

    @property
    def of_training(self) -> dict[str, str]:
        """What a trained model depends on, as train.py records it."""
        return {"split_sha256": self.split, "shards_sha256": self.shards}
