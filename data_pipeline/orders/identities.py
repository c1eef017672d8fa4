"""The samples of each identity, and the order in which an identity shows them.

Holding them takes 4 bytes a sample and 8 an identity (42 million samples: 0.2 GB a rank), and
finding them reads every shard's records once. Reading by identity jumps between all shards, because
packing spreads each person's images over them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64, Integer

from data_pipeline import keyed
from data_pipeline.index import Dataset


@dataclass(frozen=True, eq=False)
class Identities:
    """Which samples show which identity."""

    start: Int64[np.ndarray, " ends"]
    """Identity i has the entries [start[i], start[i + 1]) of `sample`."""
    sample: Integer[np.ndarray, " samples"]
    """Sample numbers, ascending within an identity."""

    @classmethod
    def of(cls, dataset: Dataset) -> "Identities":
        """Read the labels of a dataset; a sample whose label does not exist belongs to nobody."""
        label = np.empty(dataset.num_samples, np.int32)
        for i, shard in enumerate(dataset.shards):
            found = dataset.members(i)["label"]
            exists = (found >= 0) & (found < dataset.num_identities)
            label[shard.first_sample : shard.first_sample + shard.samples] = np.where(
                exists, found, -1
            )
        return cls.from_labels(
            label, num_identities=dataset.num_identities, shard_sizes=dataset.shard_sizes
        )

    @classmethod
    def from_labels(
        cls, label: Int[np.ndarray, " all"], *, num_identities: int, shard_sizes: tuple[int, ...]
    ) -> "Identities":
        """Sort samples by label, a shard at a time; -1 is nobody."""
        ends = np.cumsum(shard_sizes)
        parts = [label[end - size : end] for end, size in zip(ends, shard_sizes, strict=True)]
        images = np.zeros(num_identities, np.int64)
        for part in parts:
            np.add.at(images, part[part >= 0], 1)
        start = np.concatenate(([0], np.cumsum(images)))
        narrow = len(label) <= np.iinfo(np.uint32).max
        sample = np.empty(start[-1], np.uint32 if narrow else np.int64)
        free = start.copy()
        for end, part in zip(ends, parts, strict=True):
            order = np.argsort(part, kind="stable")
            order = order[np.searchsorted(part[order], 0) :]  # without nobody's
            who, begin, count = np.unique(part[order], return_index=True, return_counts=True)
            within = np.arange(len(order)) - np.repeat(begin, count)
            sample[np.repeat(free[who], count) + within] = end - len(part) + order
            free[who] += count
        return cls(start, sample)

    def __deepcopy__(self, memo: object) -> "Identities":
        """Itself: nothing here ever changes, and it may be large."""
        return self

    def __len__(self) -> int:
        """How many identities there are, with or without images."""
        return len(self.start) - 1

    @property
    def images(self) -> Int64[np.ndarray, " identities"]:
        """How many samples each identity has."""
        return np.diff(self.start)

    def show(
        self,
        identity: Int64[np.ndarray, " groups"],
        use: Int64[np.ndarray, " groups"],
        *,
        each: int,
        seed: int,
    ) -> tuple[Int64[np.ndarray, "groups each"], Int64[np.ndarray, "groups each"]]:
        """Samples of the `use`-th group of `each` images of some identities, and their epochs.

        An identity of n images shows them in turns of ceil(n / each) groups. A turn is a keyed
        permutation of its images, begun again where the last group needs more. So a group's images
        differ where there are enough; each image comes once a turn, and a few fill up. The epoch
        counts an image's uses, those that a turn may have and has not included.
        """
        images = self.start[identity + 1] - self.start[identity]
        groups = -(-images // each)
        turn = use // groups
        q = (use % groups * each)[:, None] + np.arange(each)
        uses = -(-groups * each // images)
        epoch = (turn * uses)[:, None] + q // images[:, None]
        return self.sample[
            self.start[identity][:, None]
            + self._permuted(identity, turn, q % images[:, None], seed)
        ].astype(np.int64), epoch

    def _permuted(
        self,
        identity: Int64[np.ndarray, " groups"],
        turn: Int64[np.ndarray, " groups"],
        place: Int64[np.ndarray, "groups each"],
        seed: int,
    ) -> Int64[np.ndarray, "groups each"]:
        """Which image of its identity is at each place of a turn's permutation."""
        images = self.start[identity + 1] - self.start[identity]
        first = np.cumsum(images) - images
        group = np.repeat(np.arange(len(images)), images)
        number = np.arange(len(group)) - first[group]
        shuffled = keyed.hash64("turn of an identity", seed, identity[group], turn[group], number)
        return number[np.lexsort((shuffled, group))][first[:, None] + place]
