"""Translation-variant convolution beside a depthwise one and the public code's unfolded form.

    python -m tests.benchmarks.bench_tvconv [--batch 32] [--sides 28 14] [--channels 64 128 256 512]
        [--strides 1 2] [--kernel 3] [--repeats 9] [--threads 2] [--record]

Everything is float32 over one image size, input positions on a side. Each candidate runs in both
memory formats, all in turn, and its faster one counts. Forward is evaluation, with weights kept;
training is forward and backward of image and weights, the weights being given; what makes them,
once a step, is `block`: forward, and with backward. Freed memory stays the process's, for all
candidates alike. Memory is what a forward adds to a process at its peak, its output included, in a
process of its own.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.memory import keep_freed, resident_kb
from tests.benchmarks.record import Cell, interleaved, met, record
from trainer.layers.tvconv import TVConv2d, varying_depthwise

FORMATS = {"channels": torch.contiguous_format, "last": torch.channels_last}
KINDS = ("depthwise", "unfolded", "ours")
LEAST_S = 0.01  # of one measurement: short calls are repeated
FORWARD, UNFOLDED, TRAINING = 1.5, 3.0, 2.0  # wanted: of depthwise at most, faster at least

Run = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """Of an image, and what is done to it."""

    side: int
    channels: int
    stride: int
    kernel: int

    @property
    def out_side(self) -> int:
        """Of the output."""
        return -(-self.side // self.stride)


class Layer:
    """One kind of layer with an image and a gradient for it."""

    def __init__(self, kind: str, *, size: Size, batch: int, form: torch.memory_format) -> None:
        torch.manual_seed(0)
        side, out = size.side, size.out_side
        self.stride, self.kernel = size.stride, size.kernel
        self.image = torch.randn(batch, size.channels, side, side).contiguous(memory_format=form)
        gradient = torch.randn(batch, size.channels, out, out)
        self.gradient = gradient.contiguous(memory_format=form)
        self.kind = kind
        if kind == "depthwise":
            self.conv = nn.Conv2d(
                size.channels,
                size.channels,
                self.kernel,
                stride=self.stride,
                padding=self.kernel // 2,
                groups=size.channels,
                bias=False,
            )
            self.conv.weight.data = self.conv.weight.data.contiguous(memory_format=form)
            self.weight: Tensor = self.conv.weight
        else:
            self.conv = TVConv2d(
                size.channels, self.kernel, stride=self.stride, map_size=(out, out)
            ).eval()
            self.weight = self.conv.weight_block().detach().requires_grad_()
            if kind == "unfolded":  # as the public code keeps them
                maps = self.weight.detach().permute(3, 2, 0, 1).contiguous()
                self.weight = maps.requires_grad_()

    @torch.no_grad()
    def forward(self) -> Tensor:
        """In evaluation."""
        return self._unfolded(self.image) if self.kind == "unfolded" else self.conv(self.image)

    def train(self) -> None:
        """Forward and both gradients, the weights being given."""
        image = self.image.detach().requires_grad_()
        self.weight.grad = None
        if self.kind == "depthwise":
            output = self.conv(image)
        elif self.kind == "unfolded":
            output = self._unfolded(image)
        else:
            output = varying_depthwise(image, self.weight, stride=self.stride)
        output.backward(self.gradient)

    def _unfolded(self, image: Tensor) -> Tensor:
        patches = functional.unfold(
            image, self.kernel, padding=self.kernel // 2, stride=self.stride
        ).view(len(image), *self.weight.shape)
        return (patches * self.weight).sum(2)


def seconds(run: Run) -> float:
    """Of one call, over as many as take `LEAST_S`."""
    began, calls = time.perf_counter(), 0
    while True:
        run()
        calls += 1
        passed = time.perf_counter() - began
        if passed >= LEAST_S:
            return passed / calls


def medians(candidates: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """Milliseconds of a call of each, in turn, after one that is not counted."""
    for run in candidates.values():
        run()
    timed = {name: partial(seconds, run) for name, run in candidates.items()}
    return {name: 1000 * median(all_) for name, all_ in interleaved(timed, repeats).items()}


def faster(found: Mapping[str, float], kind: str) -> float:
    """The candidate's time in its better format."""
    return min(found[f"{kind}, {form}"] for form in FORMATS)


def measure(size: Size, *, batch: int, repeats: int) -> dict[str, Cell]:
    """A row of the table."""
    row: dict[str, Cell] = {
        "input": f"{size.side}x{size.side}",
        "channels": size.channels,
        "stride": size.stride,
    }
    for number in (batch, 1):
        layers = {
            f"{kind}, {name}": Layer(kind, size=size, batch=number, form=form)
            for kind in KINDS
            for name, form in FORMATS.items()
        }
        found = medians({name: layer.forward for name, layer in layers.items()}, repeats)
        row |= compared("forward" if number == batch else "batch 1", found)
        if number == batch:
            trained = medians({name: layer.train for name, layer in layers.items()}, repeats)
            row |= compared("training", trained)
    return row | block(size, repeats=repeats)


def compared(what: str, found: Mapping[str, float]) -> dict[str, Cell]:
    """Columns of one kind of measurement."""
    depthwise, unfolded, ours = (faster(found, kind) for kind in KINDS)
    return {
        f"{what}: depthwise ms": depthwise,
        f"{what}: unfolded ms": unfolded,
        f"{what}: ours ms": ours,
        f"{what}: of depthwise": ours / depthwise,
        f"{what}: faster than unfolded": unfolded / ours,
    }


def block(size: Size, *, repeats: int) -> dict[str, Cell]:
    """What making the weights takes, for evaluation and for a step."""
    out = size.out_side
    made = TVConv2d(size.channels, size.kernel, map_size=(out, out)).weight_block
    gradient = torch.randn(out, out, size.kernel**2, size.channels)

    def train() -> None:
        made.zero_grad()
        made().backward(gradient)

    found = medians({"forward": torch.no_grad()(made), "training": train}, repeats)
    return {f"block: {name} ms": value for name, value in found.items()}


def memory(size: Size, *, batch: int, threads: int) -> list[str]:
    """A note a candidate: what a forward adds at its peak, in a process of its own."""
    notes = []
    for kind in KINDS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_tvconv", "--one", kind]
        command += ["--sides", str(size.side), "--channels", str(size.channels)]
        command += ["--strides", str(size.stride), "--kernel", str(size.kernel)]
        command += ["--batch", str(batch), "--threads", str(threads)]
        bytes_ = int(subprocess.check_output(command, text=True))
        output = 4 * batch * size.channels * size.out_side**2
        notes.append(
            f"memory of a forward, {size.side}x{size.side} x {size.channels}, {kind}: "
            f"{bytes_ / 2**20:.0f} MiB, {bytes_ / output:.2f} x its output"
        )
    return notes


def peak_bytes(size: Size, kind: str, *, batch: int) -> int:
    """What one forward adds to this process, after one that is not counted."""
    layer = Layer(kind, size=size, batch=batch, form=torch.channels_last)
    small = Layer(
        kind, size=Size(4, 8, size.stride, size.kernel), batch=1, form=torch.channels_last
    )
    small.forward()  # libraries' own memory
    if isinstance(layer.conv, TVConv2d):
        with torch.no_grad():
            layer.conv.weight()  # made once, and not the forward's
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_kb("VmRSS")
    output = layer.forward()
    peak = resident_kb("VmHWM")
    del output
    return (peak - before) * 1024


def main() -> None:
    """Measure all sizes and print, or record, their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sides", type=int, nargs="+", default=[28, 14])
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--strides", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help="write tests/benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = [
        Size(side, channels, stride, options.kernel)
        for side in options.sides
        for stride in options.strides
        for channels in options.channels
    ]
    if options.one:
        print(peak_bytes(sizes[0], options.one, batch=options.batch))
        return
    keep_freed()
    rows = []
    for size in sizes:
        rows.append(measure(size, batch=options.batch, repeats=options.repeats))
        print("  ".join(f"{key}: {value}" for key, value in rows[-1].items()), flush=True)
    notes = [
        f"float32, {options.kernel}x{options.kernel}, batch {options.batch}, {options.threads} "
        f"threads, the faster memory format of each; medians of {options.repeats} rounds in turn",
        met("forward of depthwise, worst", worst(rows, "forward: of depthwise"), FORWARD),
        met(
            "forward, unfolded form's speed of ours, worst",
            worst(rows, "forward: faster than unfolded", inverse=True),
            1 / UNFOLDED,
        ),
        met("training of depthwise, worst", worst(rows, "training: of depthwise"), TRAINING),
    ]
    largest = max(sizes, key=lambda size: size.channels * size.out_side**2)
    notes += memory(largest, batch=options.batch, threads=options.threads)
    print("\n".join(notes))
    if options.record:
        command = f"python -m tests.benchmarks.bench_tvconv {' '.join(sys.argv[1:])}".strip()
        print(record("tvconv", rows, command=command, notes=notes), file=sys.stderr)


def worst(rows: list[dict[str, Cell]], column: str, *, inverse: bool = False) -> float:
    """The highest of a column, or of one over it."""
    values = [float(row[column]) for row in rows]
    return 1 / min(values) if inverse else max(values)


if __name__ == "__main__":
    main()
