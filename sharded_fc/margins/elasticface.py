"""ElasticFace (arXiv:2109.09416): every sample draws its own margin at every step."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.counter import keys, normals
from sharded_fc.margins.angles import ADDED_RANGE, Gradient, add_angle, check_gradient
from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars

_FURTHEST = 6.0  # deviations: `normals` goes no further


@dataclass(frozen=True)
class ElasticArcFace(Margin):
    """ArcFace with margins drawn around `margin`, normal with `deviation`.

    With `plus` the smallest margin of the global batch goes to the largest target cosine and so on
    (the paper then uses a deviation of 0.0175). Draws are keyed by (seed, step, place in the global
    batch): the same at any world size and after any resume.
    """

    margin: float = 0.5
    _: KW_ONLY
    deviation: float = 0.05
    plus: bool = False
    gradient: Gradient = "exact"
    class_margins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_draws("ElasticArcFace", self.margin, self.deviation, highest=math.pi / 2)
        check_gradient("ElasticArcFace", self.gradient)

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """Class margins take the place of `margin`; draws around them are kept in its range."""
        margin = draw_margins(self, samples).clamp(*ADDED_RANGE)
        value, slope = add_angle(samples.cosine, margin, gradient=self.gradient)
        return Adjustment(value=value, slope=slope)


@dataclass(frozen=True)
class ElasticCosFace(Margin):
    """CosFace with margins drawn around `margin`; with `plus` the paper's deviation is 0.02.

    See `ElasticArcFace`.
    """

    margin: float = 0.35
    _: KW_ONLY
    deviation: float = 0.05
    plus: bool = False
    class_margins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_draws("ElasticCosFace", self.margin, self.deviation, highest=1.0)

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """The slope is 1."""
        value = samples.cosine - draw_margins(self, samples).clamp_min(0.0)
        return Adjustment(value=value, slope=torch.ones_like(value))


def draw_margins(
    margin: ElasticArcFace | ElasticCosFace, samples: Samples
) -> Float[Tensor, " batch"]:
    """Every sample's margin in this step, in the cosines' dtype."""
    cosine = samples.cosine
    position = torch.arange(len(cosine), device=cosine.device)
    draw = margin.deviation * normals(keys(samples.seed, samples.step, position))
    if margin.plus:
        draw = _smallest_to_nearest(draw, samples)
    mean = margin.margin if samples.class_margin is None else samples.class_margin.double()
    return (mean + draw).to(cosine.dtype)


def _smallest_to_nearest(
    draw: Float[Tensor, " batch"], samples: Samples
) -> Float[Tensor, " batch"]:
    """The smallest draw to the largest cosine; samples without a class rank last, with draw 0."""
    labelled = samples.labelled
    nearest = torch.where(labelled, samples.cosine, -torch.inf).argsort(
        descending=True, stable=True
    )
    smallest = torch.where(labelled, draw, torch.inf).sort().values
    ranked = torch.empty_like(draw).scatter_(0, nearest, smallest)
    return torch.where(labelled, ranked, 0.0)


def _check_draws(name: str, margin: float, deviation: float, *, highest: float) -> None:
    if deviation < 0:
        raise ValueError(f"{name} deviation {deviation}; use 0 or more, usually 0.05")
    reach = _FURTHEST * deviation
    if not (margin - reach >= 0 and margin + reach < highest):
        raise ValueError(
            f"{name} margin {margin} with deviation {deviation} can draw margins outside "
            f"[0, {highest:.4g}); keep {_FURTHEST:g} deviations on either side inside"
        )
