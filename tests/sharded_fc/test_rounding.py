"""Stochastic rounding: to a neighbour, right in the mean, and the same wherever a row lies."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc.rounding import round_stochastically, rounding_key

DTYPES = [torch.bfloat16, torch.float16]
KEY = rounding_key(seed=1, step=4, tensor=0)

# Normal and subnormal in float16 (below 6.1e-5), of both signs, and a tie.
VALUES = (0.3, -1.234567, 3.1e-5, -2.5e-6, 1.0 + 2.0**-8, 1.0 + 2.0**-11, 60001.0)


def rounded(value: torch.Tensor, dtype: torch.dtype, **changes) -> torch.Tensor:
    return round_stochastically(value, dtype, **{"key": KEY, "first_row": 0, **changes})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", VALUES)
def test_a_value_becomes_its_two_neighbours_and_stays_right_in_the_mean(dtype, value):
    given_rows = torch.full((20_000, 10), value)
    results = rounded(given_rows, dtype).double()
    exact = given_rows[0, 0].double().item()
    low, high = results.min().item(), results.max().item()
    nearest = given_rows[0, 0].to(dtype).double().item()
    assert low <= exact <= high
    assert nearest in (low, high)
    assert len(results.unique()) <= 2
    # Five standard errors of a mean of 200,000 that takes two values.
    share = (exact - low) / (high - low) if high > low else 0.0
    error = (high - low) * math.sqrt(share * (1 - share) / results.numel())
    assert abs(results.mean().item() - exact) <= 5 * error + 2.0**-38


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_the_dtype_holds_keeps_its_bits(dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    kept = every[~every.isnan()].unsqueeze(1)
    assert torch.equal(rounded(kept.float(), dtype).view(torch.int16), kept.view(torch.int16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_values_stay_finite_and_others_what_they_are(dtype):
    largest = torch.finfo(torch.float32).max
    extremes = torch.tensor([[largest, -largest, math.inf, -math.inf, math.nan]]).repeat(500, 1)
    result = rounded(extremes, dtype)
    limit = torch.finfo(dtype).max
    assert (result[:, :4] == torch.tensor([limit, -limit, math.inf, -math.inf])).all()
    assert result[:, 4].isnan().all()


@pytest.mark.parametrize("bits", [0x7F800001, -1, 0x7FFFFFFF, 0x7F80FFFF])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_nan_becomes_a_number_or_infinity(dtype, bits):
    value = torch.tensor([[bits]] * 500, dtype=torch.int32).view(torch.float32)
    assert rounded(value, dtype).isnan().all()


@given(cut=st.integers(0, 40), dim=st.integers(1, 11), first=st.integers(0, 2**40))
def test_a_row_rounds_the_same_way_in_any_chunk(cut, dim, first):
    value = torch.randn(40, dim, generator=torch.Generator().manual_seed(cut))
    whole = rounded(value, torch.bfloat16, first_row=first)
    above = rounded(value[:cut], torch.bfloat16, first_row=first)
    below = rounded(value[cut:], torch.bfloat16, first_row=first + cut)
    assert torch.equal(torch.cat([above, below]), whole)


def test_seed_step_tensor_row_and_column_each_change_the_chances():
    value = torch.full((64, 64), 1.0 + 2.0**-8)  # half way: up or down with equal chance
    one = rounded(value, torch.bfloat16)
    others = [
        rounded(value, torch.bfloat16, key=rounding_key(seed=2, step=4, tensor=0)),
        rounded(value, torch.bfloat16, key=rounding_key(seed=1, step=5, tensor=0)),
        rounded(value, torch.bfloat16, key=rounding_key(seed=1, step=4, tensor=1)),
        rounded(value, torch.bfloat16, first_row=1),
        one.roll(1, 1),
        one.roll(4, 1),
    ]
    for other in others:
        # 4096 fair coins: within five standard errors of a half.
        assert abs((one == other).double().mean() - 0.5) < 5 * 0.5 / 64


def test_a_step_on_the_device_gives_the_key_of_its_number():
    value = torch.randn(9, 7)
    key = rounding_key(seed=1, step=torch.tensor(4), tensor=0)
    assert torch.equal(
        rounded(value, torch.float16, key=key).view(torch.int16),
        rounded(value, torch.float16).view(torch.int16),
    )


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="use bfloat16 or float16"):
        rounded(torch.ones(1, 1), torch.float32)
