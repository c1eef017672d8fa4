"""Tables in large pages: asked for where it is worth it, and a table like any other."""

import ctypes
import mmap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sharded_fc import huge_pages
from sharded_fc.storage import Rows

CPU = torch.device("cpu")


def flags(table: Tensor) -> set[str]:
    """What the kernel knows of the memory in the middle of a table."""
    middle = table.data_ptr() + table.nbytes // 2
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if "-" in name and not name.endswith(":"):
            first, last = (int(bound, 16) for bound in name.split("-"))
            inside = first <= middle < last
        elif inside and name == "VmFlags:":
            return set(values)
    raise AssertionError("no mapping holds the table")


def test_a_large_table_asks_for_large_pages():
    assert "hg" in flags(huge_pages.empty(3000, 1024, dtype=torch.float32, device=CPU))


@pytest.mark.parametrize(("num_rows", "asks"), [(3000, 1), (10, 0)])
def test_what_is_asked_for_lies_inside_a_table_that_is_worth_it(num_rows, asks, monkeypatch):
    asked = []

    def advise(start: ctypes.c_void_p, size: ctypes.c_size_t, advice: int) -> None:
        asked.append((start.value or 0, size.value))

    monkeypatch.setattr(huge_pages, "_madvise", lambda: advise)
    table = huge_pages.empty(num_rows, 1024, dtype=torch.float32, device=CPU)
    assert len(asked) == asks
    for start, size in asked:
        assert start % mmap.PAGESIZE == size % mmap.PAGESIZE == 0
        assert table.data_ptr() <= start
        assert start + size <= table.data_ptr() + table.nbytes


def test_a_table_has_its_shape_and_keeps_what_is_written():
    table = huge_pages.empty(2049, 1025, dtype=torch.bfloat16, device=CPU)
    number = torch.arange(table.numel(), dtype=torch.float32).to(torch.bfloat16)
    table.copy_(number.view(2049, 1025))
    assert table.dtype == torch.bfloat16
    assert torch.equal(table.flatten(), number)


def test_rows_lie_in_large_pages():
    rows = Rows(
        0,
        5000,
        embedding_dim=512,
        state_widths={"momentum": 512},
        seed=0,
        device=CPU,
        dtype=torch.float32,
        state_dtype=torch.float32,
    )
    assert "hg" in flags(rows.centre)
    assert "hg" in flags(rows.state["momentum"])
