"""CosFace (arXiv:1801.09414, eq. 4), also published as AM-softmax: cos(theta) - m."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars


@dataclass(frozen=True)
class CosFace(Margin):
    """Subtract `margin` from the target cosine."""

    margin: float = 0.35
    class_margins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ValueError(f"CosFace margin {self.margin}; use a cosine in [0, 1], usually 0.35")

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """The slope is 1."""
        margin = self.margin if samples.class_margin is None else samples.class_margin
        cosine = samples.cosine
        return Adjustment(value=cosine - margin, slope=torch.ones_like(cosine))
