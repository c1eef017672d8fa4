"""A picture of what a network's translation-variant convolutions learnt."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from PIL import Image
from torch import Tensor, nn

from trainer.layers import page
from trainer.layers.tvconv.layer import TVConv2d


def affinity_picture(
    network: nn.Module, faces: Float[Tensor, "faces 3 height width"]
) -> Image.Image:
    """A row a layer: its affinity maps, how far kernels are from their mean, that over a face.

    Colours go from the lowest of a row's maps, dark, to the highest. The deviation is the length
    of each position's kernels less their mean, over the mean's: 0 everywhere is a depthwise
    convolution. It lies over the mean of `faces`, which are pixels from -1 to 1.

    Raises:
        ValueError: the network has no such layer.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, TVConv2d)}
    if not layers:
        raise ValueError("the network has no TVConv2d; replace some depthwise convolutions first")
    mean = page.face(faces.mean(0))
    most = max(layer.weight_block.affinity.shape[1] for layer in layers.values())
    headings = [*(f"affinity map {place + 1}" for place in range(most)), "deviation"]
    headings.append("on the mean face")
    rows = [
        _row(title, layer, mean, most)
        for title, layer in zip(page.titles(list(layers)), layers.values(), strict=True)
    ]
    first = page.Row(title=rows[0].title, said=rows[0].said, tiles=rows[0].tiles, headings=headings)
    return page.draw([first, *rows[1:]])


@torch.no_grad()
def deviation(layer: TVConv2d) -> Float64[Tensor, "height width"]:
    """Lengths of all kernels of a position less their mean, over the mean's."""
    weight = layer.weight().double()
    mean = weight.mean((0, 1))
    return (weight - mean).square().sum((2, 3)).sqrt() / mean.norm()


def _row(title: str, layer: TVConv2d, mean_face: Image.Image, most: int) -> page.Row:
    affinity = layer.weight_block.affinity.detach().squeeze(0).double().cpu().numpy()
    varies = deviation(layer).cpu().numpy()
    lowest, highest = float(affinity.min()), float(affinity.max())
    height, width = layer.map_size
    tiles = [_tile(one, lowest, highest) for one in affinity]
    tiles += [Image.new("RGB", (page.SIDE, page.SIDE), page.PAPER)] * (most - len(affinity))
    of_deviation = _tile(varies, 0.0, float(varies.max()))
    return page.Row(
        title=title,
        said=[
            f"{layer.channels} channels, {height} x {width}",
            "affinity",
            page.scale_strip(lowest, highest),
            "deviation",
            page.scale_strip(0.0, float(varies.max())),
        ],
        tiles=[*tiles, of_deviation, page.over(of_deviation, mean_face)],
    )


def _tile(
    values: Float64[np.ndarray, "height width"], lowest: float, highest: float
) -> Image.Image:
    """One map in colour; a map of one value is the lowest colour."""
    share = (values - lowest) / max(highest - lowest, np.finfo(np.float64).tiny)
    return page.map_tile(page.viridis(share))
