"""What is done to one chunk's products: logits and their sums, then gradients. Plain torch.

A tile holds the products of a chunk's rows with the global batch, [rows, batch]. This is the
reference for the accelerator kernels in `kernels/`, and the way on CPUs. Everything is written in
logits, z = scale * cosine, so that no pass over the tile is spent on a scale.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.margins import HardNegatives

# Rows of what a rank finds in its first visit, [MEASURES, batch] in float64.
TOTAL, SHIFT, HIGHEST, CONFLICTS, SIGMOIDS = range(5)
MEASURES = 5


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What turns the products of a pass into logits and gradients, the same for every chunk.

    `label` is each sample's class, -1 for none; None where a tile is known to hold no sample's own
    class. `hard` is in logits already (`in_logits`).
    `class_range` holds the [start, stop) of classes each sample competes in. A negative above
    `conflict_logit` is counted and, with `ignore_conflicts`, left out. `sub_centres` rows make a
    class; the best of them is its logit.
    `sigmoid_bias` and `negative_weight` belong to the sigmoid loss; None means softmax.
    """

    scale: float
    label: Int[Tensor, " batch"] | None
    hard: HardNegatives | None = None
    class_range: Int[Tensor, "2 batch"] | None = None
    conflict_logit: float | None = None
    ignore_conflicts: bool = False
    sub_centres: int = 1
    sigmoid_bias: Float[Tensor, ""] | None = None
    negative_weight: float = 1.0


def in_logits(hard: HardNegatives | None, *, scale: float) -> HardNegatives | None:
    """The same rule for z = scale * c instead of c."""
    if hard is None:
        return None
    return HardNegatives(
        threshold=hard.threshold * scale,
        constant=hard.constant * scale,
        linear=hard.linear,
        square=hard.square / scale,
        highest=hard.highest * scale,
    )


def sum_tile(
    product: Float[Tensor, "rows batch"],
    inverse_norm: Float[Tensor, " rows"],
    *,
    first_class: int,
    rules: Rules,
    measures: Float[Tensor, "measures batch"],
    keep_maximum: bool,
    out: Float[Tensor, "rows batch"],
) -> None:
    """Add a chunk's negatives to `measures`; `out` is scratch and may be `product` itself.

    `measures[TOTAL]` grows by the sum of exp(z - measures[SHIFT]) (or of softplus(z - bias));
    with `keep_maximum` the shift follows the largest logit seen and the total is rescaled.
    """
    logit = torch.mul(product, (inverse_norm * rules.scale).unsqueeze(1), out=out)
    logit, _ = _classes(logit, rules.sub_centres)
    if rules.label is not None:
        own_class(logit, first_class, rules.label).write(logit, -torch.inf)
    _leave_range(logit, first_class, rules.class_range)
    torch.maximum(measures[HIGHEST], logit.amax(0), out=measures[HIGHEST])
    if rules.conflict_logit is not None:
        measures[CONFLICTS].add_((logit > rules.conflict_logit).sum(0))
    _ignore_conflicts(logit, rules)
    if rules.sigmoid_bias is not None:
        shifted = logit.sub_(rules.sigmoid_bias.to(logit.dtype))
        measures[SIGMOIDS].add_(torch.sigmoid(shifted).sum(0))
        measures[TOTAL].add_(torch.nn.functional.softplus(shifted).sum(0))
        return
    if rules.hard is not None:
        logit = _modulate(logit, rules.hard)[0]
    if keep_maximum:
        higher = torch.maximum(measures[SHIFT], logit.amax(0))
        # Where nothing was seen yet both are -inf; the total is 0 and stays so.
        moved = (measures[SHIFT] - higher).nan_to_num_(nan=0.0)
        measures[TOTAL].mul_(moved.exp_())
        measures[SHIFT] = higher
        higher = higher.masked_fill(higher == -torch.inf, 0.0)
        logit = logit.sub_(higher.to(logit.dtype))
    else:
        logit = logit.sub_(measures[SHIFT].to(logit.dtype))
    measures[TOTAL].add_(logit.exp_().sum(0))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What turns logits into gradients, once the ranks have put their sums together.

    `offset` is log(weight) - log-sum, so that exp(z + offset) is the weighted probability; with
    the sigmoid loss it is the weight itself. `target` is the finished d loss / d cosine of the own
    class. Both are in units that `factor`, scale / batch size, turns into the gradient.
    """

    offset: Float[Tensor, " batch"]
    target: Float[Tensor, " batch"]
    factor: float | Float[Tensor, ""]


def gradient_tile(
    product: Float[Tensor, "rows batch"],
    inverse_norm: Float[Tensor, " rows"],
    *,
    first_class: int,
    rules: Rules,
    weights: Weights,
    out: Float[Tensor, "rows batch"],
) -> Float[Tensor, " rows"]:
    """Write d loss / d (row . embedding) to `out`; return what multiplies each row.

    A row's length does not change the loss, so the part of its gradient along itself drops out:
    the row's gradient is `out` @ embedding - returned * row. `product` is overwritten.
    """
    logit = torch.mul(product, (inverse_norm * rules.scale).unsqueeze(1), out=out)
    logit, winner = _classes(logit, rules.sub_centres)
    _leave_range(logit, first_class, rules.class_range)
    _ignore_conflicts(logit, rules)
    slope = None
    if rules.sigmoid_bias is not None:
        gradient = logit.sub_(rules.sigmoid_bias.to(logit.dtype)).sigmoid_()
        gradient.mul_(weights.offset * rules.negative_weight)
    else:
        if rules.hard is not None:
            logit, slope = _modulate(logit, rules.hard)
        gradient = logit.add_(weights.offset).exp_()
        if slope is not None:
            gradient.mul_(slope)
    if rules.label is not None:
        own_class(gradient, first_class, rules.label).write(gradient, weights.target)
    if winner is not None:
        spread = torch.zeros_like(out).view(*winner.shape[:1], rules.sub_centres, -1)
        gradient = out.copy_(spread.scatter_(1, winner, gradient.unsqueeze(1)).view_as(out))
    elif gradient.data_ptr() != out.data_ptr():
        gradient = out.copy_(gradient)
    gradient.mul_((inverse_norm * weights.factor).unsqueeze(1))
    return product.mul_(gradient).sum(1).mul_(inverse_norm).mul_(inverse_norm)


@dataclass(frozen=True)
class OwnClass:
    """Where the samples' own classes lie in a tile of classes."""

    here: Bool[Tensor, " batch"]
    row: Int[Tensor, "1 batch"]

    def write(self, tile: Float[Tensor, "classes batch"], value: float | Tensor) -> None:
        """Put `value` at each sample's own class, where the tile holds it.

        Of fixed shape, so that no count of targets has to come to the host.
        """
        kept = tile.gather(0, self.row)
        tile.scatter_(0, self.row, torch.where(self.here, value, kept))


def own_class(
    tile: Float[Tensor, "classes batch"], first_class: int, label: Int[Tensor, " batch"]
) -> OwnClass:
    """The place of every sample's class in a tile that begins at `first_class`."""
    row = label - first_class
    here = (row >= 0) & (row < len(tile)) & (label >= 0)
    return OwnClass(here, row.clamp(0, len(tile) - 1).unsqueeze(0))


def _classes(
    logit: Float[Tensor, "rows batch"], sub_centres: int
) -> tuple[Float[Tensor, "classes batch"], Int[Tensor, "classes 1 batch"] | None]:
    """A class's logit is that of its best row; also which one that is."""
    if sub_centres == 1:
        return logit, None
    best, winner = logit.view(-1, sub_centres, logit.shape[1]).max(1, keepdim=True)
    return best.squeeze(1), winner


def _leave_range(
    logit: Float[Tensor, "classes batch"],
    first_class: int,
    class_range: Int[Tensor, "2 batch"] | None,
) -> None:
    """Classes a sample does not compete with weigh nothing."""
    if class_range is None:
        return
    number = torch.arange(first_class, first_class + len(logit), device=logit.device).unsqueeze(1)
    logit.masked_fill_((number < class_range[0]) | (number >= class_range[1]), -torch.inf)


def _ignore_conflicts(logit: Float[Tensor, "classes batch"], rules: Rules) -> None:
    """Negatives that may be the same person weigh nothing (PFC*, arXiv:2203.15565).

    Public code makes their logit 0 instead, which still counts. Own classes, if in here, are
    overwritten by whoever calls.
    """
    if rules.ignore_conflicts:
        assert rules.conflict_logit is not None
        logit.masked_fill_(logit > rules.conflict_logit, -torch.inf)


def _modulate(
    logit: Float[Tensor, "classes batch"], hard: HardNegatives
) -> tuple[Float[Tensor, "classes batch"], Float[Tensor, "classes batch"]]:
    """Hard negatives' changed logits, and the slope by which gradients pass through."""
    constant, linear, square = (
        x.to(logit.dtype) for x in (hard.constant, hard.linear, hard.square)
    )
    is_hard = logit > hard.threshold.to(logit.dtype)
    changed = (logit * square).add_(linear).mul_(logit).add_(constant)
    slope = torch.where(is_hard, (logit * (2 * square)).add_(linear), 1.0)
    return torch.where(is_hard, changed, logit), slope
