"""Images to compare networks on, and to calibrate with: noise, or faces of a dataset."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.index import Dataset
from data_pipeline.loader import read_batches
from trainer.backbones.oblong import expect_squares, middle

READ_AT_ONCE = 32


def noise(count: int, image_size: tuple[int, int]) -> Float[Tensor, "count 3 height width"]:
    """Pixels of any value, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, *image_size, generator=generator) * 2 - 1


def faces(
    dataset: Dataset, count: int, image_size: tuple[int, int]
) -> Float[Tensor, "count 3 height width"]:
    """Up to `count` faces from all over a dataset, as the network sees them in verification.

    A network that takes oblong faces sees the middle of square ones.

    Raises:
        RunError: the faces are oblong themselves.
        DataError: a face cannot be read.
    """
    expect_squares(image_size, dataset)
    places = np.unique(np.linspace(0, dataset.num_samples - 1, count).astype(np.int64))
    batches = read_batches(
        dataset, places, batch_size=min(READ_AT_ONCE, len(places)), image_size=max(image_size)
    )
    return torch.cat([middle(batch.image, image_size) for batch in batches])
