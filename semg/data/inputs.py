"""What data runs are of, so that runs of different data are not taken for runs of the same."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from semg.data.shards import Shard, data_checksum, open_shards
from semg.data.splits import SUBSETS, Split


def shards_of(splits: Iterable[Split], folder: Path) -> dict[str, Shard]:
    """All shards that some splits name, by name."""
    records = sorted({name for split in splits for subset in SUBSETS for name in split.records(subset)})
    return dict(zip(records, open_shards(folder, records), strict=True))


@dataclass(frozen=True)
class Inputs:
    """What data a fold's runs are of: checksums of the split's lists, of the shards that are trained and validated on
    together, and of each one that is scored."""

    split: str
    shards: str
    scored: dict[str, str]

    @classmethod
    def of(cls, split: Split, shards: Mapping[str, Shard]) -> "Inputs":
        """shards: by name, at least those that the split names."""
        trained = [shards[name] for subset in ("train", "val") for name in split.records(subset)]
        scored = {name: shards[name].content for name in split.records("test")}
        return cls(split.checksum, data_checksum(trained), scored)

    @property
    def of_training(self) -> dict[str, str]:
        """What a trained model depends on, as train.py writes it."""
        return {"split_sha256": self.split, "shards_sha256": self.shards}
