"""Who owns which class: everything, once, evenly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc.partition import bounds, chunks, default_chunk


@given(world=st.integers(1, 40), extra=st.integers(0, 500))
def test_partitions_cover_all_classes_once_and_differ_by_at_most_one(world, extra):
    pieces = bounds(world + extra, world)
    assert [c for start, stop in pieces for c in range(start, stop)] == list(range(world + extra))
    sizes = [stop - start for start, stop in pieces]
    assert sorted(sizes, reverse=True) == sizes
    assert sizes[0] - sizes[-1] <= 1


def test_more_ranks_than_classes_is_refused_with_what_to_change():
    with pytest.raises(ValueError, match=r"3 classes over 5 ranks .* use at most 3 ranks"):
        bounds(3, 5)


def test_no_rank_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one rank"):
        bounds(3, 0)


@given(rows=st.integers(0, 300), chunk=st.integers(1, 320))
def test_chunks_cover_all_rows_in_order(rows, chunk):
    pieces = chunks(rows, chunk)
    assert [row for start, stop in pieces for row in range(start, stop)] == list(range(rows))
    assert all(stop - start == chunk for start, stop in pieces[:-1])


@given(
    dim=st.integers(1, 4096),
    batch=st.integers(1, 65536),
    item=st.sampled_from([4, 8]),
    cpu=st.booleans(),
)
def test_the_default_chunk_is_a_multiple_of_64_that_fits_its_cache(dim, batch, item, cpu):
    chunk = default_chunk(embedding_dim=dim, batch=batch, item_bytes=item, on_cpu=cpu)
    budget = (16 if cpu else 64) * 2**20
    assert chunk % 64 == 0
    assert chunk == 64 or chunk * (3 * dim + 2 * batch) * item <= budget
