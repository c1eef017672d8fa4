"""The same head written plainly: all logits, autograd, torch.optim.SGD, one process.

What the sharded head is compared with, in float64 for truth and in float32 for speed. It shares no
formula with it: margins come from acos, gradients from autograd, the loss from cross_entropy.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.margins import ArcFace, CosFace, Margin


def margin_cosine(cosine: Float[Tensor, " batch"], margin: Margin) -> Float[Tensor, " batch"]:
    """The target cosine after the margin, differentiable by autograd."""
    if isinstance(margin, CosFace):
        return cosine - margin.margin
    if not isinstance(margin, ArcFace):
        raise ValueError(f"no dense reference for {margin}")
    bound = 1.0 - torch.finfo(cosine.dtype).eps  # acos' slope is infinite at 1
    moved = torch.cos(torch.acos(cosine.clamp(-bound, bound)) + margin.margin)
    fallback = cosine - margin.margin * math.sin(margin.margin)
    changed = torch.where(cosine > math.cos(math.pi - margin.margin), moved, fallback)
    if margin.gradient == "straight_through":
        return cosine + (changed - cosine).detach()
    return changed


def dense_loss(
    embedding: Float[Tensor, "batch dim"],
    centre: Float[Tensor, "classes dim"],
    label: Int[Tensor, " batch"],
    *,
    margin: Margin,
    scale: float,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over all classes, by autograd's means."""
    cosine = F.normalize(embedding) @ F.normalize(centre).t()
    index = label.unsqueeze(1)
    target = margin_cosine(cosine.gather(1, index).squeeze(1), margin)
    return F.cross_entropy(scale * cosine.scatter(1, index, target.unsqueeze(1)), label)


class DenseHead:
    """All centres in one tensor, stepped by torch.optim.SGD."""

    def __init__(
        self,
        centre: Float[Tensor, "classes dim"],
        *,
        margin: Margin,
        scale: float,
        learning_rate: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        self.centre = centre.clone().requires_grad_()
        self.margin = margin
        self.scale = scale
        self.optimizer = torch.optim.SGD(
            [self.centre], lr=learning_rate, momentum=momentum, weight_decay=weight_decay
        )

    @property
    def momentum(self) -> Float[Tensor, "classes dim"]:
        """The optimizer's buffer, zeros before the first step."""
        state = self.optimizer.state[self.centre]
        return state["momentum_buffer"] if state else torch.zeros_like(self.centre)

    def step(
        self, embedding: Float[Tensor, "batch dim"], label: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch dim"]]:
        """One update; the loss before it and the gradient of the embeddings."""
        leaf = embedding.detach().requires_grad_()
        loss = dense_loss(leaf, self.centre, label, margin=self.margin, scale=self.scale)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad
