"""Checkpoints of a head whose rows are outside the device: gone on from, at any world size."""

import pytest
import torch
import torch.distributed as dist

from sharded_fc.margins import CosFace
from tests.sharded_fc.on_ranks import FLOAT64, collect, draw_batches, make_head
from tests.sharded_fc.rows_anywhere import (
    CLASSES,
    DIM,
    HALF,
    TWO_BYTES,
    assert_equal_bits,
    kept,
    sampling,
    step_through,
    train,
)


def first_half(options, batches, upto):
    """Train to a checkpoint and beyond; what a run would keep of it."""
    head = make_head(options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    step_through(head, batches[:upto], rank=rank)
    kept = (head.checkpoint(upto), head.state(), head.history())
    step_through(head, batches[: upto + 2], first=upto, rank=rank)  # is lost
    head.close()
    return kept


def names_of_all(name):
    """The tables of all ranks, once all have their checkpoint."""
    if not dist.is_initialized():
        return [name]
    names = [""] * dist.get_world_size()
    dist.all_gather_object(names, name)
    return names


def second_half(options, batches, names, state, history, upto):
    """Go on from a checkpoint; losses, gradients and rows at the end."""
    head = make_head(options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    head.restore(names, state, history, step=upto)
    found = step_through(head, batches, first=upto, rank=rank)
    rows = collect(head)
    names = names_of_all(head.checkpoint(len(batches)))
    head.forget(before=len(batches), tables=names)
    head.close()
    return found, rows, names


@pytest.mark.parametrize("kind", ["host", "mapped"])
@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
@pytest.mark.parametrize("counts", [[5], [2, 3]], ids=str)
def test_a_head_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    ranks, tmp_path, counts, untouched, kind
):
    options = {**HALF, **TWO_BYTES, "sampling": sampling(untouched)}
    batches = draw_batches(counts, num_classes=CLASSES, dim=DIM, steps=10)
    expected = ranks(len(counts)).run(train, options, batches)
    options["outside"] = kept(kind, tmp_path)
    saved = ranks(len(counts)).run(first_half, options, batches, 6)
    names, state, history = [name for name, _, _ in saved], *saved[0][1:]
    results = ranks(len(counts)).run(second_half, options, batches, names, state, history, 6)
    for (found, rows, _), (losses, end) in zip(results, expected, strict=True):
        assert_equal_bits((found, rows), (losses[6:], end))


def go_on(options, batches, names, state, history, upto):
    """Take over other ranks' tables and save at the same bounds, without a step."""
    head = make_head(options)
    rank = dist.get_rank() if dist.is_initialized() else 0
    head.restore(names, state, history, step=upto)
    step_through(head, batches[: upto + 2], first=upto, rank=rank)
    kept = (head.checkpoint(upto + 2), head.state(), head.history())
    head.close()
    return kept


@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
def test_tables_go_from_two_ranks_to_one_and_to_three(ranks, tmp_path, untouched):
    """Against rows on the device in one process, in float64: only the order of additions differs.

    assert_close's float64 defaults are far above that.
    """
    options = {**HALF, **FLOAT64, "margin": CosFace(0.35), "sampling": sampling(untouched)}
    whole = draw_batches([6], num_classes=CLASSES, dim=DIM, steps=8)
    expected, rows = train(options, whole)
    options["outside"] = kept("mapped", tmp_path)

    def cut(counts):
        return [
            list(zip(e.split(counts), label.split(counts), strict=True)) for ((e, label),) in whole
        ]

    saved = ranks(2).run(first_half, options, cut([2, 4]), 3)
    names = [name for name, _, _ in saved]
    name, state, history = go_on(options, whole, names, saved[0][1], saved[0][2], 3)
    results = ranks(3).run(second_half, options, cut([1, 3, 2]), [name], state, history, 5)
    for step, (loss, _) in enumerate(expected[5:]):
        torch.testing.assert_close(results[0][0][step][0], loss)
    for field, value in rows.items():
        found = torch.cat([result[1][field] for result in results])
        torch.testing.assert_close(found, value)
    left = sorted(path.name for path in (tmp_path / "mapped").iterdir())
    assert left == sorted(results[0][2])  # older tables are gone
