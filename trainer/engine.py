"""DeepSpeed around the backbone: forward, one backward a step, and a step that bad gradients skip.

The only file that imports deepspeed. The head is not in here: its rows never enter DeepSpeed, which
would average different identities' rows over ranks. Accumulation is 1 and no boundary calls are
made; `trainer.step` sums what it wants differentiated and calls `backward` once a step.

DeepSpeed averages gradients over ranks (in float32, also under bf16), clips them on ZeRO 1-3 and
runs torch's own optimizer, so nothing is compiled on a machine without a toolchain.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from trainer.engine_state import BackboneState, StateAccess
from trainer.forwards import Recomputed, channels_last, compile_forward
from trainer.topology import Topology

PERSISTENT_NUMEL = 100_000  # DeepSpeed's default: ZeRO 3 leaves smaller parameters whole
LARGEST_BUCKET_NUMEL = 50_000_000  # 200 MB; DeepSpeed's default reserves 2 GB for any network
BUCKET_ALIGNMENT = 1024  # DeepSpeed asks for a multiple of 2


class EngineStep(NamedTuple):
    """What became of one optimizer step of the backbone."""

    gradient_norm: Float[Tensor, ""]
    """Of the averaged gradient before clipping; zero where it is not finite."""
    applied: bool
    """False where the gradient was not finite on some rank: nothing changed on any."""


class Engine:
    """A backbone that DeepSpeed trains.

    Every rank builds it with the same arguments and an initialised process group, and calls its
    methods in the same order; rank 0's parameters are what all begin with. All parameters decay,
    BatchNorm's, PReLU's and biases too, as in arcface_torch, whose recipes most public models used.

    Args:
        backbone: moved to `topology.device` and trained in place.
        optimizer: torch's SGD or AdamW. `momentum` is SGD's, `betas` are AdamW's.
        momentum: of SGD.
        betas: of AdamW.
        weight_decay: coupled in SGD, decoupled in AdamW, as in torch.
        zero_stage: what is cut over ranks: nothing, optimizer state, and gradients, and weights.
        precision: bf16 is autocast; parameters, BatchNorm, gradients and sums over ranks stay
            float32.
        clip_norm: largest norm of the averaged gradient; None clips nothing.
        topology: this process among its ranks.
        recompute: replay each forward in backward, so that activations of one micro-batch are held.
        compiled: have torch compile the backbone's forward; not on ZeRO 3.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        optimizer: Literal["sgd", "adamw"],
        weight_decay: float,
        zero_stage: Literal[0, 1, 2, 3],
        topology: Topology,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        precision: Literal["fp32", "bf16"] = "fp32",
        clip_norm: float | None = None,
        recompute: bool = False,
        compiled: bool = False,
    ) -> None:
        if compiled:
            compile_forward(backbone)
        self.module = backbone.to(topology.device)
        self.topology = topology
        self.zero_stage = zero_stage
        self.optimizer_name = optimizer
        self.clip_norm = clip_norm
        parameters = [p for p in backbone.parameters() if p.requires_grad]
        # The learning rate is an argument of `step`; 0 until then.
        if optimizer == "sgd":
            self._optimizer: torch.optim.Optimizer = torch.optim.SGD(
                parameters, lr=0.0, momentum=momentum, weight_decay=weight_decay
            )
            state_keys, scalar_keys = (("momentum_buffer",) if momentum else ()), ()
        else:
            self._optimizer = torch.optim.AdamW(
                parameters, lr=0.0, betas=betas, weight_decay=weight_decay
            )
            state_keys, scalar_keys = ("exp_avg", "exp_avg_sq"), ("step",)
        deepspeed = _import_deepspeed(topology.device)
        model = Recomputed(backbone) if recompute else backbone
        bucket = min(sum(p.numel() for p in parameters), LARGEST_BUCKET_NUMEL)
        # DeepSpeed reads its device's number from there, on ZeRO 3 in every forward.
        index = topology.device.index
        os.environ["LOCAL_RANK"] = str(topology.local_rank if index is None else index)
        self._engine, self._zero, *_ = deepspeed.initialize(
            model=model,
            optimizer=self._optimizer,
            config=_deepspeed_config(
                world_size=topology.world_size,
                zero_stage=zero_stage,
                precision=precision,
                clip_norm=clip_norm,
                bucket_numel=-(-bucket // BUCKET_ALIGNMENT) * BUCKET_ALIGNMENT,
            ),
        )
        self._access = StateAccess(
            module=backbone,
            zero_stage=zero_stage,
            zero=self._zero,
            optimizer=self._optimizer,
            state_keys=state_keys,
            scalar_keys=scalar_keys,
            gathered=lambda p, writer: deepspeed.zero.GatheredParameters([p], modifier_rank=writer),
        )
        self._access.create()

    @property
    def equal_forwards(self) -> bool:
        """Whether all ranks must make the same number of forwards, in training and evaluation."""
        return self.zero_stage == 3  # each forward gathers weights from all ranks

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """The training forward; its embedding is float32 and waits for `backward`."""
        return self._engine(channels_last(image)).float()

    @torch.no_grad()
    def evaluate(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch embedding"]:
        """The forward with running statistics and without gradient; leaves no trace."""
        self.module.eval()
        try:
            return self._engine(channels_last(image)).float()
        finally:
            self.module.train()

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Differentiate all forwards of the step at once; gradients are averaged over ranks.

        Once a step: uneven numbers of backwards hang ZeRO 2 and 3, and on ZeRO 3 a second one
        overwrites the gradients of the first (both measured with deepspeed 0.19.8).
        """
        self._engine.backward(loss)

    def step(self, learning_rate: float, *, allowed: Tensor | None = None) -> EngineStep:
        """Move the parameters, or on no rank at all if any rank's gradient is not finite.

        `allowed` is a further condition, a 0-dim bool that is the same on every rank. The gradients
        are gone afterwards either way. Waits for the device: whether to go on is a host's decision.
        Collectives: one all_reduce of two numbers, then DeepSpeed's.
        """
        gradient_norm, finite = self._agree_on_gradient()
        if allowed is not None:
            finite = finite & allowed
        if not finite:
            self._discard_gradients()
            return EngineStep(gradient_norm, applied=False)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if self.zero_stage == 0 and self.clip_norm is not None:
            clip_grads_with_norm_(self.module.parameters(), self.clip_norm, gradient_norm)
        self._engine.step()
        return EngineStep(gradient_norm, applied=self._engine.was_step_applied())

    def whole_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter by name, on the device, to be read until the next one is asked for.

        Every rank iterates to the end: on ZeRO 3 each is gathered for as long as it is looked at.
        """
        return self._access.whole_parameters()

    def read_state(self, *, keep: bool) -> BackboneState | None:
        """Parameters, buffers and optimizer state, whole and on the host; None where not `keep`.

        Every rank calls it, for the gathering.
        """
        return self._access.read(keep=keep)

    def write_state(self, state: BackboneState) -> None:
        """Take over what `read_state` gave, at any world size and ZeRO stage, and check it.

        Every rank passes the same state.

        Raises:
            RunError: the state is of another network or another optimizer.
        """
        self._access.write(state)

    def _agree_on_gradient(self) -> tuple[Tensor, Tensor]:
        """The norm of the averaged gradient, and whether it is finite on every rank."""
        square = get_total_norm(self._reduced_gradients()).double().square()
        finite = square.isfinite()
        agreed = torch.stack([square.where(finite, 0.0), (~finite).double()])
        if self.topology.world_size > 1:
            dist.all_reduce(agreed, group=self.topology.group)
        # On ZeRO 0 every rank holds the whole gradient, above it only its own part.
        total = agreed[0] / self.topology.world_size if self.zero_stage == 0 else agreed[0]
        return total.sqrt().float(), agreed[1] == 0

    def _reduced_gradients(self) -> list[Tensor]:
        """This rank's part of the averaged gradient; all of it on ZeRO 0."""
        if self.zero_stage == 0:
            return [p.grad for p in self.module.parameters() if p.grad is not None]
        # DeepSpeed has no call for it: safe_get_full_grad would gather every parameter's again.
        parts: dict[int, list[Tensor]] = self._zero.averaged_gradients
        return [gradient for part in parts.values() for gradient in part]

    def _discard_gradients(self) -> None:
        """Forget the averaged gradient, as DeepSpeed does after an overflow."""
        if self.zero_stage == 0:
            self._engine.zero_grad()
            return
        self._zero.zero_grad(set_to_none=True)
        if self.zero_stage == 3:
            self._zero.averaged_gradients = {}
            return
        self._zero.micro_step_id = -1
        for group in self._zero.averaged_gradients:
            self._zero.averaged_gradients[group] = None
            self._zero.all_grad_tensors[group] = None


def _deepspeed_config(
    *,
    world_size: int,
    zero_stage: int,
    precision: Literal["fp32", "bf16"],
    clip_norm: float | None,
    bucket_numel: int,
) -> dict[str, Any]:
    return {
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Torch's own optimizers: DeepSpeed's are compiled on first use.
        "zero_allow_untested_optimizer": True,
        # On ZeRO 0 `Engine.step` clips, by the norm that it has already computed.
        "gradient_clipping": 0.0 if clip_norm is None or zero_stage == 0 else clip_norm,
        "torch_autocast": {
            "enabled": precision == "bf16",
            "dtype": "bfloat16",
            # Names modules whose gradients are summed over ranks in bf16; none are.
            "lower_precision_safe_modules": [],
        },
        "zero_optimization": {
            "stage": zero_stage,
            "reduce_bucket_size": bucket_numel,
            "allgather_bucket_size": bucket_numel,
            "stage3_param_persistence_threshold": PERSISTENT_NUMEL,
        },
    }


def _import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for this device, without its compiled parts and its noise.

    Importing takes seconds and asks for the accelerator, so it waits until an engine is built.
    """
    # Torch 2.13 renamed two collectives that DeepSpeed 0.19.8 calls on ZeRO 1-3 each step.
    warnings.filterwarnings(
        "ignore",
        message=r"`torch\.distributed\.(all_gather_into|reduce_scatter)_tensor` is deprecated",
        category=FutureWarning,
    )
    logging.getLogger("DeepSpeed").addFilter(_worth_telling)
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # else it guesses, and says so
    import deepspeed

    # DeepSpeed puts torch.compile on an optimizer that is not used here; told not to, torch leaves
    # its compiler alone (1.2 s, and a deprecation warning of its own).
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        import deepspeed.runtime.zero.muon.original_muon
    finally:
        if before is None:
            del os.environ["TORCHDYNAMO_DISABLE"]
        else:
            os.environ["TORCHDYNAMO_DISABLE"] = before
    # Would be compiled by the first engine on a CPU (25 s), and fail where there is no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _worth_telling(record: logging.LogRecord) -> bool:
    """Drop two remarks: on torch's optimizers, and on skipped steps, which `EngineStep` tells."""
    message = record.getMessage()
    return "untested optimizer" not in message and "OVERFLOW!" not in message
