"""What a convolution by regions is given and gives back, the same for every way to compute it."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Filters(NamedTuple):
    """Filters as sums of tables: sample b's of region t is sum_j coefficient[b, t, j] table[j].

    `table` is [1 or m, terms, out, in of a group, 1 or taps]: shared by the regions, or each
    region's own. `coefficient` is [batch, m, terms, 1 or taps]. What has one number for all taps
    means it for each.
    """

    coefficient: Float[Tensor, "batch m terms _"]
    table: Float[Tensor, "_ terms out in_of_group _"]


class Gradients(NamedTuple):
    """d loss / d each input; None where nobody asked.

    With `guide_weight`, the image's has the part that came through a guide made by that weight.
    """

    image: Tensor | None
    guide: Tensor | None
    coefficient: Tensor | None
    table: Tensor | None
    guide_weight: Tensor | None = None
