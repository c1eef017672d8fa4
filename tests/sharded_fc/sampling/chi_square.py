"""Whether counts could come from given probabilities, without a statistics library."""

import math
from statistics import NormalDist

import torch
from torch import Tensor


def deviations(counts: Tensor, expected: Tensor, *, freedom: int) -> float:
    """How many standard deviations chi-square lies above what is expected, about normal.

    Wilson and Hilferty (1931): its cube root is nearly normal. `freedom` are the degrees of it.
    """
    chi = float(((counts - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    return ((chi / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def chance(deviation: float) -> float:
    """The probability of as many deviations or more."""
    return 1 - NormalDist().cdf(deviation)


def pair_counts(taken: Tensor) -> Tensor:
    """[draws, classes] of 0 and 1 -> how often each pair of classes was taken, i < j."""
    together = taken.double().t() @ taken.double()
    i, j = torch.triu_indices(len(together), len(together), 1)
    return together[i, j]
