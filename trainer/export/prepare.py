"""A network as it is exported: a copy, for inference alone, of operations that ONNX has.

BatchNorm goes into the convolution or linear layer before it. Where none is right before it (the
first layer of iResNet's blocks, whose convolutions pad) it stays a multiplication and an addition.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer.export.positions import position_form
from trainer.export.regions import region_form
from trainer.layers.drconv import DRConv2d
from trainer.layers.folding import fold_batch_norm
from trainer.layers.tvconv import TVConv2d

FORMS: Mapping[type[nn.Module], Callable[..., nn.Module]] = {
    DRConv2d: region_form,
    TVConv2d: position_form,
}
"""Layers that ONNX has no operation for, and what makes their exportable forms."""


class Exportable(nn.Module):
    """Float32 faces to float32 embeddings, with the network between in its own precision."""

    def __init__(self, network: nn.Module, *, unit: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.unit = unit
        self.dtype = dtype

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """Embeddings, of length 1 where that was asked for."""
        embedding = self.network(image.to(self.dtype)).float()
        return functional.normalize(embedding) if self.unit else embedding


def prepare(
    network: nn.Module, *, unit: bool = False, dtype: torch.dtype = torch.float32
) -> Exportable:
    """What is exported for `network`, which stays as it is; batch normalisation is folded."""
    copied = copy.deepcopy(network).cpu().eval().requires_grad_(requires_grad=False)
    copied = with_forms(copied)
    fold_batch_norm(copied)
    return Exportable(copied, unit=unit, dtype=dtype).eval()


def with_forms(network: nn.Module) -> nn.Module:
    """Put exportable forms in place of the layers that have one, in place; the network."""
    if type(network) in FORMS:
        return FORMS[type(network)](network)
    for name, child in network.named_children():
        setattr(network, name, with_forms(child))
    return network
