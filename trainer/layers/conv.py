"""The unit that backbones are made of: convolution, batch normalisation, activation."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.batch_norm import BatchNorm2d
from trainer.layers.prelu import PReLU

Activation = Literal["prelu", "relu", "relu6"]


class ConvNorm(nn.Sequential):
    """A convolution, BatchNorm, and maybe an activation; PReLU is done together with BatchNorm."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out h w"]:
        """Layer after layer."""
        convolution, norm, *activation = self
        if not (activation and isinstance(activation[0], PReLU)):
            return super().forward(image)
        output, prelu = convolution(image), activation[0]
        if isinstance(norm, BatchNorm2d):
            return norm(output, slope=prelu.weight)
        # Folded into the convolution: its output is nobody else's.
        return prelu(norm(output), in_place=not torch.is_grad_enabled())


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    eps: float = 1e-5,
    activation: Activation | None = "prelu",
) -> ConvNorm:
    """Convolution without bias, BatchNorm, and an activation; PReLU has one slope a channel."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False
        ),
        BatchNorm2d(outputs, eps=eps),
    ]
    if activation is not None:
        layers.append(activation_layer(activation, outputs))
    return ConvNorm(*layers)


def activation_layer(activation: Activation, channels: int) -> nn.Module:
    """The layer of this name."""
    match activation:
        case "prelu":
            return PReLU(channels)
        case "relu":
            return nn.ReLU()
        case "relu6":
            return nn.ReLU6()


def depthwise(
    channels: int, *, stride: int = 1, activation: Activation | None = "prelu"
) -> ConvNorm:
    """A 3x3 convolution of each channel by itself, with `conv_norm`'s company."""
    return conv_norm(
        channels, channels, 3, stride=stride, padding=1, groups=channels, activation=activation
    )


def last_map(image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after four layers of stride two, each of which rounds up."""
    height, width = image_size
    return -(-height // 16), -(-width // 16)


class GlobalConv(nn.Module):
    """A grouped convolution over the whole last map, then BatchNorm: its own weights a position."""

    def __init__(
        self, channels: int, *, map_size: tuple[int, int], groups: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.map_size = map_size
        self.body = conv_norm(channels, channels, map_size, groups=groups, eps=eps, activation=None)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel 1 1"]:
        """One value a channel; images of another size than the network's are refused."""
        expect_map(image, self.map_size)
        return self.body(image)


class FlattenMap(nn.Module):
    """All values of a map of one size in a row, channel by channel."""

    def __init__(self, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.map_size = map_size

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch values"]:
        """The values; images of another size than the network's are refused."""
        expect_map(image, self.map_size)
        return image.flatten(1)


def expect_map(
    image: Float[Tensor, "batch channel height width"], map_size: tuple[int, int]
) -> None:
    """Refuse a last map of another size than the network was built for."""
    if image.shape[2:] != map_size:
        built, got = ("x".join(map(str, size)) for size in (map_size, image.shape[2:]))
        raise ValueError(
            f"the network was built for images with a last map of {built} and got {got}; "
            "build it with the image size of the data"
        )
