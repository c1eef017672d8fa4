"""What mining hard negatives takes of a sampled step, and how many of the nearest it finds.

    python -m tests.benchmarks.bench_hard [--record] [--classes 1000000] [--batch 64]
        [--per-mille 10] [--hard-percent 10]

Counted first: what a step multiplies, and what mining adds to it, compares and rotates. Then
measured: a step with and without, in turn, at one number of classes visited; the parts of mining by
themselves; and the share found of each row's nine neighbours at cosine 0.5 among all the others,
at each number of lists looked through.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sharded_fc import ShardedHead
from sharded_fc.sampling import Sampling
from sharded_fc.sampling.mining import lists_to_search
from sharded_fc.sampling.near_index import KEY_BITS, NearIndex
from sharded_fc.sampling.signatures import Signatures
from sharded_fc.storage import Rows
from tests.benchmarks.heads import (
    LEARNING_RATE,
    MARGIN,
    MOMENTUM,
    SCALE,
    WEIGHT_DECAY,
    Size,
    batches,
    parser,
    show,
)
from tests.benchmarks.record import Cell, interleaved, met

LIMIT = 0.1  # of a step
QUERIES = 256
EACH = 10  # rows in a cluster


def made(size: Size, rate: float, hard_share: float) -> Callable[[Tensor, Tensor], None]:
    """One step of a head."""
    head = ShardedHead(
        size.classes,
        size.dim,
        margin=MARGIN,
        scale=SCALE,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        sampling=Sampling(rate=rate, correction="logq", hard_share=hard_share),
    )

    def step(embedding: Tensor, label: Tensor) -> None:
        head(embedding.detach().requires_grad_(), label).loss.backward()

    return step


def timed(step: Callable[[Tensor, Tensor], None], size: Size) -> Callable[[], float]:
    """A function that takes a step and tells its seconds."""
    data = batches(size)

    def seconds() -> float:
        embedding, label = next(data)
        began = time.perf_counter()
        step(embedding, label)
        return time.perf_counter() - began

    for _ in range(2):  # the first one writes the rows' first values and builds the lists
        seconds()
    return seconds


def counted(size: Size, rate: float, hard_share: float) -> list[str]:
    """Operations of a step and of its mining, by arithmetic."""
    visited = rate * size.classes + size.batch
    products = 8 * visited * size.batch * size.dim
    signatures = Signatures(size.dim, num_rows=size.classes, seed=0, device=torch.device("cpu"))
    probes = lists_to_search(rate, num_lists=signatures.num_lists)
    compared = size.batch * probes * size.classes / signatures.num_lists
    mined = hard_share * rate * size.classes
    rotated = 2 * size.batch + mined + (rate * size.classes - mined) / 32
    additions = rotated * size.dim * (size.dim - 1).bit_length()
    return [
        f"counted, a step: {visited:,.0f} rows, {products / 1e9:.2f} G operations in products",
        f"counted, mining: {probes} of {signatures.num_lists} lists, {compared:,.0f} codes of 32 "
        f"bytes compared ({32 * compared / 1e6:.0f} MB), {rotated:,.0f} rows rotated "
        f"({additions / 1e6:.0f} M additions)",
    ]


def clustered(classes: int, dim: int) -> Rows:
    """Rows in bfloat16, ten a cluster, any two of one at about cosine 0.5."""
    rows = Rows(
        0,
        classes,
        embedding_dim=dim,
        state_widths={},
        seed=0,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        state_dtype=torch.float32,
    )
    generator = torch.Generator().manual_seed(0)
    for first in range(0, classes, 10_000):
        last = min(first + 10_000, classes)
        middle = torch.randn(-(-(last - first) // EACH), dim, generator=generator)
        own = torch.randn(last - first, dim, generator=generator)
        rows.centre[first:last] = middle.repeat_interleave(EACH, 0)[: last - first] + own
    rows._unwritten.clear()
    return rows


def recalls(size: Size) -> list[dict[str, Cell]]:
    """For each number of lists: milliseconds for a batch, and the neighbours found."""
    rows = clustered(size.classes, size.dim)
    signatures = Signatures(size.dim, num_rows=size.classes, seed=0, device=torch.device("cpu"))
    asked = torch.randperm(size.classes, generator=torch.Generator().manual_seed(1))[:QUERIES]
    index = NearIndex(rows, signatures, probes=1)
    began = time.perf_counter()
    index.near(rows.centre[asked[:1]].float(), most=1)
    built = time.perf_counter() - began
    found: list[dict[str, Cell]] = []
    for probes in (4, 8, 16, 32, 64, signatures.num_lists):
        index.probes = min(probes, signatures.num_lists)
        seconds, hits = [], 0
        for batch in asked.split(size.batch):
            began = time.perf_counter()
            keys = index.near(rows.centre[batch].float(), most=EACH)
            seconds.append(time.perf_counter() - began)
            row = keys & ((1 << KEY_BITS) - 1)
            same = (row // EACH == batch.unsqueeze(1) // EACH) & (row != batch.unsqueeze(1))
            hits += int(same.sum())
        found.append(
            {
                "lists": probes,
                "ms a batch": 1e3 * statistics.median(seconds),
                "neighbours found": hits / (len(asked) * (EACH - 1)),
                "built in s": built,
            }
        )
    return found


def main() -> None:
    """Measure, and record if asked."""
    flags = parser(
        __doc__, classes=1_000_000, dim=512, batch=64, per_mille=10, hard_percent=10, repeats=15
    )
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = Size(classes=options.classes, dim=options.dim, batch=options.batch)
    rate, hard_share = options.per_mille / 1000, options.hard_percent / 100
    notes = [f"classes {size.classes}, width {size.dim}, batch {size.batch}, rate {rate}"]
    notes += [f"hard share {hard_share}", *counted(size, rate, hard_share)]
    steps = {
        "drawn": timed(made(size, rate, 0.0), size),
        "mined": timed(made(size, rate, hard_share), size),
    }
    medians = {
        name: statistics.median(times)
        for name, times in interleaved(steps, options.repeats).items()
    }
    del steps
    notes += [f"a step, {name}: {1e3 * seconds:.2f} ms" for name, seconds in medians.items()]
    notes.append(met("mining, of a step", medians["mined"] / medians["drawn"] - 1, LIMIT))
    show("hard", recalls(size), notes, options)


if __name__ == "__main__":
    main()
