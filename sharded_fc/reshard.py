"""How blocks of rows, cut by anyone, fall into one rank's partition. Pure integers.

Checkpoints hold blocks (first class, rows). A rank of any world size takes from each block what
overlaps its own classes and then asks whether something is still missing.
"""


def overlap(
    *, block_start: int, block_rows: int, start: int, stop: int
) -> tuple[slice, slice] | None:
    """(rows of the block, rows of the partition [start, stop)) that are the same classes."""
    first = max(block_start, start)
    last = min(block_start + block_rows, stop)
    if first >= last:
        return None
    return slice(first - block_start, last - block_start), slice(first - start, last - start)


def gaps(covered: list[tuple[int, int]], *, num_rows: int) -> list[tuple[int, int]]:
    """The [start, stop) pieces of range(num_rows) that no interval of `covered` holds."""
    missing = []
    reached = 0
    for start, stop in sorted(covered):
        if start > reached:
            missing.append((reached, start))
        reached = max(reached, stop)
    if reached < num_rows:
        missing.append((reached, num_rows))
    return missing
