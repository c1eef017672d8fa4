"""The kernels, in Triton's interpreter and as a card would get them, beside plain torch."""

import pytest
import torch
from torch import Tensor

from tests.sharded_fc.kernels.interpreter import Interpreter
from tests.trainer.layers.tvconv.cases import Case, dense
from trainer.layers.tvconv import plain, varying_depthwise
from trainer.layers.tvconv.taps import geometry

# The interpreter takes milliseconds a program, and a program has one position.
CASES = {
    "more images and channels than a program takes": Case(images=9, channels=65, size=(2, 2)),
    "stride 2, odd": Case(stride=2, size=(3, 3), images=2),
    "stride 2, even": Case(stride=2, size=(4, 2), images=2),
    "5 x 5": Case(kernel=5, size=(2, 2), images=1),
}
LARGER = {
    "stride 1": Case(images=33, channels=130, size=(14, 14)),
    "stride 2": Case(images=20, channels=64, size=(27, 28), stride=2),
    "5 x 5, stride 2": Case(images=3, channels=200, size=(9, 14), kernel=5, stride=2),
}


def results(module, case: Case, dtype: torch.dtype, device: str) -> list[Tensor]:
    image, weight, gradient = (tensor.to(device) for tensor in case.draw(torch.float32))
    image, gradient = (
        t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (image, gradient)
    )
    shape = geometry(case.size, case.kernel, case.stride)
    return [
        module.forward(image, weight, shape),
        module.image_gradient(gradient, weight, shape),
        module.weight_gradient(image, gradient, shape),
    ]


def by_kernels(case: Case, dtype: torch.dtype) -> list[Tensor]:
    from trainer.layers.kernels import tvconv

    return results(tvconv, case, dtype, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_interpreted_kernels_give_plain_torchs_numbers(
    interpreter: Interpreter, case: Case, dtype: torch.dtype
):
    found, expected = interpreter(by_kernels, case, dtype), results(plain, case, dtype, "cpu")
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    # Sums over images of products around 1, in another order.
    torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [*CASES.values(), *LARGER.values()], ids=str)
def test_kernels_on_a_card_give_plain_torchs_numbers(case: Case, dtype: torch.dtype):
    from trainer.layers.kernels import tvconv

    assert torch.cuda.is_available(), "make gpu-check needs a CUDA device"
    found = results(tvconv, case, dtype, "cuda")
    expected = results(plain, case, dtype, "cuda")
    # A card adds a product in one rounding; the last bit of what is rounded to may differ.
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rounding, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("case", LARGER.values(), ids=LARGER)
def test_the_product_on_a_card_equals_the_unfolded_form_in_float64(case: Case):
    image, weight, gradient = (tensor.cuda() for tensor in case.draw(torch.float32))
    output = varying_depthwise(image.requires_grad_(), weight.requires_grad_(), stride=case.stride)
    found = (output, *torch.autograd.grad(output, (image, weight), gradient))
    for ours, exact in zip(found, dense(case), strict=True):
        torch.testing.assert_close(ours.double().cpu(), exact, rtol=1e-5, atol=1e-5)
