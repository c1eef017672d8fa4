"""The kernels that take over after the matrix library, beside the torch functions in float64."""

import pytest
import torch
from torch import Tensor

from tests.sharded_fc.kernels.cases import FIRST_CLASS, Case, Chunk, draw, measured, rules_of
from tests.sharded_fc.kernels.cases import weights_of as weights
from tests.sharded_fc.kernels.interpreter import Interpreter

CASES = {
    "plain": Case(),
    "one row": Case(rows=1),
    "one sample": Case(batch=1),
    "several programs each way": Case(rows=200, batch=140),
    "exactly one program": Case(rows=64, batch=128),
    "hard negatives": Case(hard=True),
    "ranges": Case(ranges=True),
    "conflicts": Case(conflicts=True),
    "hard negatives in ranges with conflicts": Case(hard=True, ranges=True, conflicts=True),
    "maximum kept": Case(keep_maximum=True, chunks=3),
    "maximum kept over ranges": Case(keep_maximum=True, ranges=True, chunks=2),
    "maximum kept over many blocks": Case(rows=70, batch=40, keep_maximum=True, hard=True),
    "sigmoid": Case(loss="sigmoid"),
    "sigmoid in ranges with conflicts": Case(loss="sigmoid", ranges=True, conflicts=True),
    "sub-centres": Case(rows=36, sub_centres=3),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def sums(case: Case, chunk: Chunk) -> tuple[Tensor, Tensor]:
    from sharded_fc import tile
    from sharded_fc.kernels import elementwise

    return (
        measured(case, chunk, elementwise.sum_tile, torch.float32),
        measured(case, chunk, tile.sum_tile, torch.float64),
    )


def gradients(case: Case, chunk: Chunk, out_dtype: torch.dtype) -> tuple[Tensor, ...]:
    from sharded_fc import tile
    from sharded_fc.kernels import elementwise

    answers = []
    for function, dtype, out in (
        (elementwise.gradient_tile, torch.float32, out_dtype),
        (tile.gradient_tile, torch.float64, torch.float64),
    ):
        product = chunk.product.to(dtype)
        tile_of_gradients = torch.full_like(product, torch.nan, dtype=out)
        along = function(
            product,
            chunk.inverse_norm.to(dtype),
            first_class=FIRST_CLASS,
            rules=rules_of(case, chunk, dtype),
            weights=weights(chunk, dtype, factor=0.25),
            out=tile_of_gradients,
        )
        answers += [tile_of_gradients.double(), along.double()]
    return tuple(answers)


@each_case
def test_sums_of_a_tile_equal_those_in_float64(interpreter: Interpreter, case: Case):
    found, expected = interpreter(sums, case, draw(case))
    # A logit of 64 is off by up to 4e-6 in float32, and so is its exponential, relatively.
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-12)


@each_case
@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [(torch.float32, 2e-5), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)],
    ids=["float32", "bfloat16", "float16"],
)
def test_gradients_of_a_tile_equal_those_in_float64(
    interpreter: Interpreter, case: Case, dtype: torch.dtype, rounding: float
):
    found, along, expected, expected_along = interpreter(gradients, case, draw(case), dtype)
    # Rounding to the tile's dtype beside float32's own error; float16 ends at 6e-8. Triton's
    # interpreter drops bfloat16's low bits where a device rounds: twice the error.
    torch.testing.assert_close(found, expected, rtol=2.1 * rounding, atol=1e-7)
    size = expected_along.abs().max()
    torch.testing.assert_close(along, expected_along, rtol=2e-5, atol=float(2e-6 * size))


def test_a_tile_of_one_batch_block_may_be_written_over_its_products(interpreter: Interpreter):
    case = Case()
    separate, along, in_place, along_in_place = interpreter(in_place_gradients, case, draw(case))
    assert torch.equal(separate, in_place)
    assert torch.equal(along, along_in_place)


def in_place_gradients(case: Case, chunk: Chunk) -> tuple[Tensor, ...]:
    from sharded_fc.kernels import elementwise

    answers = []
    for in_place in (False, True):
        product = chunk.product.float()
        out = product if in_place else torch.empty_like(product)
        along = elementwise.gradient_tile(
            product,
            chunk.inverse_norm.float(),
            first_class=FIRST_CLASS,
            rules=rules_of(case, chunk, torch.float32),
            weights=weights(chunk, torch.float32, factor=0.25),
            out=out,
        )
        answers += [out, along]
    return tuple(answers)


def test_a_bad_row_shows_in_the_totals_of_all_but_its_own_samples(interpreter: Interpreter):
    case = Case()
    chunk = draw(case)
    chunk.centre[7] = torch.nan
    found, _ = interpreter(sums, case, chunk)
    mine = chunk.label == FIRST_CLASS + 7
    assert torch.equal(found[0].isnan(), ~mine)


def test_terms_that_a_million_negatives_consist_of_are_not_lost(interpreter: Interpreter):
    logit = torch.tensor([-40.0, -17.0, -8.0, -3.0, -2.7, 0.0, 3.0, 30.0, 90.0])
    expected = torch.nn.functional.softplus(logit.double(), threshold=200.0)
    found = interpreter(softplus_totals, logit)
    # float32's own error; log(1 + e^-40) as it stands would be 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)


def softplus_totals(logit: Tensor) -> Tensor:
    from sharded_fc import tile
    from sharded_fc.kernels import elementwise

    measures = torch.zeros(tile.MEASURES, len(logit), dtype=torch.float64)
    product = logit.unsqueeze(0)
    elementwise.sum_tile(
        product,
        torch.ones(1),
        first_class=0,
        rules=tile.Rules(
            scale=1.0,
            label=torch.full((len(logit),), -1),
            sigmoid_bias=torch.zeros((), dtype=torch.float64),
        ),
        measures=measures,
        keep_maximum=False,
        out=product,
    )
    return measures[tile.TOTAL]
