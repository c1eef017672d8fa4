"""The picture of regions: a row a guide, a colour a region, over the faces."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trainer.layers.drconv import DRConv2d
from trainer.layers.drconv.picture import COLOURS, region_picture
from trainer.layers.page import GAP, OPACITY, SIDE, WORDS


def halves() -> DRConv2d:
    """A layer whose regions are what is dark and what is light."""
    layer = DRConv2d(3, 4, 1, regions=2)
    assert layer.guide is not None
    with torch.no_grad():
        layer.guide.conv.weight.zero_()
        layer.guide.conv.weight[1] = 1
    return layer


def half_light() -> torch.Tensor:
    """A face that is dark on the left and light on the right."""
    face = -torch.ones(1, 3, 8, 8)
    face[..., 4:] = 1
    return face


def test_each_half_of_a_face_has_its_regions_colour():
    network = nn.Sequential(halves()).train()
    page, usages = region_picture(network, half_light())
    assert network.training
    assert usages["0"].share().tolist() == [0.5, 0.5]
    picture = np.asarray(page)
    row = GAP + SIDE + GAP + SIDE // 2
    for column, region, grey in ((SIDE // 8, 0, 0), (SIDE * 7 // 8, 1, 255)):
        expected = OPACITY * np.array(COLOURS[region]) + (1 - OPACITY) * grey
        found = picture[row, GAP + WORDS + column]
        # The grey has 5 bits: its lowest 3 are lost, of which half is seen.
        assert np.abs(found - expected).max() <= 1 + (1 - OPACITY) * 7


def test_a_bar_beside_the_faces_is_as_long_as_each_regions_share():
    page, _ = region_picture(nn.Sequential(halves()), half_light())
    left = np.asarray(page)[GAP + SIDE + GAP :, GAP : WORDS - GAP]
    first, second = ((left == np.array(colour)).all(2).sum() for colour in COLOURS[:2])
    assert first == second > 0


def test_faces_beyond_those_shown_count_all_the_same():
    dark = -torch.ones(3, 3, 8, 8)
    page, usages = region_picture(nn.Sequential(halves()), torch.cat([half_light(), dark]), shown=2)
    assert usages["0"].share().tolist() == [0.875, 0.125]
    assert page.size == (GAP + WORDS + 2 * (SIDE + GAP), GAP + 2 * (SIDE + GAP))


def test_layers_that_follow_a_guide_have_no_row_of_their_own():
    first = halves()
    assert first.guide is not None
    network = nn.Sequential(first, DRConv2d(4, 4, 1, regions=2, guide=first.guide))
    page, usages = region_picture(network, half_light())
    assert list(usages) == ["0", "1"]
    assert isinstance(page, Image.Image)
    assert page.height == GAP + 2 * (SIDE + GAP)


def test_a_network_without_regions_is_refused():
    with pytest.raises(ValueError, match="no DRConv2d"):
        region_picture(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 8, 8))
