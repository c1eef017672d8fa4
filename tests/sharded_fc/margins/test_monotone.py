"""A target nearer its centre never has a smaller logit, past every switch of the angles."""

import math

import pytest
import torch

from sharded_fc.margins import (
    AdaFace,
    ArcFace,
    CombinedMargin,
    CurricularFace,
    MagFace,
    Margin,
    MVSoftmax,
    SphereFace,
)
from tests.sharded_fc.margins.batches import adjust, samples

GRID = torch.linspace(-1.0, 1.0, 4001, dtype=torch.float64)


@pytest.mark.parametrize(
    "margin",
    [
        ArcFace(0.1),
        ArcFace(0.5),
        ArcFace(1.5),
        SphereFace(1.7),
        SphereFace(4.0),
        CombinedMargin(factor=0.9, angle=0.4, cosine=0.15),
        CombinedMargin(factor=3.0, angle=1.0, cosine=0.5),
        MVSoftmax(0.5, target="angle"),
        CurricularFace(),
        MagFace(),
    ],
    ids=str,
)
def test_the_value_rises_with_the_cosine(margin: Margin):
    found = adjust(margin, samples(GRID))
    assert (found.value.diff() > 0).all()
    assert (found.slope >= 0).all()


@pytest.mark.parametrize("mean", [0.0, 20.0, 40.0])  # good, middling and poor images
def test_adafaces_value_never_falls_and_stands_still_where_the_angle_is_clipped(mean: float):
    found = adjust(AdaFace(0.4, rate=1e-12), samples(GRID), mean=mean, std=1.0)
    assert (found.value.diff() >= 0).all()
    still = found.value[1:-1] == found.value[:-2]
    assert bool(still.any()) == (mean != 20.0)
    assert (found.slope[1:-1][still] == 0).all()


@pytest.mark.parametrize("factor", [1.7, 4.0])
def test_spherefaces_continuation_is_continuous_at_every_half_turn(factor: float):
    for turn in range(1, math.ceil(factor)):
        around = torch.tensor([-1e-9, 1e-9], dtype=torch.float64) + turn * math.pi / factor
        value = adjust(SphereFace(factor), samples(around.cos())).value
        # psi is 1 - 2 k where m theta = k pi, and flat there.
        assert value.tolist() == pytest.approx([1.0 - 2.0 * turn] * 2, abs=1e-14)


def test_arcfaces_own_fallback_and_the_combined_margins_part_only_past_its_switch():
    ours = adjust(CombinedMargin(angle=0.5), samples(GRID)).value
    arcs = adjust(ArcFace(0.5), samples(GRID)).value
    past = math.cos(math.pi - 0.5) > GRID
    assert torch.allclose(ours[~past], arcs[~past], rtol=0.0, atol=1e-14)
    assert (ours[past] - arcs[past]).abs().min() > 1e-3
