"""A picture of the regions that a network's guides see in faces."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from trainer.layers import page
from trainer.layers.drconv.usage import Usage, watching

# Okabe and Ito's eight, which people of any colour vision tell apart; more regions start anew.
COLOURS = (
    *[(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)],
    *[(0, 114, 178), (213, 94, 0), (204, 121, 167), (90, 90, 90)],
)


class Regions(NamedTuple):
    """A page, and the use of regions by the name of each layer."""

    page: Image.Image
    usages: dict[str, Usage]


@torch.no_grad()
def region_picture(
    network: nn.Module, faces: Float[Tensor, "faces 3 height width"], *, shown: int = 6
) -> Regions:
    """The first faces, and a row a guide: its regions over them, and all faces' use of each.

    `faces` are pixels as the network is given them, from -1 to 1; it runs as for evaluation. Layers
    that follow an earlier layer's guide see its regions and have no row.

    Raises:
        ValueError: the network has no DRConv layer.
    """
    training = network.training
    with watching(network.eval()) as usages:
        network(faces)
    network.train(training)
    usages = {name: usage for name, usage in usages.items() if usage.last is not None}
    if not usages:
        raise ValueError("the network has no DRConv2d; replace some convolutions first")
    tiles = [page.face(one) for one in faces[:shown]]
    own = [name for name in usages if network.get_submodule(name).guide is not None]
    rows = [page.Row(tiles=tiles, title="faces", said=["under them, each guide's regions"])]
    rows += [
        _row(title, usages[name], tiles) for title, name in zip(page.titles(own), own, strict=True)
    ]
    return Regions(page.draw(rows), usages)


def _row(title: str, usage: Usage, faces: list[Image.Image]) -> page.Row:
    assert usage.last is not None
    height, width = usage.last.shape[1:]
    palette = np.array(COLOURS, np.uint8)
    masks = usage.last[: len(faces)].cpu().numpy()
    tiles = [page.map_tile(palette[mask % len(palette)]) for mask in masks]
    return page.Row(
        title=title,
        said=[
            f"{usage.regions} regions, {height} x {width}, evenness {usage.entropy():.2f}",
            page.share_strip(usage.share().tolist(), COLOURS),
        ],
        tiles=[page.over(tile, face) for tile, face in zip(tiles, faces, strict=True)],
    )
