"""The picture of a network's affinity maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trainer.layers.tvconv import TVConv2d
from trainer.layers.tvconv.picture import GAP, SIDE, TEXT, affinity_picture, deviation


def test_a_picture_has_a_row_a_layer_and_shows_where_a_map_is_high(tmp_path: Path):
    first, second = TVConv2d(4, map_size=(7, 7)), TVConv2d(6, map_size=(2, 2), affinity_channels=3)
    with torch.no_grad():
        second.weight_block.affinity[0, 1, 0, 1] = 9.0
    affinity_picture(nn.Sequential(first, nn.ReLU(), second), tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as image:
        assert image.format == "PNG"
        row = SIDE + 2 * TEXT + GAP
        assert image.size == (GAP + 5 * (SIDE + GAP), GAP + 2 * row)
        pixels = np.asarray(image)
    top, left = GAP + row + 2 * TEXT, GAP + (SIDE + GAP)
    tile = pixels[top : top + SIDE, left : left + SIDE].astype(int)
    high, low = tile[SIDE // 4, 3 * SIDE // 4], tile[SIDE // 4, SIDE // 4]
    assert tuple(high) == (253, 231, 37)
    assert tuple(low) == tuple(tile[-1, -1]) == (68, 1, 84)


def test_equal_kernels_everywhere_do_not_deviate():
    layer = TVConv2d(4, map_size=(5, 6))
    assert float(deviation(layer).max()) > 0.1  # zeros around the maps differ from ones
    with torch.no_grad():
        layer.weight_block.last.weight.zero_()
        layer.weight_block.last.weight[:, :, 1, 1] = 1.0
        norm = layer.weight_block.hidden[-2]
        assert isinstance(norm, nn.LayerNorm)
        norm.weight.zero_()
        norm.bias.fill_(1.0)
    torch.testing.assert_close(deviation(layer), torch.zeros(5, 6, dtype=torch.float64))


def test_a_network_without_such_layers_has_no_picture(tmp_path: Path):
    with pytest.raises(ValueError, match="no TVConv2d"):
        affinity_picture(nn.ReLU(), tmp_path / "maps.png")
