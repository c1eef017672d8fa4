"""CosFace: margins a class, and the margins that are refused."""

import pytest
import torch

from sharded_fc.margins import CosFace
from tests.sharded_fc.margins.batches import adjust, samples


def test_margins_of_classes_are_subtracted_one_by_one():
    of_class = torch.tensor([0.0, 0.2, 0.4], dtype=torch.float64)
    found = adjust(CosFace(0.35), samples([0.5, 0.5, 0.5], class_margin=of_class))
    assert found.value.tolist() == pytest.approx([0.5, 0.3, 0.1], abs=1e-16)


@pytest.mark.parametrize("margin", [-0.1, 1.5])
def test_a_margin_outside_the_cosines_is_refused(margin):
    with pytest.raises(ValueError, match=r"CosFace margin .* use a cosine in \[0, 1\]"):
        CosFace(margin)
