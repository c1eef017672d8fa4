"""The block of MobileNetV2 (Sandler et al., arXiv:1801.04381): wide inside, narrow outside."""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.conv import Activation, conv_norm, depthwise


class InvertedResidual(nn.Module):
    """A 1x1 to `width`, a 3x3 of each channel by itself, a linear 1x1; added to an equal input.

    Without `widen` the input has that width already, and the first 1x1 is left out.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        stride: int,
        activation: Activation = "prelu",
        widen: bool = True,
    ) -> None:
        super().__init__()
        first = [conv_norm(inputs, width, activation=activation)] if widen else []
        self.body = nn.Sequential(
            *first,
            depthwise(width, stride=stride, activation=activation),
            conv_norm(width, outputs, activation=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out h w"]:
        """The block's output, of half the height and width where its stride is two."""
        return image + self.body(image) if self.residual else self.body(image)
