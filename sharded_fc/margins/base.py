"""What the head asks of a margin: how it changes the target logit and, for some, hard negatives.

A margin is a frozen value. It sees the whole global batch at once, the same on every rank, so what
crosses samples (a mean, a sort, a draw) is the same at any world size. What changes from step to
step is handed in and out as named scalars; the head keeps them and takes the new ones over when it
commits.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Scalars = dict[str, Float[Tensor, ""]]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The global batch in rank order.

    `cosine` is that of each sample with its own class (0 where unlabelled), in the head's working
    dtype; `norm` the embedding's length before normalisation, in float64; `class_margin` the own
    class's margin where the head was given one a class; `step` the number of steps committed.
    """

    cosine: Float[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    labelled: Bool[Tensor, " batch"]
    class_margin: Float[Tensor, " batch"] | None
    step: Int[Tensor, ""]
    seed: int


@dataclass(frozen=True, kw_only=True)
class HardNegatives:
    """A negative whose cosine c exceeds its sample's `threshold` becomes a + b c + d c^2.

    a, b, d are `constant`, `linear`, `square`; `highest` bounds the result from above.
    """

    threshold: Float[Tensor, " batch"]
    constant: Float[Tensor, ""]
    linear: Float[Tensor, ""]
    square: Float[Tensor, ""]
    highest: Float[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """What a margin made of one batch.

    The target logit is scale * `value`; `slope` is d value / d cosine. `norm_slope` is d value /
    d norm where the value depends on the embedding's length. `penalty` is added to each sample's
    loss, unscaled, with `penalty_slope` = d penalty / d norm. `state` holds the scalars for the
    next step, `statistics` what operators like to see. What belongs to a sample without a class
    means nothing, but is finite (a threshold may be +inf: no negative is hard).
    """

    value: Float[Tensor, " batch"]
    slope: Float[Tensor, " batch"]
    norm_slope: Float[Tensor, " batch"] | None = None
    penalty: Float[Tensor, " batch"] | None = None
    penalty_slope: Float[Tensor, " batch"] | None = None
    hard: HardNegatives | None = None
    state: Scalars = field(default_factory=dict)
    statistics: Scalars = field(default_factory=dict)


class Margin(ABC):
    """A rule for the target logit; negatives stay scale * cosine unless `hard` says otherwise.

    `loss` is "softmax", or "sigmoid" for a binary cross-entropy of every class by itself.
    `normalised` says whether logits come from cosines or from raw products. `class_margins` says
    whether the head may be given a margin for each class, `changes_negatives` whether adjustments
    have `hard`.
    """

    loss: ClassVar[Literal["softmax", "sigmoid"]] = "softmax"
    normalised: ClassVar[bool] = True
    class_margins: ClassVar[bool] = False
    changes_negatives: ClassVar[bool] = False

    def initial_state(self, *, num_classes: int) -> dict[str, float]:
        """The named scalars before the first step, for a head of `num_classes` classes."""
        return {}

    def check(self, *, scale: float, num_classes: int) -> None:  # noqa: B027
        """Raise ValueError where this margin does not work with the head's other numbers."""

    @abstractmethod
    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """The changed target cosines of a batch; `state` is that of the last committed step."""


def mean_of(
    values: Tensor, chosen: Bool[Tensor, " batch"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """The mean of the chosen values in float64, 0 of none; and how many there are."""
    count = chosen.sum()
    total = torch.where(chosen, values.double(), 0.0).sum()
    return total / count.clamp_min(1), count
