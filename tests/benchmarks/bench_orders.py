"""What orders by identity cost beside the plan: start, memory, and time of a micro-batch.

    python -m tests.benchmarks.bench_orders [--identities 2000000] [--samples 42000000]

All is synthetic: labels drawn with a long tail, shards of 8,000 samples, no files. A run has its
records to read as well before it starts, 24 bytes a sample. Memory is what Python and numpy hold.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import TypeVar

import numpy as np

from data_pipeline.long_tail import drawing_share
from data_pipeline.orders import Order
from data_pipeline.orders.by_identity import IdentityOrder
from data_pipeline.orders.identities import Identities
from data_pipeline.orders.pairs import PairOrder
from data_pipeline.plan import Plan

SHARD = 8000
STEPS = 20
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identities", type=int, default=2_000_000)
    parser.add_argument("--samples", type=int, default=42_000_000)
    options = parser.parse_args()
    sizes = (SHARD,) * (options.samples // SHARD)
    random = np.random.default_rng(0)
    label = (random.random(sum(sizes)) ** 2 * options.identities).astype(np.int32)

    def identities() -> Identities:
        return Identities.from_labels(label, num_identities=options.identities, shard_sizes=sizes)

    table = tell("samples by identity", identities)
    step = {"micro_batches": 64, "micro_batch_size": 64, "seed": 0}
    orders: dict[str, Callable[[], Order]] = {
        "plan": lambda: Plan(sizes, shuffle_window=4, **step),
        "identities, 4 images each": lambda: IdentityOrder(
            table, shard_sizes=sizes, images_each=4, share=None, **step
        ),
        "long tail, beta 0.99": lambda: IdentityOrder(
            table,
            shard_sizes=sizes,
            images_each=1,
            share=drawing_share(table.images, beta=0.99),
            **step,
        ),
        "pairs and instances": lambda: PairOrder(
            table, shard_sizes=sizes, shuffle_window=4, **step
        ),
    }
    for name, make in orders.items():
        order = tell(name, make)
        tell(f"{name}: first micro-batch, far on", lambda order=order: order.micro_batch(10**6, 0))
        seconds = [timed(order, 10**6 + s) for s in range(STEPS)]
        print(f"{name}: {median(seconds) * 1e3:.2f} ms a micro-batch of 64 after that")


def tell(name: str, make: Callable[[], T]) -> T:
    tracemalloc.start()
    began = time.perf_counter()
    made = make()
    seconds = time.perf_counter() - began
    held, peak = (part / 2**20 for part in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    print(f"{name}: {seconds:.2f} s, {held:.0f} MiB held, {peak:.0f} MiB at the most")
    return made


def timed(order: Order, step: int) -> float:
    began = time.perf_counter()
    order.micro_batch(step, 1)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
