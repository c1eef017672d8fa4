"""The plain softmax classifier: raw products and a bias, no unit vectors, no margin."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars


@dataclass(frozen=True)
class PlainSoftmax(Margin):
    """Logits w . x + b, the lengths of w and x included.

    The bias is one more column of the rows, met by a column of ones that the head adds to the
    embeddings; both are the head's business. `samples.cosine` holds the raw product.
    """

    normalised: ClassVar[bool] = False

    def check(self, *, scale: float, num_classes: int) -> None:
        """Refuse a scale: raw products have their own."""
        if scale != 1.0:
            raise ValueError(f"PlainSoftmax with scale {scale}; its logits are raw, use scale 1.0")

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """The slope is 1."""
        return Adjustment(value=samples.cosine, slope=torch.ones_like(samples.cosine))
