"""MV-softmax (arXiv:1912.00833): negatives nearer than the target are pushed harder."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import torch

from sharded_fc.margins.angles import Gradient, add_angle, check_added, check_gradient
from sharded_fc.margins.base import Adjustment, HardNegatives, Margin, Samples, Scalars


@dataclass(frozen=True)
class MVSoftmax(Margin):
    """CosFace's or ArcFace's target; a negative c above it becomes t c + t - 1.

    `target` says whether `margin` is taken from the cosine or added to the angle; `gradient`
    matters for the angle alone. `hardness` is t; at 1 hard negatives stay as they are.
    """

    margin: float = 0.35
    _: KW_ONLY
    hardness: float = 1.12
    target: Literal["cosine", "angle"] = "cosine"
    gradient: Gradient = "exact"
    class_margins: ClassVar[bool] = True
    changes_negatives: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.target not in ("cosine", "angle"):
            raise ValueError(f"MVSoftmax target {self.target!r}; use 'cosine' or 'angle'")
        if self.target == "angle":
            check_added("MVSoftmax", self.margin)
        elif not 0 <= self.margin <= 1:
            raise ValueError(
                f"MVSoftmax margin {self.margin}; use a cosine in [0, 1], usually 0.35"
            )
        if not self.hardness >= 1:
            raise ValueError(f"MVSoftmax hardness {self.hardness}; use 1 or more, usually 1.12")
        check_gradient("MVSoftmax", self.gradient)

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """A sample without a class has no hard negatives."""
        cosine = samples.cosine
        margin = self.margin if samples.class_margin is None else samples.class_margin
        if self.target == "angle":
            value, slope = add_angle(cosine, margin, gradient=self.gradient)
        else:
            value, slope = cosine - margin, torch.ones_like(cosine)
        hard = HardNegatives(
            threshold=torch.where(samples.labelled, value, torch.inf),
            constant=samples.norm.new_full((), self.hardness - 1.0),
            linear=samples.norm.new_full((), self.hardness),
            square=samples.norm.new_zeros(()),
            highest=samples.norm.new_full((), 2.0 * self.hardness - 1.0),
        )
        return Adjustment(value=value, slope=slope, hard=hard)
