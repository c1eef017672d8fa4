"""A rank's rows: born when first asked for, cut and put together by anyone, of any dtype."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc.initial import initial_rows
from sharded_fc.storage import Rows

CPU = torch.device("cpu")
MANY = 2500  # rows: three of the pieces that become ready at once


def make(start: int = 0, stop: int = 8, **changes) -> Rows:
    arguments = {
        "embedding_dim": 6,
        "state_widths": {"momentum": 6, "square": 1},
        "seed": 3,
        "device": CPU,
        "dtype": torch.float32,
        "state_dtype": torch.float32,
    }
    return Rows(start, stop, **{**arguments, **changes})


def wanted(start: int, stop: int, dim: int = 6) -> torch.Tensor:
    return initial_rows(start, stop, embedding_dim=dim, seed=3, device=CPU)


@given(st.lists(st.tuples(st.integers(0, MANY), st.integers(0, MANY)), max_size=4))
def test_rows_asked_for_in_any_order_have_the_same_first_values(asked):
    rows = make(100, 100 + MANY)
    for start, stop in asked:
        if start < stop:
            view = rows.view(start, stop)
            assert view.first == 100 + start
            assert torch.equal(view.centre, wanted(view.first, 100 + stop))
            assert not any(tensor.any() for tensor in view.state.values())


def test_what_was_written_is_not_made_again():
    rows = make(0, MANY)
    rows.view(5, 6).centre.fill_(7.0)
    rows.view(5, 6).state["momentum"].fill_(8.0)
    rows.ready(0, MANY)
    assert (rows.centre[5] == 7).all()
    assert (rows.state["momentum"][5] == 8).all()
    assert torch.equal(rows.centre[6:], wanted(6, MANY))


def test_making_a_table_touches_none_of_it(monkeypatch):
    def refuse(*arguments, **named):
        raise AssertionError("a row was made before it was asked for")

    monkeypatch.setattr("sharded_fc.storage.initial_rows", refuse)
    rows = make(0, 10**9, embedding_dim=512, device=torch.device("meta"))
    assert len(rows) == 10**9


def test_dtypes_follow_the_arguments_but_one_number_a_row_stays_in_full_precision():
    rows = make(dtype=torch.float16, state_dtype=torch.bfloat16)
    assert rows.centre.dtype == torch.float16
    assert rows.state["momentum"].dtype == torch.bfloat16
    assert rows.state["square"].dtype == torch.float32
    assert make(dtype=torch.float64, state_dtype=torch.float64).state["square"].dtype == (
        torch.float64
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_first_values_are_the_float32_ones_rounded_to_the_nearest(dtype):
    rows = make(4, 12, dtype=dtype)
    assert torch.equal(rows.view(0, 8).centre, wanted(4, 12).to(dtype))


def test_columns_beyond_the_random_ones_start_at_zero():
    rows = make(0, 8, initial_columns=5).view(0, 8)
    assert torch.equal(rows.centre[:, :5], wanted(0, 8, dim=5))
    assert not rows.centre[:, 5:].any()


def test_blocks_of_untouched_rows_are_their_first_values():
    first, last = make(7, 12).blocks(3)
    assert (first[0], last[0]) == (7, 10)
    assert torch.equal(torch.cat([first[1]["centre"], last[1]["centre"]]), wanted(7, 12))
    for name, width in {"centre": 6, "momentum": 6, "square": 1}.items():
        assert last[1][name].shape == (2, width)


@given(cuts=st.lists(st.integers(0, 20), max_size=3), block=st.integers(1, 9))
def test_rows_move_between_any_partitions_with_all_their_state(cuts, block):
    bounds = [0, *sorted(cuts), 20]
    source = make(0, 20)
    generator = torch.Generator().manual_seed(block)
    for tensor in (source.view(0, 20).centre, *source.state.values()):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    blocks = list(source.blocks(block))
    for start, stop in pairwise(bounds):
        part = make(start, stop)
        part.fill(reversed(blocks))
        assert torch.equal(part.view(0, stop - start).centre, source.centre[start:stop])
        for name, tensor in part.state.items():
            assert torch.equal(tensor, source.state[name][start:stop])


def test_blocks_of_another_dtype_are_rounded_to_the_nearest():
    source = make(0, 8)
    source.view(0, 8).state["momentum"].normal_(generator=torch.Generator().manual_seed(0))
    taken = make(0, 8, dtype=torch.bfloat16, state_dtype=torch.bfloat16)
    taken.fill(source.blocks(4))
    assert torch.equal(taken.centre, source.centre.bfloat16())
    assert torch.equal(taken.state["momentum"], source.state["momentum"].bfloat16())


def test_a_block_of_another_optimizer_or_width_and_a_gap_are_refused():
    with pytest.raises(ValueError, match="the block at row 0 has no momentum; load rows saved"):
        make().fill(make(state_widths={"square": 1}).blocks(4))
    with pytest.raises(ValueError, match=r"row 4 has square of shape \(4, 6\), not \(4, 1\)"):
        make().fill([*list(make().blocks(4))[:1], *list(wide_square().blocks(4))[1:]])
    with pytest.raises(ValueError, match=r"no block holds rows \[4, 8\); pass every block"):
        make().fill(list(make().blocks(4))[:1])


def wide_square() -> Rows:
    return make(state_widths={"momentum": 6, "square": 6})
