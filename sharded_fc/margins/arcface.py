"""ArcFace (arXiv:1801.07698, eq. 3): cos(theta + m), with the exact gradient or the usual one."""

from dataclasses import dataclass
from typing import ClassVar

from sharded_fc.margins.angles import Gradient, add_angle, check_added, check_gradient
from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars


@dataclass(frozen=True)
class ArcFace(Margin):
    """Add `margin` radians to the angle between a face and its own centre.

    `gradient="exact"` is d cos(theta + m) / d cos(theta) = sin(theta + m) / sin(theta);
    `"straight_through"` has the same values and slope 1, as arcface_torch trains: its recipes are
    reproduced with that.
    """

    margin: float = 0.5
    gradient: Gradient = "exact"
    class_margins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_added("ArcFace", self.margin)
        check_gradient("ArcFace", self.gradient)

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """See `add_angle`."""
        margin = self.margin if samples.class_margin is None else samples.class_margin
        value, slope = add_angle(samples.cosine, margin, gradient=self.gradient)
        return Adjustment(value=value, slope=slope)
