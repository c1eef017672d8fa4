"""What the ranks of a head tell each other in a step, in order and in bytes."""

from dataclasses import dataclass
from typing import Literal

from sharded_fc.capacity.shape import HeadShape
from sharded_fc.tile import MEASURES

Kind = Literal["all_gather", "reduce_scatter", "all_reduce"]
AGREED_INTEGERS = 6  # `arguments.agree`: a count, two extras, a complaint of three
_WIDE = 8  # bytes of an int64 or a float64


@dataclass(frozen=True, kw_only=True)
class Collective:
    """One exchange. `given_bytes` is the tensor that each rank passes in."""

    name: str
    kind: Kind
    given_bytes: int

    def moved_bytes(self, world_size: int) -> float:
        """Bytes that a rank sends, and as many that it receives, by the usual ring algorithms."""
        others = world_size - 1
        if self.kind == "all_gather":
            return float(self.given_bytes * others)
        share = self.given_bytes * others / world_size
        return 2 * share if self.kind == "all_reduce" else share


def head_traffic(shape: HeadShape) -> list[Collective]:
    """The collectives of one step, forward and backward."""
    item = shape.working.itemsize
    integers = 2 + shape.weighted + 2 * shape.ranged  # label, length, weight, range
    columns = shape.width + integers * _WIDE // item
    near = (shape.mined_each + shape.sub_centres) * shape.batch * _WIDE
    mined = [Collective(name="near classes", kind="all_gather", given_bytes=near)]
    return [
        Collective(name="counts", kind="all_gather", given_bytes=AGREED_INTEGERS * _WIDE),
        Collective(
            name="embeddings", kind="all_gather", given_bytes=shape.own_batch * columns * item
        ),
        *(mined if shape.mined_each else ()),
        Collective(
            name="target cosines",
            kind="all_gather",
            given_bytes=(1 + shape.class_margins) * shape.batch * _WIDE,
        ),
        Collective(name="sums", kind="all_gather", given_bytes=MEASURES * shape.batch * _WIDE),
        Collective(
            name="embedding gradients",
            kind="reduce_scatter",
            given_bytes=shape.world_size * shape.own_batch * shape.width * item,
        ),
    ]
