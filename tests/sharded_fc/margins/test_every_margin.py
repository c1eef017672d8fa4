"""What holds for every margin: finite everywhere, precise in float32, nothing read to the host."""

from dataclasses import fields

import pytest
import torch

from sharded_fc.margins import Margin
from tests.sharded_fc.margins.batches import EVERY, WITHOUT_ANGLES, adjust, samples, state_of


@pytest.mark.parametrize("margin", EVERY, ids=str)
def test_a_batch_without_any_class_is_finite_and_moves_no_scalar(margin: Margin):
    scalars = state_of(margin)
    found = margin.adjust(samples([0.0, 0.0], norm=[5.0, 500.0], labelled=[False] * 2), scalars)
    assert found.value.isfinite().all()
    assert found.slope.isfinite().all()
    assert all(torch.equal(found.state[name], scalars[name]) for name in found.state)
    assert all(value == 0 for value in found.statistics.values())


@pytest.mark.parametrize("margin", EVERY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cosines_at_and_past_the_poles_stay_finite(margin: Margin, dtype: torch.dtype):
    cosine = [1.0, 1.0 + 1e-6, 1.0 - 1e-7, -1.0, -1.0 - 1e-6, -1.0 + 1e-7]
    norm = [0.0, 1e-12, 20.0, 110.0, 1e5, 1e30]
    found = adjust(margin, samples(cosine, norm=norm, dtype=dtype))
    for name in ("value", "slope", "norm_slope", "penalty", "penalty_slope"):
        tensor = getattr(found, name)
        assert tensor is None or tensor.isfinite().all(), name
    assert (found.slope >= 0).all()
    assert found.value.dtype == found.slope.dtype == dtype


@pytest.mark.parametrize("margin", EVERY, ids=str)
def test_float32_cosines_lose_no_more_than_their_rounding(margin: Margin):
    cosine = torch.linspace(-0.99, 0.99, 67)
    single = adjust(margin, samples(cosine, dtype=torch.float32))
    double = adjust(margin, samples(cosine))
    # Values: a few roundings of 6e-8, times slopes of at most 16 (SphereFace 4 near angle 0).
    torch.testing.assert_close(single.value.double(), double.value, rtol=0.0, atol=4e-6)
    # Slopes divide by sin(theta) >= 0.14.
    torch.testing.assert_close(single.slope.double(), double.slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("margin", EVERY, ids=str)
def test_nothing_is_read_back_to_the_host(margin: Margin):
    # Reading a value of a tensor on the device "meta" raises: there is none.
    batch = samples([0.1, 0.2, -0.3], labelled=[True, False, True], device="meta")
    found = margin.adjust(batch, state_of(margin, device="meta"))
    assert found.value.device.type == "meta"
    scalars = [*found.state.values(), *found.statistics.values()]
    if found.hard is not None:
        scalars += [getattr(found.hard, field.name) for field in fields(found.hard)]
    assert all(scalar.device.type == "meta" for scalar in scalars)


@pytest.mark.parametrize("margin", WITHOUT_ANGLES, ids=str)
def test_without_an_angle_the_slope_is_one(margin: Margin):
    found = adjust(margin, samples([-0.5, 0.0, 0.9]))
    assert torch.equal(found.slope, torch.ones_like(found.slope))
