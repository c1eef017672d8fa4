"""Writing samples into tars of bounded size, with an index of each beside it.

The tars are byte for byte those of WebDataset's `TarWriter` with fixed owner and time, so that the
same samples give the same bytes; their headers are filled in here, which is many times faster than
making each anew. Beside each tar lie the records that our reader uses and an `.idx` in the form
that DALI's `wds2idx` makes.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from zlib import crc32

import numpy as np

from data_pipeline.index import MEMBER, File, Shard, file_of

BLOCK = tarfile.BLOCKSIZE  # a header is one, contents are filled up to whole ones
IDX_VERSION = "v1.2"  # wds2idx's
BUFFER = 1 << 20  # bytes between two writes to the disk


class ShardWriter:
    """Appends samples to shards in a folder; `shards` describes those that are complete."""

    def __init__(
        self,
        folder: Path,
        *,
        shard_bytes: int,
        finished: Sequence[Shard] = (),
        on_complete: Callable[[Shard], None] | None = None,
    ) -> None:
        """Go on after the shards that are `finished`.

        A shard is closed before it would exceed `shard_bytes`, which is when `on_complete` gets it:
        before the sample that did not fit, or at the end.
        """
        self.shards: list[Shard] = list(finished)
        self.num_samples = sum(shard.samples for shard in finished)
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._on_complete = on_complete
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
                self._open.stream.abandon()

    def add(self, content: bytes, *, label: int) -> None:
        """Append one image; its number is the count of those before it."""
        if self._open is not None and self._open.end + 4 * BLOCK + len(content) > self._shard_bytes:
            self._complete(self._open)
        if self._open is None:
            self._open = _OpenShard(self._folder, f"shard-{len(self.shards):06d}", self.num_samples)
        self._open.add(f"{self.num_samples:09d}", content, label)
        self.num_samples += 1

    def _complete(self, shard: "_OpenShard") -> None:
        self._open = None
        self.shards.append(shard.close(self._folder))
        if self._on_complete is not None:
            self._on_complete(self.shards[-1])


def write_shard(
    folder: Path, name: str, samples: Iterable[tuple[str, bytes, int]], *, first_sample: int
) -> Shard:
    """Write one shard of any size: key, image and label of each sample, of which there are some."""
    shard = _OpenShard(folder, name, first_sample)
    try:
        for key, content, label in samples:
            shard.add(key, content, label)
    except BaseException:
        shard.stream.abandon()
        raise
    return shard.close(folder)


class _OpenShard:
    def __init__(self, folder: Path, name: str, first_sample: int) -> None:
        self.name = name
        self.first_sample = first_sample
        self.stream = _Hashing(folder / f"{name}.tar")
        self.end = 0
        self.records: list[tuple[int, int, int, int]] = []
        self.idx: list[str] = []

    def add(self, key: str, content: bytes, label: int) -> None:
        decimal = str(label).encode()
        cls_offset = self.end + BLOCK
        jpg_offset = cls_offset + _blocks(len(decimal)) + BLOCK
        self.end = jpg_offset + _blocks(len(content))
        self.stream.write(
            b"".join(
                (
                    _header(f"{key}.cls", len(decimal)),
                    decimal.ljust(_blocks(len(decimal)), b"\0"),
                    _header(f"{key}.jpg", len(content)),
                    content,
                    bytes(_blocks(len(content)) - len(content)),
                )
            )
        )
        self.records.append((jpg_offset, len(content), crc32(content), label))
        self.idx.append(
            f"cls {cls_offset} {len(decimal)} {key}.cls jpg {jpg_offset} {len(content)} {key}.jpg\n"
        )

    def close(self, folder: Path) -> Shard:
        end = self.end + 2 * BLOCK  # two empty blocks end an archive, which is whole records long
        self.stream.write(bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - self.end))
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

    def __init__(self, path: Path) -> None:
        self.stream = path.open("wb", buffering=BUFFER)
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, content: bytes) -> None:
        self.digest.update(content)
        self.bytes += len(content)
        self.stream.write(content)

    def close(self) -> None:
        self.stream.close()

    def abandon(self) -> None:
        with suppress(OSError):  # it writes what is buffered even now, maybe to a full disk
            self.stream.close()


def _empty_header() -> bytes:
    info = tarfile.TarInfo("")
    info.mode, info.uname, info.gname = 0o444, "facescale", "facescale"
    return info.tobuf(tarfile.USTAR_FORMAT)


SIZE, CHECKSUM = slice(124, 136), slice(148, 156)  # of a header (POSIX.1-1988, ustar)
_EMPTY = _empty_header()
# Of all bytes but the name and the size; the checksum counts its own place as eight blanks.
_SUM = sum(_EMPTY) - sum(_EMPTY[SIZE]) - sum(_EMPTY[CHECKSUM]) + sum(b" " * 8)


def _header(name: str, size: int) -> bytes:
    """The ustar header of a member."""
    text, octal = name.encode("ascii"), b"%011o\0" % size
    header = bytearray(_EMPTY)
    header[: len(text)] = text
    header[SIZE] = octal
    header[CHECKSUM] = b"%06o\0 " % (_SUM + sum(text) + sum(octal))
    return bytes(header)


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
