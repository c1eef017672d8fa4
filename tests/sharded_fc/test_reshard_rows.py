"""Rows and their optimizer state move between any numbers of ranks, a block at a time."""

import weakref
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc.partition import bounds
from sharded_fc.storage import Block, Rows

WIDTHS = {"momentum": 4, "square": 1}


def make(start, stop, *, dtype=torch.float32, state_dtype=torch.float32):
    return Rows(
        start,
        stop,
        embedding_dim=4,
        state_widths=WIDTHS,
        seed=5,
        device=torch.device("cpu"),
        dtype=dtype,
        state_dtype=state_dtype,
    )


def parts(world, num_rows, **dtypes):
    return [make(start, stop, **dtypes) for start, stop in bounds(num_rows, world)]


def trained(world, num_rows, **dtypes):
    """Ranks whose every number is another."""
    ranks = parts(world, num_rows, **dtypes)
    for rows in ranks:
        view = rows.view(0, len(rows))
        for tensor in (view.centre, *view.state.values(), rows.wins.unsqueeze(1)):
            number = torch.arange(rows.start, rows.stop).unsqueeze(1)
            tensor.copy_(number * tensor.shape[1] + torch.arange(tensor.shape[1]))
    return ranks


def blocks_of(ranks: list[Rows], block: int) -> Iterator[Block]:
    for rows in ranks:
        yield from rows.blocks(block)


def whole(ranks):
    tensors = [{"centre": rows.centre, "wins": rows.wins, **rows.state} for rows in ranks]
    return {name: torch.cat([t[name] for t in tensors]) for name in tensors[0]}


@pytest.mark.parametrize(
    "dtypes",
    [{}, {"dtype": torch.bfloat16, "state_dtype": torch.bfloat16}, {"dtype": torch.float16}],
)
@given(
    worlds=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    extra=st.integers(0, 20),
    block=st.integers(1, 40),
)
def test_rows_go_through_any_sequence_of_world_sizes_unchanged(dtypes, worlds, extra, block):
    num_rows = max(worlds) + extra
    ranks = trained(worlds[0], num_rows, **dtypes)
    expected = whole(ranks)
    for world in worlds[1:]:
        old, ranks = ranks, parts(world, num_rows, **dtypes)
        for rows in ranks:
            rows.fill(blocks_of(old, block))
    for name, tensor in whole(ranks).items():
        assert torch.equal(tensor, expected[name])


def test_four_ranks_to_one_to_three_to_eight():
    ranks = trained(4, 23)
    expected = whole(ranks)
    for world in (1, 3, 8):
        old, ranks = ranks, parts(world, 23)
        for rows in ranks:
            rows.fill(blocks_of(old, 5))
        for name, tensor in whole(ranks).items():
            assert torch.equal(tensor, expected[name])


def test_filling_holds_one_block_at_a_time():
    source = trained(3, 3000)
    given, alive = [], []

    def watched():
        for first, tensors in blocks_of(source, 100):
            given.extend(weakref.ref(tensor) for tensor in tensors.values())
            yield first, tensors
            alive.append(sum(tensor() is not None for tensor in given) - len(tensors))

    make(500, 2500).fill(watched())
    assert max(alive) == 0  # besides the one at hand
