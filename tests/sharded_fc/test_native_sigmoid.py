"""Compiled passes over a chunk's products for losses that are sigmoids: as exact as torch's."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sharded_fc import native_tile, tile
from sharded_fc.native_code import library
from sharded_fc.tile import CONFLICTS, HIGHEST, SIGMOIDS, TOTAL, Rules
from tests.sharded_fc.test_native_tile import (
    BIAS,
    CASES,
    FIRST,
    SCALE,
    error,
    natively_summed,
    products,
    rules,
    summed,
    weights,
)

pytestmark = pytest.mark.skipif(library() is None, reason="no compiler, so no native code")


@pytest.mark.parametrize("ranged", [False, True], ids=["all", "ranged"])
@pytest.mark.parametrize(("rows", "batch"), CASES)
def test_sums_of_a_sigmoid_loss_err_no_more_than_torchs_in_float32(rows, batch, ranged):
    product, inverse = products(rows, batch)
    how = rules(rows, batch, ranged=ranged, conflict_logit=0.9 * SCALE, sigmoid_bias=BIAS)
    exact = summed(product.double(), inverse.double(), how)
    plain, found = summed(product, inverse, how), natively_summed(product, inverse, how)
    for measure in (TOTAL, SIGMOIDS):
        allowed = error(plain[measure], exact[measure]) + 2.0**-22
        assert error(found[measure], exact[measure]) <= allowed
    assert torch.equal(found[HIGHEST], plain[HIGHEST])
    assert torch.equal(found[CONFLICTS], plain[CONFLICTS])


@pytest.mark.parametrize("ranged", [False, True], ids=["all", "ranged"])
@pytest.mark.parametrize(("rows", "batch"), CASES)
def test_gradients_of_a_sigmoid_loss_err_no_more_than_torchs_in_float32(rows, batch, ranged):
    product, inverse = products(rows, batch)
    how = rules(rows, batch, ranged=ranged, sigmoid_bias=BIAS, negative_weight=0.7)

    def plainly(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(product, dtype=dtype)
        arguments = {"first_class": FIRST, "rules": how, "weights": weights(batch, dtype)}
        wide = product.to(dtype, copy=True)  # it is overwritten
        return out, tile.gradient_tile(wide, inverse.to(dtype), **arguments, out=out)

    out = torch.empty_like(product)
    along = native_tile.gradient_tile(
        product, inverse, first_class=FIRST, rules=how, weights=weights(batch), out=out
    )
    assert along is not None
    for found, plain, exact in zip(
        (out, along), plainly(torch.float32), plainly(torch.float64), strict=True
    ):
        assert error(found, exact) <= error(plain, exact) + 2.0**-22


def test_sigmoids_and_their_integrals_are_right_to_four_units_of_the_last_place():
    """From e^-87 to 87: the exponential is a unit off, sums and quotients round a few times."""
    logit = torch.linspace(-87, 87, 10_001).unsqueeze(0)
    how = Rules(scale=1.0, label=None, sigmoid_bias=torch.zeros((), dtype=torch.float64))
    found, exact = natively_summed(logit, torch.ones(1), how), logit[0].double()
    torch.testing.assert_close(found[SIGMOIDS], exact.sigmoid(), rtol=2.0**-21, atol=0.0)
    torch.testing.assert_close(
        found[TOTAL], exact.clamp_min(0) + (-exact.abs()).exp().log1p(), rtol=2.0**-21, atol=0.0
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows_in_its_samples_sums_of_a_sigmoid_loss(bad):
    product, inverse = products(90, 8)
    product[70, 3] = bad
    how = replace(rules(90, 8, sigmoid_bias=BIAS), label=None)
    found = natively_summed(product, inverse, how)
    assert found[TOTAL].isfinite().tolist() == [i != 3 for i in range(8)]
    assert found[SIGMOIDS].isnan().tolist() == [i == 3 and math.isnan(bad) for i in range(8)]
