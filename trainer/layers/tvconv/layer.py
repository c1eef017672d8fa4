"""TVConv (Chen et al., arXiv:2203.10489): a depthwise convolution that varies over the image.

Aligned faces have their eyes in the same place, so each position may have its own kernel. Kernels
come from a few affinity maps through a small network, and depend on no image.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.tvconv.kept import KeptWeights
from trainer.layers.tvconv.product import goes_into_graph, varying_depthwise
from trainer.layers.tvconv.weight_block import WeightBlock


class TVConv2d(nn.Module):
    """In place of a depthwise `nn.Conv2d` padded by half its kernel, for images of one size.

    Weights are made once a step in training and once in evaluation: see `KeptWeights`. Changing a
    parameter through `.data` in evaluation goes unseen until `train`, `eval`, `load_state_dict`, a
    move to another device or dtype, or `forget_weights`.

    Args:
        channels: of the image and of the output.
        kernel_size: odd.
        stride: the output has ceil(size / stride) positions each way.
        map_size: height and width of the output.
        affinity_channels: affinity maps; 4 in the paper.
        hidden: channels of the block that makes the weights; 16 by default and 64 in the recipe
            of the released code.
        layers: of that block, beside its first and last; 1 and 3 there.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        *,
        map_size: tuple[int, int],
        stride: int = 1,
        affinity_channels: int = 4,
        hidden: int = 16,
        layers: int = 1,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"a kernel of {kernel_size} has no middle; use an odd kernel_size")
        if min(channels, stride, *map_size, affinity_channels, hidden, layers + 1) < 1:
            raise ValueError(
                "channels, stride, map_size, affinity_channels and hidden are at least 1, and "
                f"layers at least 0; got {channels}, {stride}, {map_size}, {affinity_channels}, "
                f"{hidden} and {layers}"
            )
        self.channels = channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.map_size = map_size
        self.weight_block = WeightBlock(
            channels=channels,
            taps=kernel_size**2,
            map_size=map_size,
            affinity_channels=affinity_channels,
            hidden=hidden,
            layers=layers,
        )
        self._kept = KeptWeights()

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels out_height out_width"]:
        """The product, in the image's dtype and memory format, or autocast's dtype.

        Raises:
            ValueError: the image's size does not give `map_size`.
        """
        device = image.device.type
        if image.dtype == torch.float32 and device != "meta" and torch.is_autocast_enabled(device):
            image = image.to(torch.get_autocast_dtype(device))
        return varying_depthwise(image, self.weight(), stride=self.stride)

    def weight(self) -> Float[Tensor, "height width taps channels"]:
        """The weights of every output position, made now or before; where torch compiles, now."""
        if goes_into_graph():
            return self.weight_block()
        return self._kept.get(self.weight_block, self.weight_block.present_parameters())

    def forget_weights(self) -> None:
        """Make the weights anew when they are wanted next."""
        self._kept.drop()

    @property
    def multiply_adds(self) -> int:
        """Of the product for one image, places on the padding counted as convolutions count them.

        Those of a run of the weight block are `weight_block.multiply_adds`.
        """
        height, width = self.map_size
        return self.channels * self.kernel_size**2 * height * width

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        height, width = self.map_size
        return (
            f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"map_size={height}x{width}"
        )

    def train(self, mode: bool = True) -> "TVConv2d":
        """As every module's; weights are made anew."""
        self.forget_weights()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TVConv2d":
        self.forget_weights()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: object, **keywords: object) -> None:
        self.forget_weights()
        super()._load_from_state_dict(*args, **keywords)
