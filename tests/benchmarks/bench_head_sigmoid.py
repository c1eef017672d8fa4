"""A step of a sigmoid loss, visiting chunks once or twice, beside a softmax's.

    python -m tests.benchmarks.bench_head_sigmoid [--record] [--sizes 100000x256 1000000x64]

UniFace with the gradients it may keep by default, UniFace that keeps none, and ArcFace with its
default: all three take turns in one process, at each size (classes x batch) first with float32
operands, then with bfloat16. A million classes take 12 GB.
"""

import statistics
import time
from collections.abc import Callable

import torch

from sharded_fc import ShardedHead
from sharded_fc.margins import Margin, UniFace
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
from tests.benchmarks.record import Cell, interleaved

ONCE, TWICE, SOFTMAX = "UniFace, one visit", "UniFace, nothing kept", "ArcFace"
HEADS: dict[str, tuple[Margin, int | None]] = {
    ONCE: (UniFace(0.4), None),
    TWICE: (UniFace(0.4), 0),
    SOFTMAX: (MARGIN, None),
}
Seconds = tuple[float, float]
"""Of the call and of its backward."""


def timed_steps(name: str, size: Size, operands: str) -> Callable[[], Seconds]:
    """A function that takes a step and tells its seconds, warmed up."""
    margin, kept_bytes = HEADS[name]
    head = ShardedHead(
        size.classes,
        size.dim,
        margin=margin,
        scale=SCALE,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        compute_dtype=dtype(operands),
        kept_bytes=kept_bytes,
    )
    data = batches(size)

    def seconds() -> Seconds:
        embedding, label = next(data)
        leaf = embedding.detach().requires_grad_()
        began = time.perf_counter()
        loss = head(leaf, label).loss
        between = time.perf_counter()
        loss.backward()
        return between - began, time.perf_counter() - between

    for _ in range(2):  # the first one writes the rows' first values
        seconds()
    return seconds


def compare(size: Size, operands: str, *, repeats: int) -> list[dict[str, Cell]]:
    """One row a head."""
    heads = {name: timed_steps(name, size, operands) for name in HEADS}
    taken = interleaved(heads, repeats)
    whole = {name: [sum(seconds) for seconds in steps] for name, steps in taken.items()}
    middle = {name: statistics.median(seconds) for name, seconds in whole.items()}
    return [
        {
            "classes": size.classes,
            "batch": size.batch,
            "head": name,
            "operands": operands,
            "median s": middle[name],
            "best s": min(whole[name]),
            "call s": statistics.median(call for call, _ in taken[name]),
            "backward s": statistics.median(backward for _, backward in taken[name]),
            f"of {TWICE}": middle[name] / middle[TWICE],
            f"of {SOFTMAX}": middle[name] / middle[SOFTMAX],
        }
        for name in HEADS
    ]


def main() -> None:
    """Measure, and record if asked."""
    flags = parser(__doc__, dim=512, repeats=9)
    flags.add_argument("--sizes", nargs="+", default=["100000x256", "1000000x64"])
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Cell]] = []
    for words in options.sizes:
        classes, batch = map(int, words.split("x"))
        size = Size(classes=classes, dim=options.dim, batch=batch)
        for operands in ("float32", "bfloat16"):
            rows += compare(size, operands, repeats=options.repeats)
    show("head_sigmoid", rows, [f"{options.dim} wide, one rank"], options)


if __name__ == "__main__":
    main()
