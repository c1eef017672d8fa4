"""MagFace (arXiv:2103.06627): the margin grows with the embedding's length."""

from dataclasses import dataclass

import torch

from sharded_fc.margins.angles import (
    Gradient,
    add_angle,
    check_added,
    check_gradient,
    slope_by_margin,
)
from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars, mean_of


@dataclass(frozen=True, kw_only=True)
class MagFace(Margin):
    """ArcFace's target with m(a), and `norm_weight` g(a) added to each sample's loss.

    a is the length of the embedding, clamped to [`lowest_norm`, `highest_norm`]; m(a) is linear
    from `lowest_margin` to `highest_margin`; g(a) = 1/a + a/highest_norm^2. Outside the clamp
    lengths get no gradient, so the backbone must start inside: watch the statistic
    `clamped_share`. `gradient` concerns the angle; lengths always get their exact gradient.
    """

    lowest_norm: float = 10.0
    highest_norm: float = 110.0
    lowest_margin: float = 0.45
    highest_margin: float = 0.8
    norm_weight: float = 35.0
    gradient: Gradient = "exact"

    def __post_init__(self) -> None:
        if not 0 < self.lowest_norm < self.highest_norm:
            raise ValueError(
                f"MagFace norms from {self.lowest_norm} to {self.highest_norm}; "
                "use 0 < lowest_norm < highest_norm, usually 10 and 110"
            )
        check_added("MagFace lowest", self.lowest_margin)
        check_added("MagFace highest", self.highest_margin)
        if self.lowest_margin > self.highest_margin:
            raise ValueError(
                f"MagFace margins from {self.lowest_margin} to {self.highest_margin}; "
                "use lowest_margin <= highest_margin, usually 0.45 and 0.8"
            )
        check_gradient("MagFace", self.gradient)

    @property
    def margin_slope(self) -> float:
        """K = d m / d a."""
        norms = self.highest_norm - self.lowest_norm
        return (self.highest_margin - self.lowest_margin) / norms

    def smallest_norm_weight(self, *, scale: float) -> float:
        """The paper's bound s K u^2 l^2 / (u^2 - l^2): from it on a best length exists."""
        low, high = self.lowest_norm**2, self.highest_norm**2
        return scale * self.margin_slope * high * low / (high - low)

    def check(self, *, scale: float, num_classes: int) -> None:
        """Refuse a weight of g(a) too small for the scale."""
        smallest = self.smallest_norm_weight(scale=scale)
        if self.norm_weight < smallest:
            raise ValueError(
                f"MagFace norm_weight {self.norm_weight} at scale {scale} lets lengths run to the "
                f"clamp; use at least {smallest:.4g}"
            )

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """Lengths are read in float64; only samples with a class count in `clamped_share`."""
        low, high = self.lowest_norm, self.highest_norm
        norm = samples.norm.clamp(low, high)
        inside = (samples.norm >= low) & (samples.norm <= high)
        margin = (self.lowest_margin + self.margin_slope * (norm - low)).to(samples.cosine.dtype)
        value, slope = add_angle(samples.cosine, margin, gradient=self.gradient)
        by_margin = slope_by_margin(samples.cosine, margin)
        flattening = 1.0 / high**2 - 1.0 / norm**2
        return Adjustment(
            value=value,
            slope=slope,
            norm_slope=torch.where(inside, by_margin.double() * self.margin_slope, 0.0),
            penalty=self.norm_weight * (1.0 / norm + norm / high**2),
            penalty_slope=torch.where(inside, flattening * self.norm_weight, 0.0),
            statistics={"clamped_share": mean_of(~inside, samples.labelled)[0]},
        )
