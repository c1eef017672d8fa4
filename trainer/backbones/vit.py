"""Vision transformers (Dosovitskiy et al., arXiv:2010.11929) of arcface_torch's shapes.

Patches of nine pixels, no class token: the embedding is made of all tokens, each with its own
weights, by two linear layers with BatchNorm. In training a share of the tokens may be left out
(their places hold a learned token at the end), and branches of some samples (stochastic depth).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer.layers.batch_norm import BatchNorm1d
from trainer.layers.init import draw
from trainer.layers.stochastic import DropPath, random_subset

PATCH = 9
HEADS = 8
MLP_RATIO = 4
EPS = 2e-5  # of the last BatchNorms
DEVIATION = 0.02  # of first weights but the patches', which are torch's own


class Attention(nn.Module):
    """Multi-head attention of all tokens of a face to each other; no bias before, one after."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.projection = nn.Linear(dim, dim)

    def forward(self, token: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """A mean of values for each token."""
        query, key, value = self.qkv(token).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mean = functional.scaled_dot_product_attention(query, key, value)
        return self.projection(mean.transpose(1, 2).flatten(2))

    def multiply_adds(self, token: Float[Tensor, "batch token dim"]) -> int:
        """Of the two products of tokens, beyond the linear layers."""
        batch, tokens, dim = token.shape
        return 2 * batch * tokens * tokens * dim


class Block(nn.Module):
    """Attention, then two linear layers with ReLU6 between; each on normalised tokens, added."""

    def __init__(self, dim: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, MLP_RATIO * dim), nn.ReLU6(), nn.Linear(MLP_RATIO * dim, dim)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, token: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Tokens of the same shape."""
        token = token + self.drop_path(self.attention(self.norm1(token)))
        return token + self.drop_path(self.mlp(self.norm2(token)))


class VisionTransformer(nn.Module):
    """The network with `depth` blocks on tokens of `dim` numbers, for one image size.

    `drop_path` is the last block's rate; it grows from 0 evenly. `left_out` is the share of tokens
    that a training face goes without.
    """

    def __init__(
        self,
        *,
        embedding_dim: int,
        image_size: tuple[int, int],
        dim: int,
        depth: int,
        drop_path: float = 0.05,
        left_out: float = 0.0,
    ) -> None:
        super().__init__()
        self.map_size = (image_size[0] // PATCH, image_size[1] // PATCH)
        tokens = self.map_size[0] * self.map_size[1]
        self.kept = int(tokens * (1 - left_out))
        self.patches = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.position = nn.Parameter(torch.zeros(1, tokens, dim))
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.Sequential(*(Block(dim, drop_path=rate) for rate in rates))
        self.norm = nn.LayerNorm(dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)) if left_out else None
        self.embedding = nn.Sequential(
            nn.Linear(dim * tokens, dim, bias=False),
            BatchNorm1d(dim, eps=EPS),
            nn.Linear(dim, embedding_dim, bias=False),
            BatchNorm1d(embedding_dim, eps=EPS),
        )
        draw(self, convolution=None, linear=_cut_normal)
        _cut_normal(self.position)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=DEVIATION)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face; images of another size are refused."""
        patch = self.patches(image)
        if patch.shape[2:] != self.map_size:
            built, got = ("x".join(map(str, size)) for size in (self.map_size, patch.shape[2:]))
            raise ValueError(
                f"the network was built for images of {built} patches and got {got}; build it with"
                " the image size of the data"
            )
        token = patch.flatten(2).transpose(1, 2) + self.position
        if self.mask_token is None or not (self.training and torch.is_grad_enabled()):
            return self.embedding(self.norm(self.blocks(token)).flatten(1))
        return self.embedding(self._without_some(token, self.mask_token).flatten(1))

    def _without_some(self, token: Tensor, mask_token: Tensor) -> Tensor:
        """Tokens of the last block, with the learned one where a face went without."""
        batch, tokens, dim = token.shape
        place = random_subset(batch, tokens, self.kept, device=token.device)
        place = place.unsqueeze(2).expand(-1, -1, dim)
        seen = self.norm(self.blocks(token.gather(1, place)))
        return mask_token.to(seen.dtype).expand(batch, tokens, dim).scatter(1, place, seen)


def _cut_normal(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=DEVIATION)
