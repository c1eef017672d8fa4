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
# Tiles are of 16 to 64 pixels, blocks of 16 to 64 channels, 8 of what is asked, 16 tables.
DEPTHWISE = replace(
    POINTWISE,
    inputs=37,
    outputs=37,
    groups=37,
    height=5,
    kernel=3,
    padding=1,
    table_taps=9,
    regions=3,
)
SMALL |= {
    "depthwise": DEPTHWISE,
    "blocks of channels": replace(
        DEPTHWISE, batch=1, inputs=70, outputs=70, groups=70, height=3, width=3
    ),
    "strided depthwise": replace(DEPTHWISE, height=7, width=6, stride=2),
    "5x5, unpadded": replace(DEPTHWISE, batch=1, height=7, kernel=5, padding=0, table_taps=25),
    "strided depthwise, 1x1": replace(DEPTHWISE, kernel=1, stride=2, padding=0, table_taps=1),
    "uneven": replace(
        DEPTHWISE, batch=1, kernel=(3, 2), stride=(1, 2), padding=(2, 1), table_taps=6
    ),
    "one table for all taps": replace(DEPTHWISE, table_taps=1),
    "shared tables weighed by taps": replace(DEPTHWISE, coefficient_taps=9),
    "more regions than pixels, depthwise": replace(DEPTHWISE, height=2, width=2, regions=9),
    "many tables": replace(DEPTHWISE, height=2, width=3, terms=18),
    "depthwise, own tables": replace(DEPTHWISE, own=True, table_taps=1, coefficient_taps=9),
    "depthwise, own tables by taps": replace(DEPTHWISE, own=True, height=3),
    "more own tables than lots": replace(
        DEPTHWISE, batch=3, height=1, kernel=1, padding=0, own=True, table_taps=1, regions=65
    ),
}
LARGER = {
    "pointwise": replace(CASES["pointwise"], batch=20, height=28, width=28, outputs=130),
    "3x3": replace(CASES["3x3"], batch=3, height=14, width=13, regions=8),
    "own tables": replace(CASES["own tables"], batch=5, height=14, width=14),
    "depthwise": replace(DEPTHWISE, batch=70, height=28, width=27, regions=8, terms=8),
    "strided depthwise": replace(CASES["strided depthwise"], batch=5, height=29, width=28),
    "own tables, depthwise": replace(
        CASES["own tables, depthwise"], batch=9, height=14, width=13, regions=8, terms=9
    ),
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
    assert out is not None
    assert found is not None
    return [out.float(), *(tensor.float() for tensor in found if tensor is not None)]


def by_kernels(case: Case, dtype: torch.dtype) -> list[Tensor]:
    from trainer.layers.kernels import drconv

    return results(drconv, case, dtype)


def works(case: Case, dtype: torch.dtype) -> bool:
    """Whether the kernels do this, or leave it to torch."""
    from trainer.layers.kernels import drconv

    given = case.inputs_of(dtype)
    mask = plain.choose_regions(given["guide"])
    filters, geometry = filters_of(given), case.geometry
    out = drconv.forward(given["image"], mask, filters, None, geometry)
    found = drconv.backward(
        given["gradient"],
        given["image"],
        given["guide"],
        mask,
        filters,
        geometry,
        wanted=(False, False, False, False),
    )
    assert (out is None) == (found is None)
    return out is not None


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


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("pointwise", torch.float16),
        ("depthwise", torch.float16),
        ("depthwise", torch.bfloat16),
        ("depthwise, own tables", torch.float16),
    ],
    ids=str,
)
def test_interpreted_kernels_take_half_precision(
    interpreter: Interpreter, name: str, dtype: torch.dtype
):
    expected = results(plain, SMALL[name], dtype)
    check(interpreter(by_kernels, SMALL[name], dtype), expected, dtype)


def test_kernels_do_depthwise_layers_but_not_several_outputs_a_channel(interpreter: Interpreter):
    assert interpreter(works, SMALL["strided depthwise, 1x1"], torch.float32)
    assert not interpreter(works, CASES["two outputs a channel"], torch.float32)
    assert not interpreter(works, SMALL["strided depthwise, 1x1"], torch.float64)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [*SMALL.values(), *LARGER.values()], ids=str)
def test_kernels_on_a_card_give_plain_torchs_numbers(case: Case, dtype: torch.dtype):
    from trainer.layers.kernels import drconv

    check(results(drconv, case, dtype, "cuda"), results(plain, case, dtype, "cuda"), dtype)
