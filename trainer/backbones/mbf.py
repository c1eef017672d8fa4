"""InsightFace's `mbf` and `mbf_large`: MobileFaceNet made wider, with a linear layer at its end.

Wiring, widths and first weights are those of arcface_torch. Its blocks have a fixed inner width
instead of an expansion, and its second convolution has groups of two channels.
"""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.batch_norm import BatchNorm1d
from trainer.layers.conv import GlobalConv, conv_norm, last_map
from trainer.layers.init import draw, he_fan_out
from trainer.layers.inverted_residual import InvertedResidual

WIDTHS = ((64, 128, 128), (128, 256, 256), (128, 512, 256))
"""A stage: channels before scaling, inner width of its halving block and of its other ones."""
FIRST_GROUPS = 64
FIRST_WIDTH = 128  # of residual blocks before the second halving
LAST_CHANNELS = 512


class MBF(nn.Module):
    """The network with `repeats` residual blocks a stage and channels times `scale`.

    A single repeat of the first stage is one grouped convolution instead.
    """

    def __init__(
        self,
        *,
        embedding_dim: int,
        image_size: tuple[int, int],
        repeats: tuple[int, int, int, int],
        scale: int,
    ) -> None:
        super().__init__()
        channels = 64 * scale
        self.stem = conv_norm(3, channels, 3, stride=2, padding=1)
        self.stage1 = (
            conv_norm(channels, channels, 3, padding=1, groups=FIRST_GROUPS)
            if repeats[0] == 1
            else nn.Sequential(*_residuals(channels, FIRST_WIDTH, repeats[0]))
        )
        inputs, stages = channels, []
        for (unscaled, halving, inner), repeat in zip(WIDTHS, repeats[1:], strict=True):
            channels = unscaled * scale
            first = InvertedResidual(inputs, channels, width=halving, stride=2)
            stages.append(nn.Sequential(first, *_residuals(channels, inner, repeat)))
            inputs = channels
        self.stage2, self.stage3, self.stage4 = stages
        self.embedding = nn.Sequential(
            conv_norm(channels, LAST_CHANNELS),
            GlobalConv(LAST_CHANNELS, map_size=last_map(image_size), groups=LAST_CHANNELS),
            nn.Flatten(),
            nn.Linear(LAST_CHANNELS, embedding_dim, bias=False),
            BatchNorm1d(embedding_dim),
        )
        draw(self, convolution=he_fan_out, linear=he_fan_out)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face."""
        features = self.stage2(self.stage1(self.stem(image)))
        return self.embedding(self.stage4(self.stage3(features)))


def _residuals(channels: int, width: int, count: int) -> list[nn.Module]:
    return [InvertedResidual(channels, channels, width=width, stride=1) for _ in range(count)]
