"""Parameters and multiply-adds of a network, part by part.

Convolutions, linear layers and attention, bias not counted, as papers count; a batch of one on
torch's meta device, so nothing is computed.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.backbones.layer_costs import (
    KINDS,
    LayerCost,
    layer_cost,
    output_channels,
    output_size,
)
from trainer.backbones.vit import Attention


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a part holds, and what one image costs in it."""

    parameters: int
    multiply_adds: int


def count(network: nn.Module, image_size: tuple[int, int]) -> dict[str, Cost]:
    """The cost of each child of `network`, in order, and of all of it under `total`."""
    costs = _layer_costs(network, image_size)
    parts = {
        child: Cost(
            parameters=sum(p.numel() for p in part.parameters()),
            multiply_adds=sum(
                cost.per_image for name, cost in costs.items() if f"{name}.".startswith(f"{child}.")
            ),
        )
        for child, part in network.named_children()
    }
    return parts | {
        "total": Cost(
            parameters=sum(p.numel() for p in network.parameters()),
            multiply_adds=sum(cost.per_image for cost in costs.values()),
        )
    }


def count_replaced(network: nn.Module, image_size: tuple[int, int]) -> LayerCost:
    """What the DRConvs and TVConvs inside `network` cost together, part by part."""
    total = LayerCost(apply=0)
    kinds = {name for name, layer in network.named_modules() if isinstance(layer, KINDS)}
    for name, cost in _layer_costs(network, image_size).items():
        if name in kinds:
            total += cost
    return total


class _StandIn(nn.Module):
    """In a layer's place: an output of its shape, nothing computed, and the layer's cost."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.cost = LayerCost(apply=0)

    def forward(self, image: Tensor) -> Tensor:
        self.cost = layer_cost(self.layer, image)
        height, width = output_size(self.layer, image)
        return image.new_empty(len(image), output_channels(self.layer), height, width)


def without_replaced(network: nn.Module) -> nn.Module:
    """A copy on the meta device that gives shapes alone, whatever layers it has."""
    shadow = copy.deepcopy(network).to("meta").eval()
    for name, layer in list(shadow.named_modules()):
        if name and isinstance(layer, KINDS):
            parent, _, last = name.rpartition(".")
            setattr(shadow.get_submodule(parent), last, _StandIn(layer))
    return shadow


def _layer_costs(network: nn.Module, image_size: tuple[int, int]) -> dict[str, LayerCost]:
    """The cost of every layer that has one, by name, in the order of the forward."""
    shadow = without_replaced(network)
    costs: dict[str, LayerCost] = {}

    def counter(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            match layer:
                case nn.Conv2d() | nn.Linear():
                    # Every output value is one dot product with a row of the weight.
                    cost = LayerCost(apply=output.numel() * layer.weight[0].numel())
                case Attention():
                    cost = LayerCost(apply=layer.multiply_adds(*inputs))
                case _StandIn():
                    cost = layer.cost
                case _:
                    return
            costs[name] = costs.get(name, LayerCost(apply=0)) + cost

        return add

    for name, layer in shadow.named_modules():
        layer.register_forward_hook(counter(name))
    with torch.no_grad():
        shadow(torch.empty(1, 3, *image_size, device="meta"))
    return costs
