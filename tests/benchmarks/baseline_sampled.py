"""The sampled head of public code, for time and memory: sampled logits, a dense optimizer.

It takes the steps of insightface's PartialFC_V2 (arcface_torch, arXiv:2203.15565) in one process:
random keys for all classes, topk and a sort choose the rows; the gradient of all centres is dense,
and torch.optim.SGD moves every row.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tests.benchmarks.baseline import PublicHead


class SampledPublicHead(PublicHead):
    """`PublicHead` with logits of a share `rate` of the classes, the samples' own among them."""

    def __init__(self, centre: Float[Tensor, "classes dim"], *, rate: float, **options) -> None:
        super().__init__(centre, **options)
        self.count = round(rate * len(centre))

    def sample(self, label: Int[Tensor, " batch"]) -> Int[Tensor, " sampled"]:
        """The classes of a step, ascending."""
        positive = torch.unique(label, sorted=True)
        if len(positive) >= self.count:
            return positive
        key = torch.rand(len(self.centre))
        key[positive] = 2.0
        return torch.topk(key, k=self.count)[1].sort()[0]

    def _loss(self, embedding: Tensor, label: Tensor) -> Tensor:
        index = self.sample(label)
        label = torch.searchsorted(index, label)
        chosen = self.centre[index]
        low = self.operands != torch.float32
        with torch.autocast(embedding.device.type, dtype=self.operands, enabled=low):
            cosine = F.linear(F.normalize(embedding), F.normalize(chosen))
        return self._cross_entropy(cosine, label)
