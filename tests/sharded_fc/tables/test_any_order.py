"""Calls in any order, against a table that is a dictionary of tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sharded_fc.storage import Block
from tests.sharded_fc.tables.small import (
    START,
    STOP,
    State,
    content,
    draw_rows,
    open_on,
    resident,
    same,
    step_rows,
)
from tests.sharded_fc.tables.stopped_disk import QuickDisk

CALLS = 150


class Model:
    """What a table promises, with everything in memory and nothing ahead of time."""

    def __init__(self) -> None:
        self.now: State = content(resident())
        self.saved: dict[int, State] = {0: self._copy()}

    def checkpoint(self, step: int) -> None:
        self.saved[step] = self._copy()

    def restore(self, step: int) -> None:
        self.now = {name: tensor.clone() for name, tensor in self.saved[step].items()}
        self.saved = {known: state for known, state in self.saved.items() if known <= step}

    def forget(self, before: int) -> None:
        newest = max(self.saved)
        self.saved = {k: state for k, state in self.saved.items() if k >= min(before, newest)}

    def change(self, rows: Tensor, to: State) -> None:
        for name, tensor in to.items():
            self.now[name][rows] = tensor

    def blocks(self) -> list[Block]:
        return [
            (
                START + first,
                {name: tensor[first : first + 9] for name, tensor in self._copy().items()},
            )
            for first in range(0, STOP - START, 9)
        ]

    def _copy(self) -> State:
        return {name: tensor.clone() for name, tensor in self.now.items()}


def fields(taken) -> State:
    counters = {"wins": taken.wins.unsqueeze(1), "counter": taken.counter.unsqueeze(1)}
    return {"centre": taken.centre, **taken.state, **counters}


@pytest.mark.parametrize("kind", ["host", "mapped"])
@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_calls_gives_what_a_plain_table_gives(tmp_path: Path, kind, seed):
    rng = np.random.default_rng(seed)
    model = Model()
    table = open_on(QuickDisk(), tmp_path, kind, 0)
    ahead, step = None, 0
    for call in range(CALLS):
        wish = rng.choice(
            ["step", "skip", "prefetch", "checkpoint", "restore", "forget", "fill", "reopen"],
            p=[0.5, 0.1, 0.2, 0.08, 0.04, 0.04, 0.02, 0.02],
        )
        if wish in ("step", "skip"):
            rows = ahead if ahead is not None and rng.random() < 0.8 else drawn(rng)
            taken = table.gather(rows)
            assert same(fields(taken), {name: t[rows] for name, t in model.now.items()}), call
            ahead = drawn(rng, near=rows)
            table.prefetch(ahead)
            step_rows(taken, call)
            if wish == "step":
                table.scatter(taken)
                model.change(rows, fields(taken))
        elif wish == "prefetch":
            ahead = drawn(rng)
            table.prefetch(ahead)
        elif wish == "checkpoint":
            step += int(rng.integers(1, 5))
            table.checkpoint(step)
            model.checkpoint(step)
        elif wish == "forget":
            before = int(rng.integers(step + 3))
            table.forget(before=before)
            model.forget(before)
        elif wish == "fill":
            blocks = model.blocks()
            for _, tensors in blocks:
                tensors["centre"].mul_(0.5)
            table.fill(blocks)
            model.now["centre"].mul_(0.5)
        else:
            step = int(rng.choice(sorted(model.saved)))
            if wish == "restore":
                table.restore(step)
            else:
                table.close()
                table = open_on(QuickDisk(), tmp_path, kind, step)
            model.restore(step)
        assert table.checkpoints == sorted(model.saved), call
    assert same(content(table), model.now)
    for known in sorted(model.saved, reverse=True):
        table.restore(known)
        assert same(content(table), model.saved[known]), known
    table.close()


def drawn(rng: np.random.Generator, near: Tensor | None = None) -> Tensor:
    """Some rows, half of them among `near`."""
    rows = draw_rows(rng, int(rng.integers(13)))
    if near is None:
        return rows
    return torch.unique(torch.cat([rows, near[: len(near) // 2]]))
