"""The end of networks that average their last map: TVConv's for faces (arXiv:2203.10489)."""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d


class PooledEmbedding(nn.Module):
    """BatchNorm, mean over the map, a linear layer, BatchNorm; of maps of any size."""

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            BatchNorm2d(channels),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, embedding_dim),
            BatchNorm1d(embedding_dim),
        )

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face."""
        return self.layers(image)
