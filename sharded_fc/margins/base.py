"""What the head asks of a margin that changes the target cosine only."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Margin(Protocol):
    """A rule for the target logit; all other logits stay scale * cosine."""

    def target(
        self, cosine: Float[Tensor, " batch"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The changed cosine, at most 1, and the slope by which gradients pass through."""
        ...
