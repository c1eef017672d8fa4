"""What can take a convolution's place: for each kind, a function from convolutions to layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from trainer.errors import RunError
from trainer.layers.drconv import DRConv2d, Guide
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


def drconv(
    sites: Sequence[Site], *, guide: Literal["block", "own"] = "block", **options: Any
) -> list[nn.Module]:
    """Region-aware ones of the same shapes; `options` are `DRConv2d`'s.

    With `guide="block"` the first has a guide, which the others of its block follow.
    """
    layers: list[nn.Module] = []
    first: Guide | Literal["own"] = "own"
    for site in sites:
        layer = site.layer
        assert isinstance(layer.padding, tuple)
        assert layer.dilation == (1, 1)
        made = DRConv2d(
            layer.in_channels,
            layer.out_channels,
            _pair(layer.kernel_size),
            stride=_pair(layer.stride),
            padding=_pair(layer.padding),
            groups=layer.groups,
            bias=layer.bias is not None,
            guide=first,
            **options,
        )
        if guide == "block" and made.guide is not None:
            first = made.guide
        layers.append(made)
    return layers


def _pair(numbers: tuple[int, ...]) -> tuple[int, int]:
    first, second = numbers
    return first, second


REPLACEMENTS: dict[str, Callable[..., list[nn.Module]]] = {"drconv": drconv, "tvconv": tvconv}
"""Called with the sites of one block, in order, and a rule's options; gives a layer for each."""
