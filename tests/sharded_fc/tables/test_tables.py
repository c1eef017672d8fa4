"""Whatever keeps the rows, training gives the same bits; rows travel ahead of their step."""

import threading
from pathlib import Path

import pytest
import torch

from sharded_fc.initial import initial_rows
from tests.sharded_fc.tables.small import (
    CPU,
    KINDS,
    START,
    STOP,
    content,
    overlapping_rows,
    resident,
    run,
    same,
    step_rows,
    stored,
)

OTHERS = KINDS[1:]
TWO_BYTES = {"dtype": torch.bfloat16, "state_dtype": torch.bfloat16}


@pytest.fixture
def opened(tmp_path: Path):
    """`opened("host", ...)` is a table in a folder of its kind, closed in the end."""
    tables = []

    def make(kind: str, *, folder: str = "", **changes):
        if kind == "resident":
            return resident(**changes)
        assert kind == "host" or kind == "mapped"
        table = stored(tmp_path / (folder or kind), kind, **changes)
        tables.append(table)
        return table

    yield make
    for table in tables:
        table.close()


@pytest.mark.parametrize("dtypes", [{}, TWO_BYTES], ids=["float32", "two bytes"])
@pytest.mark.parametrize("seed", range(3))
def test_losses_and_rows_are_the_resident_ones_bit_for_bit_at_half_overlap(opened, dtypes, seed):
    plan = overlapping_rows(seed, 12)
    skipped = (4, 5, 9)  # the steps after them read what was before
    losses, contents = [], []
    for kind in KINDS:
        table = opened(kind, **dtypes)
        losses.append(list(run(table, plan, skipped=skipped)))
        contents.append(content(table))
    assert losses[1:] == [losses[0]] * 2
    assert same(contents[0], contents[1])
    assert same(contents[0], contents[2])
    assert (contents[0]["wins"] > 1).any()


@pytest.mark.parametrize("kind", OTHERS)
def test_a_row_read_before_it_was_written_is_handed_on(opened, kind):
    table = opened(kind)
    first = table.gather(torch.arange(4))
    table.prefetch(torch.arange(2, 6))
    table._ahead.done.result()  # read now, for certain before the write
    first.centre.fill_(7.0)
    table.scatter(first)
    second = table.gather(torch.arange(2, 6))
    assert (second.centre[:2] == 7).all()
    assert not (second.centre[2:] == 7).any()


@pytest.mark.parametrize("kind", OTHERS)
def test_rows_of_a_skipped_step_are_not_handed_on(opened, kind):
    table = opened(kind)
    first = table.gather(torch.arange(4))
    table.prefetch(torch.arange(4))
    before = first.centre.clone()
    first.centre.fill_(7.0)
    assert torch.equal(table.gather(torch.arange(4)).centre, before)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_were_not_prefetched_or_others_than_those_are_right_all_the_same(opened, kind):
    table, reference = opened(kind), resident()
    for step, rows in enumerate(overlapping_rows(5, 8)):
        mine, wanted = table.gather(rows), reference.gather(rows)
        assert torch.equal(mine.centre, wanted.centre)
        table.prefetch(torch.arange(step, step + 5))  # wrong, and never asked for
        for one, taken in ((table, mine), (reference, wanted)):
            step_rows(taken, step)
            one.scatter(taken)
    assert same(content(table), content(reference))


@pytest.mark.parametrize("kind", KINDS)
def test_first_values_are_the_hash_of_the_global_row(opened, kind):
    taken = opened(kind, initial_columns=5).gather(torch.tensor([0, 1, 2, 7, 39]))
    wanted = initial_rows(START, STOP, embedding_dim=5, seed=3, device=CPU)
    assert torch.equal(taken.centre[:, :5], wanted[taken.rows])
    assert not taken.centre[:, 5:].any()
    assert not any(t.any() for t in (*taken.state.values(), taken.wins, taken.counter))


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_are_a_step_too(opened, kind):
    table = opened(kind)
    nothing = table.gather(torch.empty(0, dtype=torch.int64))
    assert nothing.centre.shape == (0, 6)
    table.scatter(nothing)
    assert same(content(table), content(resident()))


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("rows", [[1, 1], [2, 1], [-1, 0], [0, STOP - START]])
def test_rows_that_do_not_ascend_within_the_table_are_refused(opened, kind, rows):
    with pytest.raises(ValueError, match=r"rows must ascend within \[0, 40\), none twice"):
        opened(kind).gather(torch.tensor(rows))


@pytest.mark.parametrize("kind", OTHERS)
def test_only_the_latest_rows_are_taken_back_and_only_once(opened, kind):
    table = opened(kind)
    old, new = table.gather(torch.arange(3)), table.gather(torch.arange(3))
    with pytest.raises(RuntimeError, match="scatter what the last gather returned, once"):
        table.scatter(old)
    table.scatter(new)
    with pytest.raises(RuntimeError, match="once"):
        table.scatter(new)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_rows_move_between_kinds_and_partitions_with_all_they_have(opened, source, target):
    taken_from = opened(source)
    list(run(taken_from, overlapping_rows(1, 4)))
    blocks = list(taken_from.blocks(9))
    wanted = content(taken_from)
    start, stop = START + 10, STOP - 5
    part = opened(target, folder="part", start=start, stop=stop)
    part.fill(reversed(blocks))
    assert same(content(part), {name: tensor[10:-5] for name, tensor in wanted.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_centres_alone_start_the_rest_anew(opened, kind):
    source = resident()
    list(run(source, overlapping_rows(1, 4)))
    table = opened(kind)
    list(run(table, overlapping_rows(2, 2)))
    table.fill(source.blocks(9), centres_only=True)
    found = content(table)
    assert torch.equal(found.pop("centre"), content(source)["centre"])
    assert not any(tensor.any() for tensor in found.values())


@pytest.mark.parametrize("kind", OTHERS)
def test_blocks_of_another_optimizer_or_width_and_a_gap_are_refused(opened, kind):
    table = opened(kind)
    with pytest.raises(ValueError, match="the block at row 100 has no momentum; load rows saved"):
        table.fill(resident(state_widths={"square": 1}).blocks(9))
    with pytest.raises(ValueError, match=r"has centre of shape \(9, 4\), not \(9, 6\)"):
        table.fill(resident(embedding_dim=4).blocks(9))
    with pytest.raises(ValueError, match=r"no block holds rows \[109, 140\); pass every block"):
        table.fill(list(resident().blocks(9))[:1])


def test_an_error_in_writing_is_raised_by_every_call_until_the_table_is_restored(opened):
    table = opened("mapped")
    list(run(table, [torch.tensor([1, 2, 30])]))
    table.checkpoint(1)
    wanted = content(table)

    def refuse(at: int, data: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(table._store._file, "write", refuse)
        table.scatter(table.gather(torch.arange(3)))
        for call in (
            lambda: table.checkpoint(2),
            lambda: table.gather(torch.arange(3)),
            lambda: next(table.blocks(3)),
        ):
            with pytest.raises(OSError, match=r"could not be written .*No space left.*make room"):
                call()
    table.restore(1)
    assert same(content(table), wanted)


def test_a_closed_table_leaves_no_thread(opened):
    table = opened("host")
    table.gather(torch.arange(3))
    table.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("table")]
