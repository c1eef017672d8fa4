"""Batches for the margins' tests, and both ways of looking at them: ours and the dense one.

Imports of sharded_fc stay inside the functions where ranks import this file; here none does.
"""

import torch
from torch import Tensor

from sharded_fc.margins import (
    AdaFace,
    Adjustment,
    ArcFace,
    CombinedMargin,
    CosFace,
    CurricularFace,
    ElasticArcFace,
    ElasticCosFace,
    MagFace,
    Margin,
    MVSoftmax,
    NormFace,
    PlainSoftmax,
    Samples,
    SphereFace,
    UniFace,
)
from sharded_fc.margins.base import Scalars
from sharded_fc.reference.margins import Changed, Dense, change

WITHOUT_ANGLES: list[Margin] = [
    NormFace(),
    PlainSoftmax(),
    CosFace(0.35),
    MVSoftmax(0.35),
    ElasticCosFace(),
    ElasticCosFace(plus=True, deviation=0.02),
    UniFace(),
]

ANGULAR: list[Margin] = [
    margin
    for gradient in ("exact", "straight_through")
    for margin in (
        ArcFace(0.5, gradient=gradient),
        SphereFace(1.7, gradient=gradient),
        SphereFace(4.0, gradient=gradient),
        CombinedMargin(factor=0.9, angle=0.4, cosine=0.15, gradient=gradient),
        CombinedMargin(factor=1.3, angle=0.3, cosine=0.2, gradient=gradient),
        MVSoftmax(0.5, target="angle", gradient=gradient),
        CurricularFace(0.5, gradient=gradient),
        MagFace(gradient=gradient),
        AdaFace(0.4, gradient=gradient),
        ElasticArcFace(gradient=gradient),
        ElasticArcFace(plus=True, deviation=0.0175, gradient=gradient),
    )
]

EVERY = WITHOUT_ANGLES + ANGULAR


def samples(
    cosine: Tensor | list[float],
    *,
    norm: Tensor | list[float] | None = None,
    labelled: list[bool] | None = None,
    class_margin: Tensor | None = None,
    step: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Samples:
    """A batch; without `norm` every embedding is 20 long, without `labelled` all are."""
    cosine = torch.as_tensor(cosine, dtype=dtype, device=device)
    count = len(cosine)
    return Samples(
        cosine=cosine,
        norm=torch.as_tensor([20.0] * count if norm is None else norm, device=device).double(),
        labelled=torch.tensor([True] * count if labelled is None else labelled, device=device),
        class_margin=class_margin,
        step=torch.tensor(step, device=device),
        seed=seed,
    )


def state_of(
    margin: Margin, scalars: dict[str, float] | None = None, *, device: str = "cpu"
) -> Scalars:
    """The scalars before the first step, or these."""
    values = scalars or margin.initial_state(num_classes=100)
    return {k: torch.tensor(v, dtype=torch.float64, device=device) for k, v in values.items()}


def adjust(margin: Margin, batch: Samples, **state: float) -> Adjustment:
    """One batch, from these scalars."""
    return margin.adjust(batch, state_of(margin, state))


def densely(
    margin: Margin,
    cosine: Tensor,
    label: Tensor,
    norm: Tensor,
    *,
    class_margin: Tensor | None = None,
    step: int = 0,
    seed: int = 0,
    scalars: dict[str, float] | None = None,
) -> Changed:
    """The reference's answer for the samples of a batch that have a class."""
    place = (label >= 0).nonzero().squeeze(1)
    return change(
        margin,
        Dense(
            cosine=cosine[place],
            label=label[place],
            norm=norm[place],
            place=place,
            class_margin=None if class_margin is None else class_margin[place],
            state=state_of(margin, scalars),
            step=step,
            seed=seed,
        ),
    )
