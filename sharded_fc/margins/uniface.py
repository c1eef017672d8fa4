"""UniFace (Zhou et al., ICCV 2023): one threshold for all pairs."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars


@dataclass(frozen=True)
class UniFace(Margin):
    """A binary cross-entropy for each class, all sharing one learned bias b.

    A sample's loss is softplus(b - s (cos(theta_y) - m)) plus `negative_weight` times the sum of
    softplus(s cos(theta_j) - b) over its negatives. b is the scalar "bias" of the state; the head
    computes its gradient and steps it, so `adjust` leaves it alone. It starts at `initial_bias`, or
    at ln(10 C) for C classes, the authors' choice without sampling.
    """

    margin: float = 0.4
    negative_weight: float = 1.0
    initial_bias: float | None = None
    loss: ClassVar[Literal["softmax", "sigmoid"]] = "sigmoid"
    class_margins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ValueError(f"UniFace margin {self.margin}; use a cosine in [0, 1], usually 0.4")
        if not self.negative_weight > 0:
            raise ValueError(
                f"UniFace negative_weight {self.negative_weight}; use a positive number, usually 1"
            )

    def initial_state(self, *, num_classes: int) -> dict[str, float]:
        """The bias before the first step."""
        if self.initial_bias is not None:
            return {"bias": self.initial_bias}
        return {"bias": math.log(10.0 * num_classes)}

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """The slope is 1."""
        margin = self.margin if samples.class_margin is None else samples.class_margin
        cosine = samples.cosine
        return Adjustment(value=cosine - margin, slope=torch.ones_like(cosine))
