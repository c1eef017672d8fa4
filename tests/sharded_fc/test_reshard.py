"""Blocks cut one way fill partitions cut another way: nothing twice, nothing missing unnoticed."""

from hypothesis import given
from hypothesis import strategies as st

from sharded_fc.partition import bounds
from sharded_fc.reshard import gaps, overlap


@given(
    num_classes=st.integers(4, 60),
    old=st.integers(1, 4),
    new=st.integers(1, 4),
    block=st.integers(1, 9),
)
def test_blocks_of_any_partitioning_fill_any_other_exactly_once(num_classes, old, new, block):
    blocks = [
        list(range(first, min(first + block, stop)))
        for start, stop in bounds(num_classes, old)
        for first in range(start, stop, block)
    ]
    for start, stop in bounds(num_classes, new):
        filled: list[int | None] = [None] * (stop - start)
        covered = []
        for classes in blocks:
            place = overlap(block_start=classes[0], block_rows=len(classes), start=start, stop=stop)
            if place is not None:
                theirs, ours = place
                assert filled[ours] == [None] * (ours.stop - ours.start)
                filled[ours] = classes[theirs]
                covered.append((ours.start, ours.stop))
        assert filled == list(range(start, stop))
        assert gaps(covered, num_rows=stop - start) == []


@given(data=st.data(), num_rows=st.integers(0, 30))
def test_gaps_are_exactly_the_rows_that_nothing_covers(data, num_rows):
    end = st.integers(0, num_rows)
    covered = data.draw(st.lists(st.tuples(end, end).map(lambda pair: (min(pair), max(pair)))))
    held = {row for start, stop in covered for row in range(start, stop)}
    missing = [
        row for start, stop in gaps(covered, num_rows=num_rows) for row in range(start, stop)
    ]
    assert missing == [row for row in range(num_rows) if row not in held]


def test_blocks_beside_the_partition_do_not_overlap():
    assert overlap(block_start=0, block_rows=5, start=5, stop=9) is None
    assert overlap(block_start=9, block_rows=5, start=5, stop=9) is None
