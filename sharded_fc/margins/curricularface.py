"""CurricularFace (arXiv:2004.00288): hard negatives weigh more as training goes on."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sharded_fc.margins.angles import Gradient, add_angle, check_added, check_gradient
from sharded_fc.margins.base import Adjustment, HardNegatives, Margin, Samples, Scalars, mean_of


@dataclass(frozen=True)
class CurricularFace(Margin):
    """ArcFace's target; a negative c above it becomes c (t + c).

    t is the running mean of the target cosines of all ranks, moved by `rate` a step and used in the
    same step. Early on targets lie far below 0, so negatives of negative cosine count as hard; for
    c < -t they turn positive, and below -t/2 their slope is negative. That is the paper's rule.
    """

    margin: float = 0.5
    gradient: Gradient = "exact"
    rate: float = 0.01
    class_margins: ClassVar[bool] = True
    changes_negatives: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_added("CurricularFace", self.margin)
        check_gradient("CurricularFace", self.gradient)
        if not 0 < self.rate <= 1:
            raise ValueError(f"CurricularFace rate {self.rate}; use (0, 1], 0.01 in the paper")

    def initial_state(self, *, num_classes: int) -> dict[str, float]:
        """No hard negative weighs more than another."""
        return {"t": 0.0}

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """A sample without a class has no hard negatives and no part in t."""
        margin = self.margin if samples.class_margin is None else samples.class_margin
        value, slope = add_angle(samples.cosine, margin, gradient=self.gradient)
        mean, count = mean_of(samples.cosine, samples.labelled)
        moved = torch.lerp(state["t"], mean, self.rate)
        t = torch.where(count > 0, moved, state["t"])
        hard = HardNegatives(
            threshold=torch.where(samples.labelled, value, torch.inf),
            constant=torch.zeros_like(t),
            linear=t,
            square=torch.ones_like(t),
            highest=1.0 + t.abs(),
        )
        return Adjustment(value=value, slope=slope, hard=hard, state={"t": t})
