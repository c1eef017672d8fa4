"""BatchNorm and PReLU in one compiled pass: torch's numbers, in any layout, at any thread count."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sharded_fc.native_build import SWITCH
from trainer.layers.batch_norm import BatchNorm2d
from trainer.layers.conv import ConvNorm, conv_norm
from trainer.layers.native import norm as native
from trainer.layers.norm_prelu import affine, batch_norm, prelu
from trainer.layers.prelu import PReLU

EPS = 1e-5
SHAPES = [(3, 5, 4, 6), (2, 40, 9, 7), (1, 17, 1, 33), (4, 33, 1, 1), (5, 3, 64, 64), (7, 21)]
"""Odd sizes; blocks of 16,384 numbers: one and several, whole and not."""


@pytest.fixture
def compiled(monkeypatch) -> ctypes.CDLL:
    monkeypatch.delenv(SWITCH, raising=False)
    code = native.library()
    if code is None:
        pytest.skip("no compiler, so no native code")
    return code


@contextmanager
def in_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv(SWITCH, "0")
        yield


def make(shape: tuple[int, ...], dtype: torch.dtype, *, layout: str = "last") -> list[Tensor]:
    """A map, weight, bias, slope and a gradient of the output; means far from zero."""
    torch.manual_seed(len(shape) + shape[1])
    channels = shape[1]
    image = torch.randn(shape) * 2 + torch.randn(channels).view(-1, *[1] * (len(shape) - 2)) * 5
    weight, bias = torch.rand(channels) + 0.5, torch.randn(channels)
    slope, gradient = torch.rand(channels) - 0.3, torch.randn(shape)
    if layout == "last" and len(shape) == 4:
        image = image.contiguous(memory_format=torch.channels_last)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    image, gradient = image.to(dtype), gradient.to(dtype)
    return [image, weight.to(wide), bias.to(wide), slope.to(wide), gradient]


def results(
    forward: Callable[..., Tensor], inputs: list[Tensor], gradient: Tensor
) -> tuple[Tensor, ...]:
    """The output and the gradients of all inputs."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    output = forward(*leaves)
    return output.detach(), *torch.autograd.grad(output, leaves, gradient)


def ours(image: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None = None) -> Tensor:
    return batch_norm(image, weight, bias, slope, eps=EPS).output


def theirs(image: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None = None) -> Tensor:
    output = functional.batch_norm(image, None, None, weight, bias, training=True, eps=EPS)
    return output if slope is None else functional.prelu(output, slope)


@pytest.mark.parametrize("sloped", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_float64_map_gives_torchs_numbers(compiled, shape, sloped):
    image, *by_channel, gradient = make(shape, torch.float64)
    inputs = [image, *by_channel[: 3 if sloped else 2]]
    assert native.takes(*inputs)
    got, wanted = results(ours, inputs, gradient), results(theirs, inputs, gradient)
    for one, other in zip(got, wanted, strict=True):  # sums in another order
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_narrow_map_is_as_near_to_float64_as_torchs(compiled, shape, dtype):
    image, weight, bias, slope, gradient = make(shape, dtype)
    # Where a value is near zero rounding decides on the slope, so its sides are made alike there.
    with torch.no_grad():
        near = (theirs(image.double(), weight.double(), bias.double()).abs() < 0.05).to(dtype)
    gradient = gradient * (1 - near)
    exact_inputs = [each.double() for each in (image, weight, bias, slope)]
    exact = results(theirs, exact_inputs, gradient.double())
    got = results(ours, [image, weight, bias, slope], gradient)
    # torch's PReLU wants the slope in the map's dtype.
    stock = results(
        lambda x, w, b, a: functional.prelu(theirs(x, w, b), a.to(dtype)),
        [image, weight, bias, slope],
        gradient,
    )
    for one, other, true in zip(got, stock, exact, strict=True):
        assert one.dtype == other.dtype
        scale = true.abs().max()
        allowed = (other.double() - true).abs().max() + scale * torch.finfo(dtype).eps * 8
        assert (one.double() - true).abs().max() <= allowed


def test_gradients_are_those_of_the_function(compiled):
    image, weight, bias, slope, _ = make((3, 5, 4, 6), torch.float64)
    leaves = [each.requires_grad_() for each in (image, weight, bias, slope)]
    assert native.takes(*leaves)
    assert torch.autograd.gradcheck(ours, leaves)
    assert torch.autograd.gradcheck(ours, leaves[:3])
    assert torch.autograd.gradcheck(prelu, [leaves[0], leaves[3]])


def test_statistics_are_mean_and_unbiased_variance_and_carry_no_gradient(compiled):
    image, weight, bias, slope, _ = make((5, 3, 64, 64), torch.float32)
    made = batch_norm(image.requires_grad_(), weight, bias, slope, eps=EPS)
    exact = image.detach().double()
    torch.testing.assert_close(made.mean.double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(made.variance.double(), exact.var((0, 2, 3)), rtol=1e-6, atol=0)
    assert made.output.requires_grad
    assert not made.mean.requires_grad
    assert not made.variance.requires_grad


def test_a_small_variance_beside_a_large_mean_is_not_lost(compiled):
    torch.manual_seed(0)
    image = (torch.randn(8, 4, 32, 32) * 0.01 + 100).contiguous(memory_format=torch.channels_last)
    made = batch_norm(image, torch.ones(4), torch.zeros(4), None, eps=EPS)
    exact = image.double().var((0, 2, 3))
    # A sum of squares would keep no digit of it, 1e4 * 2^-24 being 6e-4 against 1e-4; by a block's
    # mean, which is right to 1e-6 of 100, it is wrong by the square of that.
    torch.testing.assert_close(made.variance.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_prelu_alone_is_torchs(compiled, shape, dtype):
    image, _, _, slope, gradient = make(shape, dtype)
    assert native.takes(image, slope)
    got = results(prelu, [image, slope], gradient)
    wide = slope.dtype
    wanted = results(functional.prelu, [image.to(wide), slope], gradient.to(wide))
    assert torch.equal(got[0], wanted[0].to(dtype))
    assert torch.equal(got[1], wanted[1].to(dtype))
    torch.testing.assert_close(got[2], wanted[2], rtol=1e-5, atol=1e-4)  # sums in another order


def test_given_statistics_are_applied_as_torch_applies_them(compiled):
    image, weight, bias, slope, _ = make((2, 40, 9, 7), torch.float32)
    mean, variance = torch.randn(40), torch.rand(40) + 0.5
    with torch.no_grad():
        got = affine(image, mean, variance, weight, bias, slope, eps=EPS)
    moments = mean.double(), variance.double()
    exact = functional.batch_norm(
        image.double(), *moments, weight=weight.double(), bias=bias.double(), eps=EPS
    )
    exact = functional.prelu(exact, slope.double())
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_a_number_that_is_not_finite_comes_through(compiled):
    image, weight, bias, slope, _ = make((2, 40, 9, 7), torch.float32)
    image[1, 3, 2, 2] = torch.nan
    with torch.no_grad():
        output = batch_norm(image, weight, bias, slope, eps=EPS).output
        assert output[:, 3].isnan().all()
        assert output.isnan().sum() == output[:, 3].numel()
        assert prelu(image, slope)[1, 3, 2, 2].isnan()


def test_bits_do_not_depend_on_the_number_of_threads(compiled):
    image, weight, bias, slope, gradient = make((5, 40, 64, 64), torch.float32)
    before = torch.get_num_threads()
    try:
        of = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            of.append(results(ours, [image, weight, bias, slope], gradient))
            of[-1] += results(prelu, [image, slope], gradient)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in of[1:] for a, b in zip(of[0], other, strict=True))


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (7, 21)])
def test_without_compiled_code_and_in_other_layouts_it_is_torch_itself(monkeypatch, shape):
    image, weight, bias, slope, gradient = make(shape, torch.float32, layout="first")
    if image.ndim == 4:
        assert not native.takes(image, weight, bias, slope)
    with in_torch(monkeypatch):
        got = results(ours, [image, weight, bias, slope], gradient)
    wanted = results(theirs, [image, weight, bias, slope], gradient)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_a_gradient_in_another_layout_is_understood(compiled):
    image, weight, bias, slope, gradient = make((3, 5, 4, 6), torch.float32)
    inputs = [image, weight, bias, slope]
    expected = results(ours, inputs, gradient.contiguous(memory_format=torch.channels_last))
    got = results(ours, inputs, gradient.contiguous())
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def stock(unit: ConvNorm) -> nn.Sequential:
    """torch's layers with a unit's weights."""
    convolution, norm, activation = unit
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, BatchNorm2d)
    assert isinstance(activation, PReLU)
    theirs = nn.Sequential(
        nn.Conv2d(6, 10, 3, bias=False),
        nn.BatchNorm2d(10, eps=norm.eps),
        nn.PReLU(10),
    )
    theirs.load_state_dict(unit.state_dict(), strict=False)
    return theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("low_precision", [True, False])
def test_a_unit_does_what_torchs_layers_do(compiled, training, low_precision):
    torch.manual_seed(1)
    unit = conv_norm(6, 10, 3).train(training)
    image = torch.randn(4, 6, 9, 8).contiguous(memory_format=torch.channels_last)
    expected = stock(unit).train(training)
    assert list(unit.state_dict()) == [k for k in expected.state_dict() if "tracked" not in k]
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        got, wanted = unit(image), expected(image)
        with torch.no_grad():
            unwatched = unit(image)
    assert got.dtype == wanted.dtype
    tolerance = 2e-2 if low_precision else 1e-5  # a rounding or two of bf16
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(unwatched, wanted, rtol=tolerance, atol=tolerance)
