"""Who is who in a list of pairs that names no persons.

Images of one person are those that "same" pairs connect. An image in several pairs is one image,
unless that would make a "different" pair show one person: then the list contradicts itself, and
each pair gets images of its own, as if they had nothing to do with the other pairs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from data_pipeline.pairs_file import FOLDS, even_folds


@dataclass(frozen=True, kw_only=True)
class Implied:
    """The images to pack, and the pairs in terms of them."""

    image: Int64[np.ndarray, " faces"]
    """Which image of the list each face is."""
    identity: Int64[np.ndarray, " faces"]
    """From 0, in the order in which the list first shows them."""
    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    """Faces, by their place in `image`."""


def implied_identities(
    first: Int64[np.ndarray, " pairs"],
    second: Int64[np.ndarray, " pairs"],
    same: Bool[np.ndarray, " pairs"],
) -> Implied:
    """The persons that pairs of numbered images imply."""
    shared = _connected(first, second, same)
    if not (shared.identity[shared.first] == shared.identity[shared.second])[~same].any():
        return shared
    stride = int(max(first.max(), second.max())) + 1
    own = np.arange(len(same)) * stride
    apart = _connected(first + own, second + own, same)
    return Implied(
        image=apart.image % stride,
        identity=apart.identity,
        first=apart.first,
        second=apart.second,
    )


def folds_in_order(same: Bool[np.ndarray, " pairs"]) -> Int64[np.ndarray, " pairs"]:
    """Ten folds of same and different pairs apart, each in the list's order and as equal as can be.

    The published folds of every list that gives its pairs fold by fold, or same pairs first.
    """
    fold = np.empty(len(same), np.int64)
    for kind in (same, ~same):
        count = int(kind.sum())
        fold[kind] = even_folds(count, min(FOLDS, max(1, count)))
    return fold


def _connected(
    first: Int64[np.ndarray, " pairs"],
    second: Int64[np.ndarray, " pairs"],
    same: Bool[np.ndarray, " pairs"],
) -> Implied:
    ends = np.stack((first, second), axis=1).ravel()
    image, face = np.unique(ends, return_inverse=True)
    parent = list(range(len(image)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for a, b in face.reshape(-1, 2)[same].tolist():
        parent[root(a)] = root(b)
    roots = np.array([root(node) for node in range(len(image))], np.int64)
    _, seen, identity = np.unique(roots[face], return_index=True, return_inverse=True)
    in_order = np.argsort(np.argsort(seen))
    identity_of_face = np.empty(len(image), np.int64)
    identity_of_face[face] = in_order[identity]
    return Implied(image=image, identity=identity_of_face, first=face[0::2], second=face[1::2])
