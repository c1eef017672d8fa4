"""VarGFaceNet (Yan et al., arXiv:1910.04985): VarGNet for faces.

Beside VarGNet's second network it has squeeze-and-excitation, PReLU, a stem without stride, and an
end that weighs each place of the last map by itself. Wiring, biases and activations are those of
the released MXNet code (zma-c-137/VarGFaceNet, multiplier 1.25).
"""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.backbones.vargnet import GROUP_CHANNELS, HeadBlock, Style, stage
from trainer.layers.batch_norm import BatchNorm1d
from trainer.layers.conv import GlobalConv, conv_norm, last_map
from trainer.layers.init import initialise

STEM_CHANNELS = 40  # 32, times the width multiplier 1.25
NORMAL_BLOCKS = (2, 6, 3)  # after the one halving block of stages 2, 3 and 4
LAST_CHANNELS = 1024
EPS = 2e-5  # the released code's
STYLE = Style(activation="prelu", eps=EPS, se_ratio=4)


class VarGFaceNet(nn.Module):
    """The released network, for any image size."""

    def __init__(self, *, embedding_dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        self.stage1 = nn.Sequential(
            conv_norm(3, channels, 3, padding=1, eps=EPS), HeadBlock(channels, STYLE)
        )
        self.stage2 = stage(channels, NORMAL_BLOCKS[0], STYLE)
        self.stage3 = stage(2 * channels, NORMAL_BLOCKS[1], STYLE)
        self.stage4 = stage(4 * channels, NORMAL_BLOCKS[2], STYLE)
        self.embedding = nn.Sequential(
            conv_norm(8 * channels, LAST_CHANNELS, eps=EPS),
            GlobalConv(
                LAST_CHANNELS,
                map_size=last_map(image_size),
                groups=LAST_CHANNELS // GROUP_CHANNELS,
                eps=EPS,
            ),
            conv_norm(LAST_CHANNELS, LAST_CHANNELS // 2, eps=EPS),
            nn.Flatten(),
            nn.Linear(LAST_CHANNELS // 2, embedding_dim),
            BatchNorm1d(embedding_dim, eps=EPS),
        )
        initialise(self)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face."""
        features = self.stage4(self.stage3(self.stage2(self.stage1(image))))
        return self.embedding(features)
