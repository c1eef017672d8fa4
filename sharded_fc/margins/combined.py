"""The combined margin (arXiv:1801.07698, eq. 4): cos(m1 theta + m2) - m3, all three at once."""

from dataclasses import dataclass

from sharded_fc.margins.angles import Gradient, check_added, check_gradient, wind_angle
from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars


@dataclass(frozen=True, kw_only=True)
class CombinedMargin(Margin):
    """Multiply the angle by `factor` (m1), add `angle` (m2), subtract `cosine` (m3).

    The paper's CM1 is (1, 0.3, 0.2), CM2 (0.9, 0.4, 0.15). Unlike arcface_torch's loss of this
    name, which ignores m2 where m3 > 0, this applies all three. Where m1 theta + m2 passes pi the
    value follows SphereFace's continuation, which is monotone for any m1; ArcFace's own fallback
    is not, so `CombinedMargin(angle=m)` and `ArcFace(m)` differ beyond theta = pi - m.
    """

    factor: float = 1.0
    angle: float = 0.0
    cosine: float = 0.0
    gradient: Gradient = "exact"

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"CombinedMargin factor {self.factor}; use a positive m1, usually 1.0")
        check_added("CombinedMargin angle", self.angle)
        if not 0 <= self.cosine <= 1:
            raise ValueError(f"CombinedMargin cosine {self.cosine}; use an m3 in [0, 1]")
        check_gradient("CombinedMargin", self.gradient)

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """See `wind_angle`."""
        value, slope = wind_angle(
            samples.cosine, factor=self.factor, margin=self.angle, gradient=self.gradient
        )
        return Adjustment(value=value - self.cosine, slope=slope)
