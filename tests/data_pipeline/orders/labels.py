"""Datasets as labels alone, and the statistics of draws."""

import numpy as np

from data_pipeline import keyed
from data_pipeline.orders.identities import Identities


def labels_of(images: list[int]) -> np.ndarray:
    """A label for each sample, shuffled as packing does; identity i has images[i] of them."""
    label = np.repeat(np.arange(len(images)), images)
    return label[keyed.permutation(len(label), "test")].astype(np.int32)


def identities_of(images: list[int], shard_sizes: tuple[int, ...] | None = None) -> Identities:
    """Which samples show which identity, in a dataset of these labels."""
    label = labels_of(images)
    return Identities.from_labels(
        label, num_identities=len(images), shard_sizes=shard_sizes or (len(label),)
    )


def chi_square(counts: np.ndarray) -> float:
    """Standard deviations by which the chi-square of equally likely cells exceeds its mean."""
    expected = counts.sum() / counts.size
    assert expected >= 5, "too few draws a cell for the statistic's distribution"
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))
