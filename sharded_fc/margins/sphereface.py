"""SphereFace (arXiv:1704.08063): cos(m theta), continued so that it stays monotone."""

from dataclasses import dataclass

from sharded_fc.margins.angles import Gradient, check_gradient, wind_angle
from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars


@dataclass(frozen=True)
class SphereFace(Margin):
    """Multiply the angle by `margin`.

    The paper's m = 4 needed annealing. What trains without is a small margin, a scale of 30 to 64
    and the detached gradient of "SphereFace Revived" (arXiv:2109.05565):
    `SphereFace(1.7, gradient="straight_through")`, the values of the authors' later code.
    """

    margin: float = 1.7
    gradient: Gradient = "exact"

    def __post_init__(self) -> None:
        if not self.margin >= 1:
            raise ValueError(f"SphereFace margin {self.margin}; use a factor from 1, usually 1.7")
        check_gradient("SphereFace", self.gradient)

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """See `wind_angle`."""
        value, slope = wind_angle(
            samples.cosine, factor=self.margin, margin=0.0, gradient=self.gradient
        )
        return Adjustment(value=value, slope=slope)
