"""Rows of any checkpoint, read by anyone, with nothing changed by it."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sharded_fc.tables import read_table
from sharded_fc.tables.description import describe, layout_of
from tests.sharded_fc.tables.small import (
    START,
    STOP,
    content,
    layout,
    overlapping_rows,
    run,
    same,
    stored,
)
from tests.sharded_fc.tables.stopped_disk import image_of

STEPS = (3, 5, 6)
TWO_BYTES = {"dtype": torch.float16, "state_dtype": torch.bfloat16, "initial_columns": 5}


def trained(folder: Path, kind: str = "mapped", **changes):
    """A table with checkpoints and changes since; what it was at each."""
    assert kind == "host" or kind == "mapped"
    table = stored(folder, kind, **changes)
    states = {0: content(table)}

    def save(step: int) -> None:
        if step + 1 in STEPS:
            table.checkpoint(step + 1)
            states[step + 1] = content(table)

    list(run(table, overlapping_rows(0, 8), after=save))
    table.close()
    return states


def joined(blocks) -> dict[str, torch.Tensor]:
    found = [tensors for _, tensors in blocks]
    return {name: torch.cat([tensors[name] for tensors in found]) for name in found[0]}


@pytest.mark.parametrize("block", [1, 7, 100])
@pytest.mark.parametrize("dtypes", [{}, TWO_BYTES], ids=["float32", "two bytes"])
@pytest.mark.parametrize("kind", ["host", "mapped"])
def test_every_checkpoint_reads_as_it_was_and_nothing_changes(tmp_path, kind, dtypes, block):
    folder = tmp_path / "table"
    states = trained(folder, kind, **dtypes)
    before = image_of(folder)
    for step in (0, *STEPS):
        blocks = list(read_table(folder, step=step, block=block))
        assert [first for first, _ in blocks] == list(range(START, STOP, block))
        assert same(joined(blocks), states[step]), step
    assert image_of(folder) == before


@pytest.mark.parametrize("step", [0, *STEPS])
def test_a_checkpoint_moves_to_ranks_of_another_number(tmp_path, step):
    states = trained(tmp_path / "old")
    edges = (START, START + 11, START + 12, STOP)
    for rank, (start, stop) in enumerate(pairwise(edges)):
        part = stored(tmp_path / f"new {rank}", start=start, stop=stop)
        part.fill(read_table(tmp_path / "old", step=step, block=9))
        wanted = {n: t[start - START : stop - START] for n, t in states[step].items()}
        assert same(content(part), wanted)
        part.close()


def test_two_read_at_once_but_not_while_the_table_is_trained_with(tmp_path):
    states = trained(tmp_path / "table")
    one, other = (read_table(tmp_path / "table", step=5, block=20) for _ in range(2))
    first, second = next(one), next(other)
    with pytest.raises(BlockingIOError, match="is in use by another process"):
        stored(tmp_path / "table", step=5)
    assert same(joined([first, *one]), states[5])
    assert same(joined([second, *other]), states[5])
    table = stored(tmp_path / "table", step=5)
    with pytest.raises(BlockingIOError, match="is being trained with; read it after that"):
        next(read_table(tmp_path / "table", step=5, block=20))
    table.close()


def test_unknown_checkpoints_are_refused(tmp_path):
    trained(tmp_path / "table")
    with pytest.raises(ValueError, match="holds checkpoints 0, 3, 5, 6, not 4; read one of them"):
        next(read_table(tmp_path / "table", step=4, block=9))


@pytest.mark.parametrize(
    "changes",
    [{}, TWO_BYTES, {"state_widths": {}}, {"state_widths": {"square": 1}, "dtype": torch.float64}],
)
def test_a_description_gives_back_the_records(changes):
    wanted = layout(**changes)
    facts = describe(wanted, block_rows=3)
    assert layout_of(facts).fields == wanted.fields
    assert describe(layout_of(facts), block_rows=3) == facts
