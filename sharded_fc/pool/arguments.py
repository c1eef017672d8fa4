"""What a pool may be made with, and what to change where it may not."""

import math

import torch

from sharded_fc.margins import (
    ArcFace,
    CombinedMargin,
    CosFace,
    Margin,
    MVSoftmax,
    NormFace,
    SphereFace,
)

MARGINS = (ArcFace, CombinedMargin, CosFace, MVSoftmax, NormFace, SphereFace)
"""Those that depend on the cosine alone and carry nothing from step to step."""


def check_arguments(
    *,
    num_classes: int,
    embedding_dim: int,
    slots: int,
    world_size: int,
    margin: Margin,
    scale: float,
    unfilled: str,
    chunk_slots: int | None,
    gradient_reduction: str,
    dtype: torch.dtype,
) -> None:
    """Refuse numbers that no pool can have."""
    if num_classes < 2:
        raise ValueError(f"num_classes {num_classes}; a softmax needs at least 2")
    if embedding_dim < 1:
        raise ValueError(f"embedding_dim {embedding_dim}; use at least 1")
    if not 2 <= slots <= num_classes:
        raise ValueError(
            f"{slots} slots for {num_classes} identities; use at least 2 and at most all of them"
        )
    if slots < world_size:
        raise ValueError(
            f"{slots} slots over {world_size} ranks leaves rank {slots} empty; use at most {slots} "
            "ranks, or more slots"
        )
    if not isinstance(margin, MARGINS):
        raise ValueError(
            f"{type(margin).__name__} needs more than a cosine, and a pool has no more; use one of "
            + ", ".join(kind.__name__ for kind in MARGINS)
        )
    if not 0 < scale < math.inf:
        raise ValueError(f"scale {scale}; use a positive number, usually 32")
    if unfilled not in ("masked", "random"):
        raise ValueError(f"unfilled {unfilled!r}; use 'masked' or 'random'")
    if chunk_slots is not None and chunk_slots < 1:
        raise ValueError(f"chunk_slots {chunk_slots}; use at least 1, or None to choose")
    if gradient_reduction not in ("mean", "sum"):
        raise ValueError(f"gradient_reduction {gradient_reduction!r}; use 'mean' or 'sum'")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype {dtype}; a pool keeps features in float32 or float64")
    margin.check(scale=scale, num_classes=num_classes)
