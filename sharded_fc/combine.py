"""Puts the ranks' sums together: losses, and what the second visit needs. No rows in here.

Everything is in float64, of the size of a batch, and computed alike on every rank from the same
gathered numbers, so loss, statistics and the decision to commit are the same bits everywhere.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.margins import Adjustment
from sharded_fc.margins.base import Scalars
from sharded_fc.tile import CONFLICTS, HIGHEST, SHIFT, SIGMOIDS, TOTAL

# exp overflows past log(finfo.max), 88.7 in float32, and loses digits below log(finfo.tiny), -87.3;
# the reserve leaves room for adding up chunks.
_EXPONENT_RESERVE = 3.5


def highest_exponent(dtype: torch.dtype) -> float:
    """The largest logarithm of a sum that is kept clear of overflow: 85.2 in float32."""
    return math.log(torch.finfo(dtype).max) - _EXPONENT_RESERVE


def sums_stay_in_range(*, scale: float, num_classes: int, dtype: torch.dtype) -> bool:
    """Whether sums of exp(s c - K), every c in [-1, 1], can neither overflow nor vanish."""
    highest = highest_exponent(dtype)
    shift = max(0.0, scale + math.log(num_classes) - highest)
    return -scale - shift > math.log(torch.finfo(dtype).tiny)


def constant_shift(
    highest_logit: Float[Tensor, ""], *, num_classes: int, dtype: torch.dtype
) -> Float[Tensor, ""]:
    """K = max(0, z_max + ln C - 85) in float32: the smallest shift that cannot overflow.

    Never z_max itself: where few logits come near their bound that flushes every term.
    """
    return (highest_logit + math.log(num_classes) - highest_exponent(dtype)).clamp_min(0.0)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The global batch, gathered: the same on every rank.

    `embedding` has unit length unless the margin works on raw products; `norm` is its length
    before; `label` is -1 for a sample of no class; `weight` and `class_range` are as passed.
    `counted` marks the samples the loss is a mean over.
    """

    embedding: Float[Tensor, "batch dim"]
    label: Int[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    weight: Float[Tensor, " batch"]
    counted: Bool[Tensor, " batch"]
    class_range: Int[Tensor, "2 batch"] | None

    @property
    def labelled(self) -> Bool[Tensor, " batch"]:
        """Which samples have a class."""
        return self.label >= 0

    @property
    def num_counted(self) -> Float[Tensor, ""]:
        """What the loss is divided by; 1 where nothing counts."""
        return self.counted.sum().clamp_min(1).double()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What follows from the ranks' sums; every tensor is float64 and the same on every rank.

    `offset` and `target_gradient` are `tile.Weights`' (unrounded); `norm_gradient` is d loss_i /
    d norm_i; `bias_gradient` that of the sigmoid loss's bias; both still to be divided by
    `num_counted`.
    """

    sample_loss: Float[Tensor, " batch"]
    loss: Float[Tensor, ""]
    num_counted: Float[Tensor, ""]
    offset: Float[Tensor, " batch"]
    target_gradient: Float[Tensor, " batch"]
    norm_gradient: Float[Tensor, " batch"] | None
    bias_gradient: Float[Tensor, ""]
    negative_mass: Float[Tensor, " batch"]
    finite: Bool[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class SigmoidTerms:
    """What of a sigmoid loss is known before any sum; every tensor is float64.

    `own_loss` is the own class's term, `residual` d `own_loss` / d (own logit), both 0 where a
    sample has no class. `offset` and `target_gradient` are `tile.Weights`' (unrounded).
    """

    own_loss: Float[Tensor, " batch"]
    residual: Float[Tensor, " batch"]
    offset: Float[Tensor, " batch"]
    target_gradient: Float[Tensor, " batch"]


def sigmoid_terms(
    batch: Batch, adjustment: Adjustment, *, scale: float, sigmoid_bias: Float[Tensor, ""]
) -> SigmoidTerms:
    """Each sample's own term of softplus(bias - logit), and what its gradients follow from."""
    weight = batch.weight * batch.counted
    shifted = adjustment.value.double() * scale - sigmoid_bias
    residual = torch.where(batch.labelled, -torch.sigmoid(-shifted), 0.0)
    return SigmoidTerms(
        own_loss=torch.where(batch.labelled, torch.nn.functional.softplus(-shifted), 0.0),
        residual=residual,
        offset=weight,
        target_gradient=residual * adjustment.slope.double() * weight,
    )


def combine(
    tables: Float[Tensor, "world measures batch"],
    batch: Batch,
    adjustment: Adjustment,
    *,
    scale: float,
    sigmoid_bias: Float[Tensor, ""] | None,
    negative_weight: float,
) -> Outcome:
    """Losses and gradients of every sample; the softmax's loss is log-sum - logit, unclamped."""
    labelled = batch.labelled
    weight = batch.weight * batch.counted
    target_logit = adjustment.value.double() * scale
    if sigmoid_bias is None:
        log_sum = _log_sum(tables, target_logit, labelled)
        loss = log_sum - torch.where(labelled, target_logit, 0.0)
        probability = torch.where(labelled, (target_logit - log_sum).exp(), 0.0)
        residual = torch.where(labelled, probability - 1.0, 0.0)
        offset = weight.log() - log_sum
        negative_mass = 1.0 - probability
        bias_gradient = torch.zeros_like(weight).sum()
    else:
        terms = sigmoid_terms(batch, adjustment, scale=scale, sigmoid_bias=sigmoid_bias)
        loss = terms.own_loss + tables[:, TOTAL].sum(0) * negative_weight
        residual, offset = terms.residual, terms.offset
        negative_mass = tables[:, SIGMOIDS].sum(0)
        bias_gradient = (weight * (-residual - negative_mass * negative_weight)).sum()
    if adjustment.penalty is not None:
        loss = loss + torch.where(labelled, adjustment.penalty.double(), 0.0)
    num_counted = batch.num_counted
    loss = torch.where(batch.counted, loss, loss * 0.0)  # keeps what is not a number visible
    return Outcome(
        sample_loss=loss,
        loss=(weight * loss).sum() / num_counted,
        num_counted=num_counted,
        offset=offset,
        target_gradient=residual * adjustment.slope.double() * weight,
        norm_gradient=_norm_gradient(adjustment, residual * scale, weight * labelled),
        bias_gradient=bias_gradient,
        negative_mass=negative_mass,
        finite=loss.isfinite().all() & batch.norm.isfinite().all(),
    )


def out_of_range(
    tables: Float[Tensor, "world measures batch"],
    batch: Batch,
    adjustment: Adjustment,
    *,
    scale: float,
    dtype: torch.dtype,
) -> Bool[Tensor, ""]:
    """Whether a constant shift let some sample's sum overflow, or vanish below `dtype`'s digits."""
    info = torch.finfo(dtype)
    shift = tables[:, SHIFT].amax(0)
    own = torch.where(batch.labelled, (adjustment.value.double() * scale - shift).exp(), 0.0)
    total = tables[:, TOTAL].sum(0) + own
    return ((total < info.tiny / info.eps) | total.isposinf()).any()


def _log_sum(tables: Tensor, target_logit: Tensor, labelled: Tensor) -> Tensor:
    target = torch.where(labelled, target_logit, -torch.inf)
    top = torch.maximum(tables[:, SHIFT].amax(0), target)
    moved = (tables[:, SHIFT] - top).exp()
    total = (tables[:, TOTAL] * moved).sum(0) + (target - top).exp()
    return total.log() + top


def _norm_gradient(adjustment: Adjustment, residual: Tensor, weight: Tensor) -> Tensor | None:
    if adjustment.norm_slope is None and adjustment.penalty_slope is None:
        return None
    gradient = torch.zeros_like(weight)
    if adjustment.norm_slope is not None:
        gradient = gradient + residual * adjustment.norm_slope.double()
    if adjustment.penalty_slope is not None:
        gradient = gradient + adjustment.penalty_slope.double()
    return gradient * weight


@dataclass(frozen=True)
class Statistics:
    """Figures of the global batch, detached, 0-dim and the same on every rank.

    Means are over the samples that have a class. `hardest_negative_cosine` is the mean over samples
    of the largest cosine with another class, `negative_mass` of the probability all others share,
    `top1` the share whose own class is nearest. `conflict_share` is the share of all negatives
    whose cosine exceeds the head's `conflict_cosine` (0 without one). `committed` says whether a
    backward of this pass changes rows: the sums were finite on all ranks. Where it is False,
    `bad_rank` is the first rank with a bad embedding, or else the first with a bad row; otherwise
    -1. `used_maximum` says that the constant shift would have left the range of exp, and the
    maximum was reduced instead. `margin` holds what the margin reports.
    """

    loss: Float[Tensor, ""]
    target_cosine: Float[Tensor, ""]
    target_cosine_p05: Float[Tensor, ""]
    hardest_negative_cosine: Float[Tensor, ""]
    negative_mass: Float[Tensor, ""]
    top1: Float[Tensor, ""]
    conflict_share: Float[Tensor, ""]
    committed: Bool[Tensor, ""]
    bad_rank: Int[Tensor, ""]
    used_maximum: Bool[Tensor, ""]
    margin: Scalars


def summarise(
    tables: Float[Tensor, "world measures batch"],
    batch: Batch,
    target_cosine: Float[Tensor, " batch"],
    adjustment: Adjustment,
    outcome: Outcome,
    *,
    loss: Float[Tensor, ""],
    scale: float,
    num_classes: int,
    owner: Int[Tensor, " batch"],
    used_maximum: Bool[Tensor, ""],
) -> Statistics:
    """The pass's statistics, in the loss's dtype; nothing here waits for an accelerator."""
    labelled = batch.labelled
    counted = labelled.sum().clamp_min(1)
    highest = tables[:, HIGHEST].amax(0) / scale

    if batch.class_range is None:
        negatives = torch.full_like(highest, num_classes - 1)
    else:
        negatives = (batch.class_range[1] - batch.class_range[0] - 1).clamp_min(1).double()
    conflicts = tables[:, CONFLICTS].sum(0) / negatives
    nearest = target_cosine > highest
    of_samples = target_cosine, highest, outcome.negative_mass, nearest, conflicts
    sums = torch.where(labelled, torch.stack([value.double() for value in of_samples]), 0.0).sum(1)
    means = (sums / counted).to(loss.dtype).unbind()
    ascending = torch.where(labelled, target_cosine.double(), torch.inf).sort().values
    place = ((labelled.sum() - 1).clamp_min(0) * 0.05).floor().long()
    return Statistics(
        loss=loss,
        target_cosine=means[0],
        target_cosine_p05=ascending.gather(0, place.unsqueeze(0)).squeeze(0).to(loss.dtype),
        hardest_negative_cosine=means[1],
        negative_mass=means[2],
        top1=means[3],
        conflict_share=means[4],
        committed=outcome.finite,
        bad_rank=_bad_rank(batch.embedding, tables, owner),
        used_maximum=used_maximum,
        margin={name: value.to(loss.dtype) for name, value in adjustment.statistics.items()},
    )


def _bad_rank(embedding: Tensor, tables: Tensor, owner: Tensor) -> Tensor:
    """The first rank with a non-finite embedding, else with non-finite sums, else -1."""
    bad_sample = embedding.isfinite().all(1).logical_not()
    bad_table = tables[:, TOTAL].isfinite().logical_not().any(1)
    of_sample = owner[bad_sample.int().argmax()]
    of_table = torch.where(bad_table.any(), bad_table.int().argmax(), -1)
    return torch.where(bad_sample.any(), of_sample, of_table)
