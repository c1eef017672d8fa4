"""The gallery: a moving average of the network in training, whose features fill a pool.

A whole copy in float32 on every rank, outside the engine: in F2C (arXiv:2105.10375) it moves by a
hundredth of the difference a step. It learns nothing and is needed for training alone.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.engine import Engine
from trainer.errors import RunError
from trainer.forwards import channels_last

BatchNormalisation = Literal["own_batch", "ema"]


class Gallery:
    """A network with the moving average of an engine's parameters.

    Args:
        network: like the engine's; only what it is made of counts, not its weights.
        engine: whose parameters it starts from and follows.
        momentum: what stays of the gallery in a step, 0.99 in the published code.
        batch_norm: "own_batch" normalises by the gallery's own micro-batch, as published; "ema" by
            moving averages of the running statistics of the network in training.
        precision: of its forwards, as the engine's; its parameters stay float32.
    """

    def __init__(
        self,
        network: nn.Module,
        engine: Engine,
        *,
        momentum: float,
        batch_norm: BatchNormalisation,
        precision: Literal["fp32", "bf16"],
    ) -> None:
        self.network = network.to(engine.topology.device).requires_grad_(requires_grad=False)
        self.network.train(batch_norm == "own_batch")
        self._engine = engine
        self._momentum = momentum
        self._follows_statistics = batch_norm == "ema"
        self._low_precision = precision == "bf16"
        self._move(1.0)
        for name, buffer in engine.module.named_buffers():
            self.network.get_buffer(name).copy_(buffer)

    def update(self) -> None:
        """Move towards the engine's network, once a step and before its forwards.

        Every rank calls it. Collectives: on ZeRO 3 one gathering of each parameter, one by one.
        """
        self._move(1.0 - self._momentum)

    @torch.no_grad()
    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """The features of a micro-batch, float32 and without gradient."""
        device = image.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._low_precision):
            return self.network(channels_last(image)).float()

    def read_state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, copied to the host; the same on every rank."""
        state = self.network.state_dict()
        return {name: value.to("cpu", copy=True) for name, value in state.items()}

    def write_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `read_state` gave.

        Raises:
            RunError: it is of another network.
        """
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise RunError(f"the checkpoint's gallery is of another backbone: {reason}") from None

    @torch.no_grad()
    def _move(self, weight: float) -> None:
        for name, value in self._engine.whole_parameters():
            self.network.get_parameter(name).lerp_(value, weight)
        if self._follows_statistics:
            for name, buffer in self._engine.module.named_buffers():
                self.network.get_buffer(name).lerp_(buffer, weight)
