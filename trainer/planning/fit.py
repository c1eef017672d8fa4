"""Prices that explain measured seconds: least squares of relative errors, none below its least."""

from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np


def fit_prices(
    amounts: Sequence[Sequence[float]], seconds: Sequence[float], *, least: Sequence[float]
) -> list[float]:
    """What each kind of work costs, where row i of `amounts` took `seconds[i]`.

    A short and a long step count alike: the squares are those of errors over seconds. With so few
    kinds of work every set of prices that stay at their least is tried.
    """
    taken = np.maximum(np.asarray(seconds, dtype=np.float64), 1e-9)
    floor = np.asarray(least, dtype=np.float64)
    matrix = np.asarray(amounts, dtype=np.float64) / taken[:, None]
    wanted = 1.0 - matrix @ floor
    # Columns of one size: a price is far from another's.
    size = np.maximum(np.linalg.norm(matrix, axis=0), np.finfo(np.float64).tiny)
    kinds = range(len(floor))
    best, least_error = np.zeros(len(floor)), float(np.sum(wanted**2))
    for chosen in chain.from_iterable(combinations(kinds, n) for n in range(1, len(floor) + 1)):
        columns = list(chosen)
        found, *_ = np.linalg.lstsq(matrix[:, columns] / size[columns], wanted, rcond=None)
        error = float(np.sum((matrix[:, columns] / size[columns] @ found - wanted) ** 2))
        if (found >= 0).all() and error < least_error:
            best, least_error = np.zeros(len(floor)), error
            best[columns] = found / size[columns]
    return (floor + best).tolist()
