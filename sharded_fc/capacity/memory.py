"""The memory of a head on one rank, in bytes, by what it is for."""

import math
from dataclasses import dataclass, fields

import torch

from sharded_fc.capacity.shape import HeadShape
from sharded_fc.sampling.lists import LEAST_ROOM
from sharded_fc.tables.layout import COUNTERS
from sharded_fc.tile import MEASURES

_INTEGER = 8  # bytes of an int64
BUFFERS = 2  # `tables.stored`: one in use, one being filled


@dataclass(frozen=True, kw_only=True)
class HeadBytes:
    """What a rank holds.

    `counts` are an image count a row and, where rows are caught up, a step number. `buffers` are a
    chunk's operands, products and gradients, and rows that were gathered; `kept` the products and
    gathered rows kept from the first visit for the second. These and the rows' lengths are exact;
    `lists`, in which near classes are found, to a place a list. Rows `outside` the device take two
    steps' rows here: one in use, one being read. `exchange` is what is of the batch's size at the
    busiest moment: embeddings as sent, as received and in order, or own classes' rows, or
    gradients.
    """

    centres: int
    states: int
    counts: int
    lengths: int
    buffers: int
    kept: int
    exchange: int
    lists: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return sum(getattr(self, field.name) for field in fields(self))


def head_bytes(shape: HeadShape) -> HeadBytes:
    """The memory of rank 0, which has the most classes."""
    caught_up = shape.sampling is not None and shape.sampling.untouched == "caught_up"
    visited = math.ceil(sum(shape.parts))
    rows, counters = shape.own_rows, _INTEGER * (1 + caught_up)
    if shape.outside:
        rows, counters = BUFFERS * visited, _INTEGER * len(COUNTERS)
    return HeadBytes(
        centres=rows * shape.width * shape.dtype.itemsize,
        states=rows * shape.state_row_bytes,
        counts=rows * counters,
        lengths=visited * shape.working.itemsize,
        buffers=operand_bytes(shape) + _gathered_bytes(shape),
        kept=shape.kept_chunks * shape.tile_bytes + shape.kept_rows * shape.operand_row_bytes,
        exchange=_exchange_bytes(shape),
        lists=_list_bytes(shape),
    )


def outside_bytes(shape: HeadShape) -> int:
    """Host memory, or a file, that holds the rows of rank 0 where they are outside the device."""
    return shape.own_rows * shape.record_bytes if shape.outside else 0


def operand_bytes(shape: HeadShape) -> int:
    """`operands.Operands`, buffer by buffer."""
    chunk, batch, width = shape.chunk, shape.batch, shape.width
    working, compute, product = (
        dtype.itemsize for dtype in (shape.working, shape.compute, shape.product)
    )
    low = shape.compute != shape.working
    converted = shape.dtype != shape.compute or shape.compute == torch.float16
    total = chunk * batch * product  # the products
    total += chunk * batch * working  # their gradients
    total += batch * width * compute  # the embeddings
    total += chunk * width * working  # the rows' gradients
    if shape.product != shape.working:
        total += chunk * batch * working  # the products, widened
    if converted:
        total += chunk * width * compute  # the rows
    if low:
        total += chunk * batch * compute  # the products' gradients as an operand
        total += (chunk + batch) * width * product  # rows' and embeddings' gradients
        total += working  # the factor of both
    return total


def _gathered_bytes(shape: HeadShape) -> int:
    """A chunk of sampled rows, as they are read: `sampling.sampler`."""
    return 0 if shape.sampling is None else shape.chunk * shape.width * shape.dtype.itemsize


def _list_bytes(shape: HeadShape) -> int:
    """`sampling.lists`: members and codes, with a quarter of room; each row's place and list."""
    if shape.signatures is None:
        return 0
    rows, lists = shape.own_rows, shape.signatures.num_lists
    places = rows + rows // 4 + LEAST_ROOM * lists
    return places * (4 + 8 * shape.signatures.words) + rows * (4 + 4) + (2 * lists + 1) * _INTEGER


def _exchange_bytes(shape: HeadShape) -> int:
    """Three tensors of the batch's embeddings at once, and the tables of all ranks."""
    embeddings = 3 * shape.batch * shape.width * shape.working.itemsize
    tables = MEASURES * shape.batch * 8 * (shape.world_size + 1)
    return embeddings + tables
