"""torch's PReLU, whose gradient takes torch longer on a CPU than a convolution, made fast."""

from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.norm_prelu import prelu


class PReLU(nn.PReLU):
    """`nn.PReLU` with one slope a channel, and its parameter's name."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, image: Float[Tensor, "batch channel ..."], *, in_place: bool = False
    ) -> Float[Tensor, "batch channel ..."]:
        """Positive values, and the others times their channel's slope.

        `in_place` may write over the image, and is for where no gradient is wanted.
        """
        return prelu(image, self.weight, in_place=in_place)
