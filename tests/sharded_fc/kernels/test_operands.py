"""Unit rows, and who gets kernels at all."""

import pytest
import torch
from torch import Tensor

from sharded_fc import kernels
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


def test_where_no_kernel_starts_torch_does_the_work(caplog: pytest.LogCaptureFixture):
    assert kernels.choose(torch.device("cpu")) is None
    if torch.cuda.is_available():
        pytest.skip("kernels start here")
    with caplog.at_level("INFO"):
        assert kernels.choose(torch.device("cuda", 0)) is None
    assert "plain torch instead" in caplog.text
