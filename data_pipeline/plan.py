"""Which sample is read when: the order of a whole training run as pure functions of integers.

An epoch is a keyed permutation of the shards, laid on a circle, opened at a keyed place and cut
into M lanes of equal length; micro-batch j of every step comes from lane j. Lanes have no end:
epoch follows epoch, and a micro-batch may span two. So the samples of (step, j) depend on the
shard sizes, the seed, M and the micro-batch size, and on nothing that happened before or on how
many ranks there are; resuming at a step is asking for it. Nothing here reads a file.

A lane is the sequence of its *pieces* (a stretch of one shard each). Up to `shuffle_window`
neighbouring pieces are shuffled together, so that only their shards need be open at a time and
only one such group's order is ever held; N samples are never permuted at once.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from data_pipeline import keyed

GROUPS_HELD = 2  # per lane: replacing a bad sample looks a little ahead, over a group's end
EPOCHS_HELD = 64  # a tiny dataset passes through many in one step; 16 bytes a shard each


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Samples [start, stop) of one shard, counted in the shard."""

    shard: int
    start: int
    stop: int


def share(micro_batches: int, rank: int, world: int) -> range:
    """The micro-batches of every step that a rank computes: contiguous, balanced to one."""
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} does not exist among {world} ranks")
    if world > micro_batches:
        raise ValueError(
            f"{world} ranks cannot share {micro_batches} micro-batches: use at most "
            f"{micro_batches} ranks, or more micro-batches"
        )
    return range(rank * micro_batches // world, (rank + 1) * micro_batches // world)


class Plan:
    """The order of samples for M micro-batches of m samples each step."""

    def __init__(
        self,
        shard_sizes: tuple[int, ...],
        *,
        micro_batches: int,
        micro_batch_size: int,
        seed: int,
        shuffle_window: int = 8,
    ) -> None:
        """Fix an order; `shuffle_window` is the most pieces of shards shuffled together."""
        for name, value in (
            ("micro_batches", micro_batches),
            ("micro_batch_size", micro_batch_size),
            ("shuffle_window", shuffle_window),
            ("the number of shards", len(shard_sizes)),
            *(("a shard's size", size) for size in shard_sizes),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.shard_sizes = tuple(shard_sizes)
        self.num_samples = sum(shard_sizes)
        self.micro_batches = micro_batches
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.shuffle_window = shuffle_window
        self._first_sample = np.concatenate(([0], np.cumsum(np.asarray(shard_sizes, np.int64))))
        self._layout = lru_cache(maxsize=EPOCHS_HELD)(self._make_layout)
        self._groups = lru_cache(maxsize=EPOCHS_HELD + 2 * micro_batches)(self._make_groups)
        self._held: dict[int, list[tuple[tuple[int, int], np.ndarray]]] = {}

    def micro_batch(
        self, step: int, j: int
    ) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """Sample numbers of micro-batch `j` of a step, and the epoch of each."""
        first = step * self.micro_batch_size
        return self.lane(j, first, first + self.micro_batch_size)

    def lane_sample(self, j: int, position: int) -> tuple[int, int]:
        """(sample, epoch) at one place of a lane."""
        sample, epoch = self.lane(j, position, position + 1)
        return int(sample[0]), int(epoch[0])

    def lane(
        self, j: int, start: int, stop: int
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Samples and epochs at places [start, stop) of the endless lane `j`."""
        if not 0 <= j < self.micro_batches or not 0 <= start <= stop:
            raise ValueError(f"lane {j}, places {start} to {stop}: outside the plan")
        sample = np.empty(stop - start, np.int64)
        epoch = np.empty(stop - start, np.int64)
        place = start
        while place < stop:
            e = self.epoch_of(j, place)
            begin, end = self._stretch(e, j)
            for group, (a, b) in enumerate(self._groups(e, j)[1]):
                lo, hi = max(place, begin + a), min(stop, begin + b)
                if lo < hi:
                    order = self._order(e, j, group)
                    sample[lo - start : hi - start] = order[lo - begin - a : hi - begin - a]
            reached = min(stop, end)
            epoch[place - start : reached - start] = e
            place = reached
        return sample, epoch

    def epoch_of(self, j: int, position: int) -> int:
        """The epoch a place of lane `j` belongs to.

        Lane j has passed floor((e N + j) / M) places when epoch e begins. These numbers differ by
        at most one between lanes, and by Hermite's identity their sum over j is e N exactly, so
        epochs of any size are shared out with nothing left over.
        """
        return ((position + 1) * self.micro_batches - 1 - j) // self.num_samples

    def pieces(self, epoch: int, j: int) -> tuple[Piece, ...]:
        """What lane `j` reads in an epoch, in order."""
        shards, edges, rotation, lane_starts = self._layout(epoch)
        pieces = []
        first, last = int(lane_starts[j]) + rotation, int(lane_starts[j + 1]) + rotation
        for low, high, turn in (
            (first, min(last, self.num_samples), 0),
            (max(first, self.num_samples), last, self.num_samples),
        ):
            place, end = low - turn, high - turn
            k = int(np.searchsorted(edges, place, side="right")) - 1
            while place < end:
                upto = min(end, int(edges[k + 1]))
                offset = int(edges[k])
                pieces.append(Piece(shard=int(shards[k]), start=place - offset, stop=upto - offset))
                place, k = upto, k + 1
        return tuple(pieces)

    def _stretch(self, epoch: int, j: int) -> tuple[int, int]:
        """The places of lane `j` that belong to an epoch."""
        n, m = self.num_samples, self.micro_batches
        return (epoch * n + j) // m, ((epoch + 1) * n + j) // m

    def _make_layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
        """An epoch's shards in order, where each begins, the opening, where each lane begins."""
        shards = keyed.permutation(len(self.shard_sizes), "shard order", self.seed, epoch)
        edges = np.concatenate(([0], np.cumsum(np.asarray(self.shard_sizes, np.int64)[shards])))
        rotation = int(keyed.hash64("epoch opening", self.seed, epoch)) % self.num_samples
        m, lane = self.micro_batches, np.arange(self.micro_batches)
        passed, total = epoch * self.num_samples, (epoch + 1) * self.num_samples
        lengths = (total + lane) // m - (passed + lane) // m  # as _stretch says, for all lanes
        return shards, edges, rotation, np.concatenate(([0], np.cumsum(lengths)))

    def _make_groups(
        self, epoch: int, j: int
    ) -> tuple[tuple[tuple[Piece, ...], ...], tuple[tuple[int, int], ...]]:
        """A lane's pieces in groups to shuffle, as equal as can be, and each group's places."""
        pieces = self.pieces(epoch, j)
        count = -(-len(pieces) // self.shuffle_window)
        groups, places, place = [], [], 0
        for g in range(count):
            group = pieces[g * len(pieces) // count : (g + 1) * len(pieces) // count]
            length = sum(piece.stop - piece.start for piece in group)
            groups.append(group)
            places.append((place, place + length))
            place += length
        return tuple(groups), tuple(places)

    def _order(self, epoch: int, j: int, group: int) -> np.ndarray:
        """Sample numbers of one group in their shuffled order; the last few are kept."""
        held = self._held.get(j, [])
        for key, order in held:
            if key == (epoch, group):
                return order
        samples = np.concatenate(
            [
                np.arange(piece.start, piece.stop) + self._first_sample[piece.shard]
                for piece in self._groups(epoch, j)[0][group]
            ]
        )
        order = samples[keyed.permutation(len(samples), "window", self.seed, epoch, j, group)]
        self._held[j] = [*held, ((epoch, group), order)][-GROUPS_HELD:]
        return order
