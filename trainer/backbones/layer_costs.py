"""What layers beyond plain convolutions cost for one image, part by part.

Bias is not counted, as papers count; what serves many images at once, such as the network that
makes TVConv's weights, is `once` and no image's cost.
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from trainer.layers.drconv import DRConv2d
from trainer.layers.drconv.generators import Templates
from trainer.layers.tvconv import TVConv2d

KINDS = (DRConv2d, TVConv2d)
"""Layers that are counted whole: what is inside them is part of what is said of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCost:
    """Multiply-adds of a layer."""

    apply: int
    """Of the convolution itself."""
    guide: int = 0
    """Of choosing regions; 0 where the layer follows another's guide."""
    generator: int = 0
    """Of making an image's filters."""
    once: int = 0
    """Of making weights that all images of a step share."""

    @property
    def per_image(self) -> int:
        """Of all that each image needs."""
        return self.apply + self.guide + self.generator

    def __add__(self, other: "LayerCost") -> "LayerCost":
        return LayerCost(
            apply=self.apply + other.apply,
            guide=self.guide + other.guide,
            generator=self.generator + other.generator,
            once=self.once + other.once,
        )


def layer_cost(layer: nn.Module, image: Tensor) -> LayerCost:
    """The cost of one of `KINDS` for this input, whose batch is one image."""
    if isinstance(layer, TVConv2d):
        return LayerCost(apply=layer.multiply_adds, once=layer.weight_block.multiply_adds)
    assert isinstance(layer, DRConv2d)
    guide = 0 if layer.guide is None else _products(layer.guide.conv, image)
    weights = layer.outputs * layer.inputs // layer.geometry.groups * layer.geometry.taps
    generator, regions = layer.generator, layer.regions
    if isinstance(generator, Templates):
        making = generator.routing.weight.numel() + regions * len(generator.templates) * weights
    else:
        taps = layer.geometry.taps
        making = generator.hidden.weight.numel() * taps + regions * regions * weights
    return LayerCost(
        apply=math.prod(output_size(layer, image)) * weights, guide=guide, generator=making
    )


def output_size(layer: nn.Module, image: Tensor) -> tuple[int, int]:
    """Height and width of what one of `KINDS` makes of this input."""
    if isinstance(layer, TVConv2d):
        return layer.map_size
    assert isinstance(layer, DRConv2d)
    return layer.geometry.output_size((image.shape[2], image.shape[3]))


def output_channels(layer: nn.Module) -> int:
    """Channels of what one of `KINDS` makes."""
    if isinstance(layer, TVConv2d):
        return layer.channels
    assert isinstance(layer, DRConv2d)
    return layer.outputs


def _products(convolution: nn.Conv2d, image: Tensor) -> int:
    output = functional.conv2d(
        image.to("meta"),
        convolution.weight.to("meta"),
        stride=convolution.stride,
        padding=convolution.padding,
    )
    return output.numel() * convolution.weight[0].numel()
