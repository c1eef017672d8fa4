"""The kernels as compiled for a card, on the cases of the interpreter's tests and larger ones."""

import pytest
import torch

from sharded_fc.optimizer import Optimizer
from tests.sharded_fc.kernels import test_elementwise, test_fused, test_update
from tests.sharded_fc.kernels.cases import Case, draw

pytestmark = pytest.mark.gpu

HALF, BRAIN = torch.float16, torch.bfloat16
LARGER = {
    "larger": Case(rows=5001, batch=515, dim=512, dtype=HALF),
    # Not so many that one lies within float32's error of its threshold, where the rule jumps.
    "larger, hard, ranges": Case(rows=513, batch=70, dim=511, hard=True, ranges=True, dtype=HALF),
    "larger, maximum kept": Case(rows=4096, batch=1024, dim=256, keep_maximum=True, dtype=HALF),
    "larger, sigmoid": Case(rows=4100, batch=260, dim=128, loss="sigmoid", dtype=HALF),
    "larger, float32": Case(rows=2050, batch=130, dim=512, conflicts=True),
}


@pytest.fixture(scope="module")
def device() -> torch.device:
    assert torch.cuda.is_available(), "make gpu-check needs a CUDA device"
    return torch.device("cuda", 0)


def check(case: Case, module, device: torch.device, *rest) -> None:
    chunk = draw(case).to(device)
    with torch.device(device):
        found, expected = module.sums(case, chunk)
        tile, along, expected_tile, expected_along = module.gradients(case, chunk, *rest)
    # As in the interpreter; the hardware's exponential adds two units of its last place, and
    # thousands of terms of both signs cancel in what multiplies a row.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-12)
    rounding = 2**-8 if BRAIN in (case.dtype, *rest) else 2**-11
    torch.testing.assert_close(tile, expected_tile, rtol=1.1 * rounding, atol=1e-7)
    size = float(expected_along.abs().max())
    torch.testing.assert_close(along, expected_along, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("case", [*test_elementwise.CASES.values(), *LARGER.values()], ids=str)
@pytest.mark.parametrize("out", [torch.float32, BRAIN, HALF], ids=str)
def test_passes_over_products_equal_float64(device: torch.device, case: Case, out: torch.dtype):
    check(case, test_elementwise, device, out)


@pytest.mark.parametrize("case", [*test_fused.CASES.values(), *LARGER.values()], ids=str)
def test_passes_with_products_inside_equal_float64(device: torch.device, case: Case):
    check(case, test_fused, device)


@pytest.mark.parametrize(("dtype", "width"), [*test_update.TABLES, (BRAIN, 512)], ids=str)
@pytest.mark.parametrize("optimizer", test_update.OPTIMIZERS, ids=str)
def test_updates_have_the_bits_of_torchs(
    device: torch.device, optimizer: Optimizer, dtype: torch.dtype, width: int
):
    found, expected = test_update.steps(optimizer, dtype, torch.float32, width, device=device)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
