"""The work of a head's step on one rank: operations, logits, rows moved, chunks. No seconds."""

from dataclasses import dataclass
from typing import Literal

from sharded_fc.capacity.shape import HeadShape

Product = Literal["products", "embedding gradient", "row gradients"]
"""Rows x embeddings; gradients x rows; gradients x embeddings: `operands`' three."""


@dataclass(frozen=True, kw_only=True)
class HeadWork:
    """What one rank does in one step, both visits together.

    `operations` count a multiplication and an addition as two. `logits` are rows x batch, each of
    which is summed once and differentiated once. `elements` are the numbers in the rows visited,
    `gathered` those of them that lie scattered in the table. `drawn` counts evaluations of the
    keyed permutation. `moved_bytes` go to the device and back where rows are kept outside it.
    """

    operations: dict[Product, float]
    logits: float
    rows: float
    elements: float
    gathered: float
    drawn: int
    chunks: int
    moved_bytes: float = 0.0


def head_work(shape: HeadShape) -> HeadWork:
    """The mean work of rank 0."""
    rows = sum(shape.parts)
    kept = min(shape.kept_chunks * shape.chunk, rows)
    each = 2.0 * shape.batch * shape.width
    elements = rows * shape.width
    sampling = shape.sampling
    drawn = 0
    if sampling is not None:
        draw = sampling.draw(shape.num_classes, seed=0)
        own_blocks = -(-shape.own_classes // draw.block)
        drawn = min(draw.drawn_blocks, own_blocks)
    return HeadWork(
        operations={
            "products": each * (2 * rows - kept),
            "embedding gradient": each * rows,
            "row gradients": each * rows,
        },
        logits=rows * shape.batch,
        rows=rows,
        elements=elements,
        gathered=0.0 if sampling is None else elements,
        drawn=drawn,
        chunks=shape.num_chunks,
        moved_bytes=2.0 * rows * shape.record_bytes if shape.outside else 0.0,
    )
