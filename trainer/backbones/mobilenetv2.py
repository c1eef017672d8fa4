"""MobileNetV2 (Sandler et al., arXiv:1801.04381) at face sizes, as TVConv's authors train it.

They leave out the stem's stride, so that faces of 96 or 112 pixels end in a map of a sixteenth of
their side, narrow the last convolution to 512 channels and end with BatchNorm, mean, linear layer
and BatchNorm (JierunChen/TVConv).
"""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.backbones.pooled import PooledEmbedding
from trainer.layers.conv import conv_norm
from trainer.layers.init import draw, he_fan_out, normal
from trainer.layers.inverted_residual import InvertedResidual

# Table 2, a stage at a time: expansion t, output channels c, repeats n, stride of the first s.
STAGES = (
    ((6, 24, 2, 2),),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
STEM_CHANNELS, FIRST_CHANNELS = 32, 16
LAST_CHANNELS = 512
MULTIPLE = 8  # of channels, whatever the width
MOST_LOST = 0.1  # share of the channels that rounding may take
LINEAR_DEVIATION = 0.01


class MobileNetV2(nn.Module):
    """The network with channels times `width`, for any image size."""

    def __init__(
        self, *, embedding_dim: int, image_size: tuple[int, int], width: float = 1.0
    ) -> None:
        super().__init__()
        del image_size  # its end averages a map of any size
        stem, inputs = scaled(STEM_CHANNELS, width), scaled(FIRST_CHANNELS, width)
        self.stem = nn.Sequential(
            conv_norm(3, stem, 3, padding=1, activation="relu6"),
            InvertedResidual(stem, inputs, width=stem, stride=1, activation="relu6", widen=False),
        )
        stages = []
        for rows in STAGES:
            blocks = []
            for expansion, channels, repeats, stride in rows:
                outputs = scaled(channels, width)
                for repeat in range(repeats):
                    block = InvertedResidual(
                        inputs,
                        outputs,
                        width=inputs * expansion,
                        stride=stride if repeat == 0 else 1,
                        activation="relu6",
                    )
                    blocks.append(block)
                    inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        last = scaled(LAST_CHANNELS, max(1.0, width))
        self.last = conv_norm(inputs, last, activation="relu6")
        self.embedding = PooledEmbedding(last, embedding_dim)
        draw(self, convolution=he_fan_out, linear=normal(LINEAR_DEVIATION))

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face."""
        features = self.stage2(self.stage1(self.stem(image)))
        return self.embedding(self.last(self.stage4(self.stage3(features))))


def scaled(channels: int, width: float) -> int:
    """Channels times `width`, to the nearest multiple of 8 that loses at most a tenth."""
    wanted = channels * width
    rounded = max(MULTIPLE, int(wanted + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
    return rounded + MULTIPLE if rounded < (1 - MOST_LOST) * wanted else rounded
