"""Measures what a head's whole steps cost, for one set of dtypes: prices from several real heads.

The heads are alike in nothing but dtypes: wide and narrow, with few samples and with many, sampled
thinly and densely, and caught up. Their tables are larger than caches, since those that matter are;
those of sampled heads are larger still, as only a share of them is read in a step.
"""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from sharded_fc.capacity import HeadShape, head_traffic, head_work
from sharded_fc.sampling import Sampling
from trainer.planning.clock import Clock
from trainer.planning.constants import Constants, HeadCost
from trainer.planning.fit import fit_prices
from trainer.planning.probes import head_step
from trainer.planning.rounds import Numbers
from trainer.planning.seconds import head_seconds

TABLE_BYTES, SAMPLED_BYTES = 32 << 20, 96 << 20
"""Of a rank's rows in each head; with SGD's momentum twice the cache of the CPU here, and more."""
MOST_ROWS = 65_536
"""Of a head that visits all: where rows are short, logits are what it tells of."""
WHOLE = ((512, 16), (512, 64), (256, 128), (128, 256), (64, 256))
"""Width and batch of the heads that visit all rows."""
SAMPLED = ((512, 32, 0.05), (256, 128, 0.1), (256, 32, 0.3))
"""Likewise, and the share that is drawn."""
CAUGHT_UP = (256, 64, 0.1)
LONG_S = 0.1
LEAST_FACTOR = 0.7
"""Products in a step are hardly faster than by themselves; what says so is disturbed."""


class Dtypes(NamedTuple):
    """What a head is kept and multiplied in, and its optimizer."""

    operands: str
    rows: str
    state: str
    optimizer: str


USUAL = (
    Dtypes("float32", "float32", "float32", "sgd"),
    Dtypes("bfloat16", "float32", "float32", "sgd"),
    Dtypes("bfloat16", "bfloat16", "bfloat16", "sgd"),
    Dtypes("bfloat16", "float32", "float32", "adamw"),
)


def time_heads(clock: Clock, dtypes: Dtypes) -> dict[Hashable, float]:
    """Seconds of a step of each head; a collective of all ranks."""
    shapes = _shapes(clock, dtypes)
    steps = [head_step(shape, clock) for shape in shapes]
    for step in steps:  # writes the rows' first values
        step()
    return {
        shape: clock.seconds(step, least_s=LONG_S, least_calls=2, warm=1)
        for shape, step in zip(shapes, steps, strict=True)
    }


def fit_cost(numbers: Numbers, clock: Clock, known: Constants, dtypes: Dtypes) -> HeadCost:
    """The prices of these dtypes, given products' rates, exchanges and what steps cost at least."""
    free = HeadCost(
        **dtypes._asdict(), element_s=0.0, logit_s=0.0, gathered_element_s=0.0, caught_element_s=0.0
    )
    unpriced = replace(known, heads=(free,))
    amounts, left = [], []
    for shape in _shapes(clock, dtypes):
        work = head_work(shape)
        explained = head_seconds(shape, work, head_traffic(shape), unpriced)
        rest = explained.total - explained.products
        amounts.append((explained.products, work.elements, work.logits, work.gathered, work.caught))
        left.append(numbers[shape] - rest)
    factor, element, logit, gathered, caught = fit_prices(
        amounts, left, least=(LEAST_FACTOR, 0.0, 0.0, 0.0, 0.0)
    )
    return replace(
        free,
        product_factor=factor,
        element_s=element,
        logit_s=logit,
        gathered_element_s=gathered,
        caught_element_s=caught,
    )


def _shapes(clock: Clock, dtypes: Dtypes) -> list[HeadShape]:
    changes: dict[str, Any] = {
        "operands": getattr(torch, dtypes.operands),
        "dtype": getattr(torch, dtypes.rows),
        "state": getattr(torch, dtypes.state),
        "optimizer": dtypes.optimizer,
    }

    def shape(dim: int, batch: int, sampling: Sampling | None = None) -> HeadShape:
        row_bytes = dim * changes["dtype"].itemsize
        whole = min(TABLE_BYTES // row_bytes, MOST_ROWS)
        rows = whole if sampling is None else SAMPLED_BYTES // row_bytes
        return HeadShape(
            num_classes=rows * clock.ranks,
            embedding_dim=dim,
            batch=batch,
            world_size=clock.ranks,
            on_cpu=clock.device.type == "cpu",
            sampling=sampling,
            **changes,
        )

    shapes = [shape(*each) for each in WHOLE]
    shapes += [shape(dim, batch, Sampling(rate=rate)) for dim, batch, rate in SAMPLED]
    if dtypes.optimizer != "adamw":  # which cannot be caught up
        dim, batch, rate = CAUGHT_UP
        shapes.append(shape(dim, batch, Sampling(rate=rate, untouched="caught_up")))
    return shapes
