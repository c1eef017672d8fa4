"""How far a sampled head's losses and gradients lie from the full head's: mean and spread.

The rows stay as they are, so that every step is another draw of one and the same problem.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sharded_fc import ShardedHead
from sharded_fc.margins import CosFace
from sharded_fc.sampling import Sampling

TARGET = 0.7  # a sample's cosine with its own class


@dataclass(frozen=True)
class Found:
    """Over draws: a loss less the full one; a gradient's distance, in lengths of the full one."""

    loss_bias: float
    loss_spread: float
    gradient_bias: float
    gradient_spread: float


@dataclass(frozen=True)
class Problem:
    """Centres, and samples at cosine `TARGET` from classes of their own."""

    centre: Tensor
    embedding: Tensor
    label: Tensor
    scale: float

    @classmethod
    def of(cls, centre: Tensor, *, batch: int, scale: float = 64.0, seed: int = 0) -> "Problem":
        """`batch` samples of distinct classes."""
        generator = torch.Generator().manual_seed(seed)
        label = torch.randperm(len(centre), generator=generator)[:batch]
        own = torch.nn.functional.normalize(centre[label])
        noise = torch.randn(own.shape, generator=generator)
        noise = torch.nn.functional.normalize(noise - (noise * own).sum(1, keepdim=True) * own)
        return cls(centre, TARGET * own + (1 - TARGET**2) ** 0.5 * noise, label, scale)

    def measure(self, sampling: Sampling, *, draws: int) -> Found:
        """Against the full head."""
        loss, gradient = self._steps(None, 1)
        losses, gradients = self._steps(sampling, draws)
        mean = gradients.mean(0)
        length = gradient[0].norm()
        return Found(
            loss_bias=float((losses - loss).mean()),
            loss_spread=float(losses.var(0).mean().sqrt()),
            gradient_bias=float((mean - gradient[0]).norm() / length),
            gradient_spread=float((gradients - mean).square().sum((1, 2)).mean().sqrt() / length),
        )

    def _steps(self, sampling: Sampling | None, steps: int) -> tuple[Tensor, Tensor]:
        """[steps, batch] losses and [steps, batch, dim] embedding gradients."""
        head = ShardedHead(
            len(self.centre),
            self.centre.shape[1],
            margin=CosFace(0.4),
            scale=self.scale,
            learning_rate=0.0,
            momentum=0.0,
            sampling=sampling,
        )
        head.load_centres([(0, {"centre": self.centre})])
        losses, gradients = [], []
        for _ in range(steps):
            leaf = self.embedding.clone().requires_grad_()
            output = head(leaf, self.label)
            output.loss.backward()
            assert leaf.grad is not None
            losses.append(output.sample_loss.double())
            gradients.append(leaf.grad.double())
        return torch.stack(losses), torch.stack(gradients)
