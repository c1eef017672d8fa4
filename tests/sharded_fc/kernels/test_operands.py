"""Unit rows, gradients that fit float16, and who gets kernels at all."""

import pytest
import torch
from torch import Tensor

from sharded_fc import kernels, tile
from tests.sharded_fc.kernels.interpreter import Interpreter


def unit(centre: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from sharded_fc.kernels import operands

    inverse_norm, out = torch.empty(len(centre)), torch.empty_like(centre, dtype=dtype)
    operands.unit_rows(centre, inverse_norm=inverse_norm, out=out)
    return inverse_norm, out.float()


@pytest.mark.parametrize("dim", [1, 5, 64, 700])
def test_rows_become_unit_rows_beside_their_inverse_lengths(interpreter: Interpreter, dim: int):
    centre = torch.randn(11, dim, generator=torch.Generator().manual_seed(dim)) * 0.01
    centre[3] = 0.0
    centre[4] = torch.nan
    inverse_norm, rows = interpreter(unit, centre, torch.float16)
    expected = centre.double() / centre.double().norm(dim=1, keepdim=True)
    expected[3] = 0.0
    # float16's rounding, twice float32's for what lies between
    torch.testing.assert_close(
        rows.double(), expected, rtol=2**-11 + 1e-6, atol=2**-25, equal_nan=True
    )
    assert inverse_norm[3] == 0.0
    assert inverse_norm[4].isnan()
    torch.testing.assert_close(
        inverse_norm[0].double(), 1 / centre[0].double().norm(), rtol=3e-7, atol=0.0
    )


@pytest.mark.parametrize(
    ("largest", "exponent"), [(0.3, 14), (1.0, 14), (1.5, 13), (2.0, 13), (100.0, 7)]
)
def test_the_largest_gradient_stays_below_a_quarter_of_float16s_range(
    interpreter: Interpreter, largest: float, exponent: int
):
    target = torch.tensor([0.1, -largest])
    power = interpreter(power_of, target)
    assert power == 2.0**exponent
    assert largest * power <= 2**14


def power_of(target: Tensor) -> float:
    from sharded_fc.kernels import operands

    return float(operands.gradient_power(target))


@pytest.mark.parametrize("sigmoid", [False, True])
def test_scaled_weights_make_scaled_gradients(interpreter: Interpreter, sigmoid: bool):
    plain, larger = interpreter(two_tiles, sigmoid)
    # Adding log 2^14 to an exponent near 0 costs a unit or two of its last place.
    torch.testing.assert_close(larger, plain * 2**14 / 0.25, rtol=1e-5, atol=0.0)


def two_tiles(sigmoid: bool) -> tuple[Tensor, Tensor]:
    from sharded_fc.kernels import elementwise, operands

    generator = torch.Generator().manual_seed(0)
    product = torch.rand(6, 4, generator=generator)
    rules = tile.Rules(
        scale=1.0,
        label=torch.tensor([0, 2, 5, -1]),
        sigmoid_bias=torch.zeros(()) if sigmoid else None,
    )
    weights = tile.Weights(offset=torch.rand(4), target=-torch.rand(4), factor=0.25)
    scaled = operands.scaled(weights, torch.tensor(2.0**14), sigmoid=sigmoid)
    tiles = []
    for chosen in (weights, scaled):
        out = torch.empty_like(product)
        elementwise.gradient_tile(
            product, torch.ones(6), first_class=0, rules=rules, weights=chosen, out=out
        )
        tiles.append(out)
    return tuple(tiles)


def test_where_no_kernel_starts_torch_does_the_work(caplog: pytest.LogCaptureFixture):
    assert kernels.choose(torch.device("cpu")) is None
    if torch.cuda.is_available():
        pytest.skip("kernels start here")
    pytest.importorskip("triton")
    with caplog.at_level("INFO"):
        assert kernels.choose(torch.device("cuda", 0)) is None
    assert "plain torch instead" in caplog.text
