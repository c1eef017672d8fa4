"""Each sample's cosine with its own class, at full precision."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.combine import Batch
from sharded_fc.parts import Part

# A centre or embedding shorter than this has no direction: its cosines are 0 and it gets no
# gradient. The same bound as torch.nn.functional.normalize.
SHORTEST = 1e-12


@dataclass(frozen=True)
class Targets:
    """Cosines (float64) with the own class and the row that is nearest, where it lives `here`.

    Elsewhere the cosine is 0 and the row, counted within the partition, means nothing.
    """

    cosine: Float[Tensor, " batch"]
    row: Int[Tensor, " batch"]
    here: Bool[Tensor, " batch"]


def find_targets(
    batch: Batch,
    part: Part,
    *,
    sub_centres: int,
    normalised: bool,
    step: Int[Tensor, ""],
) -> Targets:
    """Each sample's nearest row of its own class, where that lives among the rows of `part`.

    Row by row in the working dtype, whatever products are computed in.
    """
    rows = part.rows
    first = torch.arange(sub_centres, device=batch.label.device)
    row = batch.label.unsqueeze(1) * sub_centres + first - rows.start
    here = batch.labelled & (row[:, 0] >= 0) & (row[:, 0] < len(rows))
    rows.ready(0, len(rows))
    row = row.clamp(0, len(rows) - 1)
    index = rows.places(row.flatten())
    catch_up = part.catch_up
    own = rows.centre[index] if catch_up is None else catch_up.centres(index, step=step)
    own = own.to(batch.embedding.dtype).unflatten(0, row.shape)
    product = (own * batch.embedding.unsqueeze(1)).sum(2)
    if normalised:
        norm = torch.linalg.vector_norm(own, dim=2)
        product = product * norm.reciprocal().masked_fill_(norm <= SHORTEST, 0.0)
    cosine, nearest = product.max(1, keepdim=True)
    cosine = torch.where(here, cosine.squeeze(1).double(), 0.0)
    return Targets(cosine, row.gather(1, nearest).squeeze(1), here)
