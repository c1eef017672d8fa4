"""AdaFace (arXiv:2204.00964): long embeddings are taken for good images."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.margins.angles import Gradient, check_added, check_gradient, sine_of
from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars, mean_of

_NORMS = (0.001, 100.0)  # lengths are clipped to these; values below are the authors' too
_STD_FLOOR = 0.001
_ANGLE_FLOOR = 0.001


@dataclass(frozen=True)
class AdaFace(Margin):
    """cos(theta - m k) - m - m k, with k in [-1, 1] from poor to good images.

    k is `concentration` (h) times the length's distance from the running mean, in running standard
    deviations, both of the global batch; no gradient passes through it. At k = -1 this is ArcFace,
    at 0 CosFace. theta - m k is clipped to [0.001, pi - 0.001]; the exact slope is 0 where it is.
    `rate` moves mean and deviation a step (the authors' recipe has 0.01).
    """

    margin: float = 0.4
    concentration: float = 0.333
    rate: float = 0.01
    gradient: Gradient = "exact"

    def __post_init__(self) -> None:
        check_added("AdaFace", self.margin)
        if not self.concentration > 0:
            raise ValueError(
                f"AdaFace concentration {self.concentration}; use a positive h, usually 0.333"
            )
        if not 0 < self.rate <= 1:
            raise ValueError(f"AdaFace rate {self.rate}; use (0, 1], usually 0.01")
        check_gradient("AdaFace", self.gradient)

    def initial_state(self, *, num_classes: int) -> dict[str, float]:
        """The authors' start: wide enough that k begins near 0."""
        return {"mean": 20.0, "std": 100.0}

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """Mean and deviation move first, over samples that have a class."""
        norm = samples.norm.clamp(*_NORMS)
        state = self._moved(norm, samples, state)
        quality = (norm - state["mean"]) / (state["std"] + _STD_FLOOR) * self.concentration
        shift = (self.margin * quality.clamp(-1.0, 1.0)).to(samples.cosine.dtype)
        bounded = samples.cosine.clamp(-1.0, 1.0)
        angle = bounded.acos() - shift
        clipped = angle.clamp(_ANGLE_FLOOR, math.pi - _ANGLE_FLOOR)
        value = clipped.cos() - (self.margin + shift)
        slope = torch.where(clipped == angle, angle.sin() / sine_of(bounded), 0.0)
        if self.gradient == "straight_through":
            slope = torch.ones_like(slope)
        return Adjustment(value=value, slope=slope, state=state)

    def _moved(
        self, norm: Float[Tensor, " batch"], samples: Samples, state: Scalars
    ) -> dict[str, Float[Tensor, ""]]:
        """One sample has no deviation, none has no mean: what is missing stays."""
        mean, count = mean_of(norm, samples.labelled)
        variance = mean_of((norm - mean).square(), samples.labelled)[0] * count
        std = (variance / (count - 1).clamp_min(1)).sqrt()
        return {
            "mean": torch.where(count > 0, state["mean"].lerp(mean, self.rate), state["mean"]),
            "std": torch.where(count > 1, state["std"].lerp(std, self.rate), state["std"]),
        }
