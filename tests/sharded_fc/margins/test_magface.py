"""MagFace: g, m and the bound between them, the clamp and what it does to gradients."""

import math

import pytest
import torch

from sharded_fc.margins import MagFace
from tests.sharded_fc.margins.batches import adjust, samples


@pytest.mark.parametrize(
    ("margin", "bound"),
    [
        (MagFace(), 22.587),
        (MagFace(lowest_margin=0.35), 29.04),
        (MagFace(lowest_norm=1.0, highest_norm=51.0, highest_margin=1.0), 0.704),
    ],
    ids=str,
)
def test_the_smallest_weight_is_the_method_sheets(margin: MagFace, bound: float):
    assert margin.smallest_norm_weight(scale=64.0) == pytest.approx(bound, abs=5e-4)


def test_a_weight_below_the_bound_is_refused_with_the_smallest_allowed():
    with pytest.raises(ValueError, match=r"use at least 22\.59"):
        MagFace(norm_weight=20.0).check(scale=64.0, num_classes=10)
    MagFace(norm_weight=35.0).check(scale=64.0, num_classes=10)


def test_the_bound_is_where_the_shortest_embedding_stops_gaining_by_growing_a_wrong_margin():
    # Worst case: p_y = 0 and sin(theta + m) = 1, so d CE / da = s K and d g / da is steepest at l.
    margin, scale = MagFace(), 64.0
    penalty = adjust(margin, samples([0.0], norm=[margin.lowest_norm])).penalty_slope
    assert penalty is not None
    steepest = -penalty.item() / margin.norm_weight
    bound = margin.smallest_norm_weight(scale=scale)
    assert bound * steepest == pytest.approx(scale * margin.margin_slope, rel=1e-12)


def test_the_penalty_and_the_margin_at_the_corners_are_the_method_sheets():
    found = adjust(MagFace(norm_weight=1.0), samples([math.cos(1.0)] * 3, norm=[10.0, 110.0, 60.0]))
    assert found.penalty is not None
    assert found.penalty[:2].tolist() == pytest.approx([0.100826, 0.018182], abs=5e-7)
    expected = [math.cos(1.45), math.cos(1.8), math.cos(1.625)]
    assert found.value.tolist() == pytest.approx(expected, abs=1e-15)


def test_the_penalty_falls_over_the_whole_range_and_is_flat_at_its_end():
    norm = torch.linspace(10.0, 110.0, 201, dtype=torch.float64)
    found = adjust(MagFace(), samples([0.3] * 201, norm=norm))
    assert found.penalty is not None
    assert found.penalty_slope is not None
    assert (found.penalty.diff() < 0).all()
    assert found.penalty_slope[-1].item() == pytest.approx(0.0, abs=1e-16)


def test_lengths_beyond_the_clamp_get_no_gradient_and_are_counted():
    batch = samples([0.3] * 5, norm=[9.0, 10.0, 60.0, 110.0, 111.0])
    found = adjust(MagFace(), batch)
    assert found.norm_slope is not None
    assert found.penalty_slope is not None
    assert (found.norm_slope == 0).tolist() == [True, False, False, False, True]
    # At 110 the penalty is flat by itself.
    assert (found.penalty_slope == 0).tolist() == [True, False, False, True, True]
    assert found.statistics["clamped_share"].item() == pytest.approx(0.4)


def test_only_samples_with_a_class_count_as_clamped():
    batch = samples([0.3] * 3, norm=[9.0, 60.0, 9.0], labelled=[True, True, False])
    assert adjust(MagFace(), batch).statistics["clamped_share"].item() == pytest.approx(0.5)


def test_straight_through_concerns_the_angle_and_leaves_lengths_their_gradient():
    batch = samples([0.3, -0.2], norm=[30.0, 60.0])
    exact = adjust(MagFace(), batch)
    found = adjust(MagFace(gradient="straight_through"), batch)
    assert found.slope.tolist() == [1.0, 1.0]
    assert found.norm_slope is not None
    assert exact.norm_slope is not None
    assert torch.equal(found.norm_slope, exact.norm_slope)


@pytest.mark.parametrize(
    "changes",
    [
        {"lowest_norm": 0.0},
        {"lowest_norm": 120.0},
        {"highest_margin": 1.6},
        {"lowest_margin": 0.9},
    ],
)
def test_ranges_that_are_none_are_refused(changes):
    with pytest.raises(ValueError, match=r"MagFace .*; use"):
        MagFace(**changes)
