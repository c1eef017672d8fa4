"""CosFace (arXiv:1801.09414, eq. 4), also published as AM-softmax: cos(theta) - m."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class CosFace:
    """Subtract `margin` from the target cosine."""

    margin: float = 0.35

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ValueError(f"CosFace margin {self.margin}; use a cosine in [0, 1], usually 0.35")

    def target(
        self, cosine: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The changed cosine and its slope, which is 1."""
        return cosine - self.margin, torch.ones_like(cosine)
