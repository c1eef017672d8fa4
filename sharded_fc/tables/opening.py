"""One call for a table outside the device, new or as it was at a checkpoint."""

from pathlib import Path
from typing import Literal

import torch

from sharded_fc.tables.host import HostRecords
from sharded_fc.tables.layout import Layout
from sharded_fc.tables.record_file import RecordFile
from sharded_fc.tables.stored import StoredTable


def open_table(
    folder: Path,
    layout: Layout,
    *,
    kept_in: Literal["host", "mapped"],
    block_rows: int,
    step: int,
    device: torch.device,
) -> StoredTable:
    """The rows of `layout` as they were at checkpoint `step`, kept in memory or in the file itself.

    `folder` is this rank's own; where it holds no table, one of untouched rows is made, whose only
    checkpoint is 0. `block_rows` consecutive rows are kept together when one of them is first
    changed after a checkpoint: the blocks that are sampled, or few where rows are sampled singly.
    Both kinds leave the same files.

    Raises:
        ValueError: the table there is of other rows, or has no such checkpoint.
        BlockingIOError: another process has it open.
    """
    if block_rows < 1:
        raise ValueError(f"block_rows {block_rows}; use 1 or more")
    file = RecordFile(folder, layout, block_rows=block_rows, step=step)
    if kept_in == "mapped":
        return StoredTable(layout, file, device=device)
    pinned = device.type == "cuda"
    records = HostRecords(file, layout, block_rows=block_rows, pinned=pinned)
    return StoredTable(layout, records, device=device)
