"""Reading and comparing centres outside training: full precision, directions only."""

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.present_rows import ReadableRows
from sharded_fc.storage import working_dtype


def read_centres(
    rows: ReadableRows, start: int, stop: int, *, sub_centres: int, embedding_dim: int
) -> Float[Tensor, "classes sub_centres dim"]:
    """Classes [start, stop), counted within this partition: as trained, without the bias."""
    centres = rows.view(start * sub_centres, stop * sub_centres).centre[:, :embedding_dim]
    whole = centres.to(working_dtype(centres.dtype))
    return whole.unflatten(0, (stop - start, sub_centres))


def cosines(
    a: Float[Tensor, "classes sub_centres dim"], b: Float[Tensor, "others other_sub_centres dim"]
) -> Float[Tensor, "classes others"]:
    """The highest cosine between the unit rows of each class of `a` and of each of `b`."""
    with torch.autocast(a.device.type, enabled=False):
        product = a.flatten(0, 1) @ b.flatten(0, 1).t()
    return product.view(len(a), a.shape[1], len(b), b.shape[1]).amax((1, 3))
