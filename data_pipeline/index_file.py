"""`index.json` as text: reading it with every value checked, and writing it.

An index comes from outside, so a name in it is letters and digits and never a way out of its
folder, and a tar that lies elsewhere has an address of one of the allowed forms. What the values
mean is said in `index`.
"""

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.addresses import Address, is_address
from data_pipeline.errors import DataError

INDEX = "index.json"
FORMAT = "facescale-dataset"
VERSION = 1
MOST = 1 << 62  # of any count: what is added to it still has 64 bits
MEMBER = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("label", "<i8")])
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file of the dataset, as it must be found."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar and what is known of it without opening it."""

    name: str
    """Without a suffix: `<name>.members` and `<name>.idx` lie in the dataset's folder."""
    samples: int
    first_sample: int
    tar: File
    members: File
    idx: File
    location: str | None = None
    """Where the tar lies, if not in the folder as `<name>.tar`: the name of another file there,
    or an `Address`."""

    @property
    def bytes(self) -> int:
        """Size of the tar."""
        return self.tar.bytes

    @property
    def sha256(self) -> str:
        """Digest of the tar."""
        return self.tar.sha256

    @property
    def tar_name(self) -> str | None:
        """The tar's file name in the dataset's folder; `None` where it has an address."""
        if self.location is None:
            return f"{self.name}.tar"
        return None if is_address(self.location) else self.location

    def files(self) -> dict[str, File]:
        """The shard's files in the dataset's folder, by name."""
        tar = {} if self.tar_name is None else {self.tar_name: self.tar}
        return tar | {f"{self.name}.members": self.members, f"{self.name}.idx": self.idx}


def read_index(folder: Path) -> dict[str, Any]:
    """The fields of the `Dataset` in a folder, but its path; `DataError` where one is wrong."""
    return _parsed(_read_json(folder / INDEX), folder / INDEX)


def index_json(
    *,
    num_samples: int,
    num_identities: int,
    image_size: tuple[int, int] | None,
    shards: tuple[Shard, ...],
    extras: Mapping[str, File],
    source: Mapping[str, int],
    unreadable: tuple[str, ...],
) -> str:
    """The content of `index.json` for the fields of a `Dataset`."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "num_samples": num_samples,
        "num_identities": num_identities,
        "image_size": None if image_size is None else list(image_size),
        "source": dict(source),
        "unreadable": list(unreadable),
        "extras": {name: _plain(file) for name, file in extras.items()},
        "shards": [
            {
                "name": shard.name,
                "samples": shard.samples,
                **({} if shard.location is None else {"location": shard.location}),
                "tar": _plain(shard.tar),
                "members": _plain(shard.members),
                "idx": _plain(shard.idx),
            }
            for shard in shards
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


def check_size(path: Path, file: File) -> None:
    """Refuse a file that is missing or has another size than the index names."""
    try:
        info = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; copy it again, or pack the dataset again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(info.st_mode):
        raise DataError(f"{path} is no regular file; copy or pack the dataset again")
    if info.st_size != file.bytes:
        raise DataError(
            f"{path} is {'cut' if info.st_size < file.bytes else 'changed'}: {info.st_size} bytes, "
            f"not the {file.bytes} that {INDEX} names; copy or pack the dataset again"
        )


def _plain(file: File) -> dict[str, Any]:
    return {"bytes": file.bytes, "sha256": file.sha256}


def _read_json(index: Path) -> dict[str, Any]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not index.parent.exists():
            raise DataError(
                f"there is no dataset at {index.parent}: the folder does not exist"
            ) from None
        raise DataError(
            f"{index.parent} is not a packed dataset: it has no {INDEX}; make one with "
            "`facescale data pack`"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {index}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
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


def _parsed(content: dict[str, Any], index: Path) -> dict[str, Any]:
    try:
        first, shards = 0, []
        for entry in content["shards"]:
            shard = _shard(entry, first_sample=first)
            shards.append(shard)
            first += shard.samples
        size = content["image_size"]
        fields = {
            "num_samples": _count(content["num_samples"], least=1),
            "num_identities": _count(content["num_identities"], least=1),
            "image_size": None
            if size is None
            else (_count(size[0], least=1), _count(size[1], least=1)),
            "shards": tuple(shards),
            "extras": {_name(k, FILE_NAME): _file(v) for k, v in content["extras"].items()},
            "source": {str(k): _count(v, least=0) for k, v in content["source"].items()},
            "unreadable": tuple(str(line) for line in content["unreadable"]),
        }
        if first != fields["num_samples"]:
            raise ValueError(f"its shards hold {first} samples, not {fields['num_samples']}")
        if len({shard.name for shard in shards}) != len(shards):
            raise ValueError("two shards have one name")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{index} is damaged ({what}); copy or pack the dataset again") from error
    return fields


def _shard(entry: Any, *, first_sample: int) -> Shard:
    shard = Shard(
        name=_name(entry["name"], SHARD_NAME),
        samples=_count(entry["samples"], least=1),
        first_sample=first_sample,
        tar=_file(entry["tar"]),
        members=_file(entry["members"]),
        idx=_file(entry["idx"]),
        location=_location(entry.get("location")),
    )
    if shard.members.bytes != shard.samples * MEMBER.itemsize:
        raise ValueError(f"{shard.name} has {shard.samples} samples but not as many records")
    return shard


def _location(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and is_address(value):
        return str(Address.parse(value))
    return _name(value, FILE_NAME)


def _file(entry: Any) -> File:
    return File(bytes=_count(entry["bytes"], least=0), sha256=str(entry["sha256"]))


def _count(value: object, *, least: Literal[0, 1]) -> int:
    if type(value) is not int or not least <= value < MOST:
        raise ValueError(f"{value!r} where a count of at least {least} belongs")
    return value


def _name(value: object, pattern: re.Pattern[str]) -> str:
    """Names in an index become paths, so they are letters and digits, never a way out."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is no file name of a dataset")
    return value
