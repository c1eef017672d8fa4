"""ArcFace (arXiv:1801.07698, eq. 3): cos(theta + m), with the exact gradient or the usual one."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars

Gradient = Literal["exact", "straight_through"]


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
        if not 0 <= self.margin < math.pi / 2:
            raise ValueError(f"ArcFace margin {self.margin}; use radians in [0, pi/2), usually 0.5")
        check_gradient("ArcFace", self.gradient)

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """See `add_angle`."""
        margin = self.margin if samples.class_margin is None else samples.class_margin
        value, slope = add_angle(samples.cosine, margin, gradient=self.gradient)
        return Adjustment(value=value, slope=slope)


def add_angle(
    cosine: Float[Tensor, " batch"], margin: float | Float[Tensor, " batch"], *, gradient: Gradient
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """cos(theta + margin) and its slope, for margins in [0, pi/2), one for all or one a sample.

    Beyond theta = pi - m the cosine would turn up again, so there the value is cos(theta) - m sin m
    with slope 1, as in the ArcFace authors' first code; at the switch it drops from -1 to
    -cos m - m sin m and stays monotone. (arcface_torch has no such fallback.)
    """
    if not isinstance(margin, Tensor):
        margin = cosine.new_full((), margin)
    cos_m, sin_m = margin.cos(), margin.sin()
    bounded = cosine.clamp(-1.0, 1.0)
    sine = ((1.0 - bounded) * (1.0 + bounded)).sqrt()
    folded = bounded <= -cos_m  # theta >= pi - m
    value = torch.where(folded, cosine - margin * sin_m, bounded * cos_m - sine * sin_m)
    if gradient == "straight_through":
        return value, torch.ones_like(cosine)
    # At cosine 1 the slope is infinite but what it multiplies has length sin(theta). The floor
    # is the sine of the smallest angle this dtype's cosine can tell from zero.
    slope = cos_m + sin_m * bounded / sine.clamp_min(torch.finfo(cosine.dtype).eps ** 0.5)
    return value, torch.where(folded, 1.0, slope)


def check_gradient(name: str, gradient: str) -> None:
    """Refuse anything but the two conventions."""
    if gradient not in ("exact", "straight_through"):
        raise ValueError(f"{name} gradient {gradient!r}; use 'exact' or 'straight_through'")
