"""Several datasets read at once, each with a fixed share of every micro-batch.

Each dataset has its own plan and goes through its epochs at its own pace. Which place of a lane
belongs to which dataset is a pattern of `PATTERN` places that repeats, as even as can be, so a
micro-batch has a dataset's share to within a few samples and the pattern has it exactly.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from data_pipeline import keyed
from data_pipeline.orders import check_shape, place_in
from data_pipeline.plan import Plan

PATTERN = 10_000
"""Shares count in ten-thousandths."""


class MixedOrder:
    """Samples of several datasets, numbered as if their shards lay in a row."""

    def __init__(
        self,
        shard_sizes: Sequence[tuple[int, ...]],
        weights: Sequence[float],
        *,
        micro_batches: int,
        micro_batch_size: int,
        seed: int,
        shuffle_window: int,
    ) -> None:
        """Fix an order; weight over the sum of weights is a dataset's share of the samples."""
        check_shape(
            micro_batches=micro_batches, micro_batch_size=micro_batch_size, parts=1, what="samples"
        )
        if len(shard_sizes) != len(weights):
            raise ValueError(f"{len(weights)} weights for {len(shard_sizes)} datasets")
        self.shard_sizes = tuple(size for sizes in shard_sizes for size in sizes)
        self.num_samples = sum(self.shard_sizes)
        self.micro_batches = micro_batches
        self.micro_batch_size = micro_batch_size
        self.shuffle_window = shuffle_window * len(shard_sizes)
        self._first_sample = np.cumsum([0, *(sum(sizes) for sizes in shard_sizes)])[:-1].tolist()
        self._plans = [
            Plan(
                sizes,
                micro_batches=micro_batches,
                micro_batch_size=micro_batch_size,
                seed=int(keyed.hash64("mixed dataset", seed, number)),
                shuffle_window=shuffle_window,
            )
            for number, sizes in enumerate(shard_sizes)
        ]
        self._pattern = _pattern(weights)
        own = self._pattern == np.arange(len(weights))[:, None]
        self._passed = np.pad(np.cumsum(own, axis=1), ((0, 0), (1, 0)))  # before each place

    def micro_batch(
        self, step: int, j: int
    ) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """Sample numbers of micro-batch `j` of a step, and the epoch of each in its dataset."""
        phase = j * PATTERN // self.micro_batches  # lanes do not take the rare ones all at once
        first = phase + step * self.micro_batch_size
        part = self._pattern[np.arange(first, first + self.micro_batch_size) % PATTERN]
        sample, epoch = np.empty(len(part), np.int64), np.empty(len(part), np.int64)
        for number, plan in enumerate(self._plans):
            here = part == number
            start = self._count(number, first) - self._count(number, phase)
            chosen, epoch[here] = plan.lane(j, start, start + int(here.sum()))
            sample[here] = chosen + self._first_sample[number]
        return sample, epoch

    def lane_sample(self, j: int, position: int) -> tuple[int, int]:
        """(sample, epoch) at one place of lane `j`."""
        return place_in(self, j, position)

    def _count(self, part: int, place: int) -> int:
        """How many of the first places of the repeated pattern are of one dataset."""
        turns, rest = divmod(place, PATTERN)
        return turns * int(self._passed[part, PATTERN]) + int(self._passed[part, rest])


def _pattern(weights: Sequence[float]) -> Int64[np.ndarray, " places"]:
    """Which dataset each place belongs to: counts by largest remainder, spread evenly."""
    given = np.asarray(weights, float)
    if not len(given) or not np.isfinite(given).all() or (given <= 0).any():
        raise ValueError("the weights of datasets must be positive numbers, one for each")
    exact = given / given.sum() * PATTERN
    if exact.min() < 1:
        raise ValueError(
            f"a weight of {given.min()} is below a ten-thousandth of all; leave its dataset out or "
            "raise it"
        )
    count = np.floor(exact).astype(np.int64)
    largest = np.argsort(count - exact, kind="stable")
    count[largest[: PATTERN - int(count.sum())]] += 1
    part = np.repeat(np.arange(len(count)), count)
    within = np.arange(PATTERN) - np.repeat(np.cumsum(count) - count, count)
    return part[np.argsort((within + 0.5) / count[part], kind="stable")]
