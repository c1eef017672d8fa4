"""One step of the head beside the dense head: all logits, autograd, torch.optim.SGD.

    python -m tests.benchmarks.bench_head [--record] [--classes 100000] [--dim 512] [--batch 256]

A step is loss, embedding gradient and row update. Both take turns in one process; each one's peak
memory is that of a process of its own, from before the head exists to after a few steps.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sharded_fc import ShardedHead
from sharded_fc.initial import initial_rows
from sharded_fc.margins import ArcFace
from sharded_fc.reference import DenseHead
from tests.benchmarks.record import interleaved, record

MARGIN, SCALE = ArcFace(0.5), 64.0
CANDIDATES = ("dense float32", "sharded float32", "sharded bfloat16")


def build(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """A function that takes one step."""
    device = torch.device(options.device)
    embedding = torch.randn(options.batch, options.dim, device=device)
    label = torch.randint(options.classes, (options.batch,))
    if name.startswith("dense"):
        rows = initial_rows(0, options.classes, embedding_dim=options.dim, seed=0, device=device)
        dense = DenseHead(rows, margin=MARGIN, scale=SCALE, learning_rate=0.1, weight_decay=5e-4)
        del rows
        on_device = label.to(device)
        return lambda: (dense.step(embedding, on_device), None)[1]
    head = ShardedHead(
        options.classes,
        options.dim,
        margin=MARGIN,
        scale=SCALE,
        learning_rate=0.1,
        weight_decay=5e-4,
        compute_dtype=getattr(torch, name.removeprefix("sharded ")),
        chunk_classes=options.chunk,
        device=device,
    )

    def step() -> None:
        head(embedding.detach().requires_grad_(), label).loss.backward()

    return step


def seconds(step: Callable[[], None], device: str) -> float:
    """Wall time of one step, the accelerator's work included."""
    began = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_bytes(name: str, options: argparse.Namespace) -> int:
    """What the head adds to this process at its peak, over three steps."""
    before = resident_kb("VmRSS")
    step = build(name, options)
    for _ in range(3):
        step()
    if options.device != "cpu":
        return torch.cuda.max_memory_allocated()
    return (resident_kb("VmHWM") - before) * 1024


def resident_kb(field: str) -> int:
    """A line of /proc/self/status; its high-water mark starts anew with the program."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s*(\d+) kB", status)[0])


def peak_megabytes(name: str) -> float:
    """`peak_bytes` of a fresh process with the same arguments."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_head", *sys.argv[1:]]
    answer = subprocess.check_output([*command, "--peak-of", name], text=True)
    return int(answer) / 1e6


def main() -> None:
    """Measure, and record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="keep the figures in results/")
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=None, help="classes a chunk")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak-of", choices=CANDIDATES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.peak_of:
        print(peak_bytes(options.peak_of, options))
        return
    steps = {name: build(name, options) for name in CANDIDATES}
    for step in steps.values():
        seconds(step, options.device)
    timed = interleaved(
        {name: lambda s=step: seconds(s, options.device) for name, step in steps.items()},
        options.repeats,
    )
    steps.clear()
    dense = statistics.median(timed[CANDIDATES[0]])
    rows = [
        {
            "head": name,
            "median s": statistics.median(times),
            "best s": min(times),
            "of dense": statistics.median(times) / dense,
            "peak MB": peak_megabytes(name),
        }
        for name, times in timed.items()
    ]
    for row in rows:
        print(row)
    if options.record:
        sizes = f"--classes {options.classes} --dim {options.dim} --batch {options.batch}"
        command = f"python -m tests.benchmarks.bench_head {sizes} --threads {options.threads}"
        record("head", rows, command=f"{command} --record")


if __name__ == "__main__":
    main()
