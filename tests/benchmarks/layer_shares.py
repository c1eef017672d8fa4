"""Where a network's seconds go, by kind of layer: hooks around its layers, forward and backward."""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d
from trainer.layers.drconv import DRConv2d
from trainer.layers.squeeze_excite import SqueezeExcite
from trainer.layers.tvconv import TVConv2d

KINDS = (
    "pointwise",
    "depthwise",
    "grouped",
    "dense",
    "drconv",
    "tvconv",
    "linear",
    "norm",
    "prelu",
    "excite",
)
Shares = dict[str, float]


def forward_shares(network: nn.Module, image: Tensor) -> tuple[Shares, float]:
    """Of each kind in a forward, in the network's mode; `rest` is in no such layer; the seconds."""
    spent: dict[str, float] = defaultdict(float)
    began: list[float] = []

    def enter(_layer: nn.Module, _inputs: Any) -> None:
        began.append(time.perf_counter())

    def leave(layer: nn.Module, _inputs: Any, _output: Any) -> None:
        spent[named(layer)] += time.perf_counter() - began.pop()

    network(image)
    with (
        hooked(network, "register_forward_pre_hook", enter),
        hooked(network, "register_forward_hook", leave),
    ):
        start = time.perf_counter()
        network(image)
        whole = time.perf_counter() - start
    return shares(spent, whole), whole


def backward_shares(network: nn.Module, image: Tensor) -> tuple[Shares, float]:
    """Of each kind in a backward; `rest` is before the last layer; the seconds."""
    marks: list[tuple[str, float]] = [("rest", 0.0)]

    def arrive(layer: nn.Module, _gradient: Any) -> None:
        marks.append((named(layer), time.perf_counter()))

    with hooked(network, "register_full_backward_pre_hook", arrive):
        output = network(image)
        gradient = torch.randn_like(output)
        marks[0] = ("rest", time.perf_counter())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook")  # the first layer's
            output.backward(gradient)
        end = time.perf_counter()
    network.zero_grad()
    spent: dict[str, float] = defaultdict(float)
    ends = [*(at for _, at in marks[1:]), end]
    for (kind, begin), until in zip(marks, ends, strict=True):
        spent[kind] += until - begin
    whole = end - marks[0][1]
    return shares(spent, whole), whole


def shares(spent: dict[str, float], whole: float) -> Shares:
    """Of all kinds, and what is left."""
    by_kind = {kind: spent.get(kind, 0.0) / whole for kind in KINDS}
    return by_kind | {"rest": 1 - sum(by_kind.values())}


@contextmanager
def hooked(network: nn.Module, register: str, hook: Any) -> Iterator[None]:
    """The hook on every layer that has a kind, none inside another."""
    handles: list[RemovableHandle] = [getattr(layer, register)(hook) for layer in layers(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers(part: nn.Module) -> list[nn.Module]:
    """Those that have a kind, none inside another."""
    if kind_of(part) is not None:
        return [part]
    return [layer for child in part.children() for layer in layers(child)]


def named(layer: nn.Module) -> str:
    """The kind of a layer that has one."""
    kind = kind_of(layer)
    assert kind is not None
    return kind


def kind_of(layer: nn.Module) -> str | None:
    """The column that a layer's seconds belong to."""
    match layer:
        case DRConv2d():
            return "drconv"
        case TVConv2d():
            return "tvconv"
        case SqueezeExcite():
            return "excite"
        case nn.Conv2d() if layer.groups == 1:
            return "pointwise" if layer.kernel_size == (1, 1) else "dense"
        case nn.Conv2d():
            return "depthwise" if layer.groups == layer.in_channels else "grouped"
        case nn.Linear():
            return "linear"
        case BatchNorm1d() | BatchNorm2d():
            return "norm"
        case nn.PReLU():
            return "prelu"
        case _:
            return None
