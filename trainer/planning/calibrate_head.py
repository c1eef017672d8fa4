"""Measures what a head's step is made of: products by themselves, exchanges, draws, mining, a pool.

What chunks, steps and samples cost at least follows from tiny heads, what rows and logits cost from
whole steps (`calibrate_cost`). Taking times and turning them into constants are two things, so that
times can be taken in rounds.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import product
from typing import get_args

import torch

from sharded_fc.capacity import (
    HeadShape,
    PoolShape,
    head_traffic,
    head_work,
    pool_traffic,
    pool_work,
)
from sharded_fc.capacity.work import Product
from sharded_fc.collectives import Ranks
from sharded_fc.operands import Operands
from sharded_fc.sampling import Sampling
from sharded_fc.sampling.draw import Draw
from sharded_fc.sampling.near_index import NearIndex
from sharded_fc.sampling.signatures import Signatures
from sharded_fc.storage import Rows
from trainer.planning.calibrate_cost import Dtypes, fit_cost, time_heads
from trainer.planning.clock import Clock
from trainer.planning.constants import Constants, ProductRate
from trainer.planning.probes import head_step, pool_step
from trainer.planning.rounds import Numbers
from trainer.planning.seconds import exchange_seconds, pool_seconds

DIMS, BATCHES = (64, 128, 256, 512), (16, 64, 256, 1024)
MINED_ROWS, MINED_DIM, MINED_QUERIES, MINED_PROBES, TOUCHED_ROWS = 131_072, 256, 64, 32, 4096
DRAWN_CLASSES = 1 << 20
POOL_SLOTS = 65_536  # at the width below twice the cache of the CPU here
LONG_S, SHORT_S = 0.15, 0.01
SMALL_BYTES, LARGE_BYTES = 1 << 10, 4 << 20
FIXED = ("step", "chunks", "samples")


def time_parts(clock: Clock, dtypes: Sequence[Dtypes]) -> Numbers:
    """Seconds of everything that the costs follow from, once; a collective of all ranks."""
    found: dict[Hashable, float] = {}
    for name in _operands(dtypes):
        for dim, batch in product(DIMS, BATCHES):
            shape = _product_shape(clock, name, dim, batch)
            for kind, seconds in _products(clock, shape).items():
                found[name, kind, dim, batch] = seconds
    for size in (SMALL_BYTES, LARGE_BYTES) if clock.ranks > 1 else ():
        sent = torch.zeros(1, size // 4, device=clock.device)
        ranks = Ranks(clock.group)
        found["exchange", size] = clock.seconds(
            lambda ranks=ranks, sent=sent: ranks.all_gather(sent), least_s=SHORT_S
        )
    for what, shape in zip(FIXED, _least_shapes(clock), strict=True):
        found[what] = clock.seconds(head_step(shape, clock), least_s=LONG_S, warm=2)
    found["draw"] = _draw_seconds(clock)
    found |= _mining_seconds(clock)
    for each in dtypes:
        found |= time_heads(clock, each)
    found["pool"] = clock.seconds(pool_step(_pool_shape(clock), clock), least_s=LONG_S, warm=2)
    return found


def head_constants(
    numbers: Numbers, clock: Clock, start: Constants, dtypes: Sequence[Dtypes]
) -> Constants:
    """`start` with what a head's steps cost here, from what `time_parts` finds."""
    rates = [
        ProductRate(
            operands=name,
            kind=kind,
            dim=dim,
            batch=batch,
            operations_per_s=_operations(_product_shape(clock, name, dim, batch))
            / numbers[name, kind, dim, batch],
        )
        for name, dim, batch, kind in product(_operands(dtypes), DIMS, BATCHES, get_args(Product))
    ]
    known = replace(start, products=tuple(rates))
    known = replace(known, **_exchanges(numbers, clock))
    known = replace(known, **_fixed_costs(numbers, clock, known))
    known = replace(known, drawn_s=numbers["draw"] / _draw().drawn_blocks)
    known = replace(known, **_mining(numbers))
    heads = [fit_cost(numbers, clock, known, each) for each in dtypes]
    known = replace(known, heads=tuple(heads), pool_logit_s=0.0)
    pool = _pool_shape(clock)
    work = pool_work(pool)
    explained = pool_seconds(pool, work, pool_traffic(pool), known).total
    return replace(known, pool_logit_s=max(0.0, numbers["pool"] - explained) / work.logits)


def _operands(dtypes: Sequence[Dtypes]) -> list[str]:
    return sorted({each.operands for each in dtypes})


def _product_shape(clock: Clock, operands: str, dim: int, batch: int) -> HeadShape:
    shape = _shape(clock, classes=1 << 22, dim=dim, batch=batch)
    return replace(shape, operands=getattr(torch, operands))


def _operations(shape: HeadShape) -> float:
    """Of a chunk, in each of its products."""
    return 2.0 * shape.chunk * shape.batch * shape.width


def _products(clock: Clock, shape: HeadShape) -> dict[Product, float]:
    """The three products of a chunk, through the head's own code."""
    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)).to(clock.device)

    def drawn(*size: int) -> torch.Tensor:
        times = -(-math.prod(size) // len(noise))
        return noise.repeat(times)[: math.prod(size)].view(size)

    centre = drawn(shape.chunk, shape.width)
    made = Operands(shape.chunk, shape.batch, centre, working=shape.working, compute=shape.compute)
    made.load(drawn(shape.batch, shape.width))
    ones = centre.new_ones(shape.chunk)
    rows = made.rows(centre, ones)
    gradient = made.operand_gradient
    gradient.copy_(drawn(*gradient.shape))
    total = centre.new_zeros(shape.batch, shape.width)
    calls: dict[Product, Callable[[], object]] = {
        "products": lambda: made.products(rows, out=made.product),
        "embedding gradient": lambda: made.add_embedding_gradient(total, gradient, rows),
        "row gradients": lambda: made.row_gradients(gradient, ones),
    }
    return {kind: clock.seconds(call, least_s=SHORT_S) for kind, call in calls.items()}


def _exchanges(numbers: Numbers, clock: Clock) -> dict[str, float]:
    """Seconds a hop, and bytes a second of all-gathers between these ranks."""
    if clock.ranks == 1:
        return {}
    short, long = (numbers["exchange", size] for size in (SMALL_BYTES, LARGE_BYTES))
    others = clock.ranks - 1
    rate = (LARGE_BYTES - SMALL_BYTES) * others / max(long - short, 1e-9)
    return {"hop_s": short / others, "near_bytes_per_s": rate, "far_bytes_per_s": rate}


def _least_shapes(clock: Clock) -> tuple[HeadShape, HeadShape, HeadShape]:
    """Heads so small that little but a step is left; of many chunks; of many samples."""
    least = _shape(clock, classes=64 * clock.ranks, dim=64, batch=16 * clock.ranks)
    chunked = replace(least, num_classes=32 * 64 * clock.ranks, chunk_classes=64)
    return least, chunked, replace(least, batch=1024 * clock.ranks)


def _fixed_costs(numbers: Numbers, clock: Clock, known: Constants) -> dict[str, float]:
    """Of a step, a chunk and a sample."""
    least, chunked, batched = _least_shapes(clock)
    step, chunks, samples = (numbers[what] for what in FIXED)
    exchanged = [
        exchange_seconds(head_traffic(shape), clock.ranks, known) for shape in (least, batched)
    ]
    more = head_work(chunked).chunks - head_work(least).chunks
    per_chunk = max(0.0, (chunks - step) / more)
    per_sample = (samples - exchanged[1]) - (step - exchanged[0])
    per_sample = max(0.0, per_sample / (batched.batch - least.batch))
    fixed = step - exchanged[0] - per_chunk - least.batch * per_sample
    return {"chunk_s": per_chunk, "sample_s": per_sample, "step_s": max(0.0, fixed)}


def _draw() -> Draw:
    return Sampling(rate=0.05).draw(DRAWN_CLASSES, seed=0)


def _draw_seconds(clock: Clock) -> float:
    """All evaluations of the permutation for a step."""
    draw = _draw()
    step = torch.zeros((), dtype=torch.int64, device=clock.device)
    none = torch.zeros(0, dtype=torch.int64, device=clock.device)
    return clock.seconds(
        lambda: draw.of_step(step, none, start=0, stop=DRAWN_CLASSES), least_s=SHORT_S
    )


def _signatures(device: torch.device) -> Signatures:
    return Signatures(MINED_DIM, num_rows=MINED_ROWS, seed=0, device=device)


def _mining_seconds(clock: Clock) -> dict[Hashable, float]:
    """Of finding near rows, and of assigning rows anew."""
    generator = torch.Generator().manual_seed(0)
    rows = Rows(
        0,
        MINED_ROWS,
        embedding_dim=MINED_DIM,
        state_widths={},
        seed=0,
        device=clock.device,
        dtype=torch.float32,
        state_dtype=torch.float32,
    )
    index = NearIndex(rows, _signatures(clock.device), probes=MINED_PROBES)
    queries = torch.randn(MINED_QUERIES, MINED_DIM, generator=generator).to(clock.device)
    touched = torch.randperm(MINED_ROWS, generator=generator)[:TOUCHED_ROWS].to(clock.device)
    return {
        "near": clock.seconds(lambda: index.near(queries, most=16), least_s=SHORT_S),
        "touch": clock.seconds(lambda: index.touch(touched), least_s=SHORT_S),
    }


def _mining(numbers: Numbers) -> dict[str, float]:
    """Seconds for a code compared, and for an addition in rotating rows."""
    signatures = _signatures(torch.device("cpu"))
    rotated = numbers["touch"] / (TOUCHED_ROWS * signatures.additions)
    found = numbers["near"] - MINED_QUERIES * signatures.additions * rotated
    probes = min(MINED_PROBES, signatures.num_lists)
    compared = MINED_QUERIES * probes * MINED_ROWS / signatures.num_lists
    return {"compared_s": max(0.0, found) / compared, "rotated_s": rotated}


def _pool_shape(clock: Clock) -> PoolShape:
    return PoolShape(
        slots=POOL_SLOTS * clock.ranks,
        embedding_dim=128,
        batch=128,
        world_size=clock.ranks,
        on_cpu=clock.device.type == "cpu",
    )


def _shape(clock: Clock, *, classes: int, dim: int, batch: int) -> HeadShape:
    return HeadShape(
        num_classes=classes,
        embedding_dim=dim,
        batch=batch,
        world_size=clock.ranks,
        on_cpu=clock.device.type == "cpu",
    )
