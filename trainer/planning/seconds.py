"""From work and constants to seconds: of a head's step, of exchanges, of a backbone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

from sharded_fc.capacity import Collective, HeadShape, HeadWork, PoolShape
from trainer.planning.constants import Constants, HeadCost
from trainer.planning.devices import moved_bytes


@dataclass(frozen=True, kw_only=True)
class HeadSeconds:
    """A head's step on the slowest rank, by what it is spent on."""

    products: float
    logits: float
    rows: float
    sampling: float
    """Drawing classes, reading and writing rows that do not lie together, catching them up."""
    mining: float
    """Finding near classes, and assigning rows anew."""
    moving: float
    """Rows between the device and where they are kept, as far as it is waited for."""
    exchange: float
    overhead: float

    @property
    def total(self) -> float:
        """All together."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def moved(self) -> float:
        """Those of them in which memory's speed counts, not arithmetic's."""
        return self.rows + self.sampling + self.moving + self.exchange


def head_seconds(
    shape: HeadShape,
    work: HeadWork,
    traffic: Sequence[Collective],
    constants: Constants,
    *,
    beside_s: float = 0.0,
) -> HeadSeconds:
    """A step of a head; `beside_s` are the rest of the training step's, while rows can move too."""
    cost = head_cost(shape, constants)
    products = sum(
        operations / product_rate(constants, _name(shape.compute), kind, shape.width, shape.batch)
        for kind, operations in work.operations.items()
    )
    gathered = work.gathered * cost.gathered_element_s + work.caught * cost.caught_element_s
    return _with_overhead(
        HeadSeconds(
            products=products * cost.product_factor,
            logits=work.logits * cost.logit_s,
            rows=work.elements * cost.element_s,
            sampling=gathered + work.drawn * constants.drawn_s,
            mining=work.compared * constants.compared_s + work.rotated * constants.rotated_s,
            moving=0.0,
            exchange=exchange_seconds(traffic, shape.world_size, constants),
            overhead=0.0,
        ),
        work,
        constants,
        batch=shape.batch,
        beside_s=beside_s,
    )


def pool_seconds(
    shape: PoolShape, work: HeadWork, traffic: Sequence[Collective], constants: Constants
) -> HeadSeconds:
    """A step of a pool."""
    products = sum(
        operations / product_rate(constants, "float32", kind, shape.embedding_dim, shape.view)
        for kind, operations in work.operations.items()
        if operations
    )
    return _with_overhead(
        HeadSeconds(
            products=products,
            logits=work.logits * constants.pool_logit_s,
            rows=0.0,
            sampling=0.0,
            mining=0.0,
            moving=0.0,
            exchange=exchange_seconds(traffic, shape.world_size, constants),
            overhead=0.0,
        ),
        work,
        constants,
        batch=shape.batch,
    )


def _with_overhead(
    head: HeadSeconds,
    work: HeadWork,
    constants: Constants,
    *,
    batch: int,
    beside_s: float = 0.0,
) -> HeadSeconds:
    """Accelerators get their orders and their rows while they work; only the rest is waited for.

    On CPUs both are work of the same cores.
    """
    chunks = work.chunks * constants.chunk_s
    moving = work.moved_bytes / constants.host_bytes_per_s
    if constants.overlapped:
        chunks = max(0.0, chunks - (head.products + head.logits + head.rows))
    overhead = chunks + constants.step_s + batch * constants.sample_s
    if constants.overlapped:
        moving = max(0.0, moving - (head.total + overhead + beside_s))
    return replace(head, moving=moving, overhead=overhead)


def exchange_seconds(traffic: Sequence[Collective], world_size: int, constants: Constants) -> float:
    """Collectives one after the other."""
    if world_size == 1:
        return 0.0
    near = world_size <= constants.machine_ranks
    rate = constants.near_bytes_per_s if near else constants.far_bytes_per_s
    moved = sum(each.moved_bytes(world_size) for each in traffic)
    return len(traffic) * (world_size - 1) * constants.hop_s + moved / rate


def product_rate(constants: Constants, operands: str, kind: str, dim: int, batch: int) -> float:
    """Operations a second, between the shapes that are known, in their logarithms.

    Beyond them, that of the nearest; operands that are not known take float32's rate.
    """
    known = [each for each in constants.products if each.kind == kind]
    chosen = [each for each in known if each.operands == operands]
    chosen = chosen or [each for each in known if each.operands == "float32"]
    at = {(each.dim, each.batch): each.operations_per_s for each in chosen}

    def along(dim: int) -> float:
        points = sorted((batch, rate) for (each, batch), rate in at.items() if each == dim)
        return _between(points, batch)

    dims = sorted({dim for dim, _ in at})
    return _between([(each, along(each)) for each in dims], dim)


def _between(points: Sequence[tuple[int, float]], at: int) -> float:
    """Linear interpolation of logarithms; the nearest point's value outside."""
    if at <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if at <= right:
            share = math.log(at / left) / math.log(right / left)
            return low * (high / low) ** share
    return points[-1][1]


def head_cost(shape: HeadShape, constants: Constants) -> HeadCost:
    """The costs of these dtypes and this optimizer; of the nearest known, by bytes moved, else."""
    wanted = {
        "operands": _name(shape.compute),
        "rows": _name(shape.dtype),
        "state": _name(shape.state_dtype),
        "optimizer": "sgd" if shape.optimizer == "nesterov" else shape.optimizer,
    }

    def unlike(cost: HeadCost) -> int:
        return sum(
            weight * (getattr(cost, field) != wanted[field])
            for weight, field in ((8, "operands"), (4, "rows"), (2, "optimizer"), (1, "state"))
        )

    nearest = min(constants.heads, key=unlike)
    if not unlike(nearest):
        return nearest
    bytes_moved = moved_bytes(wanted["rows"], wanted["state"], wanted["optimizer"])
    ratio = bytes_moved / moved_bytes(nearest.rows, nearest.state, nearest.optimizer)
    return replace(
        nearest,
        element_s=nearest.element_s * ratio,
        gathered_element_s=nearest.gathered_element_s * ratio,
        caught_element_s=nearest.caught_element_s * ratio,
    )


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
