"""CosFace: the published value, slope 1."""

import math

import pytest
import torch

from sharded_fc.margins import CosFace


def test_value_at_one_radian_is_the_method_sheets():
    value, slope = CosFace(0.35).target(torch.tensor([math.cos(1.0)], dtype=torch.float64))
    assert value.item() == pytest.approx(0.190302, abs=5e-7)  # the sheet's six digits
    assert slope.item() == 1.0


@pytest.mark.parametrize("margin", [-0.1, 1.5])
def test_a_margin_outside_the_cosines_is_refused(margin):
    with pytest.raises(ValueError, match=r"CosFace margin .* use a cosine in \[0, 1\]"):
        CosFace(margin)
