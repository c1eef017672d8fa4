"""What a packed dataset consists of: `index.json`, and where each sample lies in its tar.

A dataset is a folder:

    index.json              counts, image size, every file with its size and sha256
    shard-000000.tar        `<sample>.cls` (decimal label) and `<sample>.jpg`, one pair a sample
    shard-000000.members    one record a sample: offset, size and CRC-32 of the JPEG, label
    shard-000000.idx        the same offsets as text, for DALI's own reader and other tools
    identities.parquet      label, name in the source, number of images

A tar may also lie elsewhere, under another name or in object storage: then the index gives its
location, and its members may be any image and any label (`reindex`). Opening a dataset checks that
every file of this machine is there in its full length; the records of a shard are read and checked
when they are first needed. A sample's number is its position in the dataset. Nothing here reads
pixels or the network.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from data_pipeline.addresses import Address
from data_pipeline.errors import DataError
from data_pipeline.index_file import (
    INDEX,
    MEMBER,
    File,
    Shard,
    check_size,
    file_of,
    index_json,
    read_index,
    sha256_of,
)

__all__ = [
    "IDENTITIES",
    "INDEX",
    "MEMBER",
    "Dataset",
    "File",
    "Shard",
    "describe",
    "file_of",
    "index_text",
    "sha256_of",
]

IDENTITIES = "identities.parquet"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A packed dataset on disk; `Dataset.open(path)` makes one."""

    path: Path
    num_samples: int
    num_identities: int
    image_size: tuple[int, int] | None
    """(height, width) where all images agree."""
    shards: tuple[Shard, ...]
    extras: Mapping[str, File]
    """Files beside the shards: the identities, and a verification set's pairs."""
    source: Mapping[str, int]
    """What packing counted: listed and unreadable images, identities with one image, ..."""
    unreadable: tuple[str, ...]
    """The first of the images that were left out, each with the reason."""

    @classmethod
    def open(cls, path: Path | str) -> "Dataset":
        """Read `index.json` and check that every file of this machine is there and complete."""
        path = Path(path)
        dataset = cls(path=path, **read_index(path))
        for file_path, file in dataset.local_files().items():
            check_size(file_path, file)
        return dataset

    def files(self) -> dict[str, File]:
        """Every file of the dataset's folder but `index.json`, by name."""
        files = dict(self.extras)
        for shard in self.shards:
            files |= shard.files()
        return files

    def local_files(self) -> dict[Path, File]:
        """Every file of the dataset on this machine but `index.json`, by path."""
        files = {self.path / name: file for name, file in self.files().items()}
        for index, shard in enumerate(self.shards):
            if shard.tar_name is None and isinstance(place := self.tar_of(index), Path):
                files[place] = shard.tar
        return files

    def tar_of(self, shard_index: int) -> Path | Address:
        """Where a shard's tar lies: a path on this machine, or else an address."""
        shard = self.shards[shard_index]
        if shard.tar_name is not None:
            return self.path / shard.tar_name
        address = Address.parse(str(shard.location))
        return address.file if address.is_local else address

    def verify(self) -> None:
        """Read every file of this machine and compare its sha256; `open` compares only sizes.

        A tar in object storage is compared whenever it arrives, so not here.
        """
        for path, file in self.local_files().items():
            check_size(path, file)
            if sha256_of(path) != file.sha256:
                raise DataError(
                    f"{path} is damaged: its sha256 is not the one in {INDEX}; "
                    "copy or pack the dataset again"
                )
        self.images_per_identity()

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples a shard, in order: what a `Plan` asks for."""
        return tuple(shard.samples for shard in self.shards)

    def members(self, shard_index: int) -> np.ndarray:
        """One record of type `MEMBER` for each sample of a shard, read and checked now.

        Labels are taken as they are: one that does not exist spoils its sample, not the shard.
        """
        shard = self.shards[shard_index]
        path = self.path / f"{shard.name}.members"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != shard.members.sha256:
            raise DataError(
                f"{path} is damaged: its sha256 is not the one in {INDEX}; "
                "copy or pack the dataset again"
            )
        records = np.frombuffer(content, MEMBER)
        size = np.uint64(shard.tar.bytes)
        if (records["offset"] > size).any() or (records["size"] > size - records["offset"]).any():
            raise DataError(f"{path} points past the end of its tar; pack the dataset again")
        return records

    def labels(self) -> Int64[np.ndarray, " samples"]:
        """The label of every sample, in order of sample numbers; all must exist."""
        return np.concatenate([self._labels(i) for i in range(len(self.shards))])

    def images_per_identity(self) -> Int64[np.ndarray, " identities"]:
        """How many samples each label has, counted a shard at a time; all labels must exist."""
        images = np.zeros(self.num_identities, np.int64)
        for i in range(len(self.shards)):
            np.add.at(images, self._labels(i), 1)
        return images

    def identity_names(self) -> list[str]:
        """The source's name of each label."""
        from pyarrow import parquet  # 0.2 s and 50 MB that training does not need

        return parquet.read_table(self.path / IDENTITIES, columns=["name"])["name"].to_pylist()

    def _labels(self, shard_index: int) -> np.ndarray:
        label = self.members(shard_index)["label"].astype(np.int64)
        wrong = np.flatnonzero((label < 0) | (label >= self.num_identities))
        if len(wrong):
            sample = self.shards[shard_index].first_sample + wrong[0]
            raise DataError(
                f"{self.path}: sample {sample} has label {label[wrong[0]]}, but {INDEX} counts "
                f"{self.num_identities} identities; pack the dataset again"
            )
        return label


def describe(dataset: Dataset) -> dict[str, Any]:
    """What `facescale data info` says of a dataset."""
    images = dataset.images_per_identity()
    return {
        "path": str(dataset.path),
        "samples": dataset.num_samples,
        "identities": dataset.num_identities,
        "images_per_identity": {
            "min": int(images.min()),
            "median": float(np.median(images)),
            "max": int(images.max()),
        },
        "identities_with_one_image": int((images == 1).sum()),
        "image_size": None if dataset.image_size is None else list(dataset.image_size),
        "shards": len(dataset.shards),
        "bytes": sum(shard.bytes for shard in dataset.shards),
        "source": dict(dataset.source),
        "unreadable": list(dataset.unreadable),
    }


def index_text(dataset: Dataset) -> str:
    """The content of `index.json`."""
    fields = {field: getattr(dataset, field) for field in Dataset.__dataclass_fields__}
    del fields["path"]
    return index_json(**fields)
