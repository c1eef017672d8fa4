"""Measures what a head's whole steps cost, for one set of dtypes: prices from several real heads.

The heads are alike in nothing but dtypes: wide and narrow, with few samples and with many, sampled
and caught up. Their tables are larger than caches, since those that matter are. All take their
steps in turn, a few rounds of them, and each one's fastest round counts, so that what disturbs the
machine for a second disturbs no price.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import torch

from sharded_fc.capacity import HeadShape, head_traffic, head_work
from sharded_fc.sampling import Sampling
from trainer.planning.clock import Clock
from trainer.planning.constants import Constants, HeadCost
from trainer.planning.fit import fit_prices
from trainer.planning.probes import head_step
from trainer.planning.seconds import head_seconds

TABLE_BYTES = 32 << 20
"""Of a rank's rows in each head; with SGD's momentum twice the cache of the CPU here."""
WHOLE = ((512, 16), (512, 64), (256, 128), (128, 256), (64, 256))
"""Width and batch of the heads that visit all rows."""
SAMPLED = ((512, 32), (256, 128))
CAUGHT_UP = (256, 64)
RATE = 0.1
ROUNDS, LONG_S = 4, 0.1
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


def measure_cost(clock: Clock, known: Constants, dtypes: Dtypes) -> HeadCost:
    """The prices of these dtypes, given products' rates, exchanges and what steps cost at least.

    A collective of all ranks.
    """
    shapes = _shapes(clock, dtypes)
    free = HeadCost(
        **dtypes._asdict(), element_s=0.0, logit_s=0.0, gathered_element_s=0.0, caught_element_s=0.0
    )
    numbers = replace(known, heads=(free,))
    amounts, left = [], []
    for shape, seconds in zip(shapes, _seconds(clock, shapes), strict=True):
        work = head_work(shape)
        explained = head_seconds(shape, work, head_traffic(shape), numbers)
        rest = explained.total - explained.products
        amounts.append((explained.products, work.elements, work.logits, work.gathered, work.caught))
        left.append(seconds - rest)
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


def _seconds(clock: Clock, shapes: list[HeadShape]) -> list[float]:
    """Each head's step, in its fastest round."""
    steps = [head_step(shape, clock) for shape in shapes]
    for step in steps:  # writes the rows' first values
        step()
    rounds = [
        [clock.seconds(step, least_s=LONG_S, least_calls=1, warm=0) for step in steps]
        for _ in range(ROUNDS)
    ]
    return [min(taken) for taken in zip(*rounds, strict=True)]


def _shapes(clock: Clock, dtypes: Dtypes) -> list[HeadShape]:
    changes: dict[str, Any] = {
        "operands": getattr(torch, dtypes.operands),
        "dtype": getattr(torch, dtypes.rows),
        "state": getattr(torch, dtypes.state),
        "optimizer": dtypes.optimizer,
    }

    def shape(dim: int, batch: int, sampling: Sampling | None = None) -> HeadShape:
        rows = TABLE_BYTES // (dim * changes["dtype"].itemsize)
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
    shapes += [shape(*each, Sampling(rate=RATE)) for each in SAMPLED]
    if dtypes.optimizer != "adamw":  # which cannot be caught up
        shapes.append(shape(*CAUGHT_UP, Sampling(rate=RATE, untouched="caught_up")))
    return shapes
