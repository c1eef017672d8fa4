"""The translation-variant product and its gradients, in every form, against the unfolded one."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sharded_fc.native_build import SWITCH
from tests.trainer.layers.tvconv.cases import CASES, Case, dense, unfolded
from trainer.layers.native import tvconv as native
from trainer.layers.tvconv import plain, varying_depthwise
from trainer.layers.tvconv.taps import geometry

CHANNELS_LAST = torch.channels_last
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def ours(case: Case, dtype: torch.dtype, weight_dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Output and gradients in float64."""
    image, weight, gradient = case.draw(dtype)
    image = image.contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    weight = weight.to(weight_dtype).requires_grad_()
    output = varying_depthwise(image, weight, stride=case.stride)
    assert output.dtype == dtype
    assert output.is_contiguous(memory_format=CHANNELS_LAST)
    return output.detach(), *torch.autograd.grad(output, (image, weight), gradient)


@pytest.mark.usefixtures("compiled")
@each_case
def test_compiled_output_and_gradients_equal_the_unfolded_form(case: Case):
    for found, expected in zip(ours(case, torch.float32, torch.float32), dense(case), strict=True):
        # float32's rounding of at most 49 products, or of 15 images', each around 1
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@each_case
def test_plain_output_and_gradients_equal_the_unfolded_form_in_float64(case: Case):
    for found, expected in zip(ours(case, torch.float64, torch.float64), dense(case), strict=True):
        torch.testing.assert_close(found, expected)


def test_gradients_equal_differences_of_the_output():
    for case in (
        Case(channels=2, images=2, size=(3, 4)),
        Case(channels=1, stride=2, kernel=5, size=(3, 4)),
    ):
        image, weight, _ = case.draw()
        torch.autograd.gradcheck(
            lambda image, weight, stride=case.stride: varying_depthwise(
                image, weight, stride=stride
            ),
            (image.requires_grad_(), weight.requires_grad_()),
        )


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_case
def test_plain_torch_gives_the_compiled_codes_bits(case: Case, dtype: torch.dtype):
    image, weight, gradient = case.draw(torch.float32)
    image, gradient = (
        t.to(dtype).contiguous(memory_format=CHANNELS_LAST) for t in (image, gradient)
    )
    shape = geometry(case.size, case.kernel, case.stride)
    for name, source in (("forward", image), ("image_gradient", gradient)):
        in_code = getattr(native, name)(source, weight, shape)
        in_torch = getattr(plain, name)(source, weight, shape)
        assert torch.equal(in_code, in_torch), name
    in_code = native.weight_gradient(image, gradient, shape)
    assert in_code is not None
    # Sums over images of products around 1, in another order.
    torch.testing.assert_close(
        in_code, plain.weight_gradient(image, gradient, shape), rtol=1e-5, atol=1e-5
    )


@pytest.mark.usefixtures("compiled")
def test_bits_do_not_depend_on_the_number_of_threads():
    case, threads, found = CASES["threads"], torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(ours(case, torch.float32, torch.float32))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("case", [CASES["threads"], CASES["5 x 5"]], ids=str)
def test_bfloat16_is_no_further_from_float64_than_the_unfolded_form(case: Case):
    image, weight, gradient = case.draw(torch.bfloat16)  # numbers that bfloat16 holds
    exact = Exact(image.double(), weight.double(), gradient.double(), case)
    theirs = Exact(image, weight, gradient, case)
    found = ours(case, torch.bfloat16, torch.float32)
    for our, naive, true in zip(found, theirs.results, exact.results, strict=True):
        assert error(our, true) <= error(naive, true)


class Exact:
    """The unfolded form's results in the dtype of what it is given."""

    def __init__(self, image: Tensor, weight: Tensor, gradient: Tensor, case: Case) -> None:
        weight = weight.requires_grad_()
        output = unfolded(image.requires_grad_(), weight, stride=case.stride)
        gradients = torch.autograd.grad(output, (image, weight), gradient)
        self.results = (output.detach(), *gradients)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().mean())


@pytest.mark.parametrize("switch", ["0", "1"], ids=["plain", "compiled"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_equal_weights_everywhere_are_a_depthwise_convolution(monkeypatch, switch, kernel, stride):
    monkeypatch.setenv(SWITCH, switch)
    case = Case(kernel=kernel, stride=stride, size=(9, 8), channels=6)
    image, weight, _ = case.draw(torch.float32)
    weight = weight[:1, :1].expand_as(weight)
    theirs = functional.conv2d(
        image,
        weight[0, 0].t().reshape(6, 1, kernel, kernel),
        stride=stride,
        padding=kernel // 2,
        groups=6,
    )
    # float32's rounding of 25 products around 1 in another order
    found = varying_depthwise(image, weight, stride=stride)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)


def test_shifting_image_and_weights_shifts_the_output_and_shifting_the_image_alone_does_not():
    image, weight, _ = Case(size=(8, 8)).draw()
    inner = slice(2, 6)  # what no border reaches, before or after
    output = varying_depthwise(image, weight)[..., inner, inner]
    shifted_image, shifted_weight = image.roll((1, 1), (2, 3)), weight.roll((1, 1), (0, 1))
    both = varying_depthwise(shifted_image, shifted_weight)[..., 3:7, 3:7]
    torch.testing.assert_close(both, output, rtol=0.0, atol=0.0)
    alone = varying_depthwise(shifted_image, weight)[..., 3:7, 3:7]
    assert not torch.isclose(alone, output).any(-1).any()


def test_images_in_either_memory_format_give_the_same_in_their_own():
    image, weight, _ = Case(channels=6).draw(torch.float32)
    output = varying_depthwise(image, weight)
    last = varying_depthwise(image.contiguous(memory_format=CHANNELS_LAST), weight)
    assert output.is_contiguous()
    assert last.is_contiguous(memory_format=CHANNELS_LAST)
    assert torch.equal(output, last)


def test_images_of_another_size_are_refused():
    image, weight, _ = Case(size=(6, 7)).draw()
    with pytest.raises(ValueError, match="weights are of 6x7 output positions and the image has"):
        varying_depthwise(image[..., :5], weight)


def test_gradients_are_those_of_the_arguments_that_want_one():
    image, weight, gradient = Case().draw(torch.float32)
    output = varying_depthwise(image, weight.requires_grad_())
    output.backward(gradient)
    assert image.grad is None
    assert weight.grad is not None
    assert not varying_depthwise(image, weight.detach()).requires_grad
