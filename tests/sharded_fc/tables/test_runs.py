"""Stretches of ascending numbers: nothing lost, nothing twice."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc.tables.runs import blocks_of, pieces, rows_of, runs

ascending = st.sets(st.integers(0, 60)).map(lambda s: np.array(sorted(s), dtype=np.int64))


@given(ascending)
def test_runs_are_consecutive_as_long_as_possible_and_cover_all(numbers):
    found = runs(numbers)
    assert [i for first, last in found for i in range(first, last)] == list(range(len(numbers)))
    for first, last in found:
        assert numbers[last - 1] - numbers[first] == last - first - 1
        assert last == len(numbers) or numbers[last] != numbers[last - 1] + 1


@given(ascending, st.integers(1, 9))
def test_blocks_hold_their_rows_and_no_row_beyond_the_last(rows, block_rows):
    blocks = blocks_of(rows, block_rows)
    assert blocks.tolist() == sorted(set((rows // block_rows).tolist()))
    inside = rows_of(blocks, block_rows, 61)
    assert set(rows.tolist()) <= set(inside.tolist()) <= set(range(61))
    assert blocks_of(inside, block_rows).tolist() == blocks.tolist()


@given(ascending, st.integers(1, 9))
def test_pieces_put_together_are_the_whole(numbers, size):
    parts = pieces(numbers, size)
    assert [n for part in parts for n in part] == numbers.tolist()
    assert all(0 < len(part) <= size for part in parts)
