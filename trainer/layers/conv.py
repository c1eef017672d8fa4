"""The unit that backbones are made of: convolution, batch normalisation, PReLU."""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.batch_norm import BatchNorm2d


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    eps: float = 1e-5,
    activation: bool = True,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, and a PReLU with one slope a channel if `activation`."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False
        ),
        BatchNorm2d(outputs, eps=eps),
    ]
    if activation:
        layers.append(nn.PReLU(outputs))
    return nn.Sequential(*layers)


class GlobalConv(nn.Module):
    """A grouped convolution over the whole last map, then BatchNorm: its own weights a position."""

    def __init__(
        self, channels: int, *, map_size: tuple[int, int], groups: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.map_size = map_size
        self.body = conv_norm(
            channels, channels, map_size, groups=groups, eps=eps, activation=False
        )

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel 1 1"]:
        """One value a channel; images of another size than the network's are refused."""
        if image.shape[2:] != self.map_size:
            built, got = ("x".join(map(str, size)) for size in (self.map_size, image.shape[2:]))
            raise ValueError(
                f"the network was built for images with a last map of {built} and got {got}; "
                "build it with the image size of the data"
            )
        return self.body(image)
