"""The step of a chunk's rows: clipping, learning rates by range, and the optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.optimizer import Optimizer
from sharded_fc.parts import Ratios
from sharded_fc.storage import RowSlice


@dataclass(frozen=True, kw_only=True)
class Step:
    """How the rows move. `ratios` are (first row, last row + 1, factor of the learning rate)."""

    learning_rate: float
    number: Int[Tensor, ""]
    skip: Bool[Tensor, ""]
    ratios: Ratios = ()
    clip_row_norm: float | None = None


def step_rows(
    rows: RowSlice,
    gradient: Float[Tensor, "n d"],
    along: Float[Tensor, " n"] | None,
    of_pieces: Sequence[tuple[int, int, float]],
    step: Step,
    *,
    optimizer: Optimizer,
    kernels: ModuleType | None,
    seed: int,
) -> None:
    """Step in place by `gradient - along[:, None] * row`; the gradient may be overwritten.

    `of_pieces` are the rows' (first, last + 1, factor), without gaps.
    """
    if step.clip_row_norm is not None:
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        if along is not None:
            gradient.addcmul_(
                rows.read("centre").to(gradient.dtype), along.unsqueeze(1), value=-1.0
            )
            along = None
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient.mul_((step.clip_row_norm / norm).clamp_max_(1.0))
    # The kernels step rows that lie together.
    if kernels is None or rows.index is not None:
        update = optimizer.update
    else:
        update = partial(kernels.update, optimizer)
    begin = of_pieces[0][0]
    for first, last, ratio in of_pieces:
        if ratio == 0.0:
            continue
        here = slice(first - begin, last - begin)
        update(
            rows.cut(here),
            gradient[here],
            None if along is None else along[here],
            learning_rate=step.learning_rate * ratio,
            step=step.number,
            seed=seed,
            skip=step.skip,
        )
