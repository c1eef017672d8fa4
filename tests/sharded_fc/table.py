"""A table of centres, and the part of it that each rank has.

Imports of sharded_fc stay inside the functions, so that the ranks' shape checks see them.
"""

import torch
from torch import Tensor


def draw_centres(num_rows: int, dim: int, *, seed: int = 0) -> Tensor:
    """Centres of many lengths, in float64."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(num_rows, dim, generator=generator, dtype=torch.float64)
    return centre * torch.rand(num_rows, 1, generator=generator, dtype=torch.float64).add(0.1)


def own_rows(centre: Tensor, *, sub_centres: int = 1, dtype: torch.dtype = torch.float64):
    """(this rank's rows of the table, the ranks)."""
    from sharded_fc.collectives import Ranks
    from sharded_fc.partition import bounds
    from sharded_fc.storage import Rows

    ranks = Ranks.of(None)
    start, stop = bounds(len(centre) // sub_centres, ranks.size)[ranks.rank]
    rows = Rows(
        start * sub_centres,
        stop * sub_centres,
        embedding_dim=centre.shape[1],
        state_widths={},
        seed=0,
        device=torch.device("cpu"),
        dtype=dtype,
        state_dtype=torch.float32,
    )
    rows.fill([(0, {"centre": centre})])
    return rows, ranks
