"""What a packed dataset consists of: `index.json`, and where each sample lies in its tar.

A dataset is a folder:

    index.json              counts, image size, every file with its size and sha256
    shard-000000.tar        `<sample>.cls` (decimal label) and `<sample>.jpg`, one pair a sample
    shard-000000.members    one record a sample: offset, size and CRC-32 of the JPEG, label
    shard-000000.idx        the same offsets as text, for DALI's own reader and other tools
    identities.parquet      label, name in the source, number of images

Opening one checks that every file is there in its full length; the records of a shard are read
and checked when they are first needed. A sample's number is its position in the dataset. Nothing
here reads pixels.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as parquet
from jaxtyping import Int64

from data_pipeline.errors import DataError

INDEX = "index.json"
IDENTITIES = "identities.parquet"
FORMAT = "facescale-dataset"
VERSION = 1
MEMBER = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("label", "<i8")])

_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the dataset, as it must be found."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar and what is known of it without opening it."""

    name: str
    """Without a suffix: `<name>.tar`, `<name>.members` and `<name>.idx` lie in the folder."""
    samples: int
    first_sample: int
    tar: File
    members: File
    idx: File

    @property
    def bytes(self) -> int:
        """Size of the tar."""
        return self.tar.bytes

    @property
    def sha256(self) -> str:
        """Digest of the tar."""
        return self.tar.sha256

    def files(self) -> dict[str, File]:
        """The shard's files by name."""
        return {
            f"{self.name}.tar": self.tar,
            f"{self.name}.members": self.members,
            f"{self.name}.idx": self.idx,
        }


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
        """Read `index.json` and check that every file it names is there and complete."""
        path = Path(path)
        dataset = _parse(path, _read_json(path))
        for name, file in dataset.files().items():
            _check_size(path / name, file)
        return dataset

    def files(self) -> dict[str, File]:
        """Every file of the dataset but `index.json`, by name."""
        files = dict(self.extras)
        for shard in self.shards:
            files |= shard.files()
        return files

    def verify(self) -> None:
        """Read every file and compare its sha256; `open` compares only sizes."""
        for name, file in self.files().items():
            _check_size(self.path / name, file)
            if sha256_of(self.path / name) != file.sha256:
                raise DataError(
                    f"{self.path / name} is damaged: its sha256 is not the one in {INDEX}; "
                    "copy or pack the dataset again"
                )
        self.labels()

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
        if (records["offset"] + records["size"]).max() > shard.tar.bytes:
            raise DataError(f"{path} points past the end of its tar; pack the dataset again")
        return records

    def labels(self) -> Int64[np.ndarray, " samples"]:
        """The label of every sample, in order of sample numbers; all must exist."""
        label = np.concatenate([self.members(i)["label"] for i in range(len(self.shards))])
        wrong = np.flatnonzero((label < 0) | (label >= self.num_identities))
        if len(wrong):
            raise DataError(
                f"{self.path}: sample {wrong[0]} has label {label[wrong[0]]}, but {INDEX} counts "
                f"{self.num_identities} identities; pack the dataset again"
            )
        return label.astype(np.int64)

    def identity_names(self) -> list[str]:
        """The source's name of each label."""
        return parquet.read_table(self.path / IDENTITIES, columns=["name"])["name"].to_pylist()


def describe(dataset: Dataset) -> dict[str, Any]:
    """What `facescale data info` says of a dataset."""
    images = np.bincount(dataset.labels(), minlength=dataset.num_identities)
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

    def plain(file: File) -> dict[str, Any]:
        return {"bytes": file.bytes, "sha256": file.sha256}

    content = {
        "format": FORMAT,
        "version": VERSION,
        "num_samples": dataset.num_samples,
        "num_identities": dataset.num_identities,
        "image_size": None if dataset.image_size is None else list(dataset.image_size),
        "source": dict(dataset.source),
        "unreadable": list(dataset.unreadable),
        "extras": {name: plain(file) for name, file in dataset.extras.items()},
        "shards": [
            {
                "name": shard.name,
                "samples": shard.samples,
                "tar": plain(shard.tar),
                "members": plain(shard.members),
                "idx": plain(shard.idx),
            }
            for shard in dataset.shards
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def file_of(path: Path) -> File:
    """A file as it is now."""
    return File(bytes=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    """The digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    index = path / INDEX
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not path.exists():
            raise DataError(f"there is no dataset at {path}: the folder does not exist") from None
        raise DataError(
            f"{path} is not a packed dataset: it has no {INDEX}; make one with "
            "`facescale data pack`"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {index}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(
            f"{index} is cut or damaged ({error}); copy or pack the dataset again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{index} does not describe a packed dataset (no format {FORMAT!r})")
    if content.get("version") != VERSION:
        raise DataError(
            f"{index} has format version {content.get('version')!r}; this facescale reads "
            f"version {VERSION}: use the facescale that packed it, or pack it again"
        )
    return content


def _parse(path: Path, content: dict[str, Any]) -> Dataset:
    try:
        first, shards = 0, []
        for entry in content["shards"]:
            shard = Shard(
                name=_name(entry["name"], _SHARD_NAME),
                samples=_count(entry["samples"], least=1),
                first_sample=first,
                tar=_file(entry["tar"]),
                members=_file(entry["members"]),
                idx=_file(entry["idx"]),
            )
            if shard.members.bytes != shard.samples * MEMBER.itemsize:
                raise ValueError(
                    f"{shard.name} has {shard.samples} samples but not as many records"
                )
            shards.append(shard)
            first += shard.samples
        size = content["image_size"]
        dataset = Dataset(
            path=path,
            num_samples=_count(content["num_samples"], least=1),
            num_identities=_count(content["num_identities"], least=1),
            image_size=None
            if size is None
            else (_count(size[0], least=1), _count(size[1], least=1)),
            shards=tuple(shards),
            extras={_name(k, _FILE_NAME): _file(v) for k, v in content["extras"].items()},
            source={str(k): _count(v, least=0) for k, v in content["source"].items()},
            unreadable=tuple(str(line) for line in content["unreadable"]),
        )
        if first != dataset.num_samples:
            raise ValueError(f"its shards hold {first} samples, not {dataset.num_samples}")
        if len({shard.name for shard in shards}) != len(shards):
            raise ValueError("two shards have one name")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path / INDEX} is damaged ({what}); copy or pack the dataset again"
        ) from error
    return dataset


def _file(entry: Any) -> File:
    return File(bytes=_count(entry["bytes"], least=0), sha256=str(entry["sha256"]))


def _count(value: object, *, least: Literal[0, 1]) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r} where a count of at least {least} belongs")
    return value


def _name(value: object, pattern: re.Pattern[str]) -> str:
    """Names in an index become paths, so they are letters and digits, never a way out."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is no file name of a dataset")
    return value


def _check_size(path: Path, file: File) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path} is missing; copy it again, or pack the dataset again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if size != file.bytes:
        raise DataError(
            f"{path} is {'cut' if size < file.bytes else 'changed'}: {size} bytes, not the "
            f"{file.bytes} that {INDEX} names; copy or pack the dataset again"
        )
