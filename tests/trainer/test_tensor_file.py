"""The writer of safetensors files, against the safetensors library."""

import hashlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trainer.tensor_file import Rows, facts, read_rows, read_tensors, write_rows, write_tensors

TENSORS = {
    "bytes": torch.arange(3, dtype=torch.uint8),
    "matrix": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "transposed": torch.arange(6.0).view(2, 3).t(),
    "half": torch.arange(7, dtype=torch.bfloat16),
    "count": torch.tensor(12),
    "nothing": torch.empty(0, 4),
}


def test_the_library_reads_what_is_written(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    found = write_tensors(path, TENSORS)
    torch.testing.assert_close(load_file(path), TENSORS, rtol=0.0, atol=0.0)
    torch.testing.assert_close(read_tensors(path), TENSORS, rtol=0.0, atol=0.0)
    content = path.read_bytes()
    assert (found.bytes, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert facts(path) == found


def blocks(rows: dict[str, Tensor], first: int, size: int) -> Iterator[Rows]:
    for start in range(0, len(rows["centre"]), size):
        yield first + start, {name: value[start : start + size] for name, value in rows.items()}


@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_rows_written_in_blocks_are_read_in_any_pieces(tmp_path: Path, size: int):
    path = tmp_path / "rows.safetensors"
    rows = {"centre": torch.randn(10, 4), "momentum": torch.randn(10, 4)}
    write_rows(path, blocks(rows, 100, size), num_rows=10)
    torch.testing.assert_close(load_file(path), rows, rtol=0.0, atol=0.0)
    pieces = list(read_rows(path, start=100, rows=range(102, 109), block=3))
    assert [start for start, _ in pieces] == [102, 105, 108]
    for name, value in rows.items():
        joined = torch.cat([piece[name] for _, piece in pieces])
        torch.testing.assert_close(joined, value[2:9], rtol=0.0, atol=0.0)


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        write_tensors(path, TENSORS)
    assert path.read_bytes() == b"precious"


def test_a_file_that_may_not_grow_raises_oserror(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_tensors(tmp_path / "a.safetensors", TENSORS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
