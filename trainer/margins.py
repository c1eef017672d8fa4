"""Makes the head's margin, and the margins of single classes, from the run file."""

from dataclasses import asdict, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from sharded_fc import ShardedHead, margins
from sharded_fc.margins import Margin
from sharded_fc.pool import PoolHead
from trainer.config_head import ClassMarginsConfig
from trainer.config_margin import MarginConfig
from trainer.errors import RunError

MARGINS: dict[str, type[Margin]] = {
    "adaface": margins.AdaFace,
    "arcface": margins.ArcFace,
    "combined": margins.CombinedMargin,
    "cosface": margins.CosFace,
    "curricularface": margins.CurricularFace,
    "elastic_arcface": margins.ElasticArcFace,
    "elastic_cosface": margins.ElasticCosFace,
    "magface": margins.MagFace,
    "mv_softmax": margins.MVSoftmax,
    "normface": margins.NormFace,
    "softmax": margins.PlainSoftmax,
    "sphereface": margins.SphereFace,
    "uniface": margins.UniFace,
}
"""By the name that a run file uses."""


def make_margin(chosen: MarginConfig) -> Margin:
    """The margin that `head.margin` names; its fields are the margin's, less the unit `_rad`.

    Raises:
        RunError: its numbers do not go together.
    """
    numbers = {name.removesuffix("_rad"): value for name, value in asdict(chosen).items()}
    kind = MARGINS[numbers.pop("name")]
    try:
        return kind(**numbers)
    except ValueError as error:
        raise RunError(f"head.margin: {error}") from error


def margin_state(head: ShardedHead | PoolHead) -> dict[str, float]:
    """The scalars that the head's margin carries from step to step; waits for the device."""
    state = head.state()
    return {name: state[name] for name in head.margin.initial_state(num_classes=head.num_classes)}


def class_margins(
    chosen: ClassMarginsConfig, margin: Margin, images: Int64[np.ndarray, " classes"]
) -> Float32[Tensor, " classes"]:
    """A margin for each class from its number of images, the largest for the fewest.

    Raises:
        RunError: this margin has no number to replace, or `highest` is out of its range.
    """
    if not margin.class_margins:
        raise RunError(
            f"head.class_margins: {type(margin).__name__} has no margin for each class; leave it"
            " out or choose another head.margin"
        )
    try:
        replace(margin, margin=chosen.highest)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise RunError(f"head.class_margins.highest: {error}") from error
    rarity = (images.min() / images) ** 0.25
    return torch.from_numpy(np.maximum(chosen.highest * rarity, chosen.lowest)).float()
