"""Making up for people with few images: by drawing them more often, or by weighing their loss.

Both use the effective number of a class with n images, E(n) = (1 - beta^n) / (1 - beta) (Cui et
al., arXiv:1901.05555): how many of them count as different. beta = 0 leaves everything as it is
(E = 1), beta = 1 treats all people alike (E = n).
"""

import numpy as np
from jaxtyping import Float64, Int64


def effective_number(
    images: Int64[np.ndarray, " identities"], *, beta: float
) -> Float64[np.ndarray, " identities"]:
    """E of each number of images; `ValueError` unless `beta` is in [0, 1]."""
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}; it must be in [0, 1]")
    if beta in (0, 1):
        return images.astype(float) if beta else (images > 0).astype(float)
    return -np.expm1(images * np.log(beta)) / (1 - beta)


def drawing_share(
    images: Int64[np.ndarray, " identities"], *, beta: float
) -> Float64[np.ndarray, " identities"]:
    """How often to draw each identity, up to a factor, so that an image's chance is as 1 / E."""
    return images / np.maximum(effective_number(images, beta=beta), 1.0)


def loss_weight(
    images: Int64[np.ndarray, " identities"], *, beta: float
) -> Float64[np.ndarray, " identities"]:
    """The weight of the loss of each identity's samples: as 1 / E, and 1 in the mean of samples.

    So the loss keeps its size. The paper has a mean of 1 over classes, a constant factor away.
    """
    weight = 1 / np.maximum(effective_number(images, beta=beta), 1.0)
    return weight * images.sum() / (weight * images).sum()
