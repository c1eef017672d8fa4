"""Measures what a head's step is made of, on real heads of a few shapes, a second or less each.

Products are timed by themselves. What else a step costs follows from heads in which it weighs most:
rows from a wide head with a small batch, logits from a narrow one with a large batch, chunks and
steps from tiny ones. A head of a middle size then says how far the whole is from these parts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from sharded_fc.capacity import (
    HeadShape,
    PoolShape,
    head_traffic,
    head_work,
    pool_traffic,
    pool_work,
)
from sharded_fc.collectives import Ranks
from sharded_fc.operands import Operands
from sharded_fc.sampling import Sampling
from trainer.planning.clock import Clock
from trainer.planning.constants import Constants, HeadCost, ProductRate
from trainer.planning.probes import head_step, pool_step
from trainer.planning.seconds import exchange_seconds, head_seconds, pool_seconds

DIMS, BATCHES = (64, 128, 256, 512), (16, 64, 256, 1024)
ROWS = 32_768
"""Classes a rank of the heads timed: with 512 columns 64 MiB, twice the cache of the CPU here."""
SAMPLED_ROWS, SAMPLED_RATE = 131_072, 0.1
POOL_SLOTS = 16_384
LONG_S, SHORT_S = 0.4, 0.02
SMALL_BYTES, LARGE_BYTES = 1 << 10, 4 << 20


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
)


def measure_head(clock: Clock, start: Constants, dtypes: Sequence[Dtypes]) -> Constants:
    """`start` with what a head's steps cost here; a collective of all ranks."""
    operands = sorted({each.operands for each in dtypes})
    known = replace(start, products=tuple(_product_rates(clock, operands)))
    known = replace(known, **_exchanges(clock))
    known = replace(known, **_fixed_costs(clock, known))
    known = replace(known, drawn_s=_drawn_seconds(clock))
    heads = [_head_cost(clock, known, each) for each in dtypes]
    known = replace(known, heads=tuple(heads))
    return replace(known, pool_logit_s=_pool_logit_seconds(clock, known))


def _product_rates(clock: Clock, operands: Sequence[str]) -> list[ProductRate]:
    """The three products of a chunk, through the head's own code."""
    rates = []
    for name in operands:
        for dim in DIMS:
            for batch in BATCHES:
                shape = _shape(clock, classes=1 << 22, dim=dim, batch=batch)
                shape = replace(shape, operands=getattr(torch, name))
                for kind, seconds in _products(clock, shape).items():
                    operations = 2.0 * shape.chunk * batch * dim
                    rates.append(
                        ProductRate(
                            operands=name,
                            kind=kind,
                            dim=dim,
                            batch=batch,
                            operations_per_s=operations / seconds,
                        )
                    )
    return rates


def _products(clock: Clock, shape: HeadShape) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(clock.device)

    centre = drawn(shape.chunk, shape.width)
    made = Operands(shape.chunk, shape.batch, centre, working=shape.working, compute=shape.compute)
    made.load(drawn(shape.batch, shape.width))
    ones = centre.new_ones(shape.chunk)
    rows = made.rows(centre, ones)
    gradient = made.operand_gradient
    gradient.copy_(drawn(*gradient.shape))
    total = centre.new_zeros(shape.batch, shape.width)
    calls = {
        "products": lambda: made.products(rows, out=made.product),
        "embedding gradient": lambda: made.add_embedding_gradient(total, gradient, rows),
        "row gradients": lambda: made.row_gradients(gradient, ones),
    }
    return {kind: clock.seconds(call, least_s=SHORT_S) for kind, call in calls.items()}


def _exchanges(clock: Clock) -> dict[str, float]:
    """Seconds a hop, and bytes a second of all-gathers between these ranks."""
    if clock.ranks == 1:
        return {}
    ranks, seconds = Ranks(clock.group), []
    for size in (SMALL_BYTES, LARGE_BYTES):
        sent = torch.zeros(1, size // 4, device=clock.device)
        seconds.append(clock.seconds(lambda sent=sent: ranks.all_gather(sent), least_s=SHORT_S))
    others = clock.ranks - 1
    rate = (LARGE_BYTES - SMALL_BYTES) * others / max(seconds[1] - seconds[0], 1e-9)
    return {
        "hop_s": seconds[0] / others,
        "near_bytes_per_s": rate,
        "far_bytes_per_s": rate,
    }


def _fixed_costs(clock: Clock, known: Constants) -> dict[str, float]:
    """Of a step, a chunk and a sample, from heads so small that little else is left."""
    least = _shape(clock, classes=64 * clock.ranks, dim=64, batch=16 * clock.ranks)
    chunked = replace(least, num_classes=32 * 64 * clock.ranks, chunk_classes=64)
    batched = replace(least, batch=1024 * clock.ranks)
    step, chunks, samples = (
        clock.seconds(head_step(shape, clock), least_s=LONG_S, warm=2)
        for shape in (least, chunked, batched)
    )
    exchanged = [
        exchange_seconds(head_traffic(shape), clock.ranks, known) for shape in (least, batched)
    ]
    more = head_work(chunked).chunks - head_work(least).chunks
    per_chunk = max(0.0, (chunks - step) / more)
    per_sample = (samples - exchanged[1]) - (step - exchanged[0])
    per_sample = max(0.0, per_sample / (batched.batch - least.batch))
    fixed = step - exchanged[0] - per_chunk - least.batch * per_sample
    return {"chunk_s": per_chunk, "sample_s": per_sample, "step_s": max(0.0, fixed)}


def _head_cost(clock: Clock, known: Constants, dtypes: Dtypes) -> HeadCost:
    """Solves two steps for what a number of a row and a logit cost; then looks at whole steps."""
    free = HeadCost(**dtypes._asdict(), element_s=0.0, logit_s=0.0, gathered_element_s=0.0)

    def left(shape: HeadShape, cost: HeadCost) -> tuple[float, float]:
        """(what `cost` leaves of a step, what the whole's factor would multiply)."""
        seconds = clock.seconds(head_step(shape, clock), least_s=LONG_S, warm=2)
        explained = head_seconds(
            shape, head_work(shape), head_traffic(shape), replace(known, heads=(cost,))
        )
        parts = explained.products + explained.logits + explained.rows
        return seconds - explained.total, parts

    own = ROWS * clock.ranks
    shapes = [
        _as(dtypes, _shape(clock, classes=own, dim=512, batch=16)),
        _as(dtypes, _shape(clock, classes=own, dim=64, batch=512)),
    ]
    works = [head_work(shape) for shape in shapes]
    rest = [left(shape, free)[0] for shape in shapes]
    element, logit = _solve([(work.elements, work.logits) for work in works], rest)
    cost = replace(free, element_s=element, logit_s=logit)
    middle = _as(dtypes, _shape(clock, classes=own, dim=256, batch=128))
    remaining, parts = left(middle, cost)
    # On a machine that others disturb anything can come out; prices must stay above 0.
    cost = replace(cost, whole_over_parts=max(0.5, 1.0 + remaining / parts))
    sampled = replace(
        _as(dtypes, _shape(clock, classes=SAMPLED_ROWS * clock.ranks, dim=256, batch=64)),
        sampling=Sampling(rate=SAMPLED_RATE),
    )
    gathered = max(0.0, left(sampled, cost)[0]) / head_work(sampled).gathered
    return replace(cost, gathered_element_s=gathered)


def _solve(amounts: Sequence[tuple[float, float]], seconds: Sequence[float]) -> tuple[float, float]:
    """The two prices, neither below 0, at which both amounts cost their seconds."""
    (a, b), (c, d) = amounts
    s, t = seconds
    determinant = a * d - b * c
    first, second = (s * d - b * t) / determinant, (a * t - s * c) / determinant
    if first < 0:
        return 0.0, max(0.0, t / d)
    if second < 0:
        return max(0.0, s / a), 0.0
    return first, second


def _drawn_seconds(clock: Clock) -> float:
    """One evaluation of the permutation, among enough of them."""
    classes = SAMPLED_ROWS * 8
    draw = Sampling(rate=0.05).draw(classes, seed=0)
    step = torch.zeros((), dtype=torch.int64, device=clock.device)
    none = torch.zeros(0, dtype=torch.int64, device=clock.device)
    seconds = clock.seconds(
        lambda: draw.of_step(step, none, start=0, stop=classes), least_s=SHORT_S
    )
    return seconds / draw.drawn_blocks


def _pool_logit_seconds(clock: Clock, known: Constants) -> float:
    """What a pool's step leaves beside products, for each logit."""
    shape = PoolShape(
        slots=POOL_SLOTS * clock.ranks,
        embedding_dim=128,
        batch=128,
        world_size=clock.ranks,
        on_cpu=clock.device.type == "cpu",
    )
    free = replace(known, pool_logit_s=0.0)
    seconds = clock.seconds(pool_step(shape, clock), least_s=LONG_S, warm=2)
    explained = pool_seconds(shape, pool_work(shape), pool_traffic(shape), free).total
    return max(0.0, seconds - explained) / pool_work(shape).logits


def _shape(clock: Clock, *, classes: int, dim: int, batch: int) -> HeadShape:
    return HeadShape(
        num_classes=classes,
        embedding_dim=dim,
        batch=batch,
        world_size=clock.ranks,
        on_cpu=clock.device.type == "cpu",
    )


def _as(dtypes: Dtypes, shape: HeadShape) -> HeadShape:
    changes: dict[str, Any] = {
        "operands": getattr(torch, dtypes.operands),
        "dtype": getattr(torch, dtypes.rows),
        "state": getattr(torch, dtypes.state),
        "optimizer": dtypes.optimizer,
    }
    return replace(shape, **changes)
