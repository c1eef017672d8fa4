"""What a head's calls have in common: the numbers it was made with, its rows, its ranks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.arguments import Unlabelled
from sharded_fc.collectives import Ranks
from sharded_fc.margins import Margin
from sharded_fc.outside import OutsideRows
from sharded_fc.parts import Ratios
from sharded_fc.sampling.mining import Miner
from sharded_fc.sampling.sampler import Sampler
from sharded_fc.single_visit import SingleVisit
from sharded_fc.softmax import ChunkedSoftmax


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What stays the same from call to call.

    `class_margin` is that of this rank's classes; `ratios` count rows within the partition.
    """

    num_classes: int
    embedding_dim: int
    margin: Margin
    scale: float
    unlabelled: Unlabelled
    conflict_cosine: float | None
    ignore_conflicts: bool
    class_margin: Float[Tensor, " own_classes"] | None
    chunk_classes: int | None
    ratios: Ratios
    clip_row_norm: float | None
    seed: int
    device: torch.device
    ranks: Ranks
    softmax: ChunkedSoftmax | SingleVisit
    sampler: Sampler | None
    miner: Miner | None

    @property
    def outside(self) -> OutsideRows | None:
        """The rows, where they are not kept on the device."""
        rows = self.softmax.rows
        return rows if isinstance(rows, OutsideRows) else None

    @property
    def dtype(self) -> torch.dtype:
        """The working dtype."""
        return self.softmax.working_dtype

    @property
    def negative_weight(self) -> float:
        """What multiplies the negatives' terms of a sigmoid loss."""
        return getattr(self.margin, "negative_weight", 1.0)
