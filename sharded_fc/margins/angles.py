"""What angular margins share: a target angle moved, as a value and its slopes by the cosine.

The slope of a moved angle is infinite at angle 0, where what it multiplies has length sin(theta);
`sine_of` puts a floor under that sine.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Gradient = Literal["exact", "straight_through"]

ADDED_RANGE = (0.0, math.pi / 2)  # where `add_angle` is monotone in the cosine


def check_gradient(name: str, gradient: str) -> None:
    """Refuse anything but the two conventions."""
    if gradient not in ("exact", "straight_through"):
        raise ValueError(f"{name} gradient {gradient!r}; use 'exact' or 'straight_through'")


def check_added(name: str, margin: float) -> None:
    """Refuse angles that `add_angle` is not defined for."""
    low, bound = ADDED_RANGE
    if not low <= margin < bound:
        raise ValueError(f"{name} margin {margin}; use radians in [0, pi/2), usually 0.5")


def sine_of(cosine: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """sin(theta), at least that of the smallest angle this dtype's cosine can tell from zero."""
    sine = ((1.0 - cosine) * (1.0 + cosine)).clamp_min(0.0).sqrt()
    return sine.clamp_min(torch.finfo(cosine.dtype).eps ** 0.5)


def is_folded(
    cosine: Float[Tensor, " batch"], margin: Float[Tensor, "*batch"]
) -> Bool[Tensor, " batch"]:
    """Whether theta >= pi - m, where cos(theta + m) would turn up again."""
    return cosine.clamp(-1.0, 1.0) <= -margin.cos()


def add_angle(
    cosine: Float[Tensor, " batch"], margin: float | Float[Tensor, " batch"], *, gradient: Gradient
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """cos(theta + margin) and its slope, for margins in [0, pi/2), one for all or one a sample.

    Beyond theta = pi - m the cosine would turn up again, so there the value is cos(theta) - m sin m
    with slope 1, as in the ArcFace authors' first code; at the switch it drops from -1 to
    -cos m - m sin m and stays monotone. (arcface_torch has no such fallback.)
    """
    margin = as_margin(margin, cosine)
    cos_m, sin_m = margin.cos(), margin.sin()
    bounded = cosine.clamp(-1.0, 1.0)
    sine = ((1.0 - bounded) * (1.0 + bounded)).sqrt()
    folded = is_folded(cosine, margin)
    value = torch.where(folded, cosine - margin * sin_m, bounded * cos_m - sine * sin_m)
    if gradient == "straight_through":
        return value, torch.ones_like(cosine)
    slope = cos_m + sin_m * bounded / sine_of(bounded)
    return value, torch.where(folded, 1.0, slope)


def slope_by_margin(
    cosine: Float[Tensor, " batch"], margin: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The derivative of `add_angle`'s value by its margin."""
    cos_m, sin_m = margin.cos(), margin.sin()
    bounded = cosine.clamp(-1.0, 1.0)
    sine = ((1.0 - bounded) * (1.0 + bounded)).sqrt()
    moved = -(sine * cos_m + bounded * sin_m)
    return torch.where(is_folded(cosine, margin), -sin_m - margin * cos_m, moved)


def wind_angle(
    cosine: Float[Tensor, " batch"], *, factor: float, margin: float, gradient: Gradient
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """psi(a) = (-1)^k cos(a) - 2k at a = factor theta + margin, k = floor(a / pi); its slope.

    SphereFace's continuation (arXiv:1704.08063): equal to cos(a) up to a = pi and going on
    down from there, continuous and monotone for any factor.
    """
    bounded = cosine.clamp(-1.0, 1.0)
    angle = factor * bounded.acos() + margin
    turns = (angle / math.pi).floor()
    sign = 1.0 - 2.0 * turns.remainder(2.0)
    value = sign * angle.cos() - 2.0 * turns
    if gradient == "straight_through":
        return value, torch.ones_like(cosine)
    return value, factor * angle.sin().abs() / sine_of(bounded)


def as_margin(
    margin: float | Float[Tensor, " batch"], cosine: Float[Tensor, " batch"]
) -> Float[Tensor, "*batch"]:
    """A margin as a tensor of the cosines' dtype, made on their device without a copy to it."""
    if isinstance(margin, Tensor):
        return margin.to(cosine.dtype)
    return cosine.new_full((), margin)
