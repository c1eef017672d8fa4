"""The demo's network: small enough to learn synthetic faces on two CPU cores in two minutes.

Four convolutions of stride two, each but the first followed by a residual block, and a global
depthwise convolution as in MobileFaceNet, so that each place of the face keeps its own weights. It
is no published network and claims no figure on real faces.
"""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.conv import GlobalConv, conv_norm
from trainer.layers.init import initialise

CHANNELS = (24, 48, 96, 192)  # after each halving


class Residual(nn.Module):
    """Two 3x3 convolutions added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(channels, channels, 3, padding=1),
            conv_norm(channels, channels, 3, padding=1, activation=False),
        )
        self.activation = nn.PReLU(channels)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """A map of the same size."""
        return self.activation(image + self.body(image))


class FaceNetSmall(nn.Module):
    """A face network of about a million weights, for any image size of multiples of 16."""

    def __init__(self, *, embedding_dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for place, channels in enumerate(CHANNELS):
            layers.append(conv_norm(inputs, channels, 3, stride=2, padding=1))
            if place > 1:
                layers.append(Residual(channels))
            inputs = channels
        self.body = nn.Sequential(*layers)
        height, width = image_size
        self.embedding = nn.Sequential(
            GlobalConv(inputs, map_size=(height // 16, width // 16), groups=inputs),
            conv_norm(inputs, embedding_dim, activation=False),
            nn.Flatten(),
        )
        initialise(self)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """Embeddings, not normalised."""
        return self.embedding(self.body(image))
