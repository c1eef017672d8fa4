"""ShuffleNetV2 (Ma et al., arXiv:1807.11164) at face sizes.

The stem has no stride, as TVConv's authors have it, so that a face of 112 pixels is cut as an
ImageNet picture of 224 is from the first pooling on. Two codes split a halving unit differently:
torchvision gives both branches half of the outputs, the authors' (megvii) leaves the left one its
inputs. They differ in the first unit of stage 2, and not at all at width 0.5.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.backbones.pooled import PooledEmbedding
from trainer.layers.conv import conv_norm, depthwise
from trainer.layers.init import draw, normal

REPEATS = (4, 8, 4)
STEM_CHANNELS = 24
LAST_CHANNELS = 1024
STEM_DEVIATION = LINEAR_DEVIATION = 0.01  # of the authors' code

Split = Literal["halves", "keep_left"]


class Unit(nn.Module):
    """Half of the channels pass by (stride 1) or are halved by a branch of their own (stride 2)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, split: Split) -> None:
        super().__init__()
        self.halving = stride == 2
        width = outputs // 2
        left = width if split == "halves" or not self.halving else inputs
        self.shortcut = (
            nn.Sequential(
                depthwise(inputs, stride=2, activation=None),
                conv_norm(inputs, left, activation="relu"),
            )
            if self.halving
            else nn.Identity()
        )
        self.body = nn.Sequential(
            conv_norm(inputs if self.halving else width, width, activation="relu"),
            depthwise(width, stride=stride, activation=None),
            conv_norm(width, outputs - left, activation="relu"),
        )

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out h w"]:
        """Both branches, their channels mixed one by one."""
        left, right = (image, image) if self.halving else image.chunk(2, dim=1)
        both = torch.cat([self.shortcut(left), self.body(right)], dim=1)
        return both.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleNetV2(nn.Module):
    """The network with `channels` after its three stages, for any image size."""

    def __init__(
        self,
        *,
        embedding_dim: int,
        image_size: tuple[int, int],
        channels: tuple[int, int, int],
        split: Split = "halves",
    ) -> None:
        super().__init__()
        del image_size  # its end averages a map of any size
        first = conv_norm(3, STEM_CHANNELS, 3, padding=1, activation="relu")
        self.stem = nn.Sequential(first, nn.MaxPool2d(3, stride=2, padding=1))
        inputs, stages = STEM_CHANNELS, []
        for outputs, repeats in zip(channels, REPEATS, strict=True):
            rest = [Unit(outputs, outputs, stride=1, split=split) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(Unit(inputs, outputs, stride=2, split=split), *rest))
            inputs = outputs
        self.stage2, self.stage3, self.stage4 = stages
        self.last = conv_norm(inputs, LAST_CHANNELS, activation="relu")
        self.embedding = PooledEmbedding(LAST_CHANNELS, embedding_dim)
        draw(self, convolution=_by_inputs, linear=normal(LINEAR_DEVIATION))
        draw(first, convolution=normal(STEM_DEVIATION), linear=None)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face."""
        features = self.stage4(self.stage3(self.stage2(self.stem(image))))
        return self.embedding(self.last(features))


def _by_inputs(weight: Tensor) -> None:
    """N(0, 1 / (k*k*inputs of a group))."""
    nn.init.normal_(weight, 0.0, 1 / math.sqrt(weight[0].numel()))
