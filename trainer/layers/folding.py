"""BatchNorm folded into the layer before it: one pass over the map less, for inference."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d

ByOutput = Float[Tensor, " out"]


@runtime_checkable
class Scalable(Protocol):
    """A layer that knows how to take over what follows it."""

    def scale_outputs(self, scale: ByOutput, shift: ByOutput) -> None:
        """Have every output channel times `scale` plus `shift` from now on."""


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> None:
    """Have each layer do what the BatchNorm right after it did, in place, computed in float64.

    Where there is no convolution or linear layer right before it, it stays. The network can be
    evaluated and no more trained.
    """
    for part in network.modules():
        if not isinstance(part, nn.Sequential):
            continue
        for place in range(1, len(part)):
            norm = part[place]
            if isinstance(norm, BatchNorm1d | BatchNorm2d) and _scales(part[place - 1]):
                scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
                shift = norm.bias.double() - norm.running_mean.double() * scale
                _scale_outputs(part[place - 1], scale, shift)
                part[place] = nn.Identity()


def _scales(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear | Scalable)


def _scale_outputs(layer: nn.Module, scale: ByOutput, shift: ByOutput) -> None:
    if isinstance(layer, Scalable):
        layer.scale_outputs(scale, shift)
        return
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight, bias = layer.weight, 0.0 if layer.bias is None else layer.bias.double()
    by_output = scale.view(-1, *[1] * (weight.ndim - 1))
    folded = (weight.double() * by_output).to(weight.dtype)
    moved = (bias * scale + shift).to(weight.dtype)
    layer.weight = nn.Parameter(folded, requires_grad=False)
    layer.bias = nn.Parameter(moved, requires_grad=False)
