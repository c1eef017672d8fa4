"""The pool of features against a replicated one in plain torch: time of a step.

    python -m tests.benchmarks.bench_pool [--record] [--slots 100000] [--dim 512] [--batch 256]
        [--identities 1000000] [--repeats 7] [--threads 2]

One rank, in float32, steps in turn. The plain pool has an OrderedDict, all logits and autograd, as
the published code does, but is spared the undoing of its first pass. `directory` is the part of a
step in which both find slots for the labels.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from sharded_fc.margins import CosFace
from sharded_fc.pool import PoolHead, PoolView
from sharded_fc.pool.directory import Directory
from tests.benchmarks.record import Cell, interleaved, record
from tests.sharded_fc.pool.literal import LiteralDirectory, LiteralPool

MARGIN, SCALE = 0.4, 32.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    sizes = {"slots": 100_000, "dim": 512, "batch": 256, "identities": 1_000_000}
    for name, size in (sizes | {"repeats": 7, "threads": 2}).items():
        parser.add_argument(f"--{name}", type=int, default=size)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        row("directory", directories(options), options.repeats),
        row("step", steps(options), options.repeats),
    ]
    for line in rows:
        print(line)
    if options.record:
        flags = " ".join(f"--{name} {getattr(options, name)}" for name in sizes)
        command = f"python -m tests.benchmarks.bench_pool --record {flags}"
        path = record("pool", rows, command=command, notes=["seconds; medians of steps in turn"])
        print(path)


def row(name: str, ways: dict[str, Callable[[], float]], repeats: int) -> dict[str, Cell]:
    """Medians of the two ways, after one that warms up."""
    for way in ways.values():
        way()
    seconds = {way: median(times) for way, times in interleaved(ways, repeats).items()}
    return {"what": name, **seconds, "ratio": seconds["pool"] / seconds["plain"]}


def directories(options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Both passes' labels of a step, into full directories."""
    random = np.random.default_rng(0)
    ours, plain = Directory(options.slots), LiteralDirectory(options.slots)
    everybody = random.permutation(options.identities)[: options.slots]
    ours.apply(ours.plan(everybody))
    plain.insert(everybody.tolist())

    def labels() -> np.ndarray:
        return random.integers(options.identities, size=options.batch // 2)

    def ours_way() -> float:
        first, second = labels(), labels()
        began = time.perf_counter()
        ours.plan(first)
        ours.apply(ours.plan(second))
        return time.perf_counter() - began

    def plain_way() -> float:
        both = [*labels().tolist(), *labels().tolist()]
        began = time.perf_counter()
        plain.insert(both)
        return time.perf_counter() - began

    return {"pool": ours_way, "plain": plain_way}


def steps(options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Loss and gradient of both views, with every slot filled or random."""
    generator = torch.Generator().manual_seed(0)
    ours = PoolHead(
        options.identities,
        options.dim,
        slots=options.slots,
        margin=CosFace(MARGIN),
        scale=SCALE,
        unfilled="random",
    )
    feature = torch.stack([torch.cat(row) for row in zip(*rows_of(ours), strict=True)])
    plain = LiteralPool(feature, scale=SCALE, margin=("cosface", MARGIN), masked=False)

    def views() -> tuple[PoolView, PoolView]:
        half = options.batch // 2
        label = torch.randint(options.identities, (3, half // 2), generator=generator)
        probe, gallery = torch.randn(2, 2, half, options.dim, generator=generator)
        # Half of a view are pairs with the other, half are whoever comes.
        first, second = (torch.cat([label[0], label[which]]) for which in (1, 2))
        probe.requires_grad_()
        return PoolView(probe[0], gallery[0], first), PoolView(probe[1], gallery[1], second)

    def ours_way() -> float:
        both = views()
        began = time.perf_counter()
        ours(*both).loss.backward()
        return time.perf_counter() - began

    def plain_way() -> float:
        first, second = views()
        began = time.perf_counter()
        plain.one_pass(first.probe, first.label, second.gallery, second.label).backward()
        plain.one_pass(second.probe, second.label, first.gallery, first.label).backward()
        return time.perf_counter() - began

    return {"pool": ours_way, "plain": plain_way}


def rows_of(pool: PoolHead) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The two rows of a pool, a block at a time."""
    return [(block["row0"], block["row1"]) for _, block in pool.rows()]


if __name__ == "__main__":
    main()
