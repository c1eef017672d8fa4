"""The loss of probes whose identity is not in the pool: they are pushed from whoever is nearest.

Each one's loss is the mean of its `nearest` largest cosines, clipped at 0 (arXiv:2105.10375; the
number is that of its public code). Where the pool has fewer identities the missing ones count as 0.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def published_nearest(slots: int) -> int:
    """How many cosines count: 0.0002 of the slots, at least 3 and at most 10 (and at most all)."""
    return min(slots, max(3, min(10, int(slots * 0.0002))))


class Outside:
    """The largest cosines of some of a batch's samples, over all chunks, then over all ranks."""

    def __init__(
        self,
        sample: Int[Tensor, " outside"],
        *,
        nearest: int,
        variants: int,
        batch: int,
        like: Tensor,
    ) -> None:
        self.sample = sample
        self._batch = batch
        shape = variants, nearest, len(sample)
        self._cosine = like.new_full(shape, -torch.inf)
        self._place = torch.zeros(shape, dtype=torch.int64, device=like.device)
        self._whole: Float[Tensor, "variants nearest outside"] = self._cosine
        self._mine: Bool[Tensor, "variants nearest outside"] = self._cosine > 0

    def see(self, variant: int, cosine: Float[Tensor, "slots batch"], *, first: int) -> None:
        """Take in a chunk of this rank's slots, the first of which is number `first` here."""
        if not len(self.sample):
            return
        number = torch.arange(first, first + len(cosine), device=cosine.device)
        found = cosine[:, self.sample]
        joined = torch.cat([self._cosine[variant], found])
        places = torch.cat([self._place[variant], number.unsqueeze(1).expand_as(found)])
        self._cosine[variant], order = joined.topk(len(self._cosine[variant]), dim=0)
        self._place[variant] = places.gather(0, order)

    def table(self) -> Float[Tensor, " numbers"]:
        """What the ranks exchange."""
        return self._cosine.double().flatten()

    def combine(self, gathered: Float[Tensor, "world numbers"], *, rank: int) -> None:
        """Keep the largest of all ranks; of equal ones the lower rank's."""
        world, shape = len(gathered), self._cosine.shape
        every = gathered.view(world, *shape).transpose(0, 1).flatten(1, 2)
        whole, order = every.sort(dim=1, descending=True, stable=True)
        self._whole = whole[:, : shape[1]]
        own = torch.zeros_like(every, dtype=torch.bool)
        own.scatter_(1, order[:, : shape[1]], value=True)
        self._mine = own.unflatten(1, (world, shape[1]))[:, rank]

    def loss(self) -> Float[Tensor, ""]:
        """The mean over samples, summed over variants; 0 of none."""
        return self._whole.clamp_min(0.0).sum() / max(1, self._whole[0].numel())

    def sample_loss(self) -> Float[Tensor, " batch"]:
        """Each sample's own, summed over variants; 0 for those in the pool."""
        loss = self._whole.new_zeros(self._batch)
        loss[self.sample] = self._whole.clamp_min(0.0).mean(1).sum(0)
        return loss

    def add_gradient(
        self,
        gradient: Float[Tensor, "batch dim"],
        row0: Float[Tensor, "own dim"],
        row1: Float[Tensor, "own dim"],
        renewed: Int[Tensor, " renewed"],
        *,
        loss_weight: float,
    ) -> None:
        """Add what this rank's slots contribute to the embeddings' gradient."""
        if not len(self.sample) or not len(row0):
            return
        factor = loss_weight / self._whole[0].numel()
        counts = (self._mine & (self._cosine > 0)).to(gradient.dtype).mul_(factor)
        is_renewed = torch.zeros(len(row0), dtype=torch.bool, device=row0.device)
        is_renewed[renewed.to(row0.device)] = True
        for variant, (places, weights) in enumerate(zip(self._place, counts, strict=True)):
            for place, weight in zip(places, weights, strict=True):
                feature = row0[place]
                if variant:
                    feature = torch.where(is_renewed[place].unsqueeze(1), row1[place], feature)
                gradient.index_add_(0, self.sample, feature * weight.unsqueeze(1))
