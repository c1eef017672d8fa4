"""Reads single faces out of packed shards, still encoded, and checks that their bytes are right.

A face is found by the offset that the shard's records give and compared with its CRC-32, so bytes
that changed on disk are noticed even where they would still decode. Tars are never extracted; one
that lies in object storage is fetched when its first face is read.
"""

import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from data_pipeline.image_header import MAX_IMAGE_BYTES, MAX_PIXELS, read_header
from data_pipeline.index import Dataset
from data_pipeline.tar_files import TarFiles

Reason = Literal["read", "crc", "label", "decode", "oversized"]
"""Why a sample cannot be used: its file fails, its bytes changed, its identity does not exist, it
is no image, or one too large to be decoded."""


class BadSampleError(Exception):
    """One sample that cannot be used; the loader replaces it."""

    def __init__(self, sample: int, reason: Reason) -> None:
        super().__init__(f"sample {sample}: {reason}")
        self.sample = sample
        self.reason: Reason = reason


class EncodedFace(NamedTuple):
    """The bytes of an image file, and whose face it is."""

    content: bytes
    label: int


@dataclass(frozen=True)
class _OpenShard:
    file: int
    records: np.ndarray


class ShardReader:
    """Random access to the faces of a dataset over at most `max_open` open shards."""

    def __init__(self, dataset: Dataset, *, max_open: int, tars: TarFiles | None = None) -> None:
        self._dataset = dataset
        self._tars = tars or TarFiles(dataset)
        self._max_open = max_open
        self._first_samples = [shard.first_sample for shard in dataset.shards]
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()  # least recently used first

    def read(self, sample: int) -> EncodedFace:
        """One face.

        Raises:
            BadSampleError: it cannot be used.
            DataError: its shard's records are damaged, or its tar cannot be fetched.
        """
        index = bisect_right(self._first_samples, sample) - 1
        try:
            shard = self._shard(index)
            offset, size, crc32, label = shard.records[sample - self._first_samples[index]].item()
            if size > MAX_IMAGE_BYTES:
                raise BadSampleError(sample, "oversized")
            content = os.pread(shard.file, size, offset)
        except OSError as error:
            raise BadSampleError(sample, "read") from error
        if len(content) != size:
            raise BadSampleError(sample, "read")
        if zlib.crc32(content) != crc32:
            raise BadSampleError(sample, "crc")
        if not 0 <= label < self._dataset.num_identities:
            raise BadSampleError(sample, "label")
        return EncodedFace(content, label)

    def read_image(self, sample: int) -> EncodedFace:
        """One face that may be decoded: its header is an image's, of at most `MAX_PIXELS` pixels.

        Raises:
            BadSampleError, DataError: as `read`.
        """
        face = self.read(sample)
        header = read_header(face.content)
        if header is None:
            raise BadSampleError(sample, "decode")
        if header.pixels > MAX_PIXELS:
            raise BadSampleError(sample, "oversized")
        return face

    def where(self, sample: int) -> str:
        """The place of a sample in words, for messages."""
        index = bisect_right(self._first_samples, sample) - 1
        tar, number = self._dataset.tar_of(index).name, sample - self._first_samples[index]
        return f"sample {sample} ({tar}, number {number})"

    def close(self) -> None:
        """Close all files; a later `read` opens them again."""
        while self._open:
            os.close(self._open.popitem()[1].file)

    def _shard(self, index: int) -> _OpenShard:
        shard = self._open.get(index)
        if shard is not None:
            self._open.move_to_end(index)
            return shard
        records = self._dataset.members(index)
        while len(self._open) >= self._max_open:
            os.close(self._open.popitem(last=False)[1].file)
        shard = self._open[index] = _OpenShard(self._tars.open(index), records)
        return shard
