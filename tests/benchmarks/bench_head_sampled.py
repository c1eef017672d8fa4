"""A sampled step beside public code's, whose optimizer is dense: time, and time of the draw.

    python -m tests.benchmarks.bench_head_sampled [--record] [--classes 1000000] [--batch 64]
        [--per-mille 10]

A step is loss, embedding gradient and row update of a share of the classes. Each candidate takes
turns with public code in one process. `draw` is what choosing the classes takes: here the first of
a keyed permutation, there random keys, topk and a sort.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sharded_fc import ShardedHead
from sharded_fc.initial import initial_rows
from sharded_fc.native_build import SWITCH
from sharded_fc.sampling import Sampling
from sharded_fc.sampling.options import Untouched
from tests.benchmarks.baseline_sampled import SampledPublicHead
from tests.benchmarks.heads import (
    LEARNING_RATE,
    MARGIN,
    MOMENTUM,
    SCALE,
    WEIGHT_DECAY,
    Size,
    batches,
    dtype,
    parser,
    show,
)
from tests.benchmarks.record import Cell, interleaved, met

MANNERS: dict[str, tuple[Untouched, int, str, str]] = {
    "frozen, float32": ("frozen", 1, "float32", "float32"),
    "frozen, bfloat16 operands": ("frozen", 1, "bfloat16", "float32"),
    "frozen, bfloat16 operands, rows and momentum": ("frozen", 1, "bfloat16", "bfloat16"),
    "frozen, float32, blocks of 16": ("frozen", 16, "float32", "float32"),
    "caught up, float32": ("caught_up", 1, "float32", "float32"),
    "caught up, bfloat16 operands": ("caught_up", 1, "bfloat16", "float32"),
}
# (classes, batch, per mille) -> the most of public code's time, with float32 and bfloat16 operands
WANTED = {(1_000_000, 64, 10): (1 / 25, 1 / 25), (100_000, 256, 100): (0.22, 0.13)}
DRAW = 1 / 20


def public(size: Size, rate: float) -> SampledPublicHead:
    """The head of public code."""
    rows = initial_rows(0, size.classes, embedding_dim=size.dim, seed=0, device=torch.device("cpu"))
    return SampledPublicHead(
        rows,
        rate=rate,
        margin_rad=MARGIN.margin,
        scale=SCALE,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
    )


def sharded(size: Size, rate: float, manner: str) -> Callable[[Tensor, Tensor], None]:
    """One step of a candidate."""
    untouched, block, operands, rows = MANNERS[manner]
    head = ShardedHead(
        size.classes,
        size.dim,
        margin=MARGIN,
        scale=SCALE,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        compute_dtype=dtype(operands),
        dtype=dtype(rows),
        sampling=Sampling(
            rate=rate, block=block, untouched=untouched, quota="peer" if block == 1 else "negatives"
        ),
    )

    def step(embedding: Tensor, label: Tensor) -> None:
        head(embedding.detach().requires_grad_(), label).loss.backward()

    return step


def timed(step: Callable[[Tensor, Tensor], object], size: Size, *, warm: int = 2):
    """A function that takes a step and tells its seconds."""
    data = batches(size)

    def seconds() -> float:
        embedding, label = next(data)
        began = time.perf_counter()
        step(embedding, label)
        return time.perf_counter() - began

    for _ in range(warm):  # the first one writes the rows' first values
        seconds()
    return seconds


def compare(options: argparse.Namespace) -> tuple[list[dict[str, Cell]], list[str]]:
    """One row a candidate, and what was wanted."""
    size = Size(classes=options.classes, dim=options.dim, batch=options.batch)
    rate = options.per_mille / 1000
    os.environ[SWITCH] = "1"
    peer = public(size, rate)
    draw = Sampling(rate=rate).draw(size.classes, seed=0)
    steps = itertools.cycle(torch.arange(1_000).unbind())

    def ours(embedding: Tensor, label: Tensor) -> object:
        return draw.of_step(next(steps), label.unique(), start=0, stop=size.classes)

    drawing = _medians(
        {"ours": timed(ours, size), "public": timed(lambda _, label: peer.sample(label), size)},
        options.repeats,
    )
    public_step = timed(peer.step, size)
    rows: list[dict[str, Cell]] = []
    for name in MANNERS:  # one at a time, for the rows of all would not fit
        own = timed(sharded(size, rate, name), size)
        found = _medians({"ours": own, "public": public_step}, options.repeats)
        rows.append(
            {
                "head": name,
                "median s": found["ours"],
                "public s": found["public"],
                "of public": found["ours"] / found["public"],
            }
        )
        del own
    notes = [
        f"classes {size.classes}, width {size.dim}, batch {size.batch}, rate {rate}",
        met("the draw, of public code's", drawing["ours"] / drawing["public"], DRAW),
    ]
    wanted = WANTED.get((size.classes, size.batch, options.per_mille))
    if wanted is not None:
        notes += [
            met(f"{row['head']}, of public code's step", float(row["of public"]), limit)
            for row, limit in zip(rows[:2], wanted, strict=True)
        ]
    return rows, notes


def _medians(work: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    return {name: statistics.median(times) for name, times in interleaved(work, repeats).items()}


def main() -> None:
    """Measure, and record if asked."""
    flags = parser(__doc__, classes=1_000_000, dim=512, batch=64, per_mille=10, repeats=15)
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows, notes = compare(options)
    show("head_sampled", rows, notes, options)


if __name__ == "__main__":
    main()
