"""Augmentation parameters are looked up by (seed, epoch, sample), never drawn in turn."""

from dataclasses import astuple, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.augment import Augmentation, Parameters

STRONG = Augmentation(flip=0.5, brightness=0.3, contrast=0.2, saturation=0.5, crop=0.25, seed=7)
MANY = np.arange(20_000)
EPOCH_0 = np.zeros_like(MANY)


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


@pytest.mark.parametrize("name", NAMES)
def test_parameters_change_with_the_epoch_and_with_the_seed(name):
    here = column(STRONG.parameters(EPOCH_0, MANY), name)
    next_epoch = column(STRONG.parameters(EPOCH_0 + 1, MANY), name)
    other_seed = Augmentation(
        flip=0.5, brightness=0.3, contrast=0.2, saturation=0.5, crop=0.25, seed=8
    )
    # Half of 20,000 fair coins agree; six standard deviations are 6 * sqrt(20,000) / 2 = 424.
    agreeing = 10_424 if name == "flip" else 100
    assert (here == next_epoch).reshape(len(MANY), -1).all(axis=1).sum() < agreeing
    other = column(other_seed.parameters(EPOCH_0, MANY), name)
    assert (here == other).reshape(len(MANY), -1).all(axis=1).sum() < agreeing


def test_flips_come_as_often_as_asked():
    flips = Augmentation(flip=0.3).parameters(EPOCH_0, MANY).flip.sum()
    # Binomial, n = 20,000, p = 0.3: mean 6,000, six standard deviations 389.
    assert abs(flips - 6_000) < 389


@pytest.mark.parametrize(("name", "change"), [("brightness", 0.3), ("saturation", 0.5)])
def test_factors_fill_their_range_evenly(name, change):
    factors = column(STRONG.parameters(EPOCH_0, MANY), name)
    assert factors.min() >= np.float32(1 - change)
    assert factors.max() <= np.float32(1 + change)
    # A uniform variable of half-width c has standard deviation c / sqrt(3); six of the mean's.
    assert abs(factors.mean() - 1) < 6 * change / np.sqrt(3 * len(MANY))
    assert abs(factors.std() - change / np.sqrt(3)) < 0.02 * change


def test_parameters_of_one_face_are_unrelated():
    drawn = STRONG.parameters(EPOCH_0, MANY)
    columns = [column(drawn, name).reshape(len(MANY), -1)[:, 0] for name in NAMES[:4]]
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
    assert not plain.recolours
    assert not plain.crops
    drawn = plain.parameters(EPOCH_0[:50], MANY[:50])
    neutral = (0, 1, 1, 1, 0, 1)
    for values, value in zip(astuple(drawn), neutral, strict=True):
        np.testing.assert_array_equal(values, np.full_like(values, value))


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"contrast": -0.1}, {"crop": 1.0}])
def test_a_strength_out_of_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        Augmentation(**wrong)


def test_row_is_a_batch_of_one():
    drawn = STRONG.parameters(EPOCH_0[:5], MANY[:5])
    for name in NAMES:
        np.testing.assert_array_equal(column(drawn.row(3), name), column(drawn, name)[3:4])
