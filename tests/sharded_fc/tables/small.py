"""A small table of every kind, and steps that change some of its rows."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sharded_fc.storage import Rows
from sharded_fc.tables import Layout, ResidentTable, StoredTable, Table, open_table
from sharded_fc.tables.disk import Disk
from sharded_fc.tables.host import HostRecords
from sharded_fc.tables.record_file import RecordFile

CPU = torch.device("cpu")
START, STOP = 100, 140
BLOCK_ROWS = 3  # the last block has one row
KINDS = ("resident", "host", "mapped")

State = dict[str, Tensor]


def layout(**changes) -> Layout:
    arguments = {
        "start": START,
        "stop": STOP,
        "embedding_dim": 6,
        "state_widths": {"momentum": 6, "square": 1},
        "seed": 3,
        "dtype": torch.float32,
        "state_dtype": torch.float32,
    }
    return Layout(**{**arguments, **changes})


def stored(
    folder: Path,
    kind: Literal["host", "mapped"] = "mapped",
    *,
    step: int = 0,
    device: torch.device = CPU,
    **changes,
) -> StoredTable:
    return open_table(
        folder, layout(**changes), kept_in=kind, block_rows=BLOCK_ROWS, step=step, device=device
    )


def open_on(disk: Disk, folder: Path, kind: str, step: int) -> StoredTable:
    """As `stored`, on a disk of the test's own."""
    file = RecordFile(folder, layout(), block_rows=BLOCK_ROWS, step=step, disk=disk)
    if kind == "mapped":
        return StoredTable(layout(), file, device=CPU)
    records = HostRecords(file, layout(), block_rows=BLOCK_ROWS, pinned=False)
    return StoredTable(layout(), records, device=CPU)


def resident(*, device: torch.device = CPU, **changes) -> ResidentTable:
    wanted = layout(**changes)
    rows = Rows(
        wanted.start,
        wanted.stop,
        embedding_dim=wanted.embedding_dim,
        state_widths=wanted.state_widths,
        seed=wanted.seed,
        device=device,
        dtype=wanted.dtype,
        state_dtype=wanted.state_dtype,
        initial_columns=wanted.initial_columns,
    )
    return ResidentTable(rows)


def content(table: Table) -> State:
    """All rows, field by field."""
    blocks = [tensors for _, tensors in table.blocks(7)]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def draw_rows(rng: np.random.Generator, count: int, num_rows: int = STOP - START) -> Tensor:
    return torch.from_numpy(np.sort(rng.choice(num_rows, count, replace=False)))


def overlapping_rows(seed: int, steps: int, count: int = 12) -> list[Tensor]:
    """Rows of each step, half of which are also the next one's."""
    rng = np.random.default_rng(seed)
    found = [draw_rows(rng, count).numpy()]
    for _ in range(steps - 1):
        kept = rng.choice(found[-1], count // 2, replace=False)
        others = np.setdiff1d(np.arange(STOP - START), found[-1])
        fresh = rng.choice(others, count // 2, replace=False)
        found.append(np.sort(np.concatenate([kept, fresh])))
    return [torch.from_numpy(rows) for rows in found]


def step_rows(taken, step: int) -> float:
    """Change everything that was taken by what it holds; a loss that depends on every centre."""
    generator = torch.Generator().manual_seed(step)
    face = torch.randn(5, taken.centre.shape[1], generator=generator).to(taken.centre.device)
    centre = taken.centre.to(torch.float32, copy=True).requires_grad_()
    loss = torch.logsumexp(face @ centre.t(), 1).mean()
    (gradient,) = torch.autograd.grad(loss, centre)
    momentum = taken.state["momentum"].float() * 0.9 + gradient
    taken.state["momentum"].copy_(momentum)
    taken.state["square"].add_(gradient.square().mean(1, keepdim=True))
    taken.centre.sub_(momentum.to(taken.centre.dtype), alpha=0.5)
    taken.wins.add_(1)
    taken.counter.fill_(step + 1)
    return loss.item()


def run(
    table: Table,
    plan: list[Tensor],
    *,
    first_step: int = 0,
    skipped: tuple[int, ...] = (),
    after: Callable[[int], None] = lambda step: None,
) -> Iterator[float]:
    """Losses of the steps of `plan`, rows prefetched one step ahead."""
    for index, rows in enumerate(plan):
        step = first_step + index
        taken = table.gather(rows)
        if index + 1 < len(plan):
            table.prefetch(plan[index + 1])
        yield step_rows(taken, step)
        if step not in skipped:
            table.scatter(taken)
        after(step)
