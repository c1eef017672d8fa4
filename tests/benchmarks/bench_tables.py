"""Rows outside the device: bytes a second of gather and scatter beside a plain copy.

    python -m tests.benchmarks.bench_tables [--record] [--rows 2000000] [--taken 20000] ...

First all rows are made, but with `--sparse`. Then every step takes blocks of rows at random,
prefetched one step ahead, and writes them back; nothing is computed, so a step is only the moving.
Bytes are those of the rows' records, read once and written once. By turns in one run: the copy,
rows on the device, in host memory, in the file, in the file just after a checkpoint (when every
block is kept before it is written). The folder's disk is measured by a file written and read in one
go, the system's copy of it dropped in between. A memory limit, such as `systemd-run --user --scope
-p MemoryMax=6G`, is set from outside.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sharded_fc.storage import Rows
from sharded_fc.tables import Layout, ResidentTable, StoredTable, Table, open_table
from tests.benchmarks.heads import parser, show
from tests.benchmarks.rates import copy_rate
from tests.benchmarks.record import Cell, interleaved, met

CPU = torch.device("cpu")
DISK_BYTES = 1 << 30
_BUFFER_BYTES = 16 << 20


class Steps:
    """Steps over one table, each of `taken` rows in blocks drawn anew."""

    def __init__(self, table: Table, options: argparse.Namespace) -> None:
        self.table = table
        self._options = options
        self._rng = np.random.default_rng(0)
        self._ahead = self._draw()
        began = time.perf_counter()
        self._step()
        self.first_s = time.perf_counter() - began
        began = time.perf_counter()
        for first in range(0, 0 if options.sparse else options.rows, options.taken):
            rows = torch.arange(first, min(first + options.taken, options.rows))
            table.scatter(table.gather(rows))
        self.all_s = self._settled(began)

    def seconds(self) -> float:
        """Seconds a step, the last one's rows written."""
        began = time.perf_counter()
        for _ in range(self._options.steps):
            self._step()
        return self._settled(began) / self._options.steps

    def seconds_after_checkpoint(self) -> float:
        """The same, from a new checkpoint on."""
        assert isinstance(self.table, StoredTable)
        step = self.table.checkpoints[-1] + 1
        self.table.checkpoint(step)
        self.table.forget(before=step)
        return self.seconds()

    def _settled(self, began: float) -> float:
        if isinstance(self.table, StoredTable):
            self.table.forget(before=0)  # waits for what was asked for before it
        return time.perf_counter() - began

    def _step(self) -> None:
        taken = self.table.gather(self._ahead)
        self._ahead = self._draw()
        self.table.prefetch(self._ahead)
        self.table.scatter(taken)

    def _draw(self) -> Tensor:
        each = self._options.block_rows
        blocks = self._rng.choice(
            self._options.rows // each, self._options.taken // each, replace=False
        )
        return torch.from_numpy((np.sort(blocks)[:, None] * each + np.arange(each)).reshape(-1))


def disk_rates(folder: Path) -> tuple[float, float]:
    """Bytes a second (read, written) in one go, past the system's cache."""
    path, piece = folder / "sequential", bytes(_BUFFER_BYTES)
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(DISK_BYTES // _BUFFER_BYTES):
            file.write(piece)
        os.fsync(file.fileno())
    written = DISK_BYTES / (time.perf_counter() - began)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        room = bytearray(_BUFFER_BYTES)
        began = time.perf_counter()
        while file.readinto(room):
            pass
        read = DISK_BYTES / (time.perf_counter() - began)
    path.unlink()
    return read, written


def compare(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Cell]], list[str]]:
    """One row a table, and what else there is to say."""
    layout = Layout(
        start=0,
        stop=options.rows,
        embedding_dim=options.dim,
        state_widths={"momentum": options.dim},
        seed=0,
        dtype=torch.bfloat16,
        state_dtype=torch.bfloat16,
    )

    def stored(kept_in: Literal["host", "mapped"]) -> Steps:
        table = open_table(
            folder / kept_in,
            layout,
            kept_in=kept_in,
            block_rows=options.block_rows,
            step=0,
            device=CPU,
        )
        return Steps(table, options)

    chosen: dict[str, Callable[[], Steps]] = {
        "resident": lambda: Steps(ResidentTable(resident_rows(layout)), options),
        "host": lambda: stored("host"),
        "mapped": lambda: stored("mapped"),
    }
    steps = {name: chosen[name]() for name in options.tables}
    work: dict[str, Callable[[], float]] = {name: each.seconds for name, each in steps.items()}
    if "mapped" in steps:
        work["mapped, after a checkpoint"] = steps["mapped"].seconds_after_checkpoint
    timed = interleaved({"copy": copy_rate, **work}, options.repeats)
    taken = options.taken // options.block_rows * options.block_rows
    moved = 2 * taken * layout.record_bytes
    copied = statistics.median(timed.pop("copy"))
    rows: list[dict[str, Cell]] = []
    for name, seconds in timed.items():
        rate = moved / statistics.median(seconds)
        rows.append(
            {
                "table": name,
                "median s": statistics.median(seconds),
                "worst s": max(seconds),
                "GB/s": rate / 1e9,
                "of a copy": rate / copied,
                "first step s": steps[name.split(",")[0]].first_s,
                "all rows made s": steps[name.split(",")[0]].all_s,
            }
        )
    notes = [
        f"{options.rows:,} rows, {layout.record_bytes} bytes a record,"
        f" {layout.num_rows * layout.record_bytes / 1e9:.2f} GB; {taken:,} a step,"
        f" in blocks of {options.block_rows}: {moved / 1e6:.0f} MB moved",
        f"a copy reads and writes {copied / 1e9:.1f} GB/s together",
    ]
    if "mapped" in steps:
        notes.append(used(steps["mapped"], folder / "mapped", layout))
        read, written = disk_rates(folder)
        least = moved / 2 / read + moved / 2 / written
        mapped = next(row for row in rows if row["table"] == "mapped")
        notes.append(met("mapped step, of its bytes in one go", mapped["median s"] / least, 2))
        notes.append(f"disk, in one go: {read / 1e9:.2f} GB/s read, {written / 1e9:.2f} written")
    for each in steps.values():
        if isinstance(each.table, StoredTable):
            each.table.close()
    return rows, notes


def used(steps: Steps, folder: Path, layout: Layout) -> str:
    """What the file and its checkpoints take, and how long one takes."""
    assert isinstance(steps.table, StoredTable)
    kept = steps.table.journal_bytes
    began = time.perf_counter()
    steps.table.checkpoint(steps.table.checkpoints[-1] + 1)
    seconds = time.perf_counter() - began
    taken = (folder / "rows").stat().st_blocks * 512
    whole = layout.num_rows * layout.record_bytes
    return (
        f"mapped, in the end: file {taken / whole:.3f} and checkpoints {kept / whole:.3f} of the"
        f" table; a checkpoint takes {seconds:.2f} s"
    )


def resident_rows(layout: Layout) -> Rows:
    """Today's rows, of the same dtypes."""
    return Rows(
        layout.start,
        layout.stop,
        embedding_dim=layout.embedding_dim,
        state_widths=layout.state_widths,
        seed=layout.seed,
        device=CPU,
        dtype=layout.dtype,
        state_dtype=layout.state_dtype,
    )


def main() -> None:
    """Measure, and record if asked."""
    flags = parser(
        __doc__, rows=2_000_000, dim=512, taken=20_000, block_rows=32, steps=20, repeats=5
    )
    flags.add_argument("--folder", type=Path, default=None, help="where tables lie; removed")
    flags.add_argument(
        "--tables", nargs="+", default=["resident", "host", "mapped"], help="which to measure"
    )
    flags.add_argument("--sparse", action="store_true", help="make rows when they are first taken")
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    folder = Path(tempfile.mkdtemp(prefix="tables-", dir=options.folder))
    try:
        rows, notes = compare(options, folder)
    finally:
        shutil.rmtree(folder)
    show("tables", rows, notes, options)


if __name__ == "__main__":
    main()
