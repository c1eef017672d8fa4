"""A picture of what a network's translation-variant convolutions learnt, as PNG."""

import io
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from trainer.layers.tvconv.layer import TVConv2d

SIDE = 112  # pixels of a map
GAP = 12
TEXT = 15  # pixels of a line
INK, PAPER = (40, 40, 40), (255, 255, 255)
# Viridis at five places: even steps in lightness, legible to all.
COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])


def affinity_picture(network: nn.Module, path: Path) -> None:
    """Write a row a layer: its affinity maps, and how far kernels are from their mean.

    Colours go from the lowest of a row's maps, dark, to the highest. The last map is the length of
    each position's kernels less their mean, over the mean's: 0 everywhere is a depthwise
    convolution.

    Raises:
        ValueError: the network has no such layer.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, TVConv2d)}
    if not layers:
        raise ValueError("the network has no TVConv2d; replace some depthwise convolutions first")
    most = max(layer.weight_block.affinity.shape[1] for layer in layers.values())
    width = GAP + (most + 1) * (SIDE + GAP)
    height = GAP + len(layers) * (SIDE + 2 * TEXT + GAP)
    page = Image.new("RGB", (width, height), PAPER)
    for row, (name, layer) in enumerate(layers.items()):
        _draw(page, layer, name or "the layer", top=GAP + row * (SIDE + 2 * TEXT + GAP), maps=most)
    stream = io.BytesIO()
    page.save(stream, "PNG", optimize=True)
    path.write_bytes(stream.getvalue())


@torch.no_grad()
def deviation(layer: TVConv2d) -> Tensor:
    """[height, width]: lengths of all kernels of a position less their mean, over the mean's."""
    weight = layer.weight().double()
    mean = weight.mean((0, 1))
    return (weight - mean).square().sum((2, 3)).sqrt() / mean.norm()


def _draw(page: Image.Image, layer: TVConv2d, name: str, *, top: int, maps: int) -> None:
    draw = ImageDraw.Draw(page)
    affinity = layer.weight_block.affinity.detach().squeeze(0).double().cpu().numpy()
    varies = deviation(layer).cpu().numpy()
    lowest, highest = float(affinity.min()), float(affinity.max())
    height, width = layer.map_size
    title = f"{name}: {layer.channels} channels, {height} x {width}"
    draw.text((GAP, top), title, INK)
    draw.text((GAP, top + TEXT), f"affinity maps, {lowest:.3g} to {highest:.3g}", INK)
    last = GAP + maps * (SIDE + GAP)
    draw.text((last, top + TEXT), f"deviation, to {varies.max():.3g}", INK)
    at = top + 2 * TEXT
    for number, one in enumerate(affinity):
        page.paste(_tile(one, lowest, highest), (GAP + number * (SIDE + GAP), at))
    page.paste(_tile(varies, 0.0, float(varies.max())), (last, at))


def _tile(values: ndarray, lowest: float, highest: float) -> Image.Image:
    """One map in colour; a map of one value is the lowest colour."""
    share = (values - lowest) / max(highest - lowest, np.finfo(np.float64).tiny)
    places = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(share, places, COLOURS[:, c]) for c in range(3)]
    image = Image.fromarray(np.stack(channels, 2).round().astype(np.uint8))
    return image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
