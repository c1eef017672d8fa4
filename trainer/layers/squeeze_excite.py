"""Squeeze-and-excitation (Hu et al., arXiv:1709.01507): channels weighed by their means."""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.prelu import PReLU


class SqueezeExcite(nn.Module):
    """Scale each channel by a number in (0, 1) that depends on the means of all channels."""

    def __init__(self, channels: int, *, ratio: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // ratio, 1),
            PReLU(channels // ratio),
            nn.Conv2d(channels // ratio, channels, 1),
            nn.Sigmoid(),
        )

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """The image, each channel scaled."""
        return image * self.gate(image)
