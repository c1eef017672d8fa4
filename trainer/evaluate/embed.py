"""Embed the faces of a pair set over all ranks, each face with its mirror image, and score pairs.

Faces are cut into batches of one fixed size, the last one filled up with its last face, and a rank
takes whole batches: a batch holds the same faces at any world size, so scores are bit-equal there.
Every rank does the same number of forwards, as ZeRO 3 needs; what it does beyond its share is
dropped.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional

from data_pipeline.loader import read_batches
from data_pipeline.pairs import PairSet
from trainer.evaluate.verification import Verification, measure

BATCH_SIZE = 64


def rank_share(
    num_samples: int, *, batch_size: int, rank: int, world_size: int
) -> Int[np.ndarray, " padded"]:
    """Places in the list of samples that a rank embeds: as many whole batches as any other rank.

    Ranks take contiguous pieces in rank order; places past the end repeat the last one.
    """
    num_batches = -(-num_samples // batch_size)
    batches_a_rank = -(-num_batches // world_size)
    size = batches_a_rank * batch_size
    return np.minimum(np.arange(rank * size, (rank + 1) * size), num_samples - 1)


@torch.no_grad()
def embed(
    forward: Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch embedding"]],
    read: Callable[[Int[np.ndarray, " places"]], Iterable[Float[Tensor, "batch 3 height width"]]],
    num_samples: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    group: dist.ProcessGroup | None = None,
    batch_size: int = BATCH_SIZE,
    flip: bool = True,
) -> Float[Tensor, "samples embedding"]:
    """Unit embeddings of samples 0..num_samples, in order, the same on every rank.

    `forward` is the network in evaluation mode; `read(places)` yields the images at these places in
    batches of `batch_size`. With `flip` an embedding is normalise(f(x) + f(mirrored x)).
    Collectives: one all_gather of embeddings, where there is more than one rank.
    """
    places = rank_share(num_samples, batch_size=batch_size, rank=rank, world_size=world_size)
    pieces = []
    for image in read(places):
        embedding = forward(image).float()
        if flip:
            embedding = embedding + forward(image.flip(-1)).float()
        pieces.append(functional.normalize(embedding))
    own = torch.cat(pieces)
    assert len(own) == len(places), "`read` yields one image a place"
    if world_size > 1:
        gathered = [torch.empty_like(own) for _ in range(world_size)]
        dist.all_gather(gathered, own, group=group)
        own = torch.cat(gathered)
    return own[:num_samples].cpu()


def pair_scores(
    embedding: Float[Tensor, "samples embedding"],
    first: Int[np.ndarray, " pairs"],
    second: Int[np.ndarray, " pairs"],
) -> Float64[np.ndarray, " pairs"]:
    """Cosine of each pair, in float64; `first` and `second` are rows of `embedding`."""
    rows = embedding.double().numpy()
    return np.einsum("pd,pd->p", rows[first], rows[second])


def verify(
    forward: Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch embedding"]],
    pairs: PairSet,
    *,
    image_size: int,
    rank: int = 0,
    world_size: int = 1,
    group: dist.ProcessGroup | None = None,
    device: str = "cpu",
    threads: int = 1,
    batch_size: int = BATCH_SIZE,
    flip: bool = True,
) -> Verification:
    """Measure a network on a pair set; every rank gets the same result.

    Each face is read once, however many pairs it is in. Collectives: those of `embed`.
    """
    samples, places = np.unique(np.stack([pairs.first, pairs.second]), return_inverse=True)
    read = partial(
        read_batches,
        pairs.dataset,
        batch_size=batch_size,
        image_size=image_size,
        device=device,
        threads=threads,
    )
    embedding = embed(
        forward,
        lambda chosen: (batch.image for batch in read(samples[chosen])),
        len(samples),
        rank=rank,
        world_size=world_size,
        group=group,
        batch_size=batch_size,
        flip=flip,
    )
    first, second = places.reshape(2, -1)
    return measure(pair_scores(embedding, first, second), pairs.same, pairs.fold)
