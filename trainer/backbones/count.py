"""Parameters and multiply-adds of a network, part by part.

Convolutions, linear layers and what else a layer says of itself, bias not counted, as papers count;
a batch of one on torch's meta device, so nothing is computed.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class CountsItself(Protocol):
    """A layer with products that are no convolution or linear layer inside it."""

    def multiply_adds(self, image: Tensor, /) -> int:
        """Of those products, for this input."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a part holds, and what one image costs in it."""

    parameters: int
    multiply_adds: int


def count(network: nn.Module, image_size: tuple[int, int]) -> dict[str, Cost]:
    """The cost of each child of `network`, in order, and of all of it under `total`."""
    shadow = copy.deepcopy(network).to("meta").eval()
    multiply_adds: dict[str, int] = {}

    def counter(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            cost = 0
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # Every output value is one dot product with a row of the weight.
                cost += output.numel() * layer.weight[0].numel()
            if isinstance(layer, CountsItself):
                cost += layer.multiply_adds(*inputs)
            multiply_adds[name] = multiply_adds.get(name, 0) + cost

        return add

    for name, layer in shadow.named_modules():
        layer.register_forward_hook(counter(name))
    with torch.no_grad():
        shadow(torch.empty(1, 3, *image_size, device="meta"))
    parts = {
        child: Cost(
            parameters=sum(p.numel() for p in part.parameters()),
            multiply_adds=sum(
                cost for name, cost in multiply_adds.items() if f"{name}.".startswith(f"{child}.")
            ),
        )
        for child, part in shadow.named_children()
    }
    return parts | {
        "total": Cost(
            parameters=sum(p.numel() for p in shadow.parameters()),
            multiply_adds=sum(multiply_adds.values()),
        )
    }
