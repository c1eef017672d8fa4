"""The heads that a run could have, side by side: what each takes on a rank, and whether it fits.

full     the run file's head, comparing with everybody
sampled  the same, comparing with a share of all
host     sampled, with centres in the host's memory: only a step's rows come to the device
mapped   likewise, with centres in a file
pool     no centres: features of the identities seen last, by a moving average of the network
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sharded_fc.capacity import (
    Collective,
    HeadBytes,
    HeadShape,
    head_bytes,
    head_traffic,
    head_work,
    outside_bytes,
    pool_bytes,
    pool_traffic,
    pool_work,
)
from trainer.planning.backbone import (
    BackboneBytes,
    BackboneSeconds,
    activation_bytes,
    backbone_bytes,
    backbone_seconds,
    parameters,
)
from trainer.planning.constants import Constants, Machine
from trainer.planning.request import Request, head_shape, pool_shape
from trainer.planning.seconds import (
    HeadSeconds,
    exchange_seconds,
    head_seconds,
    pool_seconds,
)

Kind = Literal["full", "sampled", "host", "mapped", "pool"]
ROOM = 0.92
"""Share of a memory that a plan fills; allocators leave gaps, and layers have transients."""
DAY_S, HOUR_S = 86400.0, 3600.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to have a head, on the rank that has most to do. Seconds are those of a step."""

    kind: Kind
    name: str
    head_bytes: HeadBytes
    backbone_bytes: BackboneBytes
    process_bytes: int
    host_bytes: int
    disk_bytes: int
    """The most: a table, and a journal of what all of its blocks held."""
    memory_bytes: int
    """Of the device; 0.92 of it can be used."""
    host_memory_bytes: int
    head_seconds: HeadSeconds
    backbone_seconds: BackboneSeconds
    gradient_exchange_s: float
    waiting_s: float
    """For images."""
    images_a_step: int
    steps_an_epoch: float
    epochs: float
    ranks: int

    @property
    def device_bytes(self) -> int:
        """All that is in the memory where a rank computes."""
        backbone = sum(asdict(self.backbone_bytes).values())
        return self.head_bytes.total + backbone + self.process_bytes

    @property
    def fits(self) -> bool:
        """Whether the memories are large enough."""
        return (
            self.device_bytes <= ROOM * self.memory_bytes
            and self.host_bytes <= ROOM * self.host_memory_bytes
        )

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        own = self.head_seconds.total + self.backbone_seconds.total
        return own + self.gradient_exchange_s + self.waiting_s

    @property
    def days(self) -> float:
        """The whole run."""
        return self.step_s * self.steps_an_epoch * self.epochs / DAY_S

    @property
    def device_hours(self) -> float:
        """The whole run, times ranks."""
        return self.days * DAY_S / HOUR_S * self.ranks

    def to_json(self) -> dict[str, Any]:
        """All numbers, with the sums."""
        sums = ("device_bytes", "fits", "step_s", "days", "device_hours")
        return asdict(self) | {name: getattr(self, name) for name in sums}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The candidates for one request on one machine."""

    request: Request
    machine: Machine
    constants: Constants
    candidates: tuple[Candidate, ...]


def make_plan(request: Request, machine: Machine) -> Plan:
    """Every head that makes sense there."""
    constants = machine.setup(request.ranks, request.run.engine.threads)
    common = _Common(request, constants)
    on_cpu, rate = machine.on_cpu, f"{request.sampling.rate:g}"
    full = head_shape(request, on_cpu=on_cpu, sampling=None)
    sampled = replace(full, sampling=request.sampling)
    candidates = [
        _trained(common, full, kind="full", name="full"),
        _trained(common, sampled, kind="sampled", name=f"sampled {rate}"),
    ]
    if (
        not on_cpu and not request.sampling.hard_share
    ):  # where the device's memory is the host's there is nothing to move
        outside = replace(sampled, outside=True)
        candidates.append(_trained(common, outside, kind="host", name=f"host {rate}"))
    if not request.sampling.hard_share:  # whose rows cannot be read ahead
        candidates.append(_mapped(common, replace(sampled, outside=True), name=f"mapped {rate}"))
    candidates.append(_pool(common, on_cpu=on_cpu))
    return Plan(request=request, machine=machine, constants=constants, candidates=tuple(candidates))


class _Common:
    """What all candidates of a request share."""

    def __init__(self, request: Request, constants: Constants) -> None:
        self.request = request
        self.constants = constants
        self._activations = activation_bytes(request)
        self._exchange = _gradient_exchange(request, constants)

    def backbone(self, *, gallery: bool) -> BackboneSeconds:
        """Its seconds, with a gallery's beside them or not."""
        return backbone_seconds(
            self.request, self.constants, activations=self._activations, gallery=gallery
        )

    def candidate(
        self,
        *,
        kind: Kind,
        name: str,
        head: HeadBytes,
        seconds: HeadSeconds,
        host: int = 0,
        disk: int = 0,
    ) -> Candidate:
        """A head with everything around it."""
        request, constants = self.request, self.constants
        gallery = kind == "pool"
        backbone = self.backbone(gallery=gallery)
        busy = seconds.total + backbone.total + self._exchange
        return Candidate(
            kind=kind,
            name=name,
            head_bytes=head,
            backbone_bytes=backbone_bytes(request, activations=self._activations, gallery=gallery),
            process_bytes=constants.process_bytes,
            host_bytes=host,
            disk_bytes=disk,
            memory_bytes=constants.memory_bytes,
            host_memory_bytes=constants.host_bytes,
            head_seconds=seconds,
            backbone_seconds=backbone,
            gradient_exchange_s=self._exchange,
            waiting_s=_waiting(request, constants, busy=busy),
            images_a_step=request.run.batch.size,
            steps_an_epoch=request.steps_an_epoch,
            epochs=request.epochs,
            ranks=request.ranks,
        )


def _trained(common: _Common, shape: HeadShape, *, kind: Kind, name: str) -> Candidate:
    seconds = head_seconds(
        shape,
        head_work(shape),
        head_traffic(shape),
        common.constants,
        beside_s=common.backbone(gallery=False).total,
    )
    return common.candidate(
        kind=kind, name=name, head=head_bytes(shape), seconds=seconds, host=outside_bytes(shape)
    )


def _mapped(common: _Common, shape: HeadShape, *, name: str) -> Candidate:
    """Rows in a file: through the host's memory as far as that holds them, else from the disk."""
    constants, table = common.constants, outside_bytes(shape)
    rate = constants.mapped_bytes_per_s
    if table > ROOM * constants.host_bytes:
        rate = min(rate, constants.disk_bytes_per_s)
    seconds = head_seconds(
        shape,
        head_work(shape),
        head_traffic(shape),
        replace(constants, host_bytes_per_s=rate),
        beside_s=common.backbone(gallery=False).total,
    )
    return common.candidate(
        kind="mapped", name=name, head=head_bytes(shape), seconds=seconds, disk=2 * table
    )


def _pool(common: _Common, *, on_cpu: bool) -> Candidate:
    request = common.request
    shape = pool_shape(request, on_cpu=on_cpu)
    name = f"pool {request.slots / request.identities:.2g}"
    seconds = pool_seconds(shape, pool_work(shape), pool_traffic(shape), common.constants)
    head = pool_bytes(shape)
    if on_cpu:
        return common.candidate(kind="pool", name=name, head=head, seconds=seconds)
    # The directory is the host's.
    on_device = replace(head, counts=0)
    return common.candidate(
        kind="pool", name=name, head=on_device, seconds=seconds, host=head.counts
    )


def _gradient_exchange(request: Request, constants: Constants) -> float:
    """The backbone's gradients over all ranks; less what its measurement already contains."""
    whole = Collective(name="gradients", kind="all_reduce", given_bytes=4 * parameters(request))
    gather = Collective(
        name="weights",
        kind="all_gather",
        given_bytes=4 * parameters(request) // request.ranks,
    )
    traffic: Sequence[Collective] = [whole]
    if request.run.engine.zero_stage == 3:  # weights are fetched for forward and backward
        traffic = [whole, gather, gather]
    seconds = exchange_seconds(traffic, request.ranks, constants)
    if constants.backbones:
        seconds -= exchange_seconds(traffic, constants.ranks, constants)
    return max(0.0, seconds)


def _waiting(request: Request, constants: Constants, *, busy: float) -> float:
    """For images: what reading them takes longer; on CPUs also the cores that it takes."""
    if constants.loader_images_per_s is None:
        return 0.0
    images = request.own_images
    late = max(0.0, images / constants.loader_images_per_s - busy)
    if constants.overlapped:
        return late
    cores = constants.machine_ranks / constants.ranks
    idle = max(0.0, cores - constants.threads) * busy
    return max(late, (images * constants.loader_core_s - idle) / cores)
