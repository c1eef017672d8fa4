"""The demo's network: small enough to learn synthetic faces on two CPU cores in two minutes.

Four convolutions of stride two, the last two followed by a residual block, and a global
depthwise convolution as in MobileFaceNet, so that each place of the face keeps its own weights. It
is no published network and claims no figure on real faces.
"""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.conv import GlobalConv, conv_norm, last_map
from trainer.layers.init import initialise
from trainer.layers.prelu import PReLU

CHANNELS = (24, 48, 96, 192)  # after each halving


def halving(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution of stride two."""
    return conv_norm(inputs, outputs, 3, stride=2, padding=1)


class Residual(nn.Module):
    """Two 3x3 convolutions added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(channels, channels, 3, padding=1),
            conv_norm(channels, channels, 3, padding=1, activation=None),
        )
        self.activation = PReLU(channels)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """A map of the same size."""
        return self.activation(image + self.body(image))


class FaceNetSmall(nn.Module):
    """A face network of about a million weights, for any image size."""

    def __init__(self, *, embedding_dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        first, second, third, fourth = CHANNELS
        self.stage1 = halving(3, first)
        self.stage2 = halving(first, second)
        self.stage3 = nn.Sequential(halving(second, third), Residual(third))
        self.stage4 = nn.Sequential(halving(third, fourth), Residual(fourth))
        self.embedding = nn.Sequential(
            GlobalConv(fourth, map_size=last_map(image_size), groups=fourth),
            conv_norm(fourth, embedding_dim, activation=None),
            nn.Flatten(),
        )
        initialise(self)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """Embeddings, not normalised."""
        features = self.stage4(self.stage3(self.stage2(self.stage1(image))))
        return self.embedding(features)
