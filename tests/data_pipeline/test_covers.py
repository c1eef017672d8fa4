"""What hides a part of a face: rectangles inside the picture, of the sizes asked for."""

from typing import Any

import numpy as np
import pytest

from data_pipeline import covers
from data_pipeline.augment import Augmentation, Parameters

MANY = np.arange(20_000)
SIDE = 112


def drawn(**shares: Any) -> Parameters:
    return Augmentation(**shares).parameters(np.zeros_like(MANY), MANY)


def hidden(parameters: Parameters, *, faces: int = 300) -> np.ndarray:
    """Which of 112 x 112 pixels are covered, painted one by one: faces x height x width."""
    start, stop = (
        np.round(x[:faces] * SIDE).astype(int)
        for x in (parameters.cover_start, parameters.cover_stop)
    )
    painted = np.zeros((faces, SIDE, SIDE), bool)
    for face in range(faces):
        for (top, left), (bottom, right) in zip(start[face], stop[face], strict=True):
            painted[face, top:bottom, left:right] = True
    return painted


@pytest.mark.parametrize("kind", ["blackout", "occlusion", "mask"])
def test_rectangles_lie_inside_the_picture(kind):
    parameters = drawn(**{kind: 1.0})
    assert parameters.cover_start.min() >= 0
    assert parameters.cover_stop.max() <= 1 + 1e-6  # float32 of a sum that is 1
    assert (parameters.cover_stop >= parameters.cover_start).all()
    assert parameters.covered.all()


def test_a_blackout_leaves_one_window_of_a_fifth_of_the_picture_or_more():
    parameters = drawn(blackout=1.0)
    assert not parameters.cover_colour.any()
    for seen in ~hidden(parameters):
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        assert seen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        # Each edge moves by half a pixel when it is rounded: 2 x 112 pixels of 112 x 112.
        assert seen.mean() > 0.2 - 2 / SIDE
        assert 3 / 4 - 0.05 < len(rows) / len(columns) < 4 / 3 + 0.05


def test_the_windows_of_blackouts_are_as_large_as_the_draw_of_their_area():
    parameters = drawn(blackout=1.0)
    window = parameters.cover_stop[:, 2, 0] - parameters.cover_start[:, 2, 0]
    width = parameters.cover_start[:, 3, 1] - parameters.cover_stop[:, 2, 1]
    area = (window * width).astype(float)
    # Uniform in 0.2 .. 1 but for those cut to the picture, which loses less than 0.05 of the mean
    # (a window with a side above 1 has an aspect of up to 4/3 and an area above 3/4).
    assert 0.55 < area.mean() < 0.61
    assert area.min() >= 0.2 - 1e-6


def test_an_occlusion_is_one_rectangle_of_any_colour_at_any_place():
    parameters = drawn(occlusion=1.0)
    side = (parameters.cover_stop - parameters.cover_start)[:, 0].astype(float)
    area = side.prod(axis=1)
    assert area.min() >= 0.02 - 1e-6
    assert area.max() <= 0.33 + 1e-6
    # Uniform: the mean 0.175 has a standard error of 0.31 / sqrt(12 x 20,000) = 6.3e-4; the few
    # that are cut to the picture make it smaller.
    assert 0.165 < area.mean() < 0.175 + 6 * 6.3e-4
    assert not (parameters.cover_stop - parameters.cover_start)[:, 1:].any()
    place = parameters.cover_start[:, 0] / np.maximum(1 - side, 1e-6)
    free = (side < 0.99).all(axis=1)
    # The places of those with room are uniform in 0 .. 1: 0.5 +- 6 x 0.29 / sqrt(20,000).
    assert np.abs(place[free].mean(axis=0) - 0.5).max() < 0.013
    # 256 levels evenly: mean 127.5 +- 6 x 73.9 / sqrt(20,000).
    assert np.abs(parameters.cover_colour.mean(axis=0) - 127.5).max() < 3.2


def test_a_mask_hides_mouth_and_chin_and_never_the_eyes():
    painted = hidden(drawn(mask=1.0))
    left_eye, right_eye, _, left_mouth, right_mouth = (  # of the usual template, (x, y)
        (38.3, 51.7),
        (73.5, 51.5),
        (56.0, 71.7),
        (41.5, 92.4),
        (70.7, 92.2),
    )
    for x, y in (left_mouth, right_mouth, (56.0, 110.0)):
        assert painted[:, int(y), int(x)].all()
    for x, y in (left_eye, right_eye):
        assert not painted[:, : int(y) + 3, int(x)].any()
    widths = painted.sum(axis=2)
    assert (widths[:, -1] < widths.max(axis=1)).all()  # narrower at the chin


def test_masks_come_in_four_colours_equally_often():
    colours, found = np.unique(drawn(mask=1.0).cover_colour, axis=0, return_counts=True)
    assert {tuple(c) for c in colours} == {tuple(c) for c in covers.MASK_COLOURS}
    # Binomial, n = 20,000, p = 1/4: six standard deviations are 367.
    assert np.abs(found - len(MANY) / 4).max() < 367


def test_each_kind_comes_as_often_as_asked_and_never_two_on_a_face():
    parameters = drawn(mask=0.2, blackout=0.3, occlusion=0.1)
    rectangles = ((parameters.cover_stop - parameters.cover_start) > 0).all(axis=2).sum(axis=1)
    masks = rectangles == covers.RECTANGLES
    occlusions = rectangles == 1
    assert abs(masks.sum() - 4_000) < 340  # six standard deviations of a binomial count
    # A blackout whose window touches three edges is one strip too: fewer than 0.01 of them.
    assert abs(int(occlusions.sum()) - 2_000) < 255 + 60
    assert abs(parameters.covered.sum() - 12_000) < 416
    assert not rectangles[~parameters.covered].any()
