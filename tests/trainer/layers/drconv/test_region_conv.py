"""The convolution by regions, in torch and compiled, against m convolutions in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sharded_fc.native_build import SWITCH
from tests.trainer.layers.drconv.cases import CASES, Case, filters_of
from tests.trainer.layers.drconv.dense import dense
from trainer.layers.drconv.function import region_conv

NAMES = ("image", "guide", "coefficient", "table", "bias")

# float32 against float64: sums of up to 400 products of numbers around 1, relative to the largest.
CLOSE = 5e-6


def run(case: Case, given: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, mask and gradients of `region_conv`."""
    inputs = {name: given[name].detach().requires_grad_() for name in NAMES}
    out, mask = region_conv(
        inputs["image"],
        filters_of(inputs),
        guide=None if case.fused else inputs["guide"],
        guide_weight=inputs["guide"] if case.fused else None,
        bias=inputs["bias"],
        geometry=case.geometry,
    )
    found = torch.autograd.grad(out, list(inputs.values()), given["gradient"])
    return out, mask, dict(zip(NAMES, found, strict=True))


def run_dense(
    case: Case, given: dict[str, Tensor], mask: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same of the reference, in float64, with a mask that was chosen."""
    inputs = {name: given[name].double().requires_grad_() for name in NAMES}
    guide = inputs["guide"]
    if case.fused:
        guide = functional.conv2d(inputs["image"], guide)
    out = dense(
        inputs["image"],
        guide,
        filters_of(inputs),
        case.geometry,
        bias=inputs["bias"],
        mask=mask,
    )
    found = torch.autograd.grad(out, list(inputs.values()), given["gradient"].double())
    return out, dict(zip(NAMES, found, strict=True))


def worst(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return ((found - expected).abs().max() / (expected.abs().max() + 1e-30)).item()


@pytest.mark.parametrize("name", CASES)
def test_torch_alone_equals_m_convolutions_and_a_selection(name):
    case = CASES[name]
    given = case.inputs_of(torch.float64)
    out, mask, found = run(case, given)
    expected, gradients = run_dense(case, given, mask)
    # The same sums in another order, in float64.
    assert worst(out, expected) < 1e-12
    for what in NAMES:
        assert worst(found[what], gradients[what]) < 1e-12, what
    if not case.fused:
        assert torch.equal(mask.long(), given["guide"].argmax(1))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", CASES)
def test_compiled_code_equals_m_convolutions_and_a_selection(compiled, name, memory_format):
    case = CASES[name]
    given = case.inputs_of(torch.float32)
    given["image"] = given["image"].contiguous(memory_format=memory_format)
    out, mask, found = run(case, given)
    expected, gradients = run_dense(case, given, mask)
    assert worst(out, expected) < CLOSE
    for what in NAMES:
        # One region leaves nothing to choose: the gradient is zero but for rounding.
        scale = gradients[what].abs().max().item() if case.regions > 1 else 1e3
        assert (found[what] - gradients[what]).abs().max() < CLOSE * max(scale, 1e-3), what


@pytest.mark.parametrize("name", CASES)
def test_compiled_code_and_torch_choose_the_same_and_agree(compiled, monkeypatch, name):
    case = CASES[name]
    given = case.inputs_of(torch.float32)
    out, mask, found = run(case, given)
    monkeypatch.setenv(SWITCH, "0")
    plain, plain_mask, plain_found = run(case, given)
    assert torch.equal(mask, plain_mask)
    assert worst(out, plain) < CLOSE
    for what in NAMES:
        scale = plain_found[what].abs().max().item() if case.regions > 1 else 1e3
        assert (found[what] - plain_found[what]).abs().max() < CLOSE * scale, what


@pytest.mark.parametrize(
    "name",
    ["pointwise", "strided groups", "depthwise", "own tables, 3x3", "guide made inside"],
)
def test_bits_do_not_depend_on_threads(compiled, name):
    case = CASES[name]
    given = case.inputs_of(torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(case, given)
        torch.set_num_threads(3)
        together = run(case, given)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone[0], together[0])
    for what in NAMES:
        assert torch.equal(alone[2][what], together[2][what]), what


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equal_numbers_the_first_is_chosen(dtype):
    case = CASES["pointwise"]
    given = case.inputs_of(dtype)
    given["guide"] = given["guide"].round()  # many ties of eight numbers around 0
    _, mask, _ = run(case, given)
    highest = given["guide"].amax(1, keepdim=True) == given["guide"]
    first = torch.where(highest, torch.arange(8).view(1, 8, 1, 1), 8).amin(1)
    assert torch.equal(mask.long(), first)


def test_regions_in_one_place_only_or_of_one_pixel_are_right(compiled):
    case = CASES["pointwise"]
    given = case.inputs_of(torch.float32)
    every = torch.zeros_like(given["guide"])
    every[:, 5] = 1
    single = torch.zeros_like(given["guide"])
    single[:, 7] = 1
    for t in range(7):
        single[:, t, t // case.width, t % case.width] = 2
    for guide in (every, single):
        given["guide"] = guide
        out, mask, found = run(case, given)
        expected, gradients = run_dense(case, given, mask)
        assert torch.equal(mask.long(), guide.argmax(1))
        assert worst(out, expected) < CLOSE
        for what in NAMES:
            assert worst(found[what], gradients[what]) < CLOSE, what


def test_a_region_without_pixels_gets_gradients_of_zero_and_not_none(compiled):
    case = CASES["own tables"]
    given = case.inputs_of(torch.float32)
    given["guide"][:, 3] = -100
    _, _, found = run(case, given)
    assert not found["table"][3].any()
    assert not found["coefficient"][:, 3].any()


def test_what_nobody_asks_for_is_not_computed_and_the_rest_is_the_same(compiled):
    case = CASES["guide made inside"]
    given = case.inputs_of(torch.float32)
    _, _, every = run(case, given)
    for alone in NAMES:
        inputs = {name: given[name].detach() for name in NAMES}
        inputs[alone].requires_grad_()
        out, _ = region_conv(
            inputs["image"],
            filters_of(inputs),
            guide_weight=inputs["guide"],
            bias=inputs["bias"],
            geometry=case.geometry,
        )
        (found,) = torch.autograd.grad(out, inputs[alone], given["gradient"])
        if alone == "coefficient":  # a sum over scores only where the guide needs these
            assert worst(found, every[alone]) < CLOSE
        else:
            assert torch.equal(found, every[alone]), alone
