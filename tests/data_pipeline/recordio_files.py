"""RecordIO sets written by hand, for the tests of this folder."""

import struct
from collections.abc import Sequence
from pathlib import Path

MAGIC = struct.pack("<I", 0xCED7230A)


def part(kind: int, content: bytes) -> bytes:
    """One part of a record, as dmlc's recordio.cc writes it."""
    return MAGIC + struct.pack("<I", kind << 29 | len(content)) + content + bytes(-len(content) % 4)


def image_record(content: bytes, *labels: float, number: int = 0) -> bytes:
    """A record as mxnet's `recordio.pack` makes it: one label in the header, or several behind."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], number, 0) + content
    return struct.pack(f"<IfQQ{len(labels)}f", len(labels), 0, number, 0, *labels) + content


def write_set(folder: Path, records: Sequence[bytes], *, numbers: Sequence[int] = ()) -> Path:
    """`train.rec` of these records in one part each, and its `train.idx`."""
    folder.mkdir(exist_ok=True)
    offset, lines = 0, []
    with (folder / "train.rec").open("wb") as rec:
        for number, record in zip(numbers or range(len(records)), records, strict=True):
            lines.append(f"{number}\t{offset}\n")
            offset += rec.write(part(0, record))
    (folder / "train.idx").write_text("".join(lines))
    return folder
