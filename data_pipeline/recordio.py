"""RecordIO, the container of insightface's `train.rec`: single records, to and from bytes.

A record is one or more parts. A part is the magic word, a word with the part's kind (3 bits) and
length (29 bits), the bytes, and zeros up to a multiple of four. Where a record's bytes hold the
magic word at a multiple of four, the word is left out and the record goes on in another part, so
that a reader that lost its place finds the next record. Everything is little-endian.

An image record begins with a header: a count of labels, one label, two numbers (the first is the
record's). With a count above 0 that many labels follow, and the one in the header means nothing.
Labels are float32. Nothing here knows files by name, or what a record is for.
"""

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt32

from data_pipeline.errors import DataError

MAGIC = struct.pack("<I", 0xCED7230A)
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAX_PART_BYTES = (1 << 29) - 1

_PART = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")

_HEAD = np.dtype(
    [
        ("magic", "<u4"),
        ("part", "<u4"),
        ("labels", "<u4"),
        ("label", "<f4"),
        ("number", "<u8"),
        ("second_number", "<u8"),
        ("first_label", "<f4"),
    ]
)
"""How a record of one part begins; `first_label` is one only where `labels` is above 0."""


class Record(NamedTuple):
    """An image record: float32 labels, one or more, and an encoded image or nothing."""

    labels: tuple[float, ...]
    content: bytes


class Heads(NamedTuple):
    """What the beginnings of records say, one row a record."""

    valid: Bool[np.ndarray, " records"]
    """Whether a record of one part begins there whose header fits into it and into the file."""
    labels: UInt32[np.ndarray, " records"]
    """The count of labels that the header gives: 0 means the one in the header."""
    label: np.ndarray
    """float32, the first label."""
    has_content: Bool[np.ndarray, " records"]


def pack_record(content: bytes, *, labels: float | Sequence[float], number: int) -> bytes:
    """An image record; a single number is written as mxnet writes a scalar label."""
    if isinstance(labels, Sequence):
        header = _HEADER.pack(len(labels), 0.0, number, 0)
        return header + struct.pack(f"<{len(labels)}f", *labels) + content
    return _HEADER.pack(0, labels, number, 0) + content


def unpack_record(record: bytes) -> Record:
    """The labels and the image of a record; raises `DataError` where it is too short for them."""
    if len(record) < _HEADER.size:
        raise DataError(f"a record of {len(record)} bytes, shorter than its header")
    count, label, _, _ = _HEADER.unpack_from(record)
    if count == 0:
        return Record((label,), record[_HEADER.size :])
    start = _HEADER.size + 4 * count
    if len(record) < start:
        raise DataError(f"a record of {len(record)} bytes that claims {count} labels")
    return Record(struct.unpack_from(f"<{count}f", record, _HEADER.size), record[start:])


def framed(record: bytes) -> bytes:
    """The parts of a record as they stand in a file."""
    cuts = []
    at = record.find(MAGIC)
    while at >= 0:
        if at % 4 == 0:
            cuts.append(at)
        at = record.find(MAGIC, at + (4 if at % 4 == 0 else 1))
    starts = [0, *(cut + len(MAGIC) for cut in cuts)]
    contents = [record[a:b] for a, b in zip(starts, [*cuts, len(record)], strict=True)]
    kinds = [FIRST, *[MIDDLE] * (len(cuts) - 1), LAST] if cuts else [WHOLE]
    return b"".join(_part(kind, part) for kind, part in zip(kinds, contents, strict=True))


def read_record(file: int, offset: int, *, max_bytes: int) -> bytes:
    """The record that begins at `offset` of an open file; `DataError` says why there is none."""
    parts: list[bytes] = []
    size = 0
    while True:
        head = os.pread(file, _PART.size, offset)
        if len(head) < _PART.size:
            raise DataError(f"the file ends at byte {offset + len(head)}, inside a record")
        magic, word = _PART.unpack(head)
        kind, length = word >> 29, word & MAX_PART_BYTES
        if magic != MAGIC or kind not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
            raise DataError(f"no record begins or goes on at byte {offset}")
        size += length + len(MAGIC)
        if size > max_bytes:
            raise DataError(f"a record of more than {max_bytes} bytes")
        content = os.pread(file, length, offset + _PART.size)
        if len(content) < length:
            raise DataError(f"the file ends inside the record at byte {offset}")
        parts.append(content)
        if kind in (WHOLE, LAST):
            return MAGIC.join(parts)
        offset += _PART.size + _padded(length)


def heads_at(content: np.ndarray, offsets: np.ndarray) -> Heads:
    """What stands at many offsets of a file's bytes (uint8, mapped); costs some 400 bytes each.

    Offsets may be anything: where no record of one part begins, `valid` is False.
    """
    place = offsets.astype(np.int64)
    inside = (place >= 0) & (place <= len(content) - _PART.size - _HEADER.size)
    start = np.where(inside, place, 0)[:, None] + np.arange(_HEAD.itemsize)
    heads = content[np.minimum(start, len(content) - 1)].view(_HEAD)[:, 0]
    length = (heads["part"] & MAX_PART_BYTES).astype(np.int64)
    header = _HEADER.size + 4 * heads["labels"].astype(np.int64)
    valid = (
        inside
        & (heads["magic"] == int.from_bytes(MAGIC, "little"))
        & (heads["part"] >> 29 == WHOLE)
        & (length >= header)
        & (place + _PART.size + length <= len(content))
    )
    label = np.where(heads["labels"] == 0, heads["label"], heads["first_label"])
    return Heads(valid, heads["labels"].copy(), label, valid & (length > header))


def _part(kind: int, content: bytes) -> bytes:
    fill = bytes(_padded(len(content)) - len(content))
    return _PART.pack(MAGIC, kind << 29 | len(content)) + content + fill


def _padded(length: int) -> int:
    return -(-length // 4) * 4
