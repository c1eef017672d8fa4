"""Adds up what the programs of a first visit left: in float64 and in order, so always the same."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sharded_fc import tile

# Planes of what a first visit's programs leave, [planes, row blocks, batch] in float32. The last
# holds the sigmoids, or the logit by which a block shifted its own exponentials.
TOTAL, HIGHEST, CONFLICTS, LAST = (tl.constexpr(plane) for plane in range(4))

_MEASURED_TOTAL = tl.constexpr(tile.TOTAL)
MEASURED_SHIFT = tl.constexpr(tile.SHIFT)
_MEASURED_HIGHEST = tl.constexpr(tile.HIGHEST)
_MEASURED_CONFLICTS = tl.constexpr(tile.CONFLICTS)
_MEASURED_SIGMOIDS = tl.constexpr(tile.SIGMOIDS)

FOLDED_BLOCKS, FOLDED_SAMPLES = 64, 32


def empty_partials(
    blocks: int, batch: int, *, rules: tile.Rules, keep_maximum: bool, device: torch.device
) -> Float[Tensor, "planes blocks batch"]:
    """Where the programs of a first visit leave their sums."""
    planes = 2 if rules.conflict_logit is None else 3
    if keep_maximum or rules.sigmoid_bias is not None:
        planes = 4
    return torch.empty(planes, blocks, batch, dtype=torch.float32, device=device)


def add_up(
    partial: Float[Tensor, "planes blocks batch"],
    *,
    measures: Float[Tensor, "measures batch"],
    rules: tile.Rules,
    keep_maximum: bool,
) -> None:
    """Add what the programs of a first visit found to `measures`, as `tile.sum_tile` does."""
    _, blocks, batch = partial.shape
    fold_kernel[(-(-batch // FOLDED_SAMPLES),)](
        partial,
        measures,
        blocks,
        batch,
        conflicts=rules.conflict_logit is not None,
        sigmoid=rules.sigmoid_bias is not None,
        keep_maximum=keep_maximum and rules.sigmoid_bias is None,
        BLOCKS=FOLDED_BLOCKS,
        SAMPLES=FOLDED_SAMPLES,
    )


@triton.jit
@no_type_check
def fold_kernel(
    partial,
    measures,
    blocks,
    batch,
    conflicts: tl.constexpr,
    sigmoid: tl.constexpr,
    keep_maximum: tl.constexpr,
    BLOCKS: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """`add_up` of some samples."""
    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    inside = sample < batch
    plane = tl.cast(blocks, tl.int64) * batch
    highest = tl.full((SAMPLES,), -float("inf"), tl.float32)
    counted = tl.zeros((SAMPLES,), tl.float32)
    sigmoids = tl.zeros((SAMPLES,), tl.float64)
    total = tl.zeros((SAMPLES,), tl.float64)
    if keep_maximum:
        before = tl.load(measures + MEASURED_SHIFT * batch + sample, mask=inside, other=0.0)
        shift = before
        for first in range(0, blocks, BLOCKS):
            place, there = _blocks_at(first, sample, blocks, batch, BLOCKS)
            theirs = tl.load(partial + LAST * plane + place, mask=there, other=-float("inf"))
            shift = tl.maximum(shift, tl.max(theirs, 0).to(tl.float64))
        # Where nothing was seen yet both are -inf; the total is 0 and stays so.
        finite_shift = tl.where(shift == -float("inf"), 0.0, shift)
    for first in range(0, blocks, BLOCKS):
        place, there = _blocks_at(first, sample, blocks, batch, BLOCKS)
        sums = tl.load(partial + TOTAL * plane + place, mask=there, other=0.0).to(tl.float64)
        if keep_maximum:
            theirs = tl.load(partial + LAST * plane + place, mask=there, other=-float("inf"))
            moved = (theirs.to(tl.float64) - finite_shift[None, :]).to(tl.float32)
            sums *= tl.exp(moved).to(tl.float64)
        total += tl.sum(sums, 0)
        high = tl.load(partial + HIGHEST * plane + place, mask=there, other=-float("inf"))
        highest = tl.maximum(highest, tl.max(high, 0))
        if conflicts:
            counts = tl.load(partial + CONFLICTS * plane + place, mask=there, other=0.0)
            counted += tl.sum(counts, 0)
        if sigmoid:
            values = tl.load(partial + LAST * plane + place, mask=there, other=0.0)
            sigmoids += tl.sum(values.to(tl.float64), 0)
    kept = measures + _MEASURED_TOTAL * batch + sample
    old = tl.load(kept, mask=inside, other=0.0)
    if keep_maximum:
        old *= tl.exp((before - finite_shift).to(tl.float32)).to(tl.float64)
        tl.store(measures + MEASURED_SHIFT * batch + sample, shift, mask=inside)
    tl.store(kept, old + total, mask=inside)
    kept = measures + _MEASURED_HIGHEST * batch + sample
    old = tl.load(kept, mask=inside, other=0.0)
    tl.store(kept, tl.maximum(old, highest.to(tl.float64)), mask=inside)
    if conflicts:
        kept = measures + _MEASURED_CONFLICTS * batch + sample
        tl.store(kept, tl.load(kept, mask=inside, other=0.0) + counted, mask=inside)
    if sigmoid:
        kept = measures + _MEASURED_SIGMOIDS * batch + sample
        tl.store(kept, tl.load(kept, mask=inside, other=0.0) + sigmoids, mask=inside)


@triton.jit
@no_type_check
def _blocks_at(first, sample, blocks, batch, BLOCKS: tl.constexpr):
    block = first + tl.arange(0, BLOCKS)
    place = block.to(tl.int64)[:, None] * batch + sample[None, :]
    return place, (block < blocks)[:, None] & (sample < batch)[None, :]
