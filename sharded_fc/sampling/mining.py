"""The classes nearest to a batch's samples, the same on every rank."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.collectives import Ranks
from sharded_fc.sampling.near_index import KEY_BITS, NOTHING, NearIndex

_MOST = 64  # for one sample
DRAWN_SHARE = 32
"""Of the drawn rows, which hardly move, every so manieth is assigned anew."""


def lists_to_search(rate: float, *, num_lists: int) -> int:
    """Those that hold a fifth more classes than a step draws, eight at least.

    A comparison of codes takes a thirtieth of what a sample's cosine and its gradients take, so
    that mining stays a small share of a step whatever the size and rate.
    """
    return max(8, round(1.2 * rate * num_lists))


class Miner:
    """Finds hard negatives: about `count` classes a step, as many for each sample, at least one."""

    def __init__(self, index: NearIndex, ranks: Ranks, *, count: int, sub_centres: int) -> None:
        self._index = index
        self._ranks = ranks
        self._count = count
        self._sub_centres = sub_centres

    def classes(
        self,
        embedding: Float[Tensor, "batch dim"],
        label: Int[Tensor, " batch"],
        counted: Bool[Tensor, " batch"],
        class_range: Int[Tensor, "2 batch"] | None = None,
    ) -> Int[Tensor, " mined"]:
        """Distinct classes near the counted samples of the global batch, ascending.

        Samples' own classes are not looked for, but another's may be among them. Each finds classes
        of its `class_range` [start, stop) alone.
        Collectives: one all_gather of a few integers a sample.
        """
        most = min(_MOST, max(1, self._count // max(len(label), 1)))
        # A sample's own class is likely to be the nearest: room for its rows.
        row_range = None if class_range is None else class_range.t() * self._sub_centres
        most_rows = most + self._sub_centres
        found = self._index.near(embedding, most=most_rows, row_range=row_range)
        keys = self._ranks.all_gather(found).transpose(0, 1).flatten(1)
        own = (keys & ((1 << KEY_BITS) - 1)) // self._sub_centres == label.unsqueeze(1)
        keys = keys.masked_fill(own | ~counted.unsqueeze(1), NOTHING)
        keys = keys.sort(dim=1).values[:, :most].flatten()
        row = keys[keys != NOTHING] & ((1 << KEY_BITS) - 1)
        return (row // self._sub_centres).unique()

    def touch(
        self, certain: Int[Tensor, " n"], drawn: Int[Tensor, " m"], *, step: Int[Tensor, ""]
    ) -> None:
        """Assign rows anew that a step moved, counted within the partition.

        Those that were certain at once, of the drawn ones some, in turn.
        """
        turn = (drawn + step) % DRAWN_SHARE == 0
        self._index.touch(torch.cat([certain, drawn[turn]]))

    def renew(self) -> None:
        """Begin anew with rows that were replaced, or handed out to be saved."""
        self._index.renew()
