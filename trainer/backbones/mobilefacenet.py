"""MobileFaceNet (Chen et al., arXiv:1804.07573, table 1): a face network of one million weights.

Inverted residual bottlenecks, and a global depthwise convolution where others average: the centre
of the last map sees more of the face than its corners do, so each position gets its own weight.
"""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.conv import GlobalConv, conv_norm, depthwise, last_map
from trainer.layers.init import initialise
from trainer.layers.inverted_residual import InvertedResidual

# Table 1, a stage at a time: expansion t, output channels c, repeats n, stride of the first s.
STAGES = (((2, 64, 5, 2),), ((4, 128, 1, 2), (2, 128, 6, 1)), ((4, 128, 1, 2), (2, 128, 2, 1)))
STEM_CHANNELS = 64
LAST_CHANNELS = 512


class MobileFaceNet(nn.Module):
    """The network of table 1, for any image size."""

    def __init__(self, *, embedding_dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        self.stem = conv_norm(3, channels, 3, stride=2, padding=1)
        self.stage1 = depthwise(channels)
        self.stage2, channels = _stage(channels, STAGES[0])
        self.stage3, channels = _stage(channels, STAGES[1])
        self.stage4, channels = _stage(channels, STAGES[2])
        self.embedding = nn.Sequential(
            conv_norm(channels, LAST_CHANNELS),
            GlobalConv(LAST_CHANNELS, map_size=last_map(image_size), groups=LAST_CHANNELS),
            conv_norm(LAST_CHANNELS, embedding_dim, activation=None),
            nn.Flatten(),
        )
        initialise(self)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face."""
        features = self.stage2(self.stage1(self.stem(image)))
        return self.embedding(self.stage4(self.stage3(features)))


def _stage(inputs: int, rows: tuple[tuple[int, int, int, int], ...]) -> tuple[nn.Sequential, int]:
    """The bottlenecks of some rows of the table, and how many channels they end with."""
    blocks = []
    for expansion, outputs, repeats, stride in rows:
        for repeat in range(repeats):
            width, first = inputs * expansion, stride if repeat == 0 else 1
            blocks.append(InvertedResidual(inputs, outputs, width=width, stride=first))
            inputs = outputs
    return nn.Sequential(*blocks), inputs
