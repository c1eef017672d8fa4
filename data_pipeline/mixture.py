"""Several datasets as one: samples and shards in a row, and one numbering of identities.

How often each is read is said by `orders.mixed`; without it, all is one large dataset.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from data_pipeline.addresses import Address
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset, File

Labels = Literal["separate", "disjoint", "shared"]
"""Who is who in several datasets.

`separate`: unknown, so each has its own identities, and a face should compete only with those of
its own dataset. `disjoint`: nobody is in two of them. `shared`: the same name is the same person.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture(Dataset):
    """What `mix` makes; `path` is that of the first."""

    parts: tuple[Dataset, ...]
    label_of: tuple[Int64[np.ndarray, "_"], ...]
    """For each part, the label here of each of its labels."""
    labels_are: Labels

    @property
    def label_edges(self) -> tuple[int, ...] | None:
        """Labels [edges[i], edges[i + 1]) are those of part i alone; `None` where they compete."""
        if self.labels_are != "separate":
            return None
        return tuple(np.cumsum([0, *(part.num_identities for part in self.parts)]).tolist())

    def members(self, shard_index: int) -> np.ndarray:
        """The records of a shard with the labels of the whole; one that does not exist is -1."""
        part, shard = self._at(shard_index)
        label_of = self.label_of[part]
        records = self.parts[part].members(shard).copy()
        label = records["label"]
        exists = (label >= 0) & (label < len(label_of))
        records["label"] = np.where(exists, label_of[np.where(exists, label, 0)], -1)
        return records

    def tar_of(self, shard_index: int) -> Path | Address:
        """Where a shard's tar lies."""
        part, shard = self._at(shard_index)
        return self.parts[part].tar_of(shard)

    def files(self) -> dict[str, File]:
        """Every part's files, by path as text."""
        return {
            f"{part.path}/{name}": file
            for part in self.parts
            for name, file in part.files().items()
        }

    def local_files(self) -> dict[Path, File]:
        """Every part's files of this machine, by path."""
        return {path: file for part in self.parts for path, file in part.local_files().items()}

    def identity_names(self) -> list[str]:
        """The source's name of each label."""
        names = [""] * self.num_identities
        for part, label_of in zip(self.parts, self.label_of, strict=True):
            for label, name in zip(label_of.tolist(), part.identity_names(), strict=True):
                names[label] = name
        return names

    def _at(self, shard_index: int) -> tuple[int, int]:
        """The part of a shard, and its number there."""
        for number, part in enumerate(self.parts):
            if shard_index < len(part.shards):
                return number, shard_index
            shard_index -= len(part.shards)
        raise IndexError(f"the datasets have {len(self.shards)} shards together")


def mix(parts: Sequence[Dataset], *, labels: Labels) -> Mixture:
    """Make several datasets one; the first one's labels stay as they are."""
    if not parts:
        raise DataError("nothing to mix; name at least one dataset")
    if labels == "shared":
        label_of, num_identities = _by_name(parts)
    else:
        edges = np.cumsum([0, *(part.num_identities for part in parts)]).tolist()
        label_of = [np.arange(first, end) for first, end in pairwise(edges)]
        num_identities = edges[-1]
    shards, first_sample = [], 0
    for part in parts:
        shards += [
            replace(shard, first_sample=first_sample + shard.first_sample) for shard in part.shards
        ]
        first_sample += part.num_samples
    sizes = {part.image_size for part in parts}
    return Mixture(
        path=parts[0].path,
        num_samples=first_sample,
        num_identities=num_identities,
        image_size=sizes.pop() if len(sizes) == 1 else None,
        shards=tuple(shards),
        extras={},
        source={},
        unreadable=(),
        parts=tuple(parts),
        label_of=tuple(label_of),
        labels_are=labels,
    )


def _by_name(parts: Sequence[Dataset]) -> tuple[list[Int64[np.ndarray, "_"]], int]:
    """The labels of every part's identities, equal where names are, and how many there are."""
    label_by_name: dict[str, int] = {}
    label_of = []
    for part in parts:
        names = part.identity_names()
        found = [label_by_name.setdefault(name, len(label_by_name)) for name in names]
        label_of.append(np.asarray(found, np.int64))
    return label_of, len(label_by_name)
