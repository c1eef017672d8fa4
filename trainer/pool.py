"""Training against a pool of features: the pool's head from the run file, and the two views."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sharded_fc import ShardedHead
from sharded_fc.pool import PoolHead, PoolView
from trainer.config_head import HeadConfig
from trainer.errors import RunError
from trainer.margins import make_margin
from trainer.topology import Topology

Head = ShardedHead | PoolHead


def make_pool_head(
    config: HeadConfig,
    *,
    num_identities: int,
    embedding_dim: int,
    seed: int,
    topology: Topology,
) -> PoolHead:
    """The head that `head.pool` describes.

    Raises:
        RunError: its numbers do not go together.
    """
    assert config.pool is not None
    try:
        return PoolHead(
            num_identities,
            embedding_dim,
            slots=config.pool.slots,
            margin=make_margin(config.margin),
            scale=config.scale,
            unfilled=config.pool.unfilled,
            group=topology.group,
            seed=seed,
            device=topology.device,
        )
    except ValueError as error:
        raise RunError(f"head.pool: {error}") from error


def two_views(
    probe: Float[Tensor, "batch dim"],
    gallery: Float[Tensor, "batch dim"],
    label: Int64[Tensor, " batch"],
    *,
    sizes: Sequence[int],
) -> tuple[PoolView, PoolView]:
    """The first halves of micro-batches of these sizes, and the second ones.

    That is how a `PairOrder` puts its pairs: see `data_pipeline.orders.pairs`.
    """
    halves = []
    for which in (0, 1):
        columns = (
            torch.cat([part.chunk(2)[which] for part in column.split(list(sizes))])
            for column in (probe, gallery, label)
        )
        halves.append(PoolView(*columns))
    return halves[0], halves[1]
