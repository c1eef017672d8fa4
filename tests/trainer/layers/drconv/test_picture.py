"""The picture of regions: a row a layer, a colour a region, over the faces."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trainer.layers.drconv import DRConv2d
from trainer.layers.drconv.picture import COLOURS, GAP, OPACITY, SIDE, TEXT, region_picture


def test_each_half_of_a_face_has_its_regions_colour(tmp_path):
    layer = DRConv2d(3, 4, 1, regions=2)
    assert layer.guide is not None
    with torch.no_grad():
        layer.guide.conv.weight.zero_()
        layer.guide.conv.weight[1] = 1  # region 1 where a face is light
    face = -torch.ones(1, 3, 8, 8)
    face[..., 4:] = 1
    network = nn.Sequential(layer).train()
    region_picture(network, face, tmp_path / "regions.png")
    assert network.training
    picture = np.asarray(Image.open(tmp_path / "regions.png"))
    row = 2 * GAP + SIDE + 2 * TEXT + SIDE // 2
    for column, region, grey in ((SIDE // 8, 0, 0), (SIDE * 7 // 8, 1, 255)):
        expected = OPACITY * COLOURS[region] + (1 - OPACITY) * grey
        assert np.abs(picture[row, GAP + column] - expected).max() <= 1  # rounding


def test_a_network_without_regions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no DRConv2d"):
        region_picture(nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 8, 8), tmp_path / "none.png")
