"""One rank's slots of the pool: two features each, of unit length. Nothing here is trained."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.initial import initial_rows
from sharded_fc.partition import chunks
from sharded_fc.pool.directory import ROWS
from sharded_fc.reshard import gaps, overlap
from sharded_fc.storage import Block

_ROWS_AT_A_TIME = 4096  # drawn and normalised in memory of their own

FEATURES = tuple(f"row{row}" for row in range(ROWS))
"""The features' names in a block: [n, dim] each."""


class PoolRows:
    """The features of slots [start, stop) of a pool of `slots`.

    With `random` they begin as directions drawn by hash from (seed, slot), the same at any world
    size, else as zeros.
    """

    def __init__(
        self,
        start: int,
        stop: int,
        *,
        slots: int,
        embedding_dim: int,
        random: bool,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.start = start
        self.stop = stop
        shape = ROWS, stop - start, embedding_dim
        self.feature = torch.zeros(shape, dtype=dtype, device=device)
        for row in range(ROWS if random else 0):
            for first, last in chunks(stop - start, _ROWS_AT_A_TIME):
                number = row * slots + start
                drawn = initial_rows(
                    number + first,
                    number + last,
                    embedding_dim=embedding_dim,
                    seed=seed,
                    device=device,
                )
                unit = torch.nn.functional.normalize(drawn.to(dtype), dim=1)
                self.feature[row, first:last] = unit

    def __len__(self) -> int:
        return self.stop - self.start

    def own(self, slot: Int[Tensor, " n"]) -> Int[Tensor, " own"]:
        """Which of some slots are here: places in `slot`, in order."""
        return torch.nonzero((slot >= self.start) & (slot < self.stop)).squeeze(1)

    def write(
        self, row: Int[Tensor, " n"], slot: Int[Tensor, " n"], feature: Float[Tensor, "n dim"]
    ) -> None:
        """Write features to rows of slots, all of them here and none twice."""
        self.feature[row, slot - self.start] = feature.to(self.feature.dtype)

    @contextmanager
    def holding(
        self, row: Int[Tensor, " n"], slot: Int[Tensor, " n"], feature: Float[Tensor, "n dim"]
    ) -> Iterator[None]:
        """`write`, undone to the bit when the block ends."""
        place = row, slot - self.start
        before = self.feature[place].clone()
        self.write(row, slot, feature)
        try:
            yield
        finally:
            self.feature[place] = before

    def blocks(self, block: int) -> Iterator[Block]:
        """Copies of the features on the host, `block` slots at a time, with the first slot."""
        for first in range(0, len(self), block):
            some = self.feature[:, first : first + block].to("cpu", copy=True)
            yield self.start + first, dict(zip(FEATURES, some, strict=True))

    def fill(self, blocks: Iterable[Block]) -> dict[str, Tensor]:
        """Take from blocks of any partitioning what belongs here; refuse to leave a gap.

        Returns the columns [own, width] of the blocks that are no features. After an error the
        features are a mixture, and must be loaded again.
        """
        rest: dict[str, Tensor] = {}
        covered = []
        for first, block in blocks:
            self._check(first, block)
            place = overlap(
                block_start=first,
                block_rows=len(block[FEATURES[0]]),
                start=self.start,
                stop=self.stop,
            )
            if place is None:
                continue
            theirs, ours = place
            for row, name in enumerate(FEATURES):
                self.feature[row, ours] = block[name][theirs].to(
                    self.feature.device, self.feature.dtype
                )
            for name in block.keys() - set(FEATURES):
                column = block[name]
                if name not in rest:
                    rest[name] = column.new_zeros(len(self), *column.shape[1:])
                rest[name][ours] = column[theirs]
            covered.append((ours.start, ours.stop))
        missing = gaps(covered, num_rows=len(self))
        if missing:
            pieces = ", ".join(f"[{self.start + a}, {self.start + b})" for a, b in missing)
            raise ValueError(f"no block holds slots {pieces}; pass every block of the checkpoint")
        return rest

    def _check(self, first: int, block: dict[str, Tensor]) -> None:
        dim = self.feature.shape[2]
        for name in FEATURES:
            if name not in block:
                raise ValueError(
                    f"the block at slot {first} has no {name}; load a checkpoint of a pool"
                )
            if block[name].shape != (len(block[FEATURES[0]]), dim):
                raise ValueError(
                    f"the block at slot {first} has {name} of shape {tuple(block[name].shape)}; "
                    f"load features {dim} wide"
                )
