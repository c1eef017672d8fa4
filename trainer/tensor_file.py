"""Writes safetensors files a block at a time, durably, with their checksum.

The safetensors library wants all tensors in memory at once; a rank's rows may be most of it. It
reads what is written here. A write that fails raises OSError, and leaves a file to throw away.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

Rows = tuple[int, dict[str, Tensor]]
"""Where a block begins, and one tensor a name with as many rows."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What a manifest keeps of a file."""

    bytes: int
    sha256: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileFacts:
    """Write tensors on the host to a new file, and wait until the disk has them."""
    layout = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    with path.open("xb") as file:
        offsets = _write_header(file, layout)
        for name, tensor in tensors.items():
            file.seek(offsets[name])
            file.write(_bytes(tensor))
        _sync(file)
    return facts(path)


def write_rows(path: Path, blocks: Iterator[Rows], *, num_rows: int) -> FileFacts:
    """Write `num_rows` consecutive rows, which come in blocks, as one tensor a name."""
    first_row, block = next(blocks)
    layout = {n: (t.dtype, (num_rows, *t.shape[1:])) for n, t in block.items()}
    row_bytes = {name: t[0].numel() * t.element_size() for name, t in block.items()}
    with path.open("xb") as file:
        offsets = _write_header(file, layout)
        start = first_row
        while True:
            for name, tensor in block.items():
                file.seek(offsets[name] + (start - first_row) * row_bytes[name])
                file.write(_bytes(tensor))
            start += len(next(iter(block.values())))
            following = next(blocks, None)
            if following is None:
                break
            assert following[0] == start, "blocks follow one another"
            block = following[1]
        assert start == first_row + num_rows
        _sync(file)
    return facts(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}


def read_rows(path: Path, *, start: int, rows: range, block: int = 65536) -> Iterator[Rows]:
    """The part `rows` of a file whose first row is number `start`, a block at a time."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        for first in range(rows.start, rows.stop, block):
            last = min(first + block, rows.stop)
            yield (
                first,
                {name: file.get_slice(name)[first - start : last - start] for name in names},
            )


def write_durably(path: Path, content: bytes) -> None:
    """Write a new small file, and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(content)
        _sync(file)


def facts(path: Path) -> FileFacts:
    """Size and checksum of a file as it is on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileFacts(bytes=file.tell(), sha256=digest)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_header(
    file: BinaryIO, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> dict[str, int]:
    """Write what is where; the place of each tensor in the file."""
    header: dict[str, Any] = {}
    end = 0
    # Wide items first: then each tensor lies at a multiple of its item's size.
    for name in sorted(layout, key=lambda name: (-layout[name][0].itemsize, name)):
        dtype, shape = layout[name]
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    data = 8 + len(text)
    return {name: data + entry["data_offsets"][0] for name, entry in header.items()}


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
