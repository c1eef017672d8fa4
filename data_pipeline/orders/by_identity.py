"""Orders that draw identities and then their images.

Balanced batches have P identities with K images each; with K = 1 and shares from `long_tail`,
people with few images come more often than their images alone would.
"""

import numpy as np
from jaxtyping import Float64, Int64

from data_pipeline.orders import check_shape, place_in
from data_pipeline.orders.identities import Identities
from data_pipeline.orders.rounds import Rounds


class IdentityOrder:
    """Micro-batches of `micro_batch_size / images_each` identities with `images_each` images.

    The images of one identity are neighbours. All micro-batches of a step, and the steps, take
    their identities from one sequence, so the identities of a global batch differ as long as it
    lies within a round. Which images, see `Identities.show`. A stand-in for a bad sample comes from
    a later micro-batch and is mostly somebody else.
    """

    def __init__(
        self,
        identities: Identities,
        *,
        shard_sizes: tuple[int, ...],
        micro_batches: int,
        micro_batch_size: int,
        images_each: int,
        seed: int,
        share: Float64[np.ndarray, " identities"] | None = None,
    ) -> None:
        """Fix an order; without `share` every identity that has images comes once a round."""
        if images_each < 1:
            raise ValueError(f"images_each is {images_each}; it must be at least 1")
        check_shape(
            micro_batches=micro_batches,
            micro_batch_size=micro_batch_size,
            parts=images_each,
            what=f"identities with {images_each} images each",
        )
        self.shard_sizes = tuple(shard_sizes)
        self.num_samples = sum(shard_sizes)
        self.micro_batches = micro_batches
        self.micro_batch_size = micro_batch_size
        self.shuffle_window = len(shard_sizes)
        self._identities = identities
        self._each = images_each
        self._seed = seed
        has_images = identities.images > 0
        shares = has_images.astype(float) if share is None else np.where(has_images, share, 0.0)
        self._rounds = Rounds(shares, seed=seed)

    def micro_batch(
        self, step: int, j: int
    ) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """Sample numbers of micro-batch `j` of a step, and how often each came before."""
        groups = self.micro_batch_size // self._each
        first = (step * self.micro_batches + j) * groups
        identity, use = self._rounds.at(np.arange(first, first + groups))
        sample, epoch = self._identities.show(identity, use, each=self._each, seed=self._seed)
        return sample.ravel(), epoch.ravel()

    def lane_sample(self, j: int, position: int) -> tuple[int, int]:
        """(sample, epoch) at one place of lane `j`."""
        return place_in(self, j, position)
