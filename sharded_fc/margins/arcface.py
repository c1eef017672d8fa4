"""ArcFace (arXiv:1801.07698, eq. 3): cos(theta + m), with the exact gradient or the usual one."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ArcFace:
    """Add `margin` radians to the angle between a face and its own centre.

    Beyond theta = pi - m the cosine would turn up again, so there the value is cos(theta) - m sin m
    with slope 1, as in the authors' first code; at the switch it drops from -1 to -cos m - m sin m
    and stays monotone. (arcface_torch has no such fallback.)

    `gradient="exact"` is d cos(theta + m) / d cos(theta) = sin(theta + m) / sin(theta);
    `"straight_through"` has the same values and slope 1, as arcface_torch trains: its recipes are
    reproduced with that.
    """

    margin: float = 0.5
    gradient: Literal["exact", "straight_through"] = "exact"

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.pi / 2:
            raise ValueError(f"ArcFace margin {self.margin}; use radians in [0, pi/2), usually 0.5")
        if self.gradient not in ("exact", "straight_through"):
            raise ValueError(
                f"ArcFace gradient {self.gradient!r}; use 'exact' or 'straight_through'"
            )

    def target(
        self, cosine: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The changed cosine and its slope."""
        cos_m, sin_m = math.cos(self.margin), math.sin(self.margin)
        bounded = cosine.clamp(-1.0, 1.0)
        sine = ((1.0 - bounded) * (1.0 + bounded)).sqrt()
        folded = bounded <= -cos_m  # theta >= pi - m
        value = torch.where(folded, cosine - self.margin * sin_m, bounded * cos_m - sine * sin_m)
        if self.gradient == "straight_through":
            return value, torch.ones_like(cosine)
        # At cosine 1 the slope is infinite but what it multiplies has length sin(theta). The floor
        # is the sine of the smallest angle this dtype's cosine can tell from zero.
        slope = cos_m + sin_m * bounded / sine.clamp_min(torch.finfo(cosine.dtype).eps ** 0.5)
        return value, torch.where(folded, 1.0, slope)
