"""Tables in large pages: asked for where it is worth it, and a table like any other."""

from pathlib import Path

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


def test_a_large_table_asks_for_large_pages_and_a_small_one_does_not():
    assert "hg" in flags(huge_pages.empty(3000, 1024, dtype=torch.float32, device=CPU))
    assert "hg" not in flags(huge_pages.empty(10, 1024, dtype=torch.float32, device=CPU))


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
