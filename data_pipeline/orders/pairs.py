"""The order for pools of features (F2C, arXiv:2105.10375): pairs by identity beside instances.

Half of a micro-batch are images as the plan has them, each once an epoch; the other half are pairs
of two images of one identity, each identity once a round. So everybody's features are renewed
however few images show them.
"""

import numpy as np
from jaxtyping import Int64

from data_pipeline.orders import check_shape, place_in
from data_pipeline.orders.by_identity import IdentityOrder
from data_pipeline.orders.identities import Identities
from data_pipeline.plan import Plan


class PairOrder:
    """Micro-batches whose halves are the two views that a pool compares.

    With q = micro_batch_size / 4 a micro-batch is q first images of pairs, q instances, the q
    second images of the same pairs, q other instances. An identity with one image gives it twice,
    augmented in two ways. A stand-in for a bad sample leaves its pair with two labels.
    """

    def __init__(
        self,
        identities: Identities,
        *,
        shard_sizes: tuple[int, ...],
        micro_batches: int,
        micro_batch_size: int,
        seed: int,
        shuffle_window: int,
    ) -> None:
        """Fix an order; `shuffle_window` is the instances'."""
        check_shape(
            micro_batches=micro_batches,
            micro_batch_size=micro_batch_size,
            parts=4,
            what="pairs and as many instances",
        )
        self.micro_batches = micro_batches
        self.micro_batch_size = micro_batch_size
        self._instances = Plan(
            shard_sizes,
            micro_batches=micro_batches,
            micro_batch_size=micro_batch_size // 2,
            seed=seed,
            shuffle_window=shuffle_window,
        )
        self._pairs = IdentityOrder(
            identities,
            shard_sizes=shard_sizes,
            micro_batches=micro_batches,
            micro_batch_size=micro_batch_size // 2,
            images_each=2,
            seed=seed,
        )
        self.shard_sizes = self._instances.shard_sizes
        self.num_samples = self._instances.num_samples
        self.shuffle_window = self._pairs.shuffle_window

    def micro_batch(
        self, step: int, j: int
    ) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """Sample numbers of micro-batch `j` of a step, and their epochs.

        Those of pairs count from -1 down: an image is augmented otherwise as an instance.
        """
        instances, epoch = self._instances.micro_batch(step, j)
        pairs, use = self._pairs.micro_batch(step, j)
        return _interleaved(pairs, instances), _interleaved(-1 - use, epoch)

    def lane_sample(self, j: int, position: int) -> tuple[int, int]:
        """(sample, epoch) at one place of lane `j`."""
        return place_in(self, j, position)


def _interleaved(pairs: np.ndarray, instances: np.ndarray) -> np.ndarray:
    firsts, seconds = pairs.reshape(-1, 2).T
    some, others = instances.reshape(2, -1)
    return np.concatenate([firsts, some, seconds, others])
