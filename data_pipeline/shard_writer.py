"""Writing samples into tars of bounded size, with an index of each beside it.

The tars are WebDataset's, written by its own `TarWriter` with fixed owner and time, so that the
same samples give the same bytes. Beside each lie the records that our reader uses and an `.idx`
in the form that DALI's `wds2idx` makes.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast
from zlib import crc32

import numpy as np
from webdataset.writer import TarWriter

from data_pipeline.index import MEMBER, File, Shard, file_of

BLOCK = 512  # of a tar: a header is one, contents are filled up to whole ones
IDX_VERSION = "v1.2"  # wds2idx's


class ShardWriter:
    """Appends samples to shards in a folder; `shards` describes those that are complete."""

    def __init__(self, folder: Path, *, shard_bytes: int) -> None:
        """Start with no shard open; one is closed before it would exceed `shard_bytes`."""
        self.shards: list[Shard] = []
        self.num_samples = 0
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._open: _OpenShard | None = None

    def __enter__(self) -> "ShardWriter":
        """Shards are closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Complete the last shard, or on an error just let go of its file."""
        if self._open is not None:
            if kind is None:
                self._complete(self._open)
            else:
                self._open.abandon()

    def add(self, content: bytes, *, label: int) -> None:
        """Append one image; its number is the count of those before it."""
        if self._open is not None and self._open.end + 4 * BLOCK + len(content) > self._shard_bytes:
            self._complete(self._open)
        if self._open is None:
            self._open = _OpenShard(self._folder, f"shard-{len(self.shards):06d}", self.num_samples)
        self._open.add(f"{self.num_samples:09d}", content, label)
        self.num_samples += 1

    def _complete(self, shard: "_OpenShard") -> None:
        self.shards.append(shard.close(self._folder))
        self._open = None


class _OpenShard:
    def __init__(self, folder: Path, name: str, first_sample: int) -> None:
        self.name = name
        self.first_sample = first_sample
        self.stream = _Hashing((folder / f"{name}.tar").open("wb"))
        self.tar = TarWriter(
            cast(BinaryIO, self.stream),  # it only writes
            user="facescale",
            group="facescale",
            encoder=False,
            mtime=0,
            compress=False,
        )
        self.end = 0
        self.records: list[tuple[int, int, int, int]] = []
        self.idx: list[str] = []

    def add(self, key: str, content: bytes, label: int) -> None:
        decimal = str(label).encode()
        self.tar.write({"__key__": key, "cls": decimal, "jpg": content})  # in this order
        cls_offset = self.end + BLOCK
        jpg_offset = cls_offset + _blocks(len(decimal)) + BLOCK
        self.end = jpg_offset + _blocks(len(content))
        self.records.append((jpg_offset, len(content), crc32(content), label))
        self.idx.append(
            f"cls {cls_offset} {len(decimal)} {key}.cls jpg {jpg_offset} {len(content)} {key}.jpg\n"
        )

    def abandon(self) -> None:
        with suppress(OSError):  # the tar writes its end even now, maybe to a full disk
            self.tar.close()
        self.stream.close()

    def close(self, folder: Path) -> Shard:
        self.tar.close()
        self.stream.close()
        members, idx = folder / f"{self.name}.members", folder / f"{self.name}.idx"
        members.write_bytes(np.array(self.records, MEMBER).tobytes())
        idx.write_text("".join((f"{IDX_VERSION} {len(self.idx)}\n", *self.idx)))
        return Shard(
            name=self.name,
            samples=len(self.records),
            first_sample=self.first_sample,
            tar=File(bytes=self.stream.bytes, sha256=self.stream.digest.hexdigest()),
            members=file_of(members),
            idx=file_of(idx),
        )


class _Hashing:
    """A file to write to that knows its size and sha256."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.bytes += len(content)
        return self.stream.write(content)

    def close(self) -> None:
        self.stream.close()


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
