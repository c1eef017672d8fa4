"""The picture of a network's affinity maps."""

import numpy as np
import pytest
import torch
from torch import nn

from trainer.layers.page import GAP, LINE, SIDE, VIRIDIS, WORDS
from trainer.layers.tvconv import TVConv2d
from trainer.layers.tvconv.picture import affinity_picture, deviation

FACES = torch.zeros(2, 3, 8, 8)


def test_a_picture_has_a_row_a_layer_and_shows_where_a_map_is_high():
    first, second = TVConv2d(4, map_size=(7, 7)), TVConv2d(6, map_size=(2, 2), affinity_channels=3)
    with torch.no_grad():
        second.weight_block.affinity[0, 1, 0, 1] = 9.0
    page = affinity_picture(nn.Sequential(first, nn.ReLU(), second), FACES)
    # Four maps at most, the deviation, and that over the mean face.
    assert page.size == (GAP + WORDS + 6 * (SIDE + GAP), GAP + LINE + 2 * (SIDE + GAP))
    top, left = GAP + LINE + SIDE + GAP, GAP + WORDS + SIDE + GAP
    tile = np.asarray(page)[top : top + SIDE, left : left + SIDE].astype(int)
    high, low = tile[SIDE // 4, 3 * SIDE // 4], tile[SIDE // 4, SIDE // 4]
    assert tuple(high) == tuple(VIRIDIS[-1])
    assert tuple(low) == tuple(tile[-1, -1]) == tuple(VIRIDIS[0])


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


def test_a_network_without_such_layers_has_no_picture():
    with pytest.raises(ValueError, match="no TVConv2d"):
        affinity_picture(nn.ReLU(), FACES)
