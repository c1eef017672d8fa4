"""ArcFace: published values, exact slope by gradcheck, the other gradient, the fallback."""

import math

import pytest
import torch

from sharded_fc.margins import ArcFace, CosFace
from sharded_fc.reference import margin_cosine


class _Target(torch.autograd.Function):
    """A margin's value, differentiated by its own slope."""

    @staticmethod
    def forward(ctx, cosine, margin):
        value, slope = margin.target(cosine)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx, *upstream):
        return upstream[0] * ctx.saved_tensors[0], None


def cosines(low=-0.999, high=0.999, count=41):
    return torch.linspace(low, high, count, dtype=torch.float64)


@pytest.mark.parametrize(
    "margin", [ArcFace(0.5), ArcFace(0.1), ArcFace(0.0), CosFace(0.35)], ids=str
)
def test_slope_passes_gradcheck(margin):
    # gradcheck's float64 defaults: central differences of step 1e-6, atol 1e-5.
    assert torch.autograd.gradcheck(lambda c: _Target.apply(c, margin), cosines().requires_grad_())


def test_straight_through_has_the_exact_values_and_slope_one():
    exact, _ = ArcFace(0.5).target(cosines())
    value, slope = ArcFace(0.5, gradient="straight_through").target(cosines())
    assert torch.equal(value, exact)
    assert torch.equal(slope, torch.ones_like(slope))


def test_the_straight_through_gradient_misses_exactly_sin_theta_plus_m_over_sin_theta():
    theta = torch.linspace(0.1, math.pi - 0.6, 30, dtype=torch.float64)
    _, slope = ArcFace(0.5).target(theta.cos())
    torch.testing.assert_close(slope, torch.sin(theta + 0.5) / torch.sin(theta))


@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
def test_value_and_slope_equal_autograd_through_acos(gradient):
    margin = ArcFace(0.5, gradient=gradient)
    cosine = cosines().requires_grad_()
    expected = margin_cosine(cosine, margin)
    (slope_expected,) = torch.autograd.grad(expected.sum(), cosine)
    value, slope = margin.target(cosine.detach())
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(slope, slope_expected)


def test_values_are_the_method_sheets():
    def at(cosine):
        value, _ = ArcFace(0.5).target(torch.tensor([cosine], dtype=torch.float64))
        return value.item()

    assert at(math.cos(1.0)) == pytest.approx(0.070737, abs=5e-7)  # the sheet's six digits
    assert math.cos(math.pi - 0.5) == pytest.approx(-0.87758, abs=5e-6)
    assert at(-0.87758 + 1e-5) == pytest.approx(-1.0, abs=1e-4)  # before the switch
    assert at(-0.87758 - 1e-5) == pytest.approx(-1.1173, abs=1e-4)  # after it
    assert at(-0.9) == pytest.approx(-0.9 - 0.23971, abs=5e-6)


def test_the_fallback_keeps_the_value_monotone():
    value, slope = ArcFace(0.5).target(cosines(-1.0, 1.0, 4001))
    assert (value.diff() > 0).all()
    assert (slope >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 + 1e-6, -1.0 - 1e-6])
def test_cosines_at_and_past_the_poles_stay_finite(dtype, cosine):
    value, slope = ArcFace(0.5).target(torch.tensor([cosine], dtype=dtype))
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert value <= 1


@pytest.mark.parametrize("margin", [-0.1, 2.0])
def test_a_margin_outside_the_definition_is_refused(margin):
    with pytest.raises(ValueError, match=r"ArcFace margin .*; use radians"):
        ArcFace(margin)
