"""What the paper's equations say of the layer, in float64: forms of q, sums, equal filters."""

from functools import partial

import torch
from torch.nn import functional

from tests.trainer.layers.drconv.cases import Case, filters_of
from tests.trainer.layers.drconv.dense import all_outputs, bank_of
from tests.trainer.layers.drconv.test_region_conv import run
from trainer.layers.drconv.function import region_conv
from trainer.layers.drconv.parts import Filters

CASE = Case(inputs=6, outputs=5, kernel=3, padding=1, table_taps=9, regions=4)
exact = partial(
    torch.testing.assert_close, rtol=1e-12, atol=1e-12
)  # float64, some hundred products


def test_both_forms_of_q_agree():
    """Eq. 7: a pixel's outer product with each filter, or its outputs against the gradient."""
    given = CASE.inputs_of(torch.float64)
    bank = bank_of(filters_of(given), CASE.geometry)
    every = all_outputs(given["image"], bank, CASE.geometry)
    by_output = torch.einsum("bohw,btohw->bthw", given["gradient"], every)
    patches = functional.unfold(given["image"], 3, padding=1).unflatten(2, (7, 5))
    by_filter = torch.einsum("bohw,bihw,btoi->bthw", given["gradient"], patches, bank.flatten(3))
    exact(by_output, by_filter)
    weight = given["guide"].softmax(1)
    expected = weight * (by_output - (weight * by_output).sum(1, keepdim=True))
    exact(run(CASE, given)[2]["guide"], expected)


def test_the_guides_gradient_sums_to_zero_at_every_pixel():
    found = run(CASE, CASE.inputs_of(torch.float64))[2]["guide"]
    exact(found.sum(1), torch.zeros_like(found[:, 0]))


def test_the_guides_gradient_is_the_slope_of_the_mixture():
    """Not of the output itself, which is constant but for jumps."""
    given = CASE.inputs_of(torch.float64)
    bank = bank_of(filters_of(given), CASE.geometry)
    every = all_outputs(given["image"], bank, CASE.geometry)

    def mixture(guide: torch.Tensor) -> torch.Tensor:
        mixed = (guide.softmax(1)[:, :, None] * every).sum(1)
        return (mixed * given["gradient"]).sum()

    found = run(CASE, given)[2]["guide"]
    for place in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 3, 6, 1)]:
        step = torch.zeros_like(found)
        step[place] = 1e-5
        slope = (mixture(given["guide"] + step) - mixture(given["guide"] - step)) / 2e-5
        # A central difference: an error of the step squared, and rounding of 1e-14 / 1e-5.
        torch.testing.assert_close(found[place], slope, rtol=1e-6, atol=1e-6)


def test_one_region_is_a_convolution_by_each_samples_own_filter():
    case = Case(inputs=6, outputs=5, kernel=3, padding=1, table_taps=9, regions=1)
    given = case.inputs_of(torch.float64)
    out, _, found = run(case, given)
    filters = bank_of(filters_of(given), case.geometry)[:, 0]
    for image, own, made in zip(given["image"], filters, out, strict=True):
        expected = functional.conv2d(image[None], own, given["bias"], padding=1)[0]
        exact(made, expected)
    exact(found["guide"], torch.zeros_like(found["guide"]))


def test_equal_filters_are_a_plain_convolution_and_teach_the_guide_nothing():
    given = CASE.inputs_of(torch.float64)
    given["coefficient"] = given["coefficient"][:1, :1].expand_as(given["coefficient"]).clone()
    out, _, found = run(CASE, given)
    weight = bank_of(filters_of(given), CASE.geometry)[0, 0]
    expected = functional.conv2d(given["image"], weight, given["bias"], padding=1)
    exact(out, expected)
    torch.testing.assert_close(found["guide"], torch.zeros_like(found["guide"]), rtol=0, atol=1e-11)


def test_renaming_regions_changes_nothing():
    given = CASE.inputs_of(torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    renamed = given | {
        "guide": given["guide"][:, order],
        "coefficient": given["coefficient"][:, order],
    }
    out, mask, found = run(CASE, given)
    other, other_mask, other_found = run(CASE, renamed)
    exact(out, other)
    assert torch.equal(order[other_mask.long()], mask.long())
    for name in ("image", "table", "bias"):
        exact(found[name], other_found[name])
    for name in ("guide", "coefficient"):
        exact(found[name][:, order], other_found[name])


def test_each_pixel_has_the_output_of_its_regions_filter():
    given = CASE.inputs_of(torch.float64)
    out, mask = region_conv(
        given["image"], filters_of(given), guide=given["guide"], geometry=CASE.geometry
    )
    every = all_outputs(given["image"], bank_of(filters_of(given), CASE.geometry), CASE.geometry)
    index = mask.long()[:, None, None].expand(-1, 1, every.shape[2], -1, -1)
    exact(out, every.gather(1, index)[:, 0])


def test_first_derivatives_of_filters_and_image_are_those_of_the_function():
    """With the choice held, the output is smooth in all but the guide."""
    case = Case(batch=1, inputs=4, outputs=2, height=3, width=3, groups=2, kernel=3, padding=1,
                table_taps=9, terms=2)  # fmt: skip
    given = case.inputs_of(torch.float64)

    def output(image, coefficient, table, bias):
        return region_conv(
            image,
            Filters(coefficient, table),
            guide=given["guide"],
            bias=bias,
            geometry=case.geometry,
        )[0]

    inputs = [given[name].requires_grad_() for name in ("image", "coefficient", "table", "bias")]
    assert torch.autograd.gradcheck(output, inputs)
