"""VarGNet (Zhang et al., arXiv:1907.05653): grouped convolutions with a fixed group width.

Each 3x3 convolution has groups of eight channels, however wide the layer is, so its cost grows with
the width and not with its square; the dense 1x1 after it mixes the groups. Blocks and their numbers
are those of the paper's first network, after MobileNet, and of its second, after ShuffleNetV2. At
face sizes the stem's stride is left out, and mean, linear layer and BatchNorm end the network.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from trainer.backbones.pooled import PooledEmbedding
from trainer.layers.conv import Activation, activation_layer, conv_norm
from trainer.layers.init import initialise
from trainer.layers.squeeze_excite import SqueezeExcite

GROUP_CHANNELS = 8
STEM_CHANNELS = 32
LAST_CHANNELS = 1024  # more where the network is wider than 1


@dataclass(frozen=True, kw_only=True)
class Style:
    """What blocks of one wiring differ in."""

    activation: Activation = "relu"
    eps: float = 1e-5
    """Of batch normalisation."""
    se_ratio: int | None = None
    """Channels over those between the two layers of squeeze-and-excitation; None is without it."""


def separable(
    inputs: int, outputs: int, style: Style, *, factor: int = 2, stride: int = 1, last: bool = False
) -> nn.Sequential:
    """Grouped 3x3 that widens `factor` times, then a dense 1x1 to `outputs`; `last` is linear."""
    width = inputs * factor
    groups = inputs // GROUP_CHANNELS
    activation = style.activation
    return nn.Sequential(
        conv_norm(
            inputs,
            width,
            3,
            stride=stride,
            padding=1,
            groups=groups,
            eps=style.eps,
            activation=activation,
        ),
        conv_norm(width, outputs, eps=style.eps, activation=None if last else activation),
    )


def _squeeze(channels: int, style: Style) -> list[nn.Module]:
    return [] if style.se_ratio is None else [SqueezeExcite(channels, ratio=style.se_ratio)]


class HeadBlock(nn.Module):
    """Halve the map without widening it."""

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        self.body = nn.Sequential(
            separable(channels, channels, style, factor=1, stride=2),
            separable(channels, channels, style, factor=1, last=True),
            *_squeeze(channels, style),
        )
        self.shortcut = separable(channels, channels, style, factor=1, stride=2, last=True)
        self.activation = activation_layer(style.activation, channels)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel h w"]:
        """A map of half the height and width."""
        return self.activation(self.body(image) + self.shortcut(image))


class NormalBlock(nn.Module):
    """Two separable units, with or without squeeze-and-excitation, added to the input."""

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        self.body = nn.Sequential(
            separable(channels, channels, style),
            separable(channels, channels, style, last=True),
            *_squeeze(channels, style),
        )
        self.activation = activation_layer(style.activation, channels)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """A map of the same shape."""
        return self.activation(self.body(image) + image)


class HalvingBlock(nn.Module):
    """Halve the map and double its channels, by two parallel branches and a shortcut."""

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        wide = 2 * channels
        self.left = separable(channels, wide, style, stride=2, last=True)
        self.right = separable(channels, wide, style, stride=2, last=True)
        self.between = activation_layer(style.activation, wide)
        self.merge = separable(wide, wide, style, last=True)
        self.shortcut = separable(channels, wide, style, stride=2, last=True)
        self.activation = activation_layer(style.activation, wide)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch wide h w"]:
        """A map of half the height and width and twice the channels."""
        merged = self.merge(self.between(self.left(image) + self.right(image)))
        return self.activation(merged + self.shortcut(image))


def stage(channels: int, normal_blocks: int, style: Style) -> nn.Sequential:
    """One halving block, which doubles `channels`, then `normal_blocks` normal ones."""
    blocks = [NormalBlock(2 * channels, style) for _ in range(normal_blocks)]
    return nn.Sequential(HalvingBlock(channels, style), *blocks)


class VarGNet(nn.Module):
    """The network with channels times `width`, a multiple of a quarter, for any image size.

    `normal_blocks` has a number for each stage, after its one halving block. With `head_block` the
    stem is followed by a block that halves the map.
    """

    def __init__(
        self,
        *,
        embedding_dim: int,
        image_size: tuple[int, int],
        normal_blocks: tuple[int, ...],
        head_block: bool,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        del image_size  # its end averages a map of any size
        style = Style()
        channels = round(STEM_CHANNELS * width)
        self.stem = conv_norm(3, channels, 3, padding=1, activation=None)
        stages: list[nn.Module] = [HeadBlock(channels, style)] if head_block else []
        for blocks in normal_blocks:
            stages.append(stage(channels, blocks, style))
            channels *= 2
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        last = round(LAST_CHANNELS * max(1.0, width))
        self.last = conv_norm(channels, last, activation="relu")
        self.embedding = PooledEmbedding(last, embedding_dim)
        initialise(self, slope=0.0)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face."""
        features = self.stage2(self.stage1(self.stem(image)))
        return self.embedding(self.last(self.stage4(self.stage3(features))))
