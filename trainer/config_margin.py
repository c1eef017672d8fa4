"""The margins of `sharded_fc.margins` as a run file names them, with their defaults and ranges.

What several numbers must satisfy together is checked where `trainer/margins.py` makes the margin.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trainer.config_fields import Rate, Share, config

Radians = Annotated[float, Field(ge=0, lt=math.pi / 2)]
Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Gradient = Literal["exact", "straight_through"]
"""`straight_through` drops the angle's slope, sin(theta + m) / sin(theta) for ArcFace, as the most
used public code does."""


@config
class CosFaceConfig:
    """Additive cosine margin (arXiv:1801.09414)."""

    name: Literal["cosface"] = "cosface"
    margin: Share = 0.4


@config
class ArcFaceConfig:
    """Additive angular margin (arXiv:1801.07698)."""

    name: Literal["arcface"] = "arcface"
    margin_rad: Radians = 0.5
    gradient: Gradient = "exact"


@config
class CombinedConfig:
    """cos(m1 theta + m2) - m3 (arXiv:1801.07698, eq. 4), all three at once."""

    name: Literal["combined"] = "combined"
    factor: Rate = 1.0
    """m1."""
    angle_rad: Radians = 0.0
    """m2."""
    cosine: Share = 0.0
    """m3."""
    gradient: Gradient = "exact"


@config
class NormFaceConfig:
    """Cosines without a margin (arXiv:1704.06369)."""

    name: Literal["normface"] = "normface"


@config
class SoftmaxConfig:
    """The plain classifier: raw products and a bias; wants `head.scale: 1`."""

    name: Literal["softmax"] = "softmax"


@config
class SphereFaceConfig:
    """Multiplied angle (arXiv:1704.08063), continued so that it stays monotone."""

    name: Literal["sphereface"] = "sphereface"
    margin: Factor = 1.7
    """The factor."""
    gradient: Gradient = "exact"
    """`straight_through` is what trains without annealing (arXiv:2109.05565)."""


@config
class MVSoftmaxConfig:
    """Harder pushes for negatives nearer than the target (arXiv:1912.00833)."""

    name: Literal["mv_softmax"] = "mv_softmax"
    margin: Annotated[float, Field(ge=0, lt=math.pi / 2)] = 0.35
    """A cosine up to 1, or radians, as `target` says."""
    target: Literal["cosine", "angle"] = "cosine"
    hardness: Factor = 1.12
    """t; 1 leaves hard negatives as they are."""
    gradient: Gradient = "exact"


@config
class CurricularFaceConfig:
    """Hard negatives weigh more as training goes on (arXiv:2004.00288)."""

    name: Literal["curricularface"] = "curricularface"
    margin_rad: Radians = 0.5
    rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    """How far a step moves the running mean t."""
    gradient: Gradient = "exact"


@config
class MagFaceConfig:
    """The margin grows with the embedding's length (arXiv:2103.06627).

    The backbone must give lengths inside the range: watch `clamped_share`.
    """

    name: Literal["magface"] = "magface"
    lowest_norm: Rate = 10.0
    highest_norm: Rate = 110.0
    lowest_margin_rad: Radians = 0.45
    highest_margin_rad: Radians = 0.8
    norm_weight: Rate = 35.0
    """Of the term that makes embeddings long; the scale bounds it from below."""
    gradient: Gradient = "exact"


@config
class AdaFaceConfig:
    """Long embeddings are taken for good images (arXiv:2204.00964)."""

    name: Literal["adaface"] = "adaface"
    margin: Radians = 0.4
    concentration: Rate = 0.333
    """h: how fast lengths away from the mean change the margin."""
    rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    """How far a step moves the running mean and deviation."""
    gradient: Gradient = "exact"


@config
class ElasticArcFaceConfig:
    """ArcFace with margins drawn anew for every sample (arXiv:2109.09416)."""

    name: Literal["elastic_arcface"] = "elastic_arcface"
    margin_rad: Radians = 0.5
    deviation_rad: Share = 0.05
    plus: bool = False
    """The nearest sample gets the smallest margin; the paper then has a deviation of 0.0175."""
    gradient: Gradient = "exact"


@config
class ElasticCosFaceConfig:
    """CosFace with margins drawn anew for every sample (arXiv:2109.09416)."""

    name: Literal["elastic_cosface"] = "elastic_cosface"
    margin: Share = 0.35
    deviation: Share = 0.05
    plus: bool = False
    """The nearest sample gets the smallest margin; the paper then has a deviation of 0.02."""


@config
class UniFaceConfig:
    """One learned threshold for all pairs (Zhou et al., ICCV 2023)."""

    name: Literal["uniface"] = "uniface"
    margin: Share = 0.4
    negative_weight: Rate = 1.0
    initial_bias: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Unset is ln(10 identities)."""


_NOT_OFFERED = {
    "adacos": "AdaCos",
    "circle": "CircleLoss",
    "circleloss": "CircleLoss",
    "sphereface2": "SphereFace2",
    "unpg": "UNPG",
}


def _say_why_not(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else None
    if isinstance(name, str) and name.lower() in _NOT_OFFERED:
        from sharded_fc import margins  # which knows the reason, and brings torch with it

        try:
            getattr(margins, _NOT_OFFERED[name.lower()])
        except AttributeError as reason:
            raise ValueError(str(reason)) from None
    return value


MarginConfig = Annotated[
    CosFaceConfig
    | ArcFaceConfig
    | CombinedConfig
    | NormFaceConfig
    | SoftmaxConfig
    | SphereFaceConfig
    | MVSoftmaxConfig
    | CurricularFaceConfig
    | MagFaceConfig
    | AdaFaceConfig
    | ElasticArcFaceConfig
    | ElasticCosFaceConfig
    | UniFaceConfig,
    Field(discriminator="name"),
    BeforeValidator(_say_why_not),
]
"""One of them, by its name."""
