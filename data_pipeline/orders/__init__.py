"""Which sample is read when: what the order of a training run is.

`plan.Plan` is the usual order; those here draw by identity or from several datasets by weight.
Like the plan they are pure functions of integers, looked up and never stepped: the samples of
(step, micro-batch) are the same at any world size and after any resume, and no state is saved.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64


@runtime_checkable  # by the shape checks of the tests
class Order(Protocol):
    """Samples of M micro-batches of m samples each step, without end."""

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples of each shard of the dataset it was made for."""
        ...

    @property
    def num_samples(self) -> int:
        """Samples of the dataset."""
        ...

    @property
    def micro_batches(self) -> int:
        """Micro-batches M of a step."""
        ...

    @property
    def micro_batch_size(self) -> int:
        """Samples m of one."""
        ...

    @property
    def shuffle_window(self) -> int:
        """The most shards that a lane reads from at a time."""
        ...

    def micro_batch(
        self, step: int, j: int
    ) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """Sample numbers of micro-batch `j` of a step, and an epoch with each.

        A sample comes at most once with the same epoch: it is a key of the augmentation.
        """
        ...

    def lane_sample(self, j: int, position: int) -> tuple[int, int]:
        """(sample, epoch) at one place of lane `j`, its micro-batches of all steps in a row."""
        ...


def check_shape(*, micro_batches: int, micro_batch_size: int, parts: int, what: str) -> None:
    """Refuse a step without samples, or one that does not divide into `parts` equal parts."""
    if micro_batches < 1:
        raise ValueError(f"micro_batches is {micro_batches}; it must be at least 1")
    if micro_batch_size < 1 or micro_batch_size % parts:
        raise ValueError(
            f"micro-batches of {micro_batch_size} samples do not divide into {what}; use a "
            f"multiple of {parts}"
        )


def place_in(order: Order, j: int, position: int) -> tuple[int, int]:
    """`lane_sample` of an order that knows only whole micro-batches."""
    step, place = divmod(position, order.micro_batch_size)
    sample, epoch = order.micro_batch(step, j)
    return int(sample[place]), int(epoch[place])
