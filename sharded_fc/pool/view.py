"""One view of the global batch: gathered from all ranks, and its gradient taken back to them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.arguments import View, agree
from sharded_fc.collectives import Layout, Ranks, gather_batch, scatter_gradient
from sharded_fc.pool.loss import Probes
from sharded_fc.targets import SHORTEST


class PoolView(NamedTuple):
    """Some of a rank's samples: what the trained network and its moving average make of them."""

    probe: Float[Tensor, "_ _"]
    gallery: Float[Tensor, "_ _"]
    label: Int[Tensor, " _"]


@dataclass(frozen=True, kw_only=True)
class GatheredView:
    """The samples of all ranks, in rank order and at unit length, and what is this rank's own.

    `norm` is the probes' length before; `finite` says whether probe and feature are numbers.
    """

    layout: Layout
    rank: int
    probe: Float[Tensor, "batch dim"]
    gallery: Float[Tensor, "batch dim"]
    label: Int[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    finite: Bool[Tensor, " batch"]
    own_probe: Float[Tensor, "own dim"]
    own_inverse: Float[Tensor, "own 1"]

    def at(self, slot: Int[Tensor, " batch"]) -> Probes:
        """The probes of a pass, with their identities' slots; these are on the host."""
        device = self.probe.device
        return Probes(
            unit=self.probe,
            norm=self.norm,
            slot=slot.to(device),
            outside=torch.nonzero(slot < 0).squeeze(1).to(device),
        )

    def own(self, of_batch: Float[Tensor, " batch"]) -> Float[Tensor, " own"]:
        """This rank's part of something of the global batch."""
        return of_batch.split(list(self.layout.counts))[self.rank]

    def own_gradient(
        self, ranks: Ranks, gradient: Float[Tensor, "batch dim"], *, factor: Float[Tensor, ""]
    ) -> Float[Tensor, "own dim"]:
        """The gradient of this rank's probes as they were passed, from all ranks' shares.

        Collectives: one reduce_scatter.
        """
        own = scatter_gradient(ranks, self.layout, gradient)
        # The part along the probe drops out, the rest is divided by its length.
        own = own - self.own_probe * (own * self.own_probe).sum(1, keepdim=True)
        return own.mul_(self.own_inverse.to(own.dtype)).mul_(factor.to(own.dtype))


def gather_view(
    ranks: Ranks,
    view: PoolView,
    *,
    num_classes: int,
    embedding_dim: int,
    device: torch.device,
    dtype: torch.dtype,
) -> GatheredView:
    """Every rank's samples of a view, on every rank.

    Collectives: one all_gather of integers, one of embeddings, labels and lengths.

    Raises:
        ValueError: on every rank, where one passed a label or a shape that cannot be.
    """
    agreement = agree(
        ranks,
        [View(view.probe, view.label), View(view.gallery, view.label)],
        num_classes=num_classes,
        embedding_dim=embedding_dim,
        unlabelled="refuse",
        device=device,
    )
    layout = Layout(tuple(count // 2 for count in agreement.layout.counts))
    probe, inverse, norm = _normalise(view.probe.to(device, dtype))
    gallery, _, gallery_norm = _normalise(view.gallery.to(device, dtype))
    label = view.label.to(device, torch.int64)
    numbers = torch.stack([label, norm.view(torch.int64), gallery_norm.view(torch.int64)], 1)
    joined, numbers = gather_batch(ranks, layout, torch.cat([probe, gallery], 1), numbers)
    lengths = numbers[:, 1:].contiguous().view(torch.float64)
    probes, features = joined.split(embedding_dim, dim=1)
    return GatheredView(
        layout=layout,
        rank=ranks.rank,
        probe=probes.contiguous(),
        gallery=features,
        label=numbers[:, 0],
        norm=lengths[:, 0],
        finite=lengths.isfinite().all(1),
        own_probe=probe,
        own_inverse=inverse,
    )


def _normalise(
    raw: Float[Tensor, "own dim"],
) -> tuple[Float[Tensor, "own dim"], Float[Tensor, "own 1"], Float[Tensor, " own"]]:
    """(direction, 1 / length, length); in float64, so that no length over- or underflows."""
    norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True, dtype=torch.float64)
    inverse = norm.reciprocal().masked_fill_(norm <= SHORTEST, 0.0)
    return (raw.double() * inverse).to(raw.dtype), inverse, norm.squeeze(1)
