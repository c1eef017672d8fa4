"""NormFace (arXiv:1704.06369): a softmax of cosines with no margin at all."""

from dataclasses import dataclass

import torch

from sharded_fc.margins.base import Adjustment, Margin, Samples, Scalars


@dataclass(frozen=True)
class NormFace(Margin):
    """The cosine as it is; scales of 20 to 64 are usual."""

    def adjust(self, samples: Samples, state: Scalars) -> Adjustment:
        """The slope is 1."""
        return Adjustment(value=samples.cosine, slope=torch.ones_like(samples.cosine))
