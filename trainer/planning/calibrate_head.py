"""Measures what a head's step is made of: products by themselves, exchanges, draws, mining, a pool.

What chunks, steps and samples cost at least follows from tiny heads, what rows and logits cost from
whole steps (`calibrate_cost`).
"""

from collections.abc import Sequence
from dataclasses import replace

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
from sharded_fc.sampling.near_index import NearIndex
from sharded_fc.sampling.signatures import Signatures
from sharded_fc.storage import Rows
from trainer.planning.calibrate_cost import Dtypes, measure_cost
from trainer.planning.clock import Clock
from trainer.planning.constants import Constants, ProductRate
from trainer.planning.probes import head_step, pool_step
from trainer.planning.seconds import exchange_seconds, pool_seconds

DIMS, BATCHES = (64, 128, 256, 512), (16, 64, 256, 1024)
MINED_ROWS, MINED_DIM, MINED_QUERIES, MINED_PROBES, TOUCHED_ROWS = 131_072, 256, 64, 32, 4096
DRAWN_CLASSES = 1 << 20
POOL_SLOTS = 65_536  # at the width below twice the cache of the CPU here
LONG_S, SHORT_S = 0.4, 0.02
ROUNDS = 2
"""Of products, one after the other; the faster time counts, as a disturbance lasts."""
SMALL_BYTES, LARGE_BYTES = 1 << 10, 4 << 20


def measure_head(clock: Clock, start: Constants, dtypes: Sequence[Dtypes]) -> Constants:
    """`start` with what a head's steps cost here; a collective of all ranks."""
    operands = sorted({each.operands for each in dtypes})
    rounds = [_product_rates(clock, operands) for _ in range(ROUNDS)]
    fastest = [
        max(each, key=lambda rate: rate.operations_per_s) for each in zip(*rounds, strict=True)
    ]
    known = replace(start, products=tuple(fastest))
    known = replace(known, **_exchanges(clock))
    known = replace(known, **_fixed_costs(clock, known))
    known = replace(known, drawn_s=_drawn_seconds(clock), **_mining(clock))
    heads = [measure_cost(clock, known, each) for each in dtypes]
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


def _drawn_seconds(clock: Clock) -> float:
    """One evaluation of the permutation, among enough of them."""
    classes = DRAWN_CLASSES
    draw = Sampling(rate=0.05).draw(classes, seed=0)
    step = torch.zeros((), dtype=torch.int64, device=clock.device)
    none = torch.zeros(0, dtype=torch.int64, device=clock.device)
    seconds = clock.seconds(
        lambda: draw.of_step(step, none, start=0, stop=classes), least_s=SHORT_S
    )
    return seconds / draw.drawn_blocks


def _mining(clock: Clock) -> dict[str, float]:
    """Seconds for a code compared, and for an addition in rotating rows."""
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
    signatures = Signatures(MINED_DIM, num_rows=MINED_ROWS, seed=0, device=clock.device)
    index = NearIndex(rows, signatures, probes=MINED_PROBES)
    queries = torch.randn(MINED_QUERIES, MINED_DIM, generator=generator).to(clock.device)
    touched = torch.randperm(MINED_ROWS, generator=generator)[:TOUCHED_ROWS].to(clock.device)
    found = clock.seconds(lambda: index.near(queries, most=16), least_s=SHORT_S)
    rotated = clock.seconds(lambda: index.touch(touched), least_s=SHORT_S)
    rotated /= TOUCHED_ROWS * signatures.additions
    found -= MINED_QUERIES * signatures.additions * rotated
    compared = MINED_QUERIES * index.probes * MINED_ROWS / signatures.num_lists
    return {"compared_s": max(0.0, found) / compared, "rotated_s": rotated}


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
