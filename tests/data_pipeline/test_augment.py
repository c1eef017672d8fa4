"""Augmentation parameters are looked up by (seed, epoch, sample), never drawn in turn."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.augment import FILTERS, Augmentation, Parameters

STRONG = Augmentation(
    crop=0.25,
    blackout=0.2,
    occlusion=0.3,
    mask=0.1,
    low_resolution=0.5,
    blur=0.5,
    jpeg=0.5,
    brightness=0.3,
    contrast=0.2,
    saturation=0.5,
    hue_deg=20.0,
    grey=0.1,
    flip=0.5,
    seed=7,
)
MANY = np.arange(20_000)
EPOCH_0 = np.zeros_like(MANY)
SHARES = {  # the column that says who is chosen, for each share
    "blackout": "covered",
    "occlusion": "covered",
    "mask": "covered",
    "low_resolution": "shrunk",
    "blur": "blurred",
    "jpeg": "compressed",
    "grey": "recoloured",
    "flip": "flip",
}


def column(parameters: Parameters, name: str) -> np.ndarray:
    return getattr(parameters, name)


NAMES = [field.name for field in fields(Parameters)]


@given(order=st.permutations(range(12)), kept=st.integers(1, 12))
def test_parameters_do_not_depend_on_the_place_in_the_batch_or_the_neighbours(order, kept):
    sample, epoch = np.arange(100, 112), np.arange(12) % 3
    whole = STRONG.parameters(epoch, sample)
    chosen = np.array(order[:kept])
    part = STRONG.parameters(epoch[chosen], sample[chosen])
    for name in NAMES:
        np.testing.assert_array_equal(column(part, name), column(whole, name)[chosen])


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"recoloured"}))
def test_parameters_change_with_the_epoch_and_with_the_seed(name):
    def rows(epoch, seed):
        return column(replace(STRONG, seed=seed).parameters(EPOCH_0 + epoch, MANY), name)

    here = rows(0, 7).reshape(len(MANY), -1)
    # Independent rows agree with the chance that two of them do: sum p^2 of its values, estimated
    # from the neighbours; six standard deviations of a binomial count.
    chance = (here == np.roll(here, 1, axis=0)).all(axis=1).mean()
    most = len(MANY) * chance + 6 * np.sqrt(len(MANY) * chance * (1 - chance)) + 6
    for other in (rows(1, 7), rows(0, 8)):
        assert (here == other.reshape(len(MANY), -1)).all(axis=1).sum() < 1.05 * most
    assert chance < 0.9


@pytest.mark.parametrize("name", SHARES)
def test_faces_are_chosen_as_often_as_asked(name):
    share: dict[str, Any] = {name: 0.3}
    drawn = Augmentation(**share).parameters(EPOCH_0, MANY)
    # Binomial, n = 20,000, p = 0.3: mean 6,000, six standard deviations 389.
    assert abs(column(drawn, SHARES[name]).sum() - 6_000) < 389


def test_colours_change_for_the_share_asked_and_for_no_other():
    drawn = Augmentation(recolour=0.3, brightness=0.5, hue_deg=10.0).parameters(EPOCH_0, MANY)
    assert abs(drawn.recoloured.sum() - 6_000) < 389  # as above
    for name, neutral in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue_deg", 0)):
        assert (column(drawn, name)[~drawn.recoloured] == neutral).all()
    assert (np.abs(drawn.hue_deg) <= 10).all()


def test_grey_faces_lose_their_colours_whether_or_not_others_change():
    drawn = Augmentation(grey=0.5).parameters(EPOCH_0, MANY)
    np.testing.assert_array_equal(drawn.saturation, 1.0 - drawn.recoloured)
    both = Augmentation(grey=0.5, saturation=0.4).parameters(EPOCH_0, MANY)
    assert both.recoloured.all()
    np.testing.assert_array_equal(both.saturation == 0, drawn.recoloured)


@given(
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 1),
    qualities=st.tuples(st.integers(1, 100), st.integers(1, 100)),
)
def test_amounts_stay_within_their_limits(low, high, qualities):
    low, high, qualities = min(low, high), max(low, high), tuple(sorted(qualities))
    drawn = Augmentation(low_resolution_sides=(low, high), jpeg_qualities=qualities).parameters(
        EPOCH_0[:500], MANY[:500]
    )
    assert np.float32(low) <= drawn.shrunk_side.min()
    assert drawn.shrunk_side.max() <= np.float32(high)
    assert qualities[0] <= drawn.jpeg_quality.min()
    assert drawn.jpeg_quality.max() <= qualities[1]
    assert drawn.shrinking_filter.min() >= 0
    assert drawn.shrinking_filter.max() < FILTERS


def test_every_quality_and_every_filter_comes_about_equally_often():
    drawn = Augmentation(jpeg_qualities=(30, 39)).parameters(EPOCH_0, MANY)
    for values, kinds in (
        (drawn.jpeg_quality - 30, 10),
        (drawn.shrinking_filter, FILTERS),
        (drawn.growing_filter, FILTERS),
    ):
        found, expected = np.bincount(values, minlength=kinds), len(MANY) / kinds
        # Chi-square with at most 9 degrees of freedom exceeds 50 with a chance below 1e-7.
        assert ((found - expected) ** 2 / expected).sum() < 50


@pytest.mark.parametrize(("name", "change"), [("brightness", 0.3), ("saturation", 0.5)])
def test_factors_fill_their_range_evenly(name, change):
    factors = column(replace(STRONG, grey=0.0).parameters(EPOCH_0, MANY), name)
    assert factors.min() >= np.float32(1 - change)
    assert factors.max() <= np.float32(1 + change)
    # A uniform variable of half-width c has standard deviation c / sqrt(3); six of the mean's.
    assert abs(factors.mean() - 1) < 6 * change / np.sqrt(3 * len(MANY))
    assert abs(factors.std() - change / np.sqrt(3)) < 0.02 * change


def test_parameters_of_one_face_are_unrelated():
    drawn = STRONG.parameters(EPOCH_0, MANY)
    names = sorted(
        {"hue_deg", "brightness", "contrast", "blur_sigma", "shrunk_side"} | set(NAMES[-1:])
    )
    names += ["covered", "shrunk", "blurred", "compressed", "jpeg_quality", "growing_filter"]
    columns = [column(drawn, name).astype(float) for name in names]
    columns += [(drawn.window_stop - drawn.window_start)[:, 0]]
    correlation = np.corrcoef(np.stack(columns)) - np.eye(len(columns))
    # The correlation of independent columns has standard deviation 1 / sqrt(20,000) = 0.007.
    assert np.abs(correlation).max() < 6 * 0.00708


def test_windows_are_square_shares_inside_the_picture():
    drawn = STRONG.parameters(EPOCH_0, MANY)
    side = drawn.window_stop - drawn.window_start
    np.testing.assert_allclose(side[:, 0], side[:, 1], rtol=0, atol=2e-7)  # float32 of numbers < 1
    assert side.min() >= 0.75 - 1e-6
    assert drawn.window_start.min() >= 0
    assert drawn.window_stop.max() <= 1


def test_the_default_changes_nothing():
    plain = Augmentation()
    assert (plain.recolours, plain.crops, plain.covers) == (False, False, False)
    drawn = plain.parameters(EPOCH_0[:50], MANY[:50])
    neutral = dict.fromkeys(("flip", "covered", "shrunk", "blurred", "compressed"), 0)
    neutral |= dict.fromkeys(("recoloured", "hue_deg", "window_start"), 0)
    neutral |= dict.fromkeys(("brightness", "contrast", "saturation", "window_stop"), 1)
    for name, value in neutral.items():
        np.testing.assert_array_equal(column(drawn, name), np.full_like(column(drawn, name), value))


def test_what_was_drawn_before_there_were_more_kinds_is_drawn_still():
    """Runs of earlier versions continue with the flips and windows they had."""
    drawn = Augmentation(flip=0.5, brightness=0.2, crop=0.1, seed=5).parameters(
        np.array([0, 1, 2]), np.array([3, 4, 5])
    )
    assert drawn.flip.tolist() == [1, 0, 1]
    # Eight digits of float32 numbers are printed here, so a unit of the last one may be lost.
    np.testing.assert_allclose(drawn.brightness, [0.84788322, 0.86625493, 0.82193762], atol=1e-7)
    tops = [0.019858327, 0.075305134, 0.036088139]
    np.testing.assert_allclose(drawn.window_start[:, 0], tops, atol=1e-7)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"flip": 1.5}, {"contrast": -0.1}, {"crop": 1.0}, {"hue_deg": 200.0}),
        *({"jpeg_qualities": (90, 30)}, {"low_resolution_sides": (0.0, 0.5)}),
        {"blur_sigmas": (1.0, 100.0)},
    ],
)
def test_a_strength_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        Augmentation(**wrong)


def test_more_covers_than_faces_are_refused():
    with pytest.raises(ValueError, match=r"blackout, occlusion and mask sum to 1\.2"):
        Augmentation(blackout=0.4, occlusion=0.4, mask=0.4)


def test_row_is_a_batch_of_one():
    drawn = STRONG.parameters(EPOCH_0[:5], MANY[:5])
    for name in NAMES:
        np.testing.assert_array_equal(column(drawn.row(3), name), column(drawn, name)[3:4])
