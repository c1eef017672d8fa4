"""Centres with neighbours, and what is nearest to embeddings by comparing with every one."""

import torch
from torch import Tensor


def clustered_centres(
    clusters: int, each: int, *, dim: int, cosine: float = 0.5, seed: int = 0
) -> Tensor:
    """[clusters x each, dim], any two of one cluster at about `cosine`, in random order."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(clusters, 1, dim, generator=generator)
    own = torch.randn(clusters, each, dim, generator=generator)
    centre = (cosine**0.5 * middle + (1 - cosine) ** 0.5 * own).flatten(0, 1) / dim**0.5
    return centre[torch.randperm(len(centre), generator=generator)]


def brute_force(embedding: Tensor, centre: Tensor, *, most: int) -> Tensor:
    """The rows nearest to each embedding, nearest first."""
    unit = torch.nn.functional.normalize(centre.double())
    return (torch.nn.functional.normalize(embedding.double()) @ unit.t()).topk(most, 1).indices
