"""DRConv against a plain convolution of the same shape, and against m convolutions and a selection.

    python -m tests.benchmarks.bench_drconv [--batch 32] [--sizes 56x64 28x128 14x256 7x512]
        [--regions 8] [--threads 2] [--repeats 7] [--record]

1x1, as many channels out as in, float32, each side in its faster memory format (the selection: all
m responses of a sample in one batched product), filters of the released generator. Freed memory
stays the process's, for all candidates alike. Memory is what a forward or a training step adds at
its peak, in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.memory import keep_freed, resident_kb
from tests.benchmarks.record import Cell, interleaved, met, record
from trainer.layers.drconv import DRConv2d

FORWARD_LIMIT, SELECT_FORWARD, SELECT_TRAINING, MEMORY_LIMIT = 1.6, 3.0, 2.0, 2.0
TERMS = 8
CANDIDATES = ("plain", "drconv", "select")


class Select(nn.Module):
    """What one writes first: every region's response at every pixel, then a selection.

    Its gradients are the paper's too: of the choice for image and filters, of the mixture by
    softmax for the guide.
    """

    def __init__(self, layer: DRConv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, image: Tensor) -> Tensor:
        """The same output."""
        assert self.layer.guide is not None
        guide = self.layer.guide(image)
        coefficient, table = self.layer.generator(image)
        bank = torch.einsum("btjk,joik->btoi", coefficient, table[0])
        batch, regions, outputs, _ = bank.shape
        every = torch.bmm(bank.flatten(1, 2), image.flatten(2))
        every = every.view(batch, regions, outputs, *image.shape[2:])
        chosen = functional.one_hot(guide.argmax(1), regions).permute(0, 3, 1, 2)[:, :, None]
        if not torch.is_grad_enabled():
            return (chosen * every).sum(1)
        weight = guide.softmax(1)[:, :, None]
        return (chosen * every).sum(1) + ((weight - weight.detach()) * every.detach()).sum(1)


def make(name: str, channels: int, regions: int) -> nn.Module:
    """One candidate of these sizes; a 1x1 kernel lies the same in every memory format."""
    torch.manual_seed(0)
    if name == "plain":
        return nn.Conv2d(channels, channels, 1, bias=False)
    ours = DRConv2d(channels, channels, 1, bias=False, regions=regions)
    return ours if name == "drconv" else Select(ours)


def images(batch: int, side: int, channels: int, *, channels_last: bool) -> Tensor:
    """Random images; the guide of a new layer spreads them over all regions, pixel by pixel."""
    torch.manual_seed(1)
    made = torch.randn(batch, channels, side, side)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    return made.contiguous(memory_format=memory)


def forward_ms(layer: nn.Module, image: Tensor) -> float:
    """One forward without gradients."""
    with torch.no_grad():
        start = time.perf_counter()
        layer(image)
        return 1e3 * (time.perf_counter() - start)


def training_ms(layer: nn.Module, image: Tensor) -> float:
    """One forward and backward, to the image and all weights."""
    image = image.requires_grad_()
    gradient = torch.ones_like(image)
    start = time.perf_counter()
    layer(image).backward(gradient)
    return 1e3 * (time.perf_counter() - start)


def added_bytes(name: str, what: str, batch: int, side: int, channels: int, regions: int) -> int:
    """What a forward, or a training step, adds to a process at its peak."""
    arguments = json.dumps([name, what, batch, side, channels, regions])
    command = [sys.executable, "-m", "tests.benchmarks.bench_drconv", "--one", arguments]
    return int(subprocess.check_output(command, text=True))


def _added(name: str, what: str, batch: int, side: int, channels: int, regions: int) -> int:
    run = forward_ms if what == "forward" else training_ms
    run(make(name, 8, regions), images(1, 8, 8, channels_last=True))
    layer = make(name, channels, regions)
    image = images(batch, side, channels, channels_last=name != "select")
    Path("/proc/self/clear_refs").write_text("5")  # so that the mark is the step's own
    before = resident_kb("VmRSS")
    run(layer, image)
    return (resident_kb("VmHWM") - before) * 1024


def one_place(layer: nn.Module, where: str) -> nn.Module:
    """A layer whose guide puts all pixels into one region, or one pixel into each but the last."""
    assert isinstance(layer, DRConv2d)
    assert layer.guide is not None

    def guide(image: Tensor) -> Tensor:
        numbers = torch.zeros(len(image), layer.regions, *image.shape[2:])
        numbers[:, -1] = 1
        if where == "one pixel a region":
            for t in range(layer.regions - 1):
                numbers[:, t, 0, t] = 2
        return numbers

    layer.guide.followed = True  # so that the layer asks it, and makes no numbers inside
    layer.guide.forward = guide  # pyright: ignore[reportAttributeAccessIssue]
    return layer


def best_format(
    layer: nn.Module, work: Callable[[nn.Module, Tensor], float], size: tuple
) -> Tensor:
    """Images in the memory format in which three runs after a first were faster."""
    made = [images(*size, channels_last=last) for last in (True, False)]
    times = []
    for image in made:
        work(layer, image)
        times.append(min(work(layer, image) for _ in range(3)))
    return made[times.index(min(times))]


def compare(
    size: tuple[int, int, int], regions: int, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds of a forward and of a training step, by candidate."""
    medians = []
    for work in (forward_ms, training_ms):
        layers = {name: make(name, size[2], regions) for name in CANDIDATES}
        if work is forward_ms:
            for where in ("all in one region", "one pixel a region"):
                layers[where] = one_place(make("drconv", size[2], regions), where)
        chosen = {name: best_format(layer, work, size) for name, layer in layers.items()}
        figures = interleaved(
            {name: partial(work, layer, chosen[name]) for name, layer in layers.items()}, repeats
        )
        medians.append({name: median(times) for name, times in figures.items()})
    return medians[0], medians[1]


def main() -> None:
    """Run all in turn and print, or record, their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sizes", nargs="+", default=["56x64", "28x128", "14x256", "7x512"])
    parser.add_argument("--regions", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="write tests/benchmarks/results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(_added(*json.loads(options.one)))
        return
    keep_freed()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Cell]] = []
    notes = [
        f"1x1, batch {options.batch}, {options.regions} regions, {TERMS} templates, float32, "
        f"{options.threads} threads, medians of {options.repeats} rounds in turn, milliseconds",
        "generator: the arithmetic of making a sample's filters, as a share of the convolution's; "
        "what a forward may take is 1.6 times a plain one of 1 + that share",
        "the guide's channels add 8 / out of the convolution's arithmetic, in the time of DRConv",
    ]
    for text in options.sizes:
        side, channels = map(int, text.split("x"))
        size = (options.batch, side, channels)
        forward, training = compare(size, options.regions, options.repeats)
        share = options.regions * TERMS / side**2
        added = {
            (name, what): added_bytes(name, what, *size, options.regions)
            for name in ("plain", "drconv")
            for what in ("forward", "training")
        }
        plain = forward["plain"]
        figures = {
            "plain": plain,
            "DRConv": forward["drconv"],
            "of plain": forward["drconv"] / plain,
            "generator": share,
            "of plain + generator": forward["drconv"] / plain / (1 + share),
            "select of DRConv": forward["select"] / forward["drconv"],
            "all in one region": forward["all in one region"] / plain,
            "one pixel a region": forward["one pixel a region"] / plain,
            "training plain": training["plain"],
            "training DRConv": training["drconv"],
            "training select of DRConv": training["select"] / training["drconv"],
            "MB": added["drconv", "forward"] / 1e6,
            "MB of plain": added["drconv", "forward"] / added["plain", "forward"],
            "training MB of plain": added["drconv", "training"] / added["plain", "training"],
        }
        name = f"{side} x {side} x {channels}"
        rows.append({"map": name, **figures})
        print("  ".join(f"{key}: {value}" for key, value in rows[-1].items()), flush=True)
        if side > 7:
            faster = forward["drconv"] / forward["select"]
            faster_training = training["drconv"] / training["select"]
            wanted = {
                "forward of plain + generator": (figures["of plain + generator"], FORWARD_LIMIT),
                "forward of the selection's": (faster, 1 / SELECT_FORWARD),
                "training of the selection's": (faster_training, 1 / SELECT_TRAINING),
                "memory of plain": (figures["MB of plain"], MEMORY_LIMIT),
            }
            notes += [met(f"{name}, {what}", *values) for what, values in wanted.items()]
    for note in notes:
        print(note)
    if options.record:
        command = f"python -m tests.benchmarks.bench_drconv {' '.join(sys.argv[1:])}".strip()
        print(record("drconv", rows, command=command, notes=notes), file=sys.stderr)


if __name__ == "__main__":
    main()
