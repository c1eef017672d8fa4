"""Parameters and multiply-adds of a network, part by part.

Convolutions, linear layers and attention, bias not counted, as papers count; a batch of one on
torch's meta device, so nothing is computed. What serves many images at once, such as the network
that makes TVConv's weights, counts for none.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.backbones.vit import Attention
from trainer.layers.tvconv import TVConv2d

WHOLE = (TVConv2d,)


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
            multiply_adds[name] = multiply_adds.get(name, 0) + _cost(layer, inputs, output)

        return add

    for name, layer in _counted(shadow, ""):
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


def _counted(part: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """All modules but those inside layers that say themselves what an image costs."""
    yield name, part
    if not isinstance(part, WHOLE):
        for child, inside in part.named_children():
            yield from _counted(inside, f"{name}.{child}" if name else child)


def _cost(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Multiply-adds of a layer, beyond those of the layers inside it."""
    match layer:
        case nn.Conv2d() | nn.Linear():
            # Every output value is one dot product with a row of the weight.
            return output.numel() * layer.weight[0].numel()
        case Attention():
            return layer.multiply_adds(*inputs)
        case TVConv2d():
            return layer.multiply_adds
        case _:
            return 0
