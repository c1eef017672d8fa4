"""TVConv for a network that learns no more: its weights alone, without what they came from."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.tvconv.layer import TVConv2d
from trainer.layers.tvconv.product import varying_depthwise


class FoldedTVConv2d(nn.Module):
    """A TVConv whose kernel^2 x channels x height x width weights are a buffer."""

    weight: Float[Tensor, "height width taps channels"]

    def __init__(self, weight: Float[Tensor, "height width taps channels"], *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("weight", weight.detach().clone())

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels out_height out_width"]:
        """As the layer's; exported, it is a multiplication and an addition for each tap."""
        return varying_depthwise(image, self.weight, stride=self.stride)


@torch.no_grad()
def fold_tvconv(network: nn.Module) -> nn.Module:
    """Put weights in place of every TVConv inside `network`, for inference and export.

    Returns `network`, or the folded layer where it is a TVConv itself.
    """
    if isinstance(network, TVConv2d):
        return FoldedTVConv2d(network.weight_block(), stride=network.stride)
    for name, child in network.named_children():
        setattr(network, name, fold_tvconv(child))
    return network
