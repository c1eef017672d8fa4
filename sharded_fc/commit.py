"""Ties a pass of the head to autograd, and takes its gradient back to the embeddings passed."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sharded_fc.collectives import scatter_gradient
from sharded_fc.forward import Pass
from sharded_fc.problem import Problem


class Commit(torch.autograd.Function):
    """A loss whose backward calls `step(upstream)`, which returns the embeddings' gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        step: Callable[[Tensor], list[Tensor]],
        loss: Tensor,
        anchor: Tensor,
        *embeddings: Tensor,
    ) -> Tensor:
        """`anchor` requires a gradient even where no embedding does."""
        ctx.step = step
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: ctx is positional there
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients for the embeddings alone."""
        return (None, None, None, *ctx.step(upstream[0]))


def own_gradient(
    problem: Problem,
    forward: Pass,
    gradient: Float[Tensor, "batch width"],
    *,
    factor: Float[Tensor, ""],
) -> Float[Tensor, "own dim"]:
    """Sum the ranks' shares of the gradient; go back through the embeddings' normalisation.

    `factor` scales everything; where the pass is not finite the result is not a number: a skipped
    step must reach the backbone's own guard.

    Collectives: one reduce_scatter.
    """
    own = scatter_gradient(problem.ranks, forward.layout, gradient)
    if problem.margin.normalised:
        # The part along the embedding drops out, the rest is divided by its length.
        own.sub_(forward.unit * (own * forward.unit).sum(1, keepdim=True))
        own.mul_(forward.inverse.to(own.dtype))
    if forward.outcome.norm_gradient is not None:
        along = forward.own(forward.outcome.norm_gradient) * forward.per_sample
        own.add_(forward.unit * along.to(own.dtype).unsqueeze(1))
    factor = torch.where(forward.outcome.finite, factor, torch.nan)
    return own[:, : problem.embedding_dim].mul(factor.to(own.dtype))
