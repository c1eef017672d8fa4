"""A dataset as a source: to shuffle tars that were only indexed, to align them, to pack them anew.

Tars that were written in the order of their identities train badly, since a lane shuffles only a
few shards at a time; packing them once more mixes them. An image's name is its sample number.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.shards import BadSampleError, ShardReader

OPEN_SHARDS = 64  # images are read in random order, so nearly every one from another shard


@dataclass(kw_only=True)
class PackedSource:
    """The images of a dataset; `PackedSource.open(path)` makes one."""

    dataset: Dataset
    _reader: ShardReader | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path | str) -> "PackedSource":
        """Open a dataset that was packed or indexed."""
        return cls(dataset=Dataset.open(path))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(name of the identity, sample number) of every sample, a shard at a time."""
        names = self.dataset.identity_names()
        for index, shard in enumerate(self.dataset.shards):
            for number, label in enumerate(self.dataset.members(index)["label"].tolist()):
                if not 0 <= label < len(names):
                    raise DataError(
                        f"{self.dataset.path}: sample {shard.first_sample + number} has label "
                        f"{label}, which does not exist; check the dataset"
                    )
                yield names[label], str(shard.first_sample + number)

    def read(self, identity: str, image: str) -> bytes:
        """The bytes of one sample; the name of the identity is not looked at."""
        if self._reader is None:
            self._reader = ShardReader(self.dataset, max_open=OPEN_SHARDS)
        try:
            return bytes(self._reader.read(int(image)).content)
        except BadSampleError as error:
            raise DataError(f"its bytes cannot be used ({error.reason})") from error

    def counts(self) -> Mapping[str, int]:
        """What making the dataset had left out already."""
        return {f"earlier_{name}": count for name, count in self.dataset.source.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: other processes open their own."""
        return {"dataset": self.dataset, "_reader": None}
