"""The kernels, in Triton's interpreter and as a card would get them, beside plain torch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.sharded_fc.kernels.interpreter import Interpreter
from tests.trainer.layers.drconv.cases import CASES, Case, filters_of
from trainer.layers.drconv import plain

# The interpreter takes milliseconds a program, so these have few pixels, regions and tables.
POINTWISE = Case(batch=2, inputs=36, outputs=18, height=9, width=8, regions=2, terms=3)
SMALL = {
    "pointwise": POINTWISE,
    "blocks of columns": replace(POINTWISE, batch=1, inputs=5, outputs=70),
    "more regions than pixels": replace(POINTWISE, height=2, width=2, regions=5, inputs=4),
    "strided, groups": replace(
        POINTWISE, batch=1, height=5, kernel=3, stride=2, padding=1, groups=2, table_taps=9
    ),
    "own tables": replace(POINTWISE, own=True),
    "own tables, 3x3": replace(
        POINTWISE, batch=1, height=3, width=2, kernel=3, padding=1, own=True, coefficient_taps=9
    ),
}
LARGER = {
    "pointwise": replace(CASES["pointwise"], batch=20, height=28, width=28, outputs=130),
    "3x3": replace(CASES["3x3"], batch=3, height=14, width=13, regions=8),
    "own tables": replace(CASES["own tables"], batch=5, height=14, width=14),
}


def results(module, case: Case, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Output and gradients of one way to compute them; images in `dtype`, filters in float32."""
    given = {name: tensor.to(device) for name, tensor in case.inputs_of(torch.float32).items()}
    image, gradient = given["image"].to(dtype), given["gradient"].to(dtype)
    if module is plain:
        image, gradient = image.float(), gradient.float()
    mask = plain.choose_regions(given["guide"])
    filters = filters_of(given)
    out = module.forward(image, mask, filters, given["bias"], case.geometry)
    wanted = (True, True, True, True)
    found = module.backward(
        gradient, image, given["guide"], mask, filters, case.geometry, wanted=wanted
    )
    return [out.float(), *(tensor.float() for tensor in found if tensor is not None)]


def by_kernels(case: Case, dtype: torch.dtype) -> list[Tensor]:
    from trainer.layers.kernels import drconv

    return results(drconv, case, dtype)


def check(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    # Sums of up to some hundred products around 1, in another order; in half precision filters are
    # rounded too, by one part in 2^11 or 2^8, and so is the output.
    close = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 3e-2}[dtype]
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= close * max(other.abs().max().item(), 1.0)


@pytest.mark.parametrize("name", SMALL)
def test_interpreted_kernels_give_plain_torchs_numbers(interpreter: Interpreter, name: str):
    expected = results(plain, SMALL[name], torch.float32)
    check(interpreter(by_kernels, SMALL[name], torch.float32), expected, torch.float32)


def test_interpreted_kernels_take_half_precision(interpreter: Interpreter):
    expected = results(plain, POINTWISE, torch.float16)
    check(interpreter(by_kernels, POINTWISE, torch.float16), expected, torch.float16)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [*SMALL.values(), *LARGER.values()], ids=str)
def test_kernels_on_a_card_give_plain_torchs_numbers(case: Case, dtype: torch.dtype):
    from trainer.layers.kernels import drconv

    check(results(drconv, case, dtype, "cuda"), results(plain, case, dtype, "cuda"), dtype)
