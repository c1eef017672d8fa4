"""What the head is told of a sample besides its embedding and label; it follows from the label."""

from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Float32, Int64
from torch import Tensor


class Told(TypedDict):
    """Keyword arguments of the head."""

    sample_weight: Float32[Tensor, " batch"] | None
    class_range: Int64[Tensor, "batch 2"] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleRules:
    """Tables by label, on the device of the labels."""

    weight: Float32[Tensor, " classes"] | None = None
    """Of the loss of each class's samples; without it all weigh 1."""
    edges: Int64[Tensor, " edges"] | None = None
    """Classes [edges[i], edges[i + 1]) compete with each other alone; without it all do."""

    def of(self, label: Int64[Tensor, " batch"]) -> Told:
        """What holds for samples of these labels."""
        ranges = None
        if self.edges is not None:
            part = torch.searchsorted(self.edges, label, right=True) - 1
            ranges = torch.stack((self.edges[part], self.edges[part + 1]), dim=1)
        return {
            "sample_weight": None if self.weight is None else self.weight[label],
            "class_range": ranges,
        }
