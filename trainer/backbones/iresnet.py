"""iResNet, the residual network of ArcFace (Deng et al., arXiv:1801.07698), as in arcface_torch.

A block normalises before its first convolution and after both, has one PReLU between them and none
after the sum. The embedding is a linear layer over the whole last map, so that each position keeps
its own weights, and a BatchNorm whose scale is fixed at 1.
"""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d
from trainer.layers.conv import FlattenMap, conv_norm, last_map
from trainer.layers.init import draw, normal

CHANNELS = (64, 128, 256, 512)
DEVIATION = 0.1  # of the released code's first convolutions; linear layers keep torch's


class Block(nn.Module):
    """Two 3x3 convolutions, the second with the stride, added to the input or its projection."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            BatchNorm2d(inputs),
            conv_norm(inputs, outputs, 3, padding=1),
            conv_norm(outputs, outputs, 3, stride=stride, padding=1, activation=None),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if same else conv_norm(inputs, outputs, stride=stride, activation=None)
        )

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out h w"]:
        """The block's output, of half the height and width where its stride is two."""
        return self.body(image) + self.shortcut(image)


class IResNet(nn.Module):
    """The network with `repeats` blocks a stage, for any image size."""

    def __init__(
        self,
        *,
        embedding_dim: int,
        image_size: tuple[int, int],
        repeats: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        inputs, stages = CHANNELS[0], []
        self.stem = conv_norm(3, inputs, 3, padding=1)
        for channels, repeat in zip(CHANNELS, repeats, strict=True):
            rest = [Block(channels, channels, stride=1) for _ in range(repeat - 1)]
            stages.append(nn.Sequential(Block(inputs, channels, stride=2), *rest))
            inputs = channels
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        height, width = last_map(image_size)
        self.embedding = nn.Sequential(
            BatchNorm2d(inputs),
            FlattenMap((height, width)),
            nn.Linear(inputs * height * width, embedding_dim),
            BatchNorm1d(embedding_dim, learn_scale=False),
        )
        draw(self, convolution=normal(DEVIATION), linear=None)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """One unnormalised embedding a face."""
        features = self.stage2(self.stage1(self.stem(image)))
        return self.embedding(self.stage4(self.stage3(features)))
