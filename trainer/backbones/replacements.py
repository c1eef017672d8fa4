"""What can take a convolution's place: for each kind, a function from convolutions to layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from trainer.errors import RunError
from trainer.layers.tvconv import TVConv2d


@dataclass(frozen=True, kw_only=True)
class Site:
    """A convolution to replace."""

    name: str
    block: str
    """The block it is in; a guide may be shared there."""
    layer: nn.Conv2d
    map_size: tuple[int, int]
    """Height and width of its output."""


def tvconv(sites: Sequence[Site], **options: Any) -> list[nn.Module]:
    """Translation-variant ones of the same shapes; `options` are `TVConv2d`'s."""
    return [_tvconv(site, options) for site in sites]


def _tvconv(site: Site, options: dict[str, Any]) -> nn.Module:
    layer = site.layer
    (side, other), (stride, down) = layer.kernel_size, layer.stride
    if side != other or stride != down or layer.bias is not None:
        raise RunError(
            f"tvconv cannot take the place of {site.name}: it has square kernels, one stride and"
            " no bias"
        )
    return TVConv2d(layer.in_channels, side, stride=stride, map_size=site.map_size, **options)


REPLACEMENTS: dict[str, Callable[..., list[nn.Module]]] = {"tvconv": tvconv}
"""Called with the sites of one block, in order, and a rule's options; gives a layer for each."""
