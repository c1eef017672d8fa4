"""MobileFaceNet (Chen et al., arXiv:1804.07573, table 1): a face network of one million weights.

Inverted residual bottlenecks, and a global depthwise convolution where others average: the centre
of the last map sees more of the face than its corners do, so each position gets its own weight.
"""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.conv import GlobalConv, conv_norm
from trainer.layers.init import initialise

# Table 1: expansion t, output channels c, repeats n, stride of the first repeat s.
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
STEM_CHANNELS = 64
LAST_CHANNELS = 512


class Bottleneck(nn.Module):
    """Widen by a 1x1, convolve each channel by a 3x3, narrow by a linear 1x1; add the input."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.body = nn.Sequential(
            conv_norm(inputs, width),
            conv_norm(width, width, 3, stride=stride, padding=1, groups=width),
            conv_norm(width, outputs, activation=False),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out h w"]:
        """The block's output, of half the height and width where its stride is two."""
        return image + self.body(image) if self.residual else self.body(image)


class MobileFaceNet(nn.Module):
    """The network of table 1, for any image size of multiples of 16."""

    def __init__(self, *, embedding_dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm(3, STEM_CHANNELS, 3, stride=2, padding=1),
            conv_norm(STEM_CHANNELS, STEM_CHANNELS, 3, padding=1, groups=STEM_CHANNELS),
        )
        blocks: list[nn.Module] = []
        channels = STEM_CHANNELS
        for expansion, outputs, repeats, stride in BOTTLENECKS:
            for repeat in range(repeats):
                first = stride if repeat == 0 else 1
                blocks.append(Bottleneck(channels, outputs, expansion=expansion, stride=first))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        height, width = image_size
        self.embedding = nn.Sequential(
            conv_norm(channels, LAST_CHANNELS),
            GlobalConv(LAST_CHANNELS, map_size=(height // 16, width // 16), groups=LAST_CHANNELS),
            conv_norm(LAST_CHANNELS, embedding_dim, activation=False),
            nn.Flatten(),
        )
        initialise(self)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face."""
        return self.embedding(self.blocks(self.stem(image)))
