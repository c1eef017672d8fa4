"""ArcFace: the exact slope by gradcheck, the other gradient, the fallback past theta = pi - m."""

import math

import pytest
import torch

from sharded_fc.margins import ArcFace, CosFace, SphereFace
from sharded_fc.margins.angles import check_gradient
from tests.sharded_fc.margins.batches import adjust, samples


class _Target(torch.autograd.Function):
    """A margin's value, differentiated by its own slope."""

    @staticmethod
    def forward(ctx, cosine, margin):
        found = adjust(margin, samples(cosine))
        ctx.save_for_backward(found.slope)
        return found.value

    @staticmethod
    def backward(ctx, *upstream):
        return upstream[0] * ctx.saved_tensors[0], None


def cosines(low=-0.999, high=0.999, count=41):
    return torch.linspace(low, high, count, dtype=torch.float64)


@pytest.mark.parametrize(
    "margin", [ArcFace(0.5), ArcFace(0.1), ArcFace(0.0), CosFace(0.35), SphereFace(1.7)], ids=str
)
def test_slope_passes_gradcheck(margin):
    # gradcheck's float64 defaults: central differences of step 1e-6, atol 1e-5.
    assert torch.autograd.gradcheck(lambda c: _Target.apply(c, margin), cosines().requires_grad_())


def test_straight_through_has_the_exact_values_and_slope_one():
    exact = adjust(ArcFace(0.5), samples(cosines()))
    found = adjust(ArcFace(0.5, gradient="straight_through"), samples(cosines()))
    assert torch.equal(found.value, exact.value)
    assert torch.equal(found.slope, torch.ones_like(found.slope))


def test_the_straight_through_gradient_misses_exactly_sin_theta_plus_m_over_sin_theta():
    theta = torch.linspace(0.1, math.pi - 0.6, 30, dtype=torch.float64)
    slope = adjust(ArcFace(0.5), samples(theta.cos())).slope
    torch.testing.assert_close(slope, torch.sin(theta + 0.5) / torch.sin(theta))


def test_the_fallback_begins_and_ends_where_the_method_sheet_says():
    def at(cosine):
        return adjust(ArcFace(0.5), samples([cosine])).value.item()

    assert math.cos(math.pi - 0.5) == pytest.approx(-0.87758, abs=5e-6)
    assert at(-0.87758 + 1e-5) == pytest.approx(-1.0, abs=1e-4)  # before the switch
    assert at(-0.87758 - 1e-5) == pytest.approx(-1.1173, abs=1e-4)  # after it
    assert at(-0.9) == pytest.approx(-0.9 - 0.23971, abs=5e-6)


@pytest.mark.parametrize("margin", [-0.1, 2.0])
def test_a_margin_outside_the_definition_is_refused(margin):
    with pytest.raises(ValueError, match=r"ArcFace margin .*; use radians"):
        ArcFace(margin)


def test_another_gradient_is_refused():
    with pytest.raises(ValueError, match="use 'exact' or 'straight_through'"):
        check_gradient("ArcFace", "detached")
