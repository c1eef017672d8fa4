"""Reading the centres of some of one rank's classes, in full precision and without the bias."""

from jaxtyping import Float
from torch import Tensor

from sharded_fc.storage import Rows, working_dtype


def read_centres(
    rows: Rows, start: int, stop: int, *, sub_centres: int, embedding_dim: int
) -> Float[Tensor, "classes sub_centres dim"]:
    """Classes [start, stop), counted within this partition; rows as long as they were trained."""
    rows.ready(start * sub_centres, stop * sub_centres)
    centres = rows.centre[start * sub_centres : stop * sub_centres, :embedding_dim]
    whole = centres.to(working_dtype(centres.dtype))
    return whole.unflatten(0, (stop - start, sub_centres))
