"""What operators look at after a call of the pool's head, under the names of `ShardedHead`'s."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sharded_fc.combine import Statistics, summarise
from sharded_fc.pool.loss import PassLoss
from sharded_fc.pool.view import GatheredView
from sharded_fc.tile import HIGHEST


def pool_statistics(
    views: list[GatheredView],
    passes: list[PassLoss],
    *,
    loss: Float[Tensor, ""],
    finite: Bool[Tensor, ""],
    filled: int,
    slots: int,
    scale: float,
) -> Statistics:
    """Figures of the second view's probes in the pool, against row 0; detached, alike on all ranks.

    `loss` is that of both passes. Three more are under `margin`: `in_pool`, the share of probes
    whose identity was in the pool; `outside_loss`, the part of the loss of those that were not;
    `filled`, the share of slots that have somebody.
    """
    view, of_pass = views[1], passes[1]
    table = of_pass.tables[0].clone()
    table[:, HIGHEST].clamp_min_(-scale)  # where the pool has nobody else
    found = summarise(
        table,
        of_pass.batch,
        of_pass.cosine[0],
        of_pass.adjustments[0],
        of_pass.outcomes[0],
        loss=loss,
        scale=scale,
        num_classes=max(2, filled),
        owner=view.layout.owner(device=loss.device),
        used_maximum=torch.zeros((), dtype=torch.bool, device=loss.device),
    )
    inside = torch.cat([each.batch.counted for each in passes])
    return replace(
        found,
        committed=finite,
        bad_rank=_bad_rank(views),
        margin={
            "in_pool": inside.to(loss.dtype).mean(),
            "outside_loss": torch.stack([each.outside_loss for each in passes])
            .sum()
            .to(loss.dtype),
            "filled": loss.new_tensor(filled / slots),
        },
    )


def _bad_rank(views: list[GatheredView]) -> Tensor:
    """The first rank with a probe or a feature that is not finite, else -1."""
    bad = torch.cat([view.finite.logical_not() for view in views])
    owner = torch.cat([view.layout.owner(device=bad.device) for view in views])
    first = torch.where(bad, owner, owner.amax() + 1).amin()
    return torch.where(bad.any(), first, -1)
