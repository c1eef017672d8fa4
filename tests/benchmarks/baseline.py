"""The dense head of public code, for time and memory: all logits in float32, a dense gradient.

It takes the steps of insightface's PartialFC_V2 (arcface_torch, arXiv:2203.15565) with a sample
rate of 1 in one process, and keeps what that keeps: normalised copies, logits before and after the
clamp, the one-hot matrix, the gradient of all centres. What it computes is checked against
`sharded_fc.reference`; for truth, use that.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


class PublicHead:
    """ArcFace, its gradient passed straight through, and torch.optim.SGD with momentum and decay.

    `operands` is the dtype of the matrix products; the logits are float32 whatever it is.
    """

    def __init__(
        self,
        centre: Float[Tensor, "classes dim"],
        *,
        margin_rad: float,
        scale: float,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        operands: torch.dtype = torch.float32,
    ) -> None:
        self.centre = centre.requires_grad_()
        self.margin_rad = margin_rad
        self.scale = scale
        self.operands = operands
        self.optimizer = torch.optim.SGD(
            [self.centre], lr=learning_rate, momentum=momentum, weight_decay=weight_decay
        )

    def step(
        self, embedding: Float[Tensor, "batch dim"], label: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch dim"]]:
        """One update; the loss before it and the gradient of the embeddings."""
        leaf = embedding.detach().requires_grad_()
        self.optimizer.zero_grad()
        loss = self._loss(leaf, label)
        loss.backward()
        self.optimizer.step()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    def _loss(self, embedding: Tensor, label: Tensor) -> Tensor:
        low = self.operands != torch.float32
        with torch.autocast(embedding.device.type, dtype=self.operands, enabled=low):
            cosine = F.linear(F.normalize(embedding), F.normalize(self.centre))
        return self._cross_entropy(cosine, label)

    def _cross_entropy(self, cosine: Tensor, label: Tensor) -> Tensor:
        cosine = cosine.float().clamp(-1.0, 1.0)
        with torch.no_grad():
            index = label.unsqueeze(1)
            target = cosine.gather(1, index).arccos_().add_(self.margin_rad).cos_()
            cosine.scatter_(1, index, target)
        return _CrossEntropy.apply(cosine * self.scale, label)


class _CrossEntropy(torch.autograd.Function):
    """The mean cross-entropy, written over its own input: logits become probabilities."""

    @staticmethod
    def forward(ctx: Any, logit: Tensor, label: Tensor) -> Tensor:
        logit.sub_(logit.amax(1, keepdim=True)).exp_()
        logit.div_(logit.sum(1, keepdim=True))
        ctx.save_for_backward(logit, label)
        own = logit.gather(1, label.unsqueeze(1))
        return own.clamp_min_(1e-30).log_().mean().neg_()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: ctx is positional there
        ctx: Any, upstream: Tensor
    ) -> tuple[Tensor, None]:
        probability, label = ctx.saved_tensors
        one_hot = torch.zeros_like(probability).scatter_(1, label.unsqueeze(1), 1.0)
        probability.sub_(one_hot).div_(len(label))
        return probability * upstream, None
