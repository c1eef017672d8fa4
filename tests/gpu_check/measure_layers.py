"""Measurements of layers and networks, for `measure`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.gpu_check.timing import Figures, copy_rate, seconds

REGIONS = 8


def drconv(
    *,
    side: int,
    channels: int,
    stride: int,
    batch: int,
    dtype: str,
    compiled: bool,
    device: str,
) -> Figures:
    """DRConv 1x1, a plain convolution, and m convolutions with a selection."""
    from tests.benchmarks.bench_drconv import CANDIDATES, images, make

    assert stride == 1
    given = getattr(torch, dtype)
    image = images(batch, side, channels, channels_last=True).to(device, given)
    found: Figures = {}
    for name in CANDIDATES:
        layer = make(name, channels, REGIONS).to(device, given)
        found |= _both(name, _compiled(layer, compiled), image, device)
    operations = 2.0 * image.numel() * channels
    return found | _of_best(found["drconv ms"], operations, 2 * image.nbytes, given, device)


def tvconv(
    *,
    side: int,
    channels: int,
    stride: int,
    batch: int,
    dtype: str,
    compiled: bool,
    device: str,
) -> Figures:
    """TVConv 3x3 with its weights made, and a depthwise convolution."""
    from trainer.layers.tvconv import TVConv2d

    given = getattr(torch, dtype)
    out = -(-side // stride)
    image = torch.randn(batch, channels, side, side, device=device, dtype=given)
    image = image.contiguous(memory_format=torch.channels_last)
    depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    ours = TVConv2d(channels, 3, stride=stride, map_size=(out, out))
    found: Figures = {}
    for name, layer in {"depthwise": depthwise, "tvconv": ours}.items():
        found |= _both(name, _compiled(layer.to(device, given), compiled), image, device)
    values = image.numel() + batch * channels * out * out + 9 * channels * out * out
    operations = 18.0 * batch * channels * out * out
    moved = values * image.element_size()
    return found | _of_best(found["tvconv ms"], operations, moved, given, device)


def network(*, name: str, batch: int, image_size: int, compiled: bool, device: str) -> Figures:
    """Images a second of a network, forward and in training."""
    from tests.benchmarks.bench_backbones import NETWORKS
    from trainer import backbones

    kind, rules = NETWORKS[name][0], NETWORKS[name][1]
    built = backbones.build(kind, image_size=image_size, rules=rules).to(device)
    image = torch.rand(batch, 3, image_size, image_size, device=device) * 2 - 1
    image = image.contiguous(memory_format=torch.channels_last)
    run = _compiled(built, compiled)
    low = torch.bfloat16 if device == "cpu" else torch.float16

    def forward() -> Tensor:
        with torch.autocast(device, dtype=low):
            return run(image)

    def train() -> None:
        built.zero_grad()
        forward().float().sum().backward()

    built.train()
    training_s = seconds(train, device)
    built.eval()
    with torch.inference_mode():
        forward_s = seconds(forward, device)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else 0.0
    return {"forward/s": batch / forward_s, "training/s": batch / training_s, "peak GB": peak}


def _compiled(layer: nn.Module, compiled: bool) -> Callable[[Tensor], Tensor]:
    return torch.compile(layer) if compiled else layer


def _both(name: str, run: Callable[[Tensor], Tensor], image: Tensor, device: str) -> Figures:
    """Milliseconds of a forward in evaluation, and of forward and backward in training."""
    layer: Any = run
    layer.train()
    leaf = image.detach().requires_grad_()
    gradient = torch.ones_like(run(leaf))
    training_s = seconds(lambda: run(leaf).backward(gradient), device)
    layer.eval()
    with torch.no_grad():
        forward_s = seconds(lambda: run(image), device)
    return {f"{name} ms": 1e3 * forward_s, f"{name} ms +": 1e3 * training_s}


def _of_best(
    ms: float, operations: float, moved: float, dtype: torch.dtype, device: str
) -> Figures:
    side = 4096 if device != "cpu" else 128
    left = torch.randn(side, side, device=device, dtype=dtype)
    rate = 2.0 * side**3 / seconds(lambda: left @ left, device)
    best_s = max(operations / rate, moved / copy_rate(device))
    return {"of best": 1e3 * best_s / ms}
