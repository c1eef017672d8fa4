"""Drawing verification pairs from labels, by key.

Pairs are distinct, half of them same, balanced over persons and folds; as in LFW, a person appears
in one fold only. The result depends on the labels and the seed alone.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np
from jaxtyping import Bool, Int64

from data_pipeline import keyed
from data_pipeline.errors import DataError
from data_pipeline.pairs_file import FOLDS, even_folds


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of samples: numbers in a dataset, same person or not, fold."""

    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    same: Bool[np.ndarray, " pairs"]
    fold: Int64[np.ndarray, " pairs"]


def draw_pairs(
    labels: Int64[np.ndarray, " samples"], *, num_pairs: int, folds: int = FOLDS, seed: int = 0
) -> Pairs:
    """`num_pairs` pairs of samples, fold after fold, the same ones of a fold first."""
    if folds < 1 or num_pairs < 2 * folds:
        raise DataError(f"{num_pairs} pairs are too few for both kinds in each of {folds} folds")
    by_label = np.split(
        np.argsort(labels, kind="stable"),
        np.cumsum(np.unique(labels, return_counts=True)[1])[:-1],
    )
    shuffled = [by_label[i] for i in keyed.permutation(len(by_label), "folds", seed)]
    num_same = np.bincount(even_folds(num_pairs // 2, folds))
    num_different = np.bincount(even_folds(num_pairs - num_pairs // 2, folds))
    pairs: list[tuple[int, int]] = []
    for fold in range(folds):
        persons = shuffled[fold::folds]
        pairs += _same(persons, int(num_same[fold]), seed=seed, fold=fold)
        pairs += _different(persons, int(num_different[fold]), seed=seed, fold=fold)
    first, second = np.array(pairs, np.int64).T
    return Pairs(
        first=first,
        second=second,
        same=labels[first] == labels[second],
        fold=np.repeat(np.arange(folds), num_same + num_different),
    )


def _same(persons: list[np.ndarray], count: int, *, seed: int, fold: int) -> list[tuple[int, int]]:
    """Distinct pairs of images of one person, as many from each person as can be."""
    possible = np.array([len(images) * (len(images) - 1) // 2 for images in persons], np.int64)
    if possible.sum() < count:
        raise DataError(
            f"fold {fold} needs {count} same pairs, but its {len(persons)} persons have images for "
            f"{possible.sum()}; draw fewer pairs, use fewer folds, or add images"
        )
    pairs = []
    for p, quota in enumerate(_spread(count, possible)):
        for t in _choose(int(quota), int(possible[p]), "same", seed, fold, p):
            i, j = _unordered(t)
            pairs.append((int(persons[p][i]), int(persons[p][j])))
    return pairs


def _different(
    persons: list[np.ndarray], count: int, *, seed: int, fold: int
) -> list[tuple[int, int]]:
    """Distinct pairs of images of two persons, as many from each two persons as can be."""
    couples = len(persons) * (len(persons) - 1) // 2
    sizes = np.array([len(images) for images in persons], np.int64)
    possible = int(sizes.sum() ** 2 - (sizes**2).sum()) // 2
    if possible < count:
        raise DataError(
            f"fold {fold} needs {count} different pairs, but its {len(persons)} persons have "
            f"images for {possible}; draw fewer pairs, use fewer folds, or add persons"
        )
    chosen = [_unordered(t) for t in _choose(min(count, couples), couples, "couples", seed, fold)]
    room = np.array([sizes[a] * sizes[b] for a, b in chosen], np.int64)
    pairs = []
    for (a, b), quota in zip(chosen, _spread(count, room), strict=True):
        for t in _choose(int(quota), int(sizes[a] * sizes[b]), "different", seed, fold, a, b):
            i, j = divmod(t, int(sizes[b]))
            pairs.append((int(persons[a][i]), int(persons[b][j])))
    return pairs


def _spread(count: int, room: np.ndarray) -> np.ndarray:
    """Shares of `count`, none above its room, otherwise equal; the first get the remainder."""
    shares = np.zeros_like(room)
    while count:
        open_ = np.flatnonzero(shares < room)
        if count < len(open_):
            shares[open_[:count]] += 1
            break
        more = np.minimum(room[open_] - shares[open_], count // len(open_))
        shares[open_] += more
        count -= int(more.sum())
    return shares


def _choose(count: int, total: int, *keys: keyed.Key) -> list[int]:
    """Distinct numbers below `total`, in keyed order."""
    if count == 0:
        return []
    if total <= 4 * count:
        return keyed.permutation(total, *keys)[:count].tolist()
    tries = 2 * count
    while True:  # each round doubles the tries; below a quarter of `total` they seldom collide
        drawn = keyed.hash64(*keys, np.arange(tries)) % np.uint64(total)
        distinct = list(dict.fromkeys(drawn.tolist()))
        if len(distinct) >= count:
            return distinct[:count]
        tries *= 2


def _unordered(t: int) -> tuple[int, int]:
    """Pair number t of (0, 1), (0, 2), (1, 2), (0, 3), ..."""
    j = (1 + isqrt(1 + 8 * t)) // 2
    return t - j * (j - 1) // 2, j
