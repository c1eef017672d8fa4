"""What a backbone takes on a rank: bytes by what they are for, and seconds of a step."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainer import build
from trainer.backbones import table
from trainer.config import RunConfig
from trainer.planning.constants import BackboneCost, Constants
from trainer.planning.request import Request

PREFETCHED = 3
"""Steps of images: two kept ready by the loader, one in use."""
LARGEST_BUCKET = 200 * 10**6  # bytes: `trainer.engine`
FORWARD_TRAFFIC, BACKWARD_TRAFFIC = 2, 4
"""Times that a saved activation is read or written in each direction, for a roofline."""


@dataclass(frozen=True, kw_only=True)
class BackboneBytes:
    """Weights, gradients, optimizer and ZeRO's copies; what backward needs; images ahead."""

    weights: int
    activations: int
    images: int


@dataclass(frozen=True, kw_only=True)
class BackboneSeconds:
    """A step's share of the backbone. `measured` says whether this very one was."""

    forward: float
    backward: float
    optimizer: float
    gallery: float
    measured: bool

    @property
    def total(self) -> float:
        """All together."""
        names = (field.name for field in fields(self) if field.name != "measured")
        return sum(getattr(self, name) for name in names)


def parameters(request: Request) -> int:
    """Weights of the network at its size; made on the meta device."""
    with torch.device("meta"):
        network = build.network(request.run)
    return sum(parameter.numel() for parameter in network.parameters())


def activation_bytes(request: Request) -> int:
    """What autograd keeps of one image until the backward, counted on a small batch.

    Two batches are compared, so that what is kept once, such as weights in two bytes, drops out.
    """
    run, side = request.run, request.run.data.image_size
    network = build.network(run)
    low = run.engine.precision == "bf16"

    def saved(batch: int) -> int:
        seen: dict[int, int] = {}
        keep: list[Tensor] = []  # or an address could be counted for two tensors

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            keep.append(tensor)
            return tensor

        image = torch.zeros(batch, 3, side, side)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=low),
        ):
            network(image)
        return sum(seen.values())

    return (saved(4) - saved(2)) // 2


def backbone_bytes(request: Request, *, activations: int, gallery: bool) -> BackboneBytes:
    """The memory of a rank; `activations` are bytes an image. Transients of a layer come on top."""
    run, world = request.run, request.ranks
    whole = 4 * parameters(request)
    states = (2 if run.optimizer.name == "adamw" else 1) * whole
    bucket = min(whole, LARGEST_BUCKET)
    weights = {
        0: 2 * whole + states,
        1: 2 * whole + (whole + states) // world + bucket,
        2: whole + (2 * whole + states) // world + bucket,
        3: (3 * whole + states) // world + 2 * bucket,
    }[run.engine.zero_stage]
    held = run.batch.micro_batch_size if run.engine.recompute else request.own_images
    side = run.data.image_size
    return BackboneBytes(
        weights=weights + (whole if gallery else 0),
        activations=held * activations,
        images=PREFETCHED * request.own_images * 3 * side * side * 4,
    )


def backbone_seconds(
    request: Request, constants: Constants, *, activations: int, gallery: bool
) -> BackboneSeconds:
    """Forward, backward and optimizer of a rank's images, as measured or by a roofline."""
    cost = measured_cost(request, constants)
    measured = cost is not None
    if cost is None:
        cost = _estimated_cost(request, constants, activations)
    images = request.own_images
    calls = images // request.run.batch.micro_batch_size
    forward = images * cost.forward_s + calls * cost.forward_call_s
    return BackboneSeconds(
        forward=forward,
        backward=images * cost.backward_s + calls * cost.backward_call_s,
        optimizer=cost.optimizer_s,
        gallery=forward if gallery else 0.0,
        measured=measured,
    )


def network_name(run: RunConfig) -> str:
    """What a measurement of a run's network is kept under: its name, and what is replaced in it."""
    rules = [
        f"{rule.what} {','.join(map(str, rule.stages))} {rule.by}" for rule in run.backbone.replace
    ]
    return "; ".join([run.backbone.name, *rules])


def measured_cost(request: Request, constants: Constants) -> BackboneCost | None:
    """The measurement of just this backbone, size and precision, if there is one."""
    run = request.run
    wanted = (
        network_name(run),
        run.data.image_size,
        request.embedding_dim,
        run.engine.precision,
        run.engine.recompute,
    )
    for cost in constants.backbones:
        found = (
            cost.name,
            cost.image_size,
            cost.embedding_dim,
            cost.precision,
            cost.recompute,
        )
        if found == wanted:
            return cost
    return None


def _estimated_cost(request: Request, constants: Constants, activations: int) -> BackboneCost:
    """The slower of computing and moving activations; an optimizer's step moves its states."""
    run = request.run
    row = table.row(run.backbone.name)
    area = (run.data.image_size / max(row.image_size)) ** 2
    forward = max(
        2 * row.multiply_adds * area / constants.operations_per_s,
        FORWARD_TRAFFIC * activations / constants.traffic_bytes_per_s,
    )
    backward = max(
        4 * row.multiply_adds * area / constants.operations_per_s,
        BACKWARD_TRAFFIC * activations / constants.traffic_bytes_per_s,
    )
    return BackboneCost(
        name=run.backbone.name,
        image_size=run.data.image_size,
        embedding_dim=request.embedding_dim,
        precision=run.engine.precision,
        recompute=run.engine.recompute,
        forward_s=forward,
        backward_s=backward + (forward if run.engine.recompute else 0.0),
        optimizer_s=20 * row.parameters / constants.traffic_bytes_per_s,
    )
