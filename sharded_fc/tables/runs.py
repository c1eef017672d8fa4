"""Ascending numbers as stretches of consecutive ones, to be read or written in one go.

A table's rows lie in blocks of equally many; the last block may be shorter.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Int64

Numbers = Int64[np.ndarray, "_"]


def runs(numbers: Numbers) -> list[tuple[int, int]]:
    """[start, stop) positions in ascending `numbers` between which they are consecutive."""
    if not len(numbers):
        return []
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    return list(pairwise([0, *cuts.tolist(), len(numbers)]))


def blocks_of(rows: Numbers, block_rows: int) -> Numbers:
    """The blocks that ascending `rows` lie in, each once, ascending."""
    blocks = rows // block_rows
    first = np.ones(len(blocks), dtype=bool)
    np.not_equal(blocks[1:], blocks[:-1], out=first[1:])
    return blocks[first]


def rows_of(blocks: Numbers, block_rows: int, num_rows: int) -> Numbers:
    """All rows of `blocks`, in their order."""
    rows = (blocks[:, None] * block_rows + np.arange(block_rows)).reshape(-1)
    return rows[rows < num_rows]


def pieces(numbers: Numbers, size: int) -> list[Numbers]:
    """Consecutive stretches of `numbers`, of at most `size` each."""
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]
