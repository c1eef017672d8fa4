"""Images to compare networks on, and to calibrate with: noise, or faces of a dataset."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.index import Dataset
from data_pipeline.loader import read_batches
from trainer.errors import RunError

READ_AT_ONCE = 32


def noise(count: int, image_size: tuple[int, int]) -> Float[Tensor, "count 3 height width"]:
    """Pixels of any value, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, *image_size, generator=generator) * 2 - 1


def faces(
    dataset: Dataset, count: int, image_size: tuple[int, int]
) -> Float[Tensor, "count 3 height width"]:
    """Up to `count` faces from all over a dataset, as the network sees them in verification.

    Raises:
        RunError: the network takes faces that are not square, which datasets are read as.
        DataError: a face cannot be read.
    """
    if image_size[0] != image_size[1]:
        raise RunError(
            f"faces are read as squares and this network takes {image_size[0]}x{image_size[1]}; "
            "leave out the faces"
        )
    places = np.unique(np.linspace(0, dataset.num_samples - 1, count).astype(np.int64))
    batches = read_batches(
        dataset, places, batch_size=min(READ_AT_ONCE, len(places)), image_size=image_size[0]
    )
    return torch.cat([batch.image for batch in batches])
