"""The update of a chunk of centres, made while the chunk is in cache."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class SGD:
    """Momentum and weight decay exactly as torch.optim.SGD (no dampening, no Nesterov)."""

    momentum: float
    weight_decay: float

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum}; use a value in [0, 1)")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay {self.weight_decay}; use 0 or more")

    @property
    def state_names(self) -> tuple[str, ...]:
        """The tensors, shaped like the centres, that are kept between steps."""
        return ("momentum",) if self.momentum else ()

    def update(
        self,
        centre: Float[Tensor, "classes dim"],
        state: dict[str, Tensor],
        gradient: Float[Tensor, "classes dim"],
        *,
        learning_rate: float,
        skip: Float[Tensor, ""],
    ) -> None:
        """Step in place, in one pass; nothing is written where `skip`, on the device, is 1."""
        # torch.optim.SGD(fused=True) calls the same kernel; going through the optimizer would need
        # a Parameter with a gradient for every chunk.
        torch._fused_sgd_(  # pyright: ignore[reportPrivateImportUsage]
            [centre],
            [gradient],
            list(state.values()),
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
            grad_scale=None,
            found_inf=skip,
        )
