"""What the loader hands to training: the faces of one micro-batch, and a fingerprint of which."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from data_pipeline import keyed


class FaceBatch(NamedTuple):
    """Decoded faces with their identities; row i of each tensor is the same face."""

    image: Float[Tensor, "batch 3 height width"]
    """RGB, (x - 127.5) / 127.5 of each 8-bit value; colour augmentation may step over +-1."""
    label: Int64[Tensor, " batch"]
    sample: Int64[Tensor, " batch"]
    """Positions in the dataset."""


def digest(sample: Int64[np.ndarray, " batch"]) -> int:
    """A 64-bit number of the samples and their order, to compare runs by.

    Every (place, sample) adds a keyed hash, so swapping two samples changes the sum.
    """
    return int(keyed.hash64("batch digest", np.arange(len(sample)), sample).sum(dtype=np.uint64))
