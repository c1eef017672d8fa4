"""The work of a head's step on one rank: operations, logits, rows moved, chunks. No seconds."""

from dataclasses import dataclass
from typing import Literal

from sharded_fc.capacity.shape import HeadShape
from sharded_fc.sampling.mining import DRAWN_SHARE, lists_to_search

Product = Literal["products", "embedding gradient", "row gradients"]
"""Rows x embeddings; gradients x rows; gradients x embeddings: `operands`' three."""


@dataclass(frozen=True, kw_only=True)
class HeadWork:
    """What one rank does in one step, both visits together.

    `caught` are the numbers of rows brought to the present before they are read. Mining compares
    `compared` codes and adds `rotated` numbers, to rotate embeddings and rows.

    `operations` count a multiplication and an addition as two. `logits` are rows x batch, each of
    which is summed once and differentiated once. `elements` are the numbers in the rows visited,
    `gathered` those of them in rows whose neighbour before is not visited. `drawn` counts
    evaluations of the keyed permutation. `moved_bytes` go to the device and back where rows are
    kept outside it.
    """

    operations: dict[Product, float]
    logits: float
    rows: float
    elements: float
    gathered: float
    drawn: int
    chunks: int
    caught: float = 0.0
    compared: float = 0.0
    rotated: float = 0.0
    moved_bytes: float = 0.0


def head_work(shape: HeadShape) -> HeadWork:
    """The mean work of rank 0."""
    rows = sum(shape.parts)
    kept = min(shape.kept_chunks * shape.chunk, rows)
    each = 2.0 * shape.batch * shape.width
    elements = rows * shape.width
    sampling = shape.sampling
    drawn, gathered = 0, 0.0
    if sampling is not None:
        draw = sampling.draw(shape.num_classes, seed=0)
        own_blocks = -(-shape.own_classes // draw.block)
        drawn = min(draw.drawn_blocks, own_blocks)
        alone = 1.0 - rows / shape.own_rows  # the row before is not visited
        in_blocks, single = shape.parts
        gathered = max(0.0, alone) * (in_blocks / draw.block + single) * shape.width
    caught_up = sampling is not None and sampling.untouched == "caught_up"
    compared, rotated = _mining(shape)
    return HeadWork(
        operations={
            "products": each * (2 * rows - kept),
            "embedding gradient": each * rows,
            "row gradients": each * rows,
        },
        logits=rows * shape.batch,
        rows=rows,
        elements=elements,
        gathered=gathered,
        drawn=drawn,
        chunks=shape.num_chunks,
        caught=elements if caught_up else 0.0,
        compared=compared,
        rotated=rotated,
        moved_bytes=2.0 * rows * shape.record_bytes if shape.outside else 0.0,
    )


def _mining(shape: HeadShape) -> tuple[float, float]:
    """(codes compared, numbers added): for all embeddings, and to assign rows of the step anew."""
    signatures, sampling = shape.signatures, shape.sampling
    if signatures is None or sampling is None:
        return 0.0, 0.0
    probes = min(
        lists_to_search(sampling.rate, num_lists=signatures.num_lists), signatures.num_lists
    )
    drawn, certain = shape.parts
    rows = shape.batch + certain + drawn / DRAWN_SHARE
    return shape.batch * probes * shape.own_rows / signatures.num_lists, rows * signatures.additions
