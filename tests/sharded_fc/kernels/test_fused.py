"""The kernels that make products and use them at once, beside the torch functions in float64."""

import pytest
import torch
from torch import Tensor

from tests.sharded_fc.kernels.cases import FIRST_CLASS, Case, Chunk, draw, measured, rules_of
from tests.sharded_fc.kernels.cases import weights_of as weights
from tests.sharded_fc.kernels.interpreter import Interpreter

HALF, BRAIN = torch.float16, torch.bfloat16
CASES = {
    "float32": Case(),
    "float16": Case(dtype=HALF),
    "bfloat16": Case(dtype=BRAIN),
    "one column": Case(dim=1),
    "odd columns in several blocks": Case(dim=131, dtype=HALF),
    "even columns in several blocks": Case(dim=128, dtype=HALF),
    "one row": Case(rows=1),
    "one sample": Case(batch=1),
    "several programs each way": Case(rows=260, batch=130, dim=33, dtype=HALF),
    "hard negatives in ranges with conflicts": Case(
        hard=True, ranges=True, conflicts=True, dtype=HALF
    ),
    "maximum kept": Case(keep_maximum=True, chunks=2),
    "sigmoid in ranges": Case(loss="sigmoid", ranges=True, batch=70, dtype=BRAIN),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def sums(case: Case, chunk: Chunk) -> tuple[Tensor, Tensor]:
    from sharded_fc import tile
    from sharded_fc.kernels import fused

    def fused_sums(product, inverse_norm, *, first_class, out, **others) -> None:
        first = first_class - FIRST_CLASS
        rows = chunk.centre[first : first + len(product)].to(case.dtype)
        embedding = chunk.embedding.to(case.dtype)
        fused.sum_rows(rows, embedding, inverse_norm, first_class=first_class, **others)

    return (
        measured(case, chunk, fused_sums, torch.float32),
        measured(case, chunk, tile.sum_tile, torch.float64),
    )


def gradients(case: Case, chunk: Chunk) -> tuple[Tensor, ...]:
    from sharded_fc import tile
    from sharded_fc.kernels import fused

    found = torch.full((case.rows, case.batch), torch.nan, dtype=case.dtype)
    along = fused.gradient_rows(
        chunk.centre.to(case.dtype),
        chunk.embedding.to(case.dtype),
        chunk.inverse_norm.float(),
        first_class=FIRST_CLASS,
        rules=rules_of(case, chunk, torch.float32),
        weights=weights(chunk, torch.float32, factor=0.25),
        out=found,
    )
    product = chunk.product
    expected = torch.empty_like(product)
    expected_along = tile.gradient_tile(
        product,
        chunk.inverse_norm,
        first_class=FIRST_CLASS,
        rules=rules_of(case, chunk, torch.float64),
        weights=weights(chunk, torch.float64, factor=0.25),
        out=expected,
    )
    return found.double(), along.double(), expected, expected_along


@each_case
def test_sums_of_a_chunk_equal_those_in_float64(interpreter: Interpreter, case: Case):
    found, expected = interpreter(sums, case, draw(case))
    # The operands are exact, so what is left is float32's error of a logit of up to 64 and of the
    # product, which goes into an exponent.
    torch.testing.assert_close(found, expected, rtol=4e-5, atol=1e-12)


@each_case
def test_gradients_of_a_chunk_equal_those_in_float64(interpreter: Interpreter, case: Case):
    found, along, expected, expected_along = interpreter(gradients, case, draw(case))
    # Rounding to the tile's dtype, twice where the interpreter truncates; float16 ends at 6e-8.
    rounding = {torch.float32: 2e-5, BRAIN: 2**-8, HALF: 2**-11}[case.dtype]
    torch.testing.assert_close(found, expected, rtol=2.1 * rounding, atol=1e-7)
    size = expected_along.abs().max()
    torch.testing.assert_close(along, expected_along, rtol=4e-5, atol=float(4e-6 * size))


def test_classes_of_several_rows_are_referred_to_the_other_kernels(interpreter: Interpreter):
    case = Case(rows=36, sub_centres=3)
    with pytest.raises(ValueError, match="use elementwise"):
        interpreter(gradients, case, draw(case))


def test_a_tile_is_as_wide_as_the_batch_fills():
    from sharded_fc.kernels.configurations import fused_tile

    assert [fused_tile(HALF, batch, 90).samples for batch in (1, 64, 200, 256, 8192)] == [
        64,
        64,
        128,
        256,
        256,
    ]
    assert fused_tile(HALF, 8192, 80).samples == 128
