"""How regions are used: the share of pixels that each has, and how even the shares are.

A guide can collapse, all pixels to one region; then a layer is a dynamic convolution without
regions. Counts stay on the device, so watching a training step waits for nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn


class Usage:
    """Pixels a region, over all masks added."""

    def __init__(self, regions: int) -> None:
        self.regions = regions
        self.counts: Int[Tensor, " m"] | None = None
        self.last: UInt8[Tensor, "batch h w"] | None = None

    def add(self, mask: UInt8[Tensor, "batch h w"]) -> None:
        """Count a mask's pixels, without waiting for the device."""
        self.last = mask
        counts = torch.stack([(mask == t).sum() for t in range(self.regions)])
        self.counts = counts if self.counts is None else self.counts + counts

    def share(self) -> Float[Tensor, " m"]:
        """Each region's share of the pixels."""
        if self.counts is None:
            raise ValueError("no mask was added; run the network while it is watched")
        return self.counts / self.counts.sum()

    def entropy(self) -> float:
        """Of the shares, in units of the highest possible: 1 is even use, 0 a collapsed guide."""
        if self.regions == 1:
            return 0.0
        bits = torch.special.entr(self.share().double()).sum().item()
        return bits / torch.log(torch.tensor(self.regions)).item()


@contextmanager
def watching(network: nn.Module) -> Iterator[dict[str, Usage]]:
    """The use of regions in every DRConv layer of a network, by the layer's name, in a block."""
    from trainer.layers.drconv.layer import DRConv2d

    layers = {name: m for name, m in network.named_modules() if isinstance(m, DRConv2d)}
    usages = {name: Usage(layer.regions) for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.usage = usages[name]
    try:
        yield usages
    finally:
        for layer in layers.values():
            layer.usage = None
