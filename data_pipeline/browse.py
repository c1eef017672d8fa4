"""What a person looks for in a dataset: who has how many images, and which they are.

Answers are arrays of labels and samples, of which a page shows a few: an identity is never an
object, so millions of them take 4 bytes a sample and about 32 an identity. Names are in
`browse_names`, pictures in `browse_images` and `browse_views`.
"""

from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from data_pipeline.index import Dataset
from data_pipeline.orders.identities import Identities

Order = Literal["label", "most", "fewest"]
"""By number, or by how many images an identity has; equal ones by number."""


class Bin(NamedTuple):
    """The identities that have from `at_least` to `at_most` images."""

    at_least: int
    at_most: int
    identities: int
    images: int
    """All of theirs together."""


class Album:
    """The identities of a dataset; making one reads every shard's records once."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._identities = Identities.of(dataset)
        self.images = self._identities.images
        """How many samples each label has."""

    @property
    def nobodys(self) -> int:
        """Samples whose label does not exist."""
        return self.dataset.num_samples - len(self._identities.sample)

    def labels(
        self, order: Order, *, at_least: int = 0, at_most: int | None = None
    ) -> Int64[np.ndarray, " chosen"]:
        """Labels in an order, of those that have so many images."""
        images = self.images
        if order == "label":
            return np.flatnonzero(_within(images, at_least, at_most))
        labels = self._by_most if order == "most" else self._by_fewest
        return labels[_within(images[labels], at_least, at_most)]

    def samples(self, label: int) -> Int64[np.ndarray, " images"]:
        """The samples that show an identity, ascending."""
        start = self._identities.start
        return self._identities.sample[start[label] : start[label + 1]].astype(np.int64)

    def first_samples(self, labels: Int64[np.ndarray, " some"]) -> list[int | None]:
        """The first sample of each of some identities, where it has any."""
        start = self._identities.start
        return [
            int(self._identities.sample[start[label]]) if self.images[label] else None
            for label in labels.tolist()
        ]

    def long_tail(
        self, points: int
    ) -> tuple[Int64[np.ndarray, " points"], Int64[np.ndarray, " points"]]:
        """(rank, images): what the identity at about `points` ranks has, from the most on.

        Ranks count from 1 and lie evenly on a logarithmic axis, the first and last among them.
        """
        last = len(self.images)
        rank = np.unique(np.geomspace(1, last, points).round().astype(np.int64))
        return rank, self.images[self._by_most[rank - 1]]

    def histogram(self) -> list[Bin]:
        """How many identities have 0, 1, 2, 3 to 4, 5 to 8, ... images; without empty bins."""
        least = [0, 1, *(2**power + 1 for power in range(int(self.images.max()).bit_length() + 1))]
        place = np.searchsorted(least, self.images, side="right") - 1
        identities = np.bincount(place, minlength=len(least)).tolist()
        images = np.bincount(place, weights=self.images, minlength=len(least))
        most = [after - 1 for after in least[1:]]
        return [
            Bin(low, high, people, int(total))
            for low, high, people, total in zip(least, most, identities, images, strict=False)
            if people
        ]

    @cached_property
    def _by_most(self) -> Int64[np.ndarray, " identities"]:
        return np.argsort(-self.images, kind="stable")

    @cached_property
    def _by_fewest(self) -> Int64[np.ndarray, " identities"]:
        return np.argsort(self.images, kind="stable")


def _within(images: np.ndarray, at_least: int, at_most: int | None) -> np.ndarray:
    chosen = images >= at_least
    return chosen if at_most is None else chosen & (images <= at_most)
