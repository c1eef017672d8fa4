"""Compiled passes over a chunk's products: as exact as torch's, for every rule they know."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sharded_fc import native_tile, tile
from sharded_fc.margins import HardNegatives
from sharded_fc.native_build import SWITCH
from sharded_fc.native_code import library
from sharded_fc.tile import CONFLICTS, HIGHEST, MEASURES, SHIFT, TOTAL, Rules, Weights

SCALE = 32.0
FIRST = 100  # the first class of the tiles here

pytestmark = pytest.mark.skipif(library() is None, reason="no compiler, so no native code")


def products(rows: int, batch: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(products, one over the rows' lengths): cosines between -1 and 1."""
    generator = torch.Generator().manual_seed(rows + batch)
    inverse = torch.rand(rows, generator=generator) + 0.5
    cosine = torch.rand(rows, batch, generator=generator) * 2 - 1
    return (cosine / inverse.unsqueeze(1)).to(dtype), inverse


def rules(rows: int, batch: int, *, hard: bool = False, ranged: bool = False, **others) -> Rules:
    """Labels inside and outside the tile, two samples of one class, and one of nobody known."""
    generator = torch.Generator().manual_seed(batch)
    label = torch.randint(FIRST - 20, FIRST + rows + 20, (batch,), generator=generator)
    label[-1] = -1
    label[: batch // 4] = FIRST + rows // 2
    negatives = HardNegatives(
        threshold=torch.rand(batch, generator=generator).double(),
        constant=torch.tensor(0.1).double(),
        linear=torch.tensor(0.4).double(),
        square=torch.tensor(0.6).double(),
        highest=torch.tensor(1.1).double(),
    )
    competing = torch.stack(
        [
            torch.randint(FIRST - 5, FIRST + 5, (batch,), generator=generator),
            torch.randint(FIRST + 3, FIRST + rows + 5, (batch,), generator=generator),
        ]
    )
    return Rules(
        scale=SCALE,
        label=label,
        hard=tile.in_logits(negatives, scale=SCALE) if hard else None,
        class_range=competing if ranged else None,
        **others,
    )


def empty_measures(batch: int, shift: float = 0.0) -> Tensor:
    measures = torch.zeros(MEASURES, batch, dtype=torch.float64)
    measures[HIGHEST] = -math.inf
    measures[SHIFT] = shift
    return measures


def summed(product: Tensor, inverse: Tensor, how: Rules, *, shift: float = 0.0) -> Tensor:
    measures = empty_measures(product.shape[1], shift)
    arguments = {"first_class": FIRST, "rules": how, "measures": measures, "keep_maximum": False}
    tile.sum_tile(product, inverse, **arguments, out=torch.empty_like(product))
    return measures


def natively_summed(product: Tensor, inverse: Tensor, how: Rules, *, shift: float = 0.0) -> Tensor:
    measures = empty_measures(product.shape[1], shift)
    arguments = {"first_class": FIRST, "rules": how, "measures": measures, "keep_maximum": False}
    assert native_tile.sum_tile(product, inverse, **arguments)
    return measures


def weights(batch: int, dtype: torch.dtype = torch.float32) -> Weights:
    generator = torch.Generator().manual_seed(7)
    offset = -20 - torch.rand(batch, generator=generator)
    target = torch.randn(batch, generator=generator)
    return Weights(offset=offset.to(dtype), target=target.to(dtype), factor=0.25)


def error(found: Tensor, exact: Tensor) -> float:
    """Relative to the largest."""
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()


CASES = [(700, 64), (1, 1), (65, 33), (4097, 8)]
BIAS = torch.tensor(9.5, dtype=torch.float64)


@pytest.mark.parametrize("ranged", [False, True], ids=["all", "ranged"])
@pytest.mark.parametrize("hard", [False, True], ids=["plain", "hard"])
@pytest.mark.parametrize(("rows", "batch"), CASES)
def test_sums_err_no_more_than_torchs_in_float32(rows, batch, hard, ranged):
    product, inverse = products(rows, batch)
    how = rules(rows, batch, hard=hard, ranged=ranged, conflict_logit=0.9 * SCALE)
    exact = summed(product.double(), inverse.double(), how)
    plain, found = summed(product, inverse, how), natively_summed(product, inverse, how)
    # Both exps are a unit of the last place off at most: either may be luckier by two.
    assert error(found[TOTAL], exact[TOTAL]) <= error(plain[TOTAL], exact[TOTAL]) + 2.0**-22
    assert torch.equal(found[HIGHEST], plain[HIGHEST])
    assert torch.equal(found[CONFLICTS], plain[CONFLICTS])


@pytest.mark.parametrize("ranged", [False, True], ids=["all", "ranged"])
@pytest.mark.parametrize("hard", [False, True], ids=["plain", "hard"])
@pytest.mark.parametrize(("rows", "batch"), CASES)
def test_gradients_err_no_more_than_torchs_in_float32(rows, batch, hard, ranged):
    product, inverse = products(rows, batch)
    how = rules(rows, batch, hard=hard, ranged=ranged)

    def plainly(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(product, dtype=dtype)
        arguments = {"first_class": FIRST, "rules": how, "weights": weights(batch, dtype)}
        wide = product.to(dtype, copy=True)  # it is overwritten
        return out, tile.gradient_tile(wide, inverse.to(dtype), **arguments, out=out)

    out = torch.empty_like(product)
    kept = product.clone()
    along = native_tile.gradient_tile(
        product, inverse, first_class=FIRST, rules=how, weights=weights(batch), out=out
    )
    assert along is not None
    assert torch.equal(product, kept)
    for found, plain, exact in zip(
        (out, along), plainly(torch.float32), plainly(torch.float64), strict=True
    ):
        assert error(found, exact) <= error(plain, exact) + 2.0**-22


@pytest.mark.parametrize("bias", [None, BIAS], ids=["softmax", "sigmoid"])
def test_products_and_gradients_in_bfloat16_are_those_of_float32_rounded(bias):
    product, inverse = products(300, 40, torch.bfloat16)
    how = rules(300, 40, sigmoid_bias=bias)
    assert torch.equal(
        natively_summed(product, inverse, how), natively_summed(product.float(), inverse, how)
    )
    wide, low = torch.empty(300, 40), torch.empty(300, 40, dtype=torch.bfloat16)
    arguments = {"first_class": FIRST, "rules": how, "weights": weights(40)}
    native_tile.gradient_tile(product.float(), inverse, **arguments, out=wide)
    native_tile.gradient_tile(product, inverse, **arguments, out=low)
    assert torch.equal(low, wide.bfloat16())


@pytest.mark.parametrize("bias", [None, BIAS], ids=["softmax", "sigmoid"])
def test_the_bits_do_not_depend_on_the_number_of_threads(bias):
    product, inverse = products(5000, 48)
    how = rules(5000, 48, sigmoid_bias=bias)
    threads = torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            answers.append(natively_summed(product, inverse, how))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@pytest.mark.parametrize(
    "exponent", [-200.0, -104.0, -88.0, -87.3, -1e-30, 0.0, 1.0, 88.5, 88.73, 300.0, math.inf]
)
def test_exp_is_right_to_its_last_place_from_zero_to_infinity(exponent):
    found = natively_summed(
        torch.tensor([[exponent]]), torch.ones(1), Rules(scale=1.0, label=None)
    )[TOTAL]
    exact = torch.tensor([exponent]).double().exp().float().double()
    torch.testing.assert_close(found, exact, rtol=2.0**-23, atol=2.0**-149)


def test_exp_of_ten_thousand_numbers_is_within_a_unit_of_the_last_place():
    exponent = torch.linspace(-87, 88, 10_000).unsqueeze(0)
    found = natively_summed(exponent, torch.ones(1), Rules(scale=1.0, label=None))[TOTAL]
    exact = exponent[0].double().exp()
    assert ((found - exact).abs() / exact).max() < 1.01 * 2.0**-23


def test_a_number_that_is_none_shows_in_its_samples_sum_and_highest_alone():
    product, inverse = products(90, 8)
    product[70, 3] = math.nan
    found = natively_summed(product, inverse, rules(90, 8, ranged=False))
    assert found[TOTAL].isnan().tolist() == [i == 3 for i in range(8)]
    assert found[HIGHEST].isnan().tolist() == [i == 3 for i in range(8)]


def test_sums_shift_as_told_and_add_to_what_is_there():
    product, inverse = products(64, 5)
    how = rules(64, 5)
    measures = natively_summed(product, inverse, how, shift=3.0)
    again = {"first_class": FIRST, "rules": how, "measures": measures, "keep_maximum": False}
    once = measures[TOTAL].clone()
    native_tile.sum_tile(product, inverse, **again)
    torch.testing.assert_close(measures[TOTAL], 2 * once, rtol=1e-15, atol=0.0)
    plain = summed(product.double(), inverse.double(), how, shift=3.0)
    torch.testing.assert_close(once, plain[TOTAL], rtol=1e-6, atol=0.0)


def test_what_they_do_not_know_is_left_to_torch(monkeypatch):
    product, inverse = products(6, 4)
    measures = empty_measures(4)
    how = {"first_class": FIRST, "measures": measures}
    plain = Rules(scale=SCALE, label=None)
    refused = [
        (product, inverse, plain, True),
        (product.double(), inverse.double(), plain, False),
        (product.half(), inverse, plain, False),
        (torch.zeros(4, 6).t(), inverse, plain, False),
        (product, inverse, Rules(scale=SCALE, label=None, sub_centres=2), False),
        (product, inverse, Rules(scale=1.0, label=None, sub_centres=2, sigmoid_bias=BIAS), False),
        (product, inverse, replace(plain, ignore_conflicts=True, conflict_logit=9.0), False),
    ]
    for given, inverses, rule, keep_maximum in refused:
        assert not native_tile.sum_tile(
            given, inverses, rules=rule, keep_maximum=keep_maximum, **how
        )
    monkeypatch.setenv(SWITCH, "0")
    assert not native_tile.sum_tile(product, inverse, rules=plain, keep_maximum=False, **how)
    assert torch.equal(measures, empty_measures(4))


@pytest.mark.parametrize("dim", [512, 70, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lengths_and_copies_of_rows(dtype, dim):
    rows = torch.randn(130, dim, generator=torch.Generator().manual_seed(dim)).to(dtype)
    rows[3] = 0
    rows[4] = 1e-13 if dtype != torch.float16 else 0
    rows[5, 0], rows[6, 1] = math.nan, math.inf
    inverse, low = torch.empty(130), torch.empty(130, dim, dtype=torch.bfloat16)
    assert native_tile.measure_rows(rows, inverse, shortest=1e-11, copy=low)
    exact = torch.linalg.vector_norm(rows.double(), dim=1).reciprocal()
    exact[3:5] = 0
    # A sum of at most 8 squares a lane and 6 folds, halved by the root, and a quotient.
    torch.testing.assert_close(inverse.double(), exact, rtol=6e-7, atol=0.0, equal_nan=True)
    assert torch.equal(low[torch.arange(130) != 5], rows.bfloat16()[torch.arange(130) != 5])
    assert low[5, 0].isnan()
    copied = torch.empty_like(low)
    assert native_tile.copy_rows(rows, to=copied)
    assert torch.equal(copied.view(torch.int16), low.view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_some_rows_of_a_table_are_measured_and_gathered_in_one_pass(dtype):
    table = torch.randn(90, 33, generator=torch.Generator().manual_seed(0)).to(dtype)
    index = torch.tensor([3, 4, 40, 89])
    found, whole, copy = torch.empty(4), torch.empty(90), torch.empty(4, 33)
    assert native_tile.measure_rows(table, found, shortest=1e-12, index=index, copy=copy)
    assert native_tile.measure_rows(table, whole, shortest=1e-12)
    assert torch.equal(found, whole[index])
    assert torch.equal(copy, table[index].float())
