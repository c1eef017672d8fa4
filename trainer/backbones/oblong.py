"""Networks for faces that are higher than wide see the middle of the squares that datasets have.

A published face of 112 x 96 is one of 112 x 112 without 8 columns on either side
(`data_pipeline/align.py` has the points), so one dataset serves both.
"""

from functools import partial
from math import gcd

from jaxtyping import Float
from torch import Tensor, nn

from data_pipeline.index import Dataset
from trainer.backbones.table import Backbone
from trainer.errors import RunError

Size = tuple[int, int]
"""Height and width."""


def size_in_square(backbone: Backbone, side: int) -> Size:
    """What a backbone sees of square faces: all, or their middle in its own proportions.

    Raises:
        RunError: the middle would not be of whole pixels.
    """
    longest, shortest = max(backbone.image_size), min(backbone.image_size)
    whole = 2 * longest // gcd(2 * longest, longest - shortest)
    if side % whole:
        raise RunError(
            f"{backbone.name} sees {shortest} of {longest} columns of a face, which are no whole"
            f" pixels of {side}; use an image_size that {whole} divides"
        )
    height, width = (side * each // longest for each in backbone.image_size)
    return height, width


def expect_squares(seen: Size, *datasets: Dataset) -> None:
    """Refuse oblong images for a network of oblong faces: reading would stretch them to squares.

    Raises:
        RunError: all images of a dataset are of an oblong size.
    """
    for dataset in datasets:
        height, width = dataset.image_size or (1, 1)
        if seen[0] != seen[1] and height != width:
            raise RunError(
                f"images of {dataset.path} are {height} x {width}; a network of oblong faces sees"
                " the middle of square ones, so pack the faces as squares"
            )


def middle(
    image: Float[Tensor, "batch 3 height width"], size: Size
) -> Float[Tensor, "batch 3 h w"]:
    """The middle of images, of this height and width."""
    top, left = ((has - keeps) // 2 for has, keeps in zip(image.shape[2:], size, strict=True))
    return image[:, :, top : top + size[0], left : left + size[1]]


def take_middles(network: nn.Module, size: Size) -> None:
    """Have a network see the middle of whatever images it is given from now on."""
    network.register_forward_pre_hook(partial(_cut, size=size))


def _cut(_network: nn.Module, images: tuple[Tensor], *, size: Size) -> Tensor:
    return middle(images[0], size)
