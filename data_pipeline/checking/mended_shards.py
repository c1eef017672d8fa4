"""Writing a damaged shard of ours again, out of the samples that are sound.

A shard is written from its records: whatever happened to the tar's own structure, an image whose
CRC-32 holds is as it was. Where every sample is sound the result is the shard as it was packed, to
the byte; otherwise it has another name, so that the old one stays until no index names it.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, groupby
from pathlib import Path
from zlib import crc32

import numpy as np
from jaxtyping import Int64

from data_pipeline.checking.images import faults
from data_pipeline.checking.kinds import KINDS
from data_pipeline.checking.report import ShardState
from data_pipeline.errors import DataError
from data_pipeline.index import MEMBER, Dataset, Shard
from data_pipeline.shard_writer import write_shard
from data_pipeline.sources.tars import MAX_MEMBER_BYTES, LeftOut, sample_of, split
from data_pipeline.tar_stream import TarStream

_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")  # of those that our writer writes
_AGAIN = re.compile(r"-r[0-9]+$")


@dataclass(frozen=True, kw_only=True)
class Mended:
    """A shard that was written again."""

    shard: Shard | None
    """Under its own name where it is as it was packed; `None` where no sample of it is sound."""
    lost: Int64[np.ndarray, " lost"]
    """Places of the samples that it had and has no more, ascending."""


def mended(dataset: Dataset, index: int, state: ShardState, folder: Path) -> Mended:
    """Write a shard again into a folder.

    Raises:
        DataError: neither its records nor its tar are as they were, so that nothing says which
            bytes are right.
    """
    shard = dataset.shards[index]
    tar = dataset.tar_of(index)
    assert isinstance(tar, Path), "tars that are ours lie in the dataset's folder"
    if state.records_usable:
        records = dataset.members(index)
    elif state.tar_intact:
        records = _records_of(tar, dataset)
    else:
        raise DataError(
            f"{shard.name} of {dataset.path} cannot be repaired: both its tar and its records are "
            "damaged; copy one of them again"
        )
    lost = state.bad if state.records_usable else _bad(tar, records, dataset)
    kept = np.delete(np.arange(len(records)), lost)
    if not len(kept):
        return Mended(shard=None, lost=lost)
    keys = _keys(tar) if tar.exists() else {}

    def samples() -> Iterator[tuple[str, bytes, int]]:
        with tar.open("rb") as stream:
            for place in kept.tolist():
                offset, size, crc, label = records[place].item()
                stream.seek(offset)
                content = stream.read(size)
                if crc32(content) != crc:
                    raise DataError(f"{tar} has changed since it was checked; check it again")
                yield keys.get(offset, f"{shard.first_sample + place:09d}"), content, label

    written = write_shard(folder, shard.name, samples(), first_sample=shard.first_sample)
    if (written.tar, written.members) == (shard.tar, shard.members):
        return Mended(shard=written, lost=lost)
    name = _new_name(dataset, shard.name)
    for suffix in ("tar", "members", "idx"):
        (folder / f"{shard.name}.{suffix}").rename(folder / f"{name}.{suffix}")
    return Mended(shard=replace(written, name=name), lost=lost)


def _records_of(tar: Path, dataset: Dataset) -> np.ndarray:
    """The records of a tar of ours that is whole."""
    found = []
    with tar.open("rb") as stream:
        members = TarStream(stream, max_member_bytes=MAX_MEMBER_BYTES)
        for _, group in groupby(members, key=lambda member: split(member.name)[0]):
            sample = None
            with suppress(LeftOut):
                sample = sample_of(group, Counter())
            if sample is not None and sample.label.isdigit():
                content = sample.image.content or b""
                record = (sample.image.offset, sample.image.size, crc32(content))
                found.append((*record, min(int(sample.label), dataset.num_identities)))
    return np.array(found, MEMBER)


def _bad(tar: Path, records: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Places of records that cannot be used, in a tar that is whole."""
    bad = records["label"] >= dataset.num_identities
    with tar.open("rb") as stream:
        for place, (offset, size) in enumerate(records[["offset", "size"]].tolist()):
            content = os.pread(stream.fileno(), size, offset)
            found = faults(content, size=dataset.image_size)
            bad[place] |= any(KINDS[fault.kind].severity == "error" for fault in found)
    return np.flatnonzero(bad)


def _keys(tar: Path) -> dict[int, str]:
    """The key of each member by its offset, as far as the tar can be followed."""
    keys = {}
    with suppress(DataError, OSError), tar.open("rb") as stream:
        for member in TarStream(stream, max_member_bytes=0):
            key = split(member.name)[0]
            if _KEY.fullmatch(key):
                keys[member.offset] = key
    return keys


def _new_name(dataset: Dataset, name: str) -> str:
    """A name that no shard has or had: `shard-000003-r1`, `-r2`, ..."""
    base = _AGAIN.sub("", name)
    taken = {shard.name for shard in dataset.shards}
    names = (f"{base}-r{number}" for number in count(1))
    return next(candidate for candidate in names if candidate not in taken)
