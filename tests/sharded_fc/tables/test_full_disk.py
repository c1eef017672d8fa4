"""A disk that refuses what a table writes: nothing is lost, and nothing is promised twice."""

import errno
import os

import pytest
import torch

from sharded_fc.margins import CosFace
from sharded_fc.outside import RowsError
from sharded_fc.tables.disk import File
from tests.sharded_fc.on_ranks import make_head
from tests.sharded_fc.rows_anywhere import HALF, kept, sampling
from tests.sharded_fc.tables.small import content, overlapping_rows, run, same, stored

PLAN = overlapping_rows(0, 10)


@pytest.fixture
def table(tmp_path):
    opened = stored(tmp_path / "table")
    yield opened
    opened.close()


def refuse(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def refuse_to_sync(_descriptor):
    raise OSError(errno.EIO, "Input/output error")


def test_no_room_for_the_journal_changes_nothing(table, monkeypatch):
    list(run(table, PLAN[:2]))
    table.checkpoint(2)
    wanted = content(table)
    with monkeypatch.context() as patched:
        patched.setattr(table._store._journals[-1]._file, "write", refuse)
        with pytest.raises(OSError, match="No space left"):
            table.gather(PLAN[2])
    assert same(content(table), wanted)
    list(run(table, PLAN[2:], first_step=2))


def test_a_sync_that_failed_once_fails_from_then_on(table, monkeypatch):
    """The system drops what it could not write and tells once; a later sync would promise it."""
    list(run(table, PLAN[:2]))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", refuse_to_sync)
        with pytest.raises(OSError, match="Input/output error"):
            table.checkpoint(2)
    with pytest.raises(OSError, match="Input/output error"):
        table.checkpoint(3)
    assert table.checkpoints == [0]


def test_a_head_says_which_folder_is_full_and_goes_back_to_its_checkpoint(tmp_path, monkeypatch):
    head = make_head(
        HALF
        | {
            "margin": CosFace(0.2),
            "sampling": sampling("frozen"),
            "outside": kept("mapped", tmp_path),
        }
    )
    label = torch.arange(8)
    embedding = torch.randn(8, head.embedding_dim, generator=torch.Generator().manual_seed(0))

    def steps(count):
        for _ in range(count):
            head(embedding.clone().requires_grad_(), label).loss.backward()

    steps(1)
    saved = [head.checkpoint(1)], head.state(), head.history()
    with monkeypatch.context() as patched:
        patched.setattr(File, "write", refuse)
        with pytest.raises(RowsError, match=r"rows-0-61-since-0 .*: No space left") as raised:
            steps(3)  # the worker's writing is refused while a step computes, and told by the next
    assert raised.value.full
    head.restore(*saved, step=1)
    steps(1)
    head.close()
