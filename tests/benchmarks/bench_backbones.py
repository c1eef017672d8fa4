"""Whole networks: images a second in inference and in training, and where the time goes.

    python -m tests.benchmarks.bench_backbones [--record] [--size 112] [--batch 32] [--repeats 5]
        [--threads 2] [--names "vargfacenet;mobilefacenet;..."]

fp32, channels-last. Inference is a verification's forward, BatchNorm folded; training is forward,
backward and a step of SGD with momentum. Beside them the same network of torch's own BatchNorm and
PReLU, not folded, and onnxruntime with the file that `facescale export` would write. All ways of
all networks take turns; medians. Shares are of the layers' own seconds in separate passes: in
backward a layer's last from its gradient's arrival to the next layer's.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from tests.benchmarks.layer_shares import KINDS, backward_shares, forward_shares
from tests.benchmarks.record import Cell, interleaved, record
from trainer import backbones
from trainer.backbones.replace import Rule
from trainer.export.graph import INPUT, to_onnx
from trainer.export.prepare import prepare
from trainer.forwards import channels_last, inference
from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d
from trainer.layers.conv import ConvNorm
from trainer.layers.prelu import PReLU

DRCONV = Rule(what="pointwise", stages=(2, 3), kind="drconv", options={"regions": 8})
TVCONV = Rule(what="depthwise", stages=(3, 4), kind="tvconv", options={"hidden": 16, "layers": 1})
NETWORKS: dict[str, tuple[str, list[Rule]]] = {
    "vargfacenet": ("vargfacenet", []),
    "mobilefacenet": ("mobilefacenet", []),
    "mobilefacenet, DRConv in stages 2 and 3": ("mobilefacenet", [DRCONV]),
    "mobilefacenet, TVConv in stages 3 and 4": ("mobilefacenet", [TVCONV]),
    "iresnet50": ("iresnet50", []),
}
RATE = 1e-4
INFERENCE_WANTED = 1.0  # of onnxruntime's images a second
TRAINING_WANTED = 1.3  # of those with torch's own layers
AIMED = ("vargfacenet", "mobilefacenet")
Way = Callable[[], float]


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
    networks = {name: make(name, options.size) for name in options.names.split(";")}
    candidates: dict[str, Way] = {}
    for name, network in networks.items():
        plain = stock(network)
        candidates |= {
            f"{name}/inference/ours": timed(inference(copy.deepcopy(network)), image),
            f"{name}/inference/stock": timed(copy.deepcopy(plain).eval(), image),
            f"{name}/inference/onnxruntime": session(network, image, threads=options.threads),
            f"{name}/training/ours": training(network, image),
            f"{name}/training/stock": training(plain, image),
        }
    interleaved(candidates, 1)
    seconds = {way: median(s) for way, s in interleaved(candidates, options.repeats).items()}
    rows = [
        row for name, network in networks.items() for row in rows_of(name, network, image, seconds)
    ]
    for row in rows:
        print(row)
    if options.record:
        flags = " ".join(f"--{name} {getattr(options, name)}" for name in sizes)
        command = f"python -m tests.benchmarks.bench_backbones --record {flags}"
        print(record("backbones", rows, command=command, notes=[*NOTES, *verdicts(seconds)]))


NOTES = (
    "images a second, medians of ways in turn; fp32, channels-last",
    "ours: inference with BatchNorm folded; training is forward, backward and SGD with momentum",
    "stock: the same with torch's BatchNorm and PReLU, nothing folded",
    "the other columns: percent of the layers' own seconds, ours; norm is BatchNorm, in training"
    " with the PReLU after it; backward is a part of training",
)


def make(name: str, size: int) -> nn.Module:
    """The network of a row, with first weights."""
    base, rules = NETWORKS[name]
    return backbones.build(base, image_size=size, rules=rules)


def rows_of(
    name: str, network: nn.Module, image: Tensor, seconds: dict[str, float]
) -> list[dict[str, Cell]]:
    """Rates and shares of one network: in inference, in training, and in backward alone."""

    def row(what: str, shares: dict[str, float]) -> dict[str, Cell]:
        rates: dict[str, Cell] = {
            way: len(image) / seconds[f"{name}/{what}/{way}"]
            if f"{name}/{what}/{way}" in seconds
            else "-"
            for way in ("ours", "stock", "onnxruntime")
        }
        percent = {kind: f"{100 * shares[kind]:.0f}" for kind in (*KINDS, "rest")}
        return {"network": name, "what": what, **rates, **percent}

    folded = copy.deepcopy(network)
    inference(folded)
    network.train()
    forward, whole = forward_shares(network, image)
    backward, whole_back = backward_shares(network, image)
    both = {
        kind: (forward[kind] * whole + backward[kind] * whole_back) / (whole + whole_back)
        for kind in forward
    }
    with torch.inference_mode():
        evaluated, _ = forward_shares(folded, image)
    return [row("inference", evaluated), row("training", both), row("backward", backward)]


def verdicts(seconds: dict[str, float]) -> list[str]:
    """What was aimed at, and what was reached."""
    notes = []
    for name in AIMED:
        if f"{name}/training/ours" not in seconds:
            continue
        for what, other, wanted in (
            ("inference", "onnxruntime", INFERENCE_WANTED),
            ("training", "stock", TRAINING_WANTED),
        ):
            times = seconds[f"{name}/{what}/{other}"] / seconds[f"{name}/{what}/ours"]
            verdict = "met" if times >= wanted else "missed"
            notes.append(f"{name}, {what}: {times:.2f} of {other}, wanted {wanted:g}: {verdict}")
    return notes


def timed(network: Callable[[Tensor], Tensor], image: Tensor) -> Way:
    """Seconds of a forward without gradient."""

    def way() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            network(image)
        return time.perf_counter() - began

    return way


def training(network: nn.Module, image: Tensor) -> Way:
    """Seconds of a step."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    with torch.no_grad():
        gradient = torch.randn_like(network(image)) / len(image)

    def way() -> float:
        began = time.perf_counter()
        network(image).backward(gradient)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - began

    return way


def session(network: nn.Module, image: Tensor, *, threads: int) -> Way:
    """Seconds of onnxruntime's forward."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = (image.shape[2], image.shape[3])
        model = to_onnx(prepare(network), image_size=size).SerializeToString()
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads
    run = onnxruntime.InferenceSession(model, chosen)
    feed = {INPUT: np.ascontiguousarray(image.numpy())}

    def way() -> float:
        began = time.perf_counter()
        run.run(None, feed)
        return time.perf_counter() - began

    return way


def stock(network: nn.Module) -> nn.Module:
    """A copy with torch's own BatchNorm and PReLU, each a layer by itself."""
    return with_stock(copy.deepcopy(network))


def with_stock(part: nn.Module) -> nn.Module:
    """torch's layer in place of ours, and in place of each inside; the weights stay."""
    match part:
        case BatchNorm1d() | BatchNorm2d():
            kind = nn.BatchNorm1d if isinstance(part, BatchNorm1d) else nn.BatchNorm2d
            made = kind(part.num_features, eps=part.eps, momentum=part.momentum)
            made.load_state_dict(part.state_dict(), strict=False)
            return made
        case PReLU():
            made = nn.PReLU(part.num_parameters)
            made.load_state_dict(part.state_dict())
            return made
    for name, child in part.named_children():
        setattr(part, name, with_stock(child))
    return nn.Sequential(*part) if isinstance(part, ConvNorm) else part


if __name__ == "__main__":
    main()
