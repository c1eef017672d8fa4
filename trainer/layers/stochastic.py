"""Layers that draw random numbers in training, from torch's default generator.

Who trains seeds that generator before each micro-batch's forward, so that what is drawn is a
function of the micro-batch and the step, at any world size and after any resume. They draw only
where a gradient is wanted: a gallery's forward and an evaluation see the whole network.
"""

import hashlib

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


def seed_draws(*key: int) -> None:
    """Seed torch's default generator by a hash of some integers: neighbours have nothing alike."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little"))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv:1603.09382): a sample's branch is left out at a rate.

    What stays is scaled by 1 / (1 - rate), so that the mean does not change.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"{self.rate:g}"

    def forward(self, branch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The branch, zero for some samples."""
        if not (self.rate and self.training and torch.is_grad_enabled()):
            return branch
        kept = torch.rand(len(branch), device=branch.device) >= self.rate
        scale = kept.to(branch.dtype) / (1 - self.rate)
        return branch * scale.view(-1, *(1,) * (branch.dim() - 1))


def random_subset(
    batch: int, tokens: int, kept: int, *, device: torch.device
) -> Int64[Tensor, "batch kept"]:
    """For each sample the places of `kept` of its tokens, in order."""
    return torch.rand(batch, tokens, device=device).argsort(1)[:, :kept].sort(1).values
