"""Checkpoints of tables outside the device: exact, incremental, refused where they do not fit."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sharded_fc.tables import Layout, open_table
from tests.sharded_fc.tables.small import (
    CPU,
    content,
    layout,
    overlapping_rows,
    resident,
    run,
    same,
    stored,
)

KINDS = ("host", "mapped")
PLAN = overlapping_rows(0, 10)


@pytest.fixture
def opened(tmp_path: Path):
    """`opened("host", step=4)` is the table of this test, opened once more."""
    tables = []

    def make(kind, **changes):
        for table in tables:
            table.close()
        tables.append(stored(tmp_path / "table", kind, **changes))
        return tables[-1]

    yield make
    for table in tables:
        table.close()


@pytest.mark.parametrize("resumed_as", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_gives_the_losses_of_one_that_went_on(opened, kind, resumed_as):
    reference = resident()
    wanted = list(run(reference, PLAN))
    table = opened(kind)
    list(run(table, PLAN[:6], after=lambda step: table.checkpoint(6) if step == 5 else None))
    list(run(table, PLAN[3:5]))  # steps that will be undone
    resumed = opened(resumed_as, step=6)
    assert list(run(resumed, PLAN[6:], first_step=6)) == wanted[6:]
    assert same(content(resumed), content(reference))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_between_prefetch_and_gather_is_exact(opened, kind):
    table = opened(kind)
    states = {}

    def save(step: int) -> None:  # the next step's rows are prefetched already
        table.checkpoint(step + 1)
        states[step + 1] = content(table)

    list(run(table, PLAN, after=save))
    for step in sorted(states, reverse=True):
        table.restore(step)
        assert same(content(table), states[step])
    assert table.checkpoints == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_live_table_goes_back_and_on(opened, kind):
    table = opened(kind)
    list(run(table, PLAN[:3]))
    table.checkpoint(3)
    once = list(run(table, PLAN[3:], first_step=3))
    table.restore(3)
    assert list(run(table, PLAN[3:], first_step=3)) == once


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_0_is_a_table_that_nobody_touched(opened, kind):
    list(run(opened(kind), PLAN))
    assert same(content(opened(kind, step=0)), content(resident()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_filled_is_a_checkpoint_when_asked_for(opened, kind):
    source = resident()
    list(run(source, PLAN))
    table = opened(kind)
    table.fill(source.blocks(9))
    table.checkpoint(1)
    assert same(content(opened(kind, step=1)), content(source))
    opened(kind, step=1).fill(resident().blocks(9))
    assert same(content(opened(kind, step=1)), content(source))


def test_forgotten_checkpoints_give_back_their_room_but_the_newest_stays(opened, tmp_path):
    table = opened("mapped")
    for step in (1, 2, 3):
        list(run(table, PLAN))
        table.checkpoint(step)
    before = table.journal_bytes
    table.forget(before=2)
    assert table.checkpoints == [2, 3]
    assert table.journal_bytes < before
    table.forget(before=99)
    assert table.checkpoints == [3]
    assert sorted(p.name for p in (tmp_path / "table").glob("undo-*")) == ["undo-000000000003"]


def big(folder: Path, *, block_rows: int):
    wide = layout(start=0, stop=50_000, embedding_dim=64, state_widths={"momentum": 64})
    table = open_table(folder, wide, kept_in="mapped", block_rows=block_rows, step=0, device=CPU)
    return table, wide.record_bytes


def test_a_new_table_takes_no_room_and_a_touched_block_only_its_own(tmp_path):
    table, record = big(tmp_path / "table", block_rows=16)
    file = tmp_path / "table" / "rows"
    assert file.stat().st_size == 50_000 * record
    assert file.stat().st_blocks * 512 < 64 << 10
    table.scatter(table.gather(torch.arange(16_000, 16_016)))
    table.checkpoint(1)
    table.close()
    assert file.stat().st_blocks * 512 < 64 << 10


def test_a_checkpoint_costs_the_blocks_that_change_after_it_once(tmp_path):
    table, record = big(tmp_path / "table", block_rows=10)
    table.scatter(table.gather(torch.arange(1000)))
    table.checkpoint(1)
    empty = table.journal_bytes
    for _ in range(3):
        table.scatter(table.gather(torch.arange(5, 100, 10)))  # a row of each of ten blocks
    table.blocks(1)
    table.checkpoint(2)
    kept = table.journal_bytes - empty
    assert 100 * record <= kept <= 100 * record + 3 * 4096  # padding, and the next one's beginning
    table.close()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_only_grow_and_unknown_ones_are_refused(opened, kind):
    table = opened(kind)
    table.checkpoint(5)
    for step in (5, 4, 0):
        with pytest.raises(ValueError, match=f"checkpoint {step} after 5; steps only grow"):
            table.checkpoint(step)
    with pytest.raises(ValueError, match="holds checkpoints 0, 5, not 3; continue from one"):
        table.restore(3)
    table.forget(before=5)
    with pytest.raises(ValueError, match="holds checkpoints 5, not 0; continue from one of them"):
        opened(kind, step=0)


def test_a_table_in_use_is_refused(opened, tmp_path):
    opened("mapped")
    with pytest.raises(BlockingIOError, match="in use by another process; stop it or name"):
        stored(tmp_path / "table")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "whose seed is 3, not 4"),
        ({"stop": 139}, r"whose last row \+ 1 is 140, not 139"),
        ({"initial_columns": 5}, "whose random columns is 6, not 5"),
        ({"dtype": torch.bfloat16}, r"whose record is .*6, 'float32'.* not .*6, 'bfloat16'"),
    ],
)
def test_a_table_of_other_rows_is_refused(opened, changes, message):
    opened("mapped")
    with pytest.raises(ValueError, match=message + ".*continue with what made it"):
        opened("mapped", **changes)


@pytest.mark.parametrize("name", ["rows", "undo-000000000000"])
def test_a_file_that_was_cut_is_refused(opened, tmp_path, name):
    opened("mapped").close()
    os.truncate(tmp_path / "table" / name, 10)
    with pytest.raises(OSError, match=f"{name}.*(it was cut|it was synced once)"):
        opened("mapped")


@pytest.mark.parametrize("content_of", [b"", b"{}", b"[]", b'{"id": 3}', b"\xff"])
def test_a_description_that_is_none_is_refused(opened, tmp_path, content_of):
    opened("mapped").close()
    (tmp_path / "table" / "table.json").write_bytes(content_of)
    with pytest.raises(
        ValueError, match=r"table\.json describes no table; put back the table's own"
    ):
        opened("mapped")


def test_a_description_of_another_version_is_refused(opened, tmp_path):
    opened("mapped").close()
    path = tmp_path / "table" / "table.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="is of version 2; this facescale reads 1"):
        opened("mapped")


def test_rows_without_a_description_are_not_overwritten(opened, tmp_path):
    table = opened("mapped")
    list(run(table, PLAN))
    table.close()
    (tmp_path / "table" / "table.json").unlink()
    before = (tmp_path / "table" / "rows").read_bytes()
    with pytest.raises(ValueError, match=r"holds rows but no table\.json; put it back or name"):
        opened("mapped")
    assert (tmp_path / "table" / "rows").read_bytes() == before


def test_a_journal_of_another_table_is_refused(opened, tmp_path):
    opened("mapped").close()
    stored(tmp_path / "other").close()
    (tmp_path / "other" / "undo-000000000000").replace(tmp_path / "table" / "undo-000000000000")
    with pytest.raises(ValueError, match="is of another table or version; put back"):
        opened("mapped")


def test_a_lost_part_of_a_synced_journal_is_refused_not_skipped(opened, tmp_path):
    table = opened("mapped")
    list(run(table, PLAN))
    table.close()
    journal = tmp_path / "table" / "undo-000000000000"
    content_of = bytearray(journal.read_bytes())
    assert len(content_of) > 3 * 4096
    content_of[4096 + 20] ^= 1  # in the first frame, with others behind it
    journal.write_bytes(content_of)
    with pytest.raises(OSError, match="cannot be read from byte 4096 on, though more was synced"):
        opened("mapped")


def test_block_rows_below_1_are_refused(tmp_path):
    with pytest.raises(ValueError, match="block_rows 0; use 1 or more"):
        open_table(tmp_path, layout(), kept_in="host", block_rows=0, step=0, device=CPU)


KILLED = """
import sys
from itertools import pairwise
from pathlib import Path
from tests.sharded_fc.tables.small import overlapping_rows, run, stored
table = stored(Path(sys.argv[1]))
plan = overlapping_rows(0, 10)
list(run(table, plan[:4]))
table.checkpoint(4)
while True:
    list(run(table, plan[4:]))
    print("again", flush=True)
"""


def test_a_killed_process_leaves_the_last_checkpoint(opened, tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "table")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"again\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    reference = resident()
    list(run(reference, PLAN[:4]))
    assert same(content(opened("mapped", step=4)), content(reference))


def test_records_are_aligned_and_hold_every_field_apart():
    odd: Layout = layout(
        embedding_dim=5, state_widths={"momentum": 5, "square": 1}, dtype=torch.bfloat16
    )
    fields = list(odd.fields.values())
    assert all(field.offset % 8 == 0 for field in fields)
    for one, other in pairwise(fields):
        assert one.offset + one.bytes <= other.offset
    assert odd.mark < odd.record_bytes
    assert odd.record_bytes % 8 == 0
