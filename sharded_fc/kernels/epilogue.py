"""What both kinds of kernels do with a tile of products, wherever the products come from.

A program holds one tile, [rows, samples] in float32, and reduces it as far as it can by itself:
the first visit to sums over its rows, the second to sums over its samples. No atomics, so that the
same numbers come out every time; `fold` puts the blocks of rows together.

An argument that is None takes no part in the compiled kernel. `no_type_check` keeps shape checks
from wrapping what Triton has to read as it stands.
"""

from typing import NamedTuple, no_type_check

import triton
import triton.language as tl
from torch import Tensor

from sharded_fc import tile
from sharded_fc.kernels import fold


class RuleArguments(NamedTuple):
    """`tile.Rules` as a kernel takes them."""

    scale: float
    label: Tensor
    class_range: Tensor | None
    threshold: Tensor | None
    constant: Tensor | None
    linear: Tensor | None
    square: Tensor | None
    conflict_logit: float | None
    sigmoid_bias: Tensor | None
    negative_weight: float

    @classmethod
    def of(cls, rules: tile.Rules) -> "RuleArguments":
        """The same rules."""
        hard = rules.hard
        assert rules.label is not None  # kernels look for own classes in every chunk
        return cls(
            scale=rules.scale,
            label=rules.label,
            class_range=None if rules.class_range is None else rules.class_range.contiguous(),
            threshold=None if hard is None else hard.threshold,
            constant=None if hard is None else hard.constant,
            linear=None if hard is None else hard.linear,
            square=None if hard is None else hard.square,
            conflict_logit=rules.conflict_logit,
            sigmoid_bias=rules.sigmoid_bias,
            negative_weight=rules.negative_weight,
        )


def factors(factor: float | Tensor) -> tuple[float, Tensor | None]:
    """`tile.Weights.factor` as a kernel takes it: a number, and one that lies on the device."""
    return (1.0, factor) if isinstance(factor, Tensor) else (factor, None)


@triton.jit
@no_type_check
def store_sums(
    product,
    row,
    sample,
    num_rows,
    batch,
    inverse_norm,
    first_class,
    rules,
    measures,
    partial,
    block,
    blocks,
    keep_maximum: tl.constexpr,
):
    """Reduce a tile over its rows and leave the sums in `partial`."""
    inside = sample < batch
    plane = tl.cast(blocks, tl.int64) * batch
    out = partial + block.to(tl.int64) * batch + sample
    logit = _logits(product, row, num_rows, inverse_norm, rules.scale)
    mine = _own(row, sample, num_rows, batch, first_class, rules.label)
    logit = tl.where(mine | (row >= num_rows)[:, None], -float("inf"), logit)
    logit = _leave_range(logit, row, sample, num_rows, batch, first_class, rules.class_range)
    tl.store(out + fold.HIGHEST * plane, tl.max(logit, 0), mask=inside)
    if rules.conflict_logit is not None:
        conflicts = tl.sum((logit > rules.conflict_logit).to(tl.float32), 0)
        tl.store(out + fold.CONFLICTS * plane, conflicts, mask=inside)
    if rules.sigmoid_bias is not None:
        logit -= tl.load(rules.sigmoid_bias).to(tl.float32)
        tl.store(out + fold.LAST * plane, tl.sum(tl.sigmoid(logit), 0), mask=inside)
        total = tl.sum(_softplus(logit), 0)
    else:
        if rules.threshold is not None:
            limit = tl.load(rules.threshold + sample, mask=inside, other=0.0).to(tl.float32)
            logit, _ = _modulate(logit, limit, rules)
        if keep_maximum:
            shift = tl.max(logit, 0)
            tl.store(out + fold.LAST * plane, shift, mask=inside)
            shift = tl.where(shift == -float("inf"), 0.0, shift)
        else:
            kept = measures + fold.MEASURED_SHIFT * batch + sample
            shift = tl.load(kept, mask=inside, other=0.0).to(tl.float32)
        total = tl.sum(tl.exp(logit - shift[None, :]), 0)
    tl.store(out + fold.TOTAL * plane, total, mask=inside)


@triton.jit
@no_type_check
def store_gradient(
    product,
    first_row,
    row,
    sample,
    num_rows,
    batch,
    inverse_norm,
    first_class,
    rules,
    offset,
    target,
    factor,
    device_factor,
    out,
    along,
    sample_block,
):
    """Turn a tile's products into gradients in `out`; leave what multiplies each row in `along`."""
    inside = sample < batch
    # What lies beyond the batch weighs nothing.
    nothing = -float("inf") if rules.sigmoid_bias is None else 0.0
    weight = tl.load(offset + sample, mask=inside, other=nothing).to(tl.float32)
    logit = _logits(product, row, num_rows, inverse_norm, rules.scale)
    mine = _own(row, sample, num_rows, batch, first_class, rules.label)
    logit = _leave_range(logit, row, sample, num_rows, batch, first_class, rules.class_range)
    if rules.sigmoid_bias is not None:
        bias = tl.load(rules.sigmoid_bias).to(tl.float32)
        gradient = tl.sigmoid(logit - bias) * (weight * rules.negative_weight)[None, :]
    elif rules.threshold is not None:
        limit = tl.load(rules.threshold + sample, mask=inside, other=0.0).to(tl.float32)
        logit, slope = _modulate(logit, limit, rules)
        gradient = tl.exp(logit + weight[None, :]) * slope
    else:
        gradient = tl.exp(logit + weight[None, :])
    own = tl.load(target + sample, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.where(mine, own[None, :], gradient)
    inverse = tl.load(inverse_norm + row, mask=row < num_rows, other=0.0).to(tl.float32)
    if device_factor is not None:
        factor *= tl.load(device_factor).to(tl.float32)
    gradient *= (inverse * factor)[:, None]
    part = tl.sum(product * gradient, 1) * inverse * inverse
    tl.store(along + sample_block.to(tl.int64) * num_rows + row, part, mask=row < num_rows)
    at, there = tile_at(out, first_row, row, sample, num_rows, batch)
    tl.store(at, gradient.to(out.dtype.element_ty), mask=there)


@triton.jit
@no_type_check
def tile_at(tensor, first_row, row, sample, num_rows, batch):
    """Where a tile lies in [rows, batch], and which of it does; within a tile 32 bits suffice."""
    within = (row - first_row)[:, None] * batch + sample[None, :]
    there = (row < num_rows)[:, None] & (sample < batch)[None, :]
    return tensor + first_row.to(tl.int64) * batch + within, there


@triton.jit
@no_type_check
def _logits(product, row, num_rows, inverse_norm, scale):
    inverse = tl.load(inverse_norm + row, mask=row < num_rows, other=0.0).to(tl.float32)
    return product * (inverse * scale)[:, None]


@triton.jit
@no_type_check
def _own(row, sample, num_rows, batch, first_class, label):
    """Where a row is a sample's own class."""
    own = tl.load(label + sample, mask=sample < batch, other=-1) - first_class
    # A thread holds many samples: as 32-bit row numbers their classes take half the registers.
    own = tl.where((own >= 0) & (own < num_rows), own, -1).to(tl.int32)
    return row[:, None] == own[None, :]


@triton.jit
@no_type_check
def _leave_range(logit, row, sample, num_rows, batch, first_class, class_range):
    """Classes a sample does not compete with weigh nothing."""
    if class_range is not None:
        start = tl.load(class_range + sample, mask=sample < batch, other=0)
        stop = tl.load(class_range + batch + sample, mask=sample < batch, other=0)
        start = _row_of(start, num_rows, first_class)[None, :]
        stop = _row_of(stop, num_rows, first_class)[None, :]
        logit = tl.where((row[:, None] >= start) & (row[:, None] < stop), logit, -float("inf"))
    return logit


@triton.jit
@no_type_check
def _row_of(number, num_rows, first_class):
    """The row of a class, or the nearest end of the rows."""
    return tl.minimum(tl.maximum(number - first_class, 0), num_rows).to(tl.int32)


@triton.jit
@no_type_check
def _modulate(logit, threshold, rules):
    """Hard negatives' changed logits, and the slope by which gradients pass through."""
    constant = tl.load(rules.constant).to(tl.float32)
    linear = tl.load(rules.linear).to(tl.float32)
    square = tl.load(rules.square).to(tl.float32)
    is_hard = logit > threshold[None, :]
    changed = (logit * square + linear) * logit + constant
    slope = tl.where(is_hard, logit * (2.0 * square) + linear, 1.0)
    return tl.where(is_hard, changed, logit), slope


@triton.jit
@no_type_check
def _softplus(logit):
    """log(1 + exp(logit)), exact for the tiny terms of which a million negatives consist."""
    small = tl.exp(-tl.abs(logit))
    # Below 1/16 five terms of the series are exact to 2e-7; the hardware's logarithm is not.
    series = small * (1.0 - small * (0.5 - small * (1 / 3 - small * (0.25 - small * 0.2))))
    return tl.maximum(logit, 0.0) + tl.where(small < 0.0625, series, tl.log(1.0 + small))
