"""The same numbers for a head without trained centres: a pool of moving-average features."""

from dataclasses import dataclass

from sharded_fc.capacity.memory import HeadBytes
from sharded_fc.capacity.traffic import AGREED_INTEGERS, Collective
from sharded_fc.capacity.work import HeadWork
from sharded_fc.partition import bounds, chunks, default_chunk
from sharded_fc.pool.directory import ROWS
from sharded_fc.pool.loss import VARIANTS
from sharded_fc.pool.outside import published_nearest
from sharded_fc.tile import MEASURES

_ITEM, _WIDE = 4, 8  # bytes of features, and of integers and sums
_COLUMNS = 3  # of the directory: label, last use, next row
_LOOK_UP = 4  # integers a slot beside it: label and slot in one order, slot and use in another
_TILES, _SEEN = 3, 4  # a chunk's; and what finding the nearest takes where all are outside
OUTSIDE_SHARE = 0.5
"""Of a view's samples: pairs are in the pool, and of so many people most others are not."""


@dataclass(frozen=True, kw_only=True)
class PoolShape:
    """A `PoolHead` in float32; `batch` counts all ranks' samples, half of them in each view."""

    slots: int
    embedding_dim: int
    batch: int
    world_size: int
    on_cpu: bool

    def __post_init__(self) -> None:
        bounds(self.slots, self.world_size)

    @property
    def own_slots(self) -> int:
        """Slots of rank 0, which has the most."""
        return -(-self.slots // self.world_size)

    @property
    def view(self) -> int:
        """Samples of a view, over all ranks."""
        return -(-self.batch // 2)

    @property
    def chunk(self) -> int:
        """Slots visited at once."""
        most = default_chunk(
            embedding_dim=self.embedding_dim,
            batch=self.view,
            item_bytes=_ITEM,
            on_cpu=self.on_cpu,
        )
        return min(most, self.own_slots)


def pool_bytes(shape: PoolShape) -> HeadBytes:
    """The memory of rank 0; `counts` are the directory and its look-ups, on every rank's host.

    The nearest slots of samples outside are found in copies of their share of a tile: cosines
    twice, and places in eight bytes.
    """
    features = ROWS * shape.own_slots * shape.embedding_dim * _ITEM
    tiles = _TILES + _SEEN * OUTSIDE_SHARE
    chunk = round(tiles * shape.chunk * shape.view * _ITEM)
    embeddings = 2 * shape.view * 2 * shape.embedding_dim * _ITEM  # views x (probes, features)
    tables = VARIANTS * MEASURES * shape.view * _WIDE * (shape.world_size + 1)
    return HeadBytes(
        centres=features,
        states=0,
        counts=(_COLUMNS + _LOOK_UP) * shape.slots * _WIDE,
        lengths=shape.chunk * _ITEM,
        buffers=chunk,
        kept=0,
        exchange=2 * embeddings + tables,
    )


def pool_work(shape: PoolShape) -> HeadWork:
    """A full pool's step: two passes, each against both rows, products made twice."""
    passes = 2
    rows = float(passes * shape.own_slots)
    each = 2.0 * shape.view * shape.embedding_dim
    return HeadWork(
        operations={
            "products": 2 * each * rows,
            "embedding gradient": each * rows,
            "row gradients": 0.0,
        },
        logits=VARIANTS * rows * shape.view,
        rows=rows,
        elements=rows * shape.embedding_dim,
        gathered=0.0,
        drawn=0,
        chunks=passes * len(chunks(shape.own_slots, shape.chunk)),
    )


def pool_traffic(shape: PoolShape) -> list[Collective]:
    """The collectives of one step; every sample is taken as outside the pool, the most there is."""
    own_view = -(-shape.view // shape.world_size)
    columns = 2 * shape.embedding_dim + 3 * _WIDE // _ITEM  # and label and two lengths
    nearest = VARIANTS * published_nearest(shape.slots)
    sums = (VARIANTS * MEASURES + nearest) * shape.view * _WIDE
    of_view = [
        Collective(name="counts", kind="all_gather", given_bytes=AGREED_INTEGERS * _WIDE),
        Collective(name="embeddings", kind="all_gather", given_bytes=own_view * columns * _ITEM),
    ]
    of_pass = [
        Collective(
            name="target cosines", kind="all_gather", given_bytes=VARIANTS * shape.view * _WIDE
        ),
        Collective(name="sums", kind="all_gather", given_bytes=sums),
    ]
    gradient = Collective(
        name="embedding gradients",
        kind="reduce_scatter",
        given_bytes=shape.world_size * own_view * shape.embedding_dim * _ITEM,
    )
    return [*(2 * of_view), *(2 * of_pass), gradient, gradient]
