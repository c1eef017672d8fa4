"""VarGFaceNet (Yan et al., arXiv:1910.04985): grouped convolutions with a fixed group width.

Each 3x3 convolution has groups of eight channels, however wide the layer is, so its cost grows with
the width and not with its square; the dense 1x1 after it mixes the groups. Wiring, biases and
activations are those of the released MXNet code (zma-c-137/VarGFaceNet, multiplier 1.25).
"""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.batch_norm import BatchNorm1d
from trainer.layers.conv import GlobalConv, conv_norm, last_map
from trainer.layers.init import initialise
from trainer.layers.prelu import PReLU
from trainer.layers.squeeze_excite import SqueezeExcite

GROUP_CHANNELS = 8  # the paper's S: channels in a group
STEM_CHANNELS = 40  # 32, times the width multiplier 1.25
NORMAL_BLOCKS = (2, 6, 3)  # after the one halving block of stages 2, 3 and 4
LAST_CHANNELS = 1024
SE_RATIO = 4
EPS = 2e-5  # the released code's epsilon of batch normalisation


def separable(
    inputs: int, outputs: int, *, factor: int = 2, stride: int = 1, activation: bool = True
) -> nn.Sequential:
    """Grouped 3x3 that widens `factor` times, then a dense 1x1 to `outputs`."""
    width = inputs * factor
    groups = inputs // GROUP_CHANNELS
    return nn.Sequential(
        conv_norm(inputs, width, 3, stride=stride, padding=1, groups=groups, eps=EPS),
        conv_norm(width, outputs, eps=EPS, activation="prelu" if activation else None),
    )


class HeadBlock(nn.Module):
    """Halve the map without widening it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            separable(channels, channels, factor=1, stride=2),
            separable(channels, channels, factor=1, activation=False),
            SqueezeExcite(channels, ratio=SE_RATIO),
        )
        self.shortcut = separable(channels, channels, factor=1, stride=2, activation=False)
        self.activation = PReLU(channels)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel h w"]:
        """A map of half the height and width."""
        return self.activation(self.body(image) + self.shortcut(image))


class NormalBlock(nn.Module):
    """Two separable units and squeeze-and-excitation, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            separable(channels, channels),
            separable(channels, channels, activation=False),
            SqueezeExcite(channels, ratio=SE_RATIO),
        )
        self.activation = PReLU(channels)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """A map of the same shape."""
        return self.activation(self.body(image) + image)


class HalvingBlock(nn.Module):
    """Halve the map and double its channels, by two parallel branches and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.left = separable(channels, wide, stride=2, activation=False)
        self.right = separable(channels, wide, stride=2, activation=False)
        self.between = PReLU(wide)
        self.merge = separable(wide, wide, activation=False)
        self.shortcut = separable(channels, wide, stride=2, activation=False)
        self.activation = PReLU(wide)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch wide h w"]:
        """A map of half the height and width and twice the channels."""
        merged = self.merge(self.between(self.left(image) + self.right(image)))
        return self.activation(merged + self.shortcut(image))


def stage(channels: int, normal_blocks: int) -> nn.Sequential:
    """One halving block, which doubles `channels`, then `normal_blocks` normal ones."""
    blocks = [NormalBlock(2 * channels) for _ in range(normal_blocks)]
    return nn.Sequential(HalvingBlock(channels), *blocks)


class VarGFaceNet(nn.Module):
    """The released network, for any image size."""

    def __init__(self, *, embedding_dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        self.stage1 = nn.Sequential(
            conv_norm(3, channels, 3, padding=1, eps=EPS), HeadBlock(channels)
        )
        self.stage2 = stage(channels, NORMAL_BLOCKS[0])
        self.stage3 = stage(2 * channels, NORMAL_BLOCKS[1])
        self.stage4 = stage(4 * channels, NORMAL_BLOCKS[2])
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
