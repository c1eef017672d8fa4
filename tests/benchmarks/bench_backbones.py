"""Whole networks: images a second forward and in training, and where a forward's time goes.

    python -m tests.benchmarks.bench_backbones [--record] [--size 112] [--batch 32] [--repeats 5]
        [--threads 2] [--names "vargfacenet;mobilefacenet;..."]

fp32, channels-last images. Networks take turns; medians. `training` is forward and backward of a
sum, without optimizer. Where onnx and onnxruntime are installed, plain networks run there too.
Shares are those of the layers' own seconds in an evaluation forward, by kind of layer.
"""

import argparse
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.record import Cell, interleaved, record
from trainer import backbones
from trainer.backbones.replace import Rule
from trainer.forwards import channels_last
from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d
from trainer.layers.drconv import DRConv2d
from trainer.layers.tvconv import TVConv2d

DRCONV = Rule(what="pointwise", stages=(2, 3), kind="drconv", options={"regions": 8})
TVCONV = Rule(what="depthwise", stages=(3, 4), kind="tvconv", options={"hidden": 16, "layers": 1})
NETWORKS: dict[str, tuple[str, list[Rule]]] = {
    "vargfacenet": ("vargfacenet", []),
    "mobilefacenet": ("mobilefacenet", []),
    "mobilefacenet, DRConv in stages 2 and 3": ("mobilefacenet", [DRCONV]),
    "mobilefacenet, TVConv in stages 3 and 4": ("mobilefacenet", [TVCONV]),
    "iresnet50": ("iresnet50", []),
}
KINDS = ("pointwise", "depthwise", "grouped", "dense", "drconv", "tvconv", "norm", "prelu", "rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    sizes = {"size": 112, "batch": 32, "repeats": 5, "threads": 2}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--names", default=";".join(NETWORKS), help="split by semicolons")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    image = channels_last(torch.rand(options.batch, 3, options.size, options.size) * 2 - 1)
    networks = {
        name: backbones.build(NETWORKS[name][0], image_size=options.size, rules=NETWORKS[name][1])
        for name in options.names.split(";")
    }
    ways: dict[str, Callable[[], float]] = {}
    for name, network in networks.items():
        ways[f"{name}/forward"] = forward(network, image)
        ways[f"{name}/training"] = training(network, image)
        session = onnx_session(network, image, threads=options.threads)
        if session is not None:
            ways[f"{name}/onnxruntime"] = session
    for way in ways.values():
        way()
    seconds = {way: median(times) for way, times in interleaved(ways, options.repeats).items()}
    rows = [
        row(name, network, image, {w: seconds.get(f"{name}/{w}") for w in WAYS})
        for name, network in networks.items()
    ]
    for line in rows:
        print(line)
    if options.record:
        flags = " ".join(f"--{name} {getattr(options, name)}" for name in sizes)
        command = f"python -m tests.benchmarks.bench_backbones --record {flags}"
        notes = [
            "images a second; medians of networks in turn; fp32",
            "shares: of the layers' own seconds in one evaluation forward, in percent",
        ]
        print(record("backbones", rows, command=command, notes=notes))


WAYS = ("forward", "training", "onnxruntime")


def row(
    name: str, network: nn.Module, image: Tensor, seconds: dict[str, float | None]
) -> dict[str, Cell]:
    """Rates and shares of one network."""
    rates: dict[str, Cell] = {
        way: "-" if taken is None else len(image) / taken for way, taken in seconds.items()
    }
    shares = {kind: f"{100 * share:.0f}" for kind, share in time_shares(network, image).items()}
    return {"network": name, **rates, **shares}


def forward(network: nn.Module, image: Tensor) -> Callable[[], float]:
    """Seconds of an evaluation forward."""

    def way() -> float:
        network.eval()
        began = time.perf_counter()
        with torch.inference_mode():
            network(image)
        return time.perf_counter() - began

    return way


def training(network: nn.Module, image: Tensor) -> Callable[[], float]:
    """Seconds of a training forward and its backward."""

    def way() -> float:
        network.train()
        network.zero_grad()
        began = time.perf_counter()
        network(image).sum().backward()
        return time.perf_counter() - began

    return way


def onnx_session(network: nn.Module, image: Tensor, *, threads: int) -> Callable[[], float] | None:
    """Seconds of onnxruntime's forward; None where it is not installed, or a layer is replaced."""
    if any(isinstance(layer, DRConv2d | TVConv2d) for layer in network.modules()):
        return None
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "network.onnx"
        warnings.simplefilter("ignore")  # the exporter by tracing, which needs no further package
        torch.onnx.export(network.eval(), (image.contiguous(),), str(path), dynamo=False)
        chosen = onnxruntime.SessionOptions()
        chosen.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path.read_bytes(), chosen)
    feed = {session.get_inputs()[0].name: image.contiguous().numpy()}

    def way() -> float:
        began = time.perf_counter()
        session.run(None, feed)
        return time.perf_counter() - began

    return way


def time_shares(network: nn.Module, image: Tensor) -> dict[str, float]:
    """Each kind of layer's share of a forward's seconds; `rest` is what is in no such layer."""
    network.eval()
    spent: dict[str, float] = defaultdict(float)
    began: list[float] = []
    handles = []

    def enter(_layer: nn.Module, _inputs: Any) -> None:
        began.append(time.perf_counter())

    for layer in outermost(network):
        name = kind_of(layer)
        assert name is not None

        def leave(_layer: nn.Module, _inputs: Any, _output: Any, name: str = name) -> None:
            spent[name] += time.perf_counter() - began.pop()

        handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    with torch.inference_mode():
        network(image)
        spent.clear()
        start = time.perf_counter()
        network(image)
        whole = time.perf_counter() - start
    for handle in handles:
        handle.remove()
    shares = {kind: spent[kind] / whole for kind in KINDS[:-1]}
    return shares | {"rest": 1 - sum(shares.values())}


def outermost(part: nn.Module) -> list[nn.Module]:
    """The layers that have a kind, none inside another."""
    if kind_of(part) is not None:
        return [part]
    return [layer for child in part.children() for layer in outermost(child)]


def kind_of(layer: nn.Module) -> str | None:
    """The column that a layer's seconds belong to."""
    match layer:
        case DRConv2d():
            return "drconv"
        case TVConv2d():
            return "tvconv"
        case nn.Conv2d() if layer.groups == 1:
            return "pointwise" if layer.kernel_size == (1, 1) else "dense"
        case nn.Conv2d():
            return "depthwise" if layer.groups == layer.in_channels else "grouped"
        case BatchNorm1d() | BatchNorm2d():
            return "norm"
        case nn.PReLU():
            return "prelu"
        case _:
            return None


if __name__ == "__main__":
    main()
