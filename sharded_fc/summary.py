"""Figures of the rows themselves, over all ranks: what operators look at now and then."""

import math
from dataclasses import dataclass

import torch

from sharded_fc.collectives import Ranks
from sharded_fc.partition import chunks
from sharded_fc.present_rows import ReadableRows

_ROWS_AT_A_TIME = 16384


@dataclass(frozen=True)
class Summary:
    """Over all ranks' rows; lengths are of centres.

    `never_seen` is the share of rows that were the nearest of their class to no sample yet:
    with one centre a class, the identities of which no image was seen.
    """

    never_seen: float
    shortest: float
    mean_length: float
    longest: float


def summarise_rows(rows: ReadableRows, ranks: Ranks, *, embedding_dim: int) -> Summary:
    """Read every row once, a few at a time.

    Collectives: one all_gather of five numbers.
    """
    device = rows.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    shortest = torch.full_like(total, math.inf)
    longest = torch.zeros_like(total)
    for start, stop in chunks(len(rows), _ROWS_AT_A_TIME):
        centre = rows.view(start, stop).centre[:, :embedding_dim]
        length = torch.linalg.vector_norm(centre, dim=1, dtype=torch.float64)
        total += length.sum()
        shortest = torch.minimum(shortest, length.amin())
        longest = torch.maximum(longest, length.amax())
    own = torch.stack(
        [
            (rows.wins == 0).sum().double(),
            torch.full_like(total, len(rows)),
            total,
            shortest,
            longest,
        ]
    )
    unseen, count, summed, low, high = ranks.all_gather(own).t()
    number = float(count.sum())
    return Summary(
        never_seen=float(unseen.sum()) / number,
        shortest=float(low.amin()),
        mean_length=float(summed.sum()) / number,
        longest=float(high.amax()),
    )
