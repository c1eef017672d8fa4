"""One class's rows out of several classes' rows. Pure tensors."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import normalize


def merge(
    rows: dict[str, Shaped[Tensor, "sources sub_centres _"]],
    weight: Float[Tensor, " sources"],
    *,
    embedding_dim: int,
) -> dict[str, Shaped[Tensor, "sub_centres _"]]:
    """The centre and optimizer rows of classes that become one; computed in float64.

    A centre gets the direction of the weighted sum of unit centres, and their weighted mean
    length; it is 0 where they cancel to the bit. Counts (integers) are added. The centre's columns
    past `embedding_dim`, and every other tensor, get the weighted mean. Sub-centres are merged with
    those of the first source that they are most like.
    """
    share = (weight / weight.sum()).view(-1, 1, 1)
    centre = rows["centre"][:, :, :embedding_dim].double()
    length = torch.linalg.vector_norm(centre, dim=2, keepdim=True)
    unit = normalize(centre, dim=2)
    order = torch.stack([_match(unit[0], other) for other in unit]).unsqueeze(2)
    direction = (share * unit.gather(1, order.expand_as(unit))).sum(0)
    merged = normalize(direction, dim=1) * (share * length.gather(1, order)).sum(0)
    result = {}
    for name, tensor in rows.items():
        matched = tensor.gather(1, order.expand_as(tensor))
        mean = (share * matched).sum(0).to(tensor.dtype)
        result[name] = mean if tensor.is_floating_point() else matched.sum(0)
    result["centre"][:, :embedding_dim] = merged
    return result


def _match(
    own: Float[Tensor, "sub_centres dim"], other: Float[Tensor, "sub_centres dim"]
) -> Int[Tensor, " sub_centres"]:
    """For each own sub-centre one of the other's, the most alike pair first."""
    cosine = own @ other.t()
    order = torch.empty(len(own), dtype=torch.int64)
    for _ in range(len(own)):
        row, column = divmod(int(cosine.argmax()), len(own))
        order[row] = column
        cosine[row] = -torch.inf
        cosine[:, column] = -torch.inf
    return order
