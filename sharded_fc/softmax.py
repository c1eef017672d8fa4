"""Margin softmax over one rank's classes, a chunk at a time, in two visits.

The first visit sums exponentials; after the ranks have put their sums together, the second
recomputes each chunk's logits, turns them into gradients and updates the chunk's rows there and
then. So neither all logits nor a full gradient ever exists. With c = w.x / |w| and x already of
unit length, every sample's logits are s c, and s f(c) for its own class; the cosines are bounded,
so one constant shift keeps the exponentials in range and no maximum is reduced.

Nothing here communicates, and nothing waits for an accelerator.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.margins import Margin
from sharded_fc.optimizer import SGD
from sharded_fc.partition import chunks
from sharded_fc.storage import Rows

# A centre or embedding shorter than this has no direction: its cosines are 0 and it gets no
# gradient. The same bound as torch.nn.functional.normalize.
SHORTEST = 1e-12

# exp overflows past log(finfo.max), 88.7 in float32, and loses digits below log(finfo.tiny), -87.3;
# the reserve leaves room for adding up chunks.
_EXPONENT_RESERVE = 3.5


def constant_shift(*, scale: float, num_classes: int, dtype: torch.dtype) -> float:
    """K with which sums of exp(logit - K) neither overflow nor vanish; 0 for scale 64.

    K = max(0, z_max + ln C - 85) in float32: the smallest that cannot overflow. The sum must not
    vanish either where every cosine is -1, and that bounds the scale.
    """
    info = torch.finfo(dtype)
    highest = math.log(info.max) - _EXPONENT_RESERVE
    shift = max(0.0, scale + math.log(num_classes) - highest)
    if -scale - shift < math.log(info.tiny):
        limit = (highest - math.log(info.tiny) - math.log(num_classes)) / 2
        raise ValueError(
            f"scale {scale} with {num_classes} classes leaves the range of exp in {dtype}; "
            f"use at most {math.floor(limit)}"
        )
    return shift


@dataclass(frozen=True)
class Sums:
    """What one rank found in its first visit; `table` is what the ranks exchange."""

    table: Float[Tensor, "3 batch"]
    inverse_norm: Float[Tensor, " rows"]


@dataclass(frozen=True)
class Softmax:
    """The same on every rank: every sample's log-sum, and the scalars of the whole batch."""

    log_sum: Float[Tensor, " batch"]
    target_gradient: Float[Tensor, " batch"]
    loss: Float[Tensor, ""]
    target_cosine: Float[Tensor, ""]
    hardest_negative_cosine: Float[Tensor, ""]
    finite: Bool[Tensor, ""]


class ChunkedSoftmax:
    """The two visits over one rank's rows, with their buffers."""

    def __init__(
        self,
        rows: Rows,
        optimizer: SGD,
        *,
        scale: float,
        shift: float,
        compute_dtype: torch.dtype,
    ) -> None:
        self.rows = rows
        self.optimizer = optimizer
        self.scale = scale
        self.shift = shift
        self.compute_dtype = compute_dtype
        self._buffers: _Buffers | None = None

    def first_visit(
        self,
        embedding: Float[Tensor, "batch dim"],
        label: Int[Tensor, " batch"],
        *,
        chunk: int,
    ) -> Sums:
        """Sum exp(logit - shift) over this rank's negatives; find the hardest; read the targets.

        `table` holds, in float64: that sum, the largest negative logit, and the target cosine
        where the target lives on this rank, else 0.
        """
        centre = self.rows.centre
        buffers = self._buffers_for(chunk, embedding)
        targets = _Targets.of(label - self.rows.start, chunk=chunk, num_rows=len(self.rows))
        inverse_norm = torch.empty_like(centre[:, 0])
        table = torch.zeros(3, len(label), dtype=torch.float64, device=centre.device)
        table[1] = -math.inf
        for index, (start, stop) in enumerate(chunks(len(centre), chunk)):
            inverse = inverse_norm[start:stop]
            torch.linalg.vector_norm(centre[start:stop], dim=1, out=inverse)
            # A norm that is not a number stays out of the guard: its products are not finite, and
            # that must show in the sums.
            inverse.copy_(inverse.reciprocal().masked_fill_(inverse <= SHORTEST, 0.0))
            logit = buffers.products(centre[start:stop])
            logit.mul_((inverse * self.scale).unsqueeze(1))
            targets.write(logit, index, -math.inf)
            torch.maximum(table[1], logit.amax(0), out=table[1])
            if self.shift:
                logit.sub_(self.shift)
            table[0].add_(logit.exp_().sum(0))
        self._target_cosines(embedding, label - self.rows.start, inverse_norm, out=table[2])
        return Sums(table, inverse_norm)

    def second_visit(
        self,
        embedding: Float[Tensor, "batch dim"],
        label: Int[Tensor, " batch"],
        sums: Sums,
        softmax: Softmax,
        *,
        chunk: int,
        factor: float,
        learning_rate: float,
    ) -> Float[Tensor, "batch dim"]:
        """Update the rows; return d(loss * factor / scale * batch) / d embedding from them alone.

        `factor` scales every gradient made here: scale / batch for the mean. Where the sums are not
        finite no row changes.
        """
        centre = self.rows.centre
        dtype = centre.dtype
        buffers = self._buffers_for(chunk, embedding)
        targets = _Targets.of(label - self.rows.start, chunk=chunk, num_rows=len(self.rows))
        target_gradient = softmax.target_gradient.to(dtype)
        negative_log_sum = softmax.log_sum.neg().to(dtype).unsqueeze(0)
        skip = softmax.finite.logical_not().to(dtype=torch.float32)
        embedding_gradient = torch.zeros_like(embedding)
        for index, (start, stop) in enumerate(chunks(len(centre), chunk)):
            rows = centre[start:stop]
            inverse = sums.inverse_norm[start:stop]
            product = buffers.products(rows)
            # p / |w| * factor, and (p_y - 1) f'(c_y) / |w| * factor at the sample's own class
            gradient = torch.addcmul(
                negative_log_sum,
                product,
                (inverse * self.scale).unsqueeze(1),
                out=buffers.gradient[: len(rows)],
            )
            gradient.exp_()
            targets.write(gradient, index, target_gradient)
            gradient.mul_((inverse * factor).unsqueeze(1))
            along = product.mul_(gradient).sum(1).mul_(inverse).mul_(inverse)
            buffers.add_embedding_gradient(embedding_gradient, gradient, rows)
            row_gradient = buffers.row_gradients(gradient)
            # The part along the row itself drops out: its length does not change the loss.
            row_gradient.addcmul_(rows, along.unsqueeze(1), value=-1.0)
            self.optimizer.update(
                rows,
                self.rows.state_of(start, stop),
                row_gradient,
                learning_rate=learning_rate,
                skip=skip,
            )
        return embedding_gradient

    def _target_cosines(
        self, embedding: Tensor, local_label: Tensor, inverse_norm: Tensor, *, out: Tensor
    ) -> None:
        """Row by row at full precision, whatever the products are computed in."""
        here = (local_label >= 0) & (local_label < len(self.rows))
        own = local_label.clamp(0, len(self.rows) - 1)
        cosine = (self.rows.centre[own] * embedding).sum(1) * inverse_norm[own]
        out.copy_(torch.where(here, cosine, 0.0))

    def _buffers_for(self, chunk: int, embedding: Tensor) -> "_Buffers":
        kept = self._buffers
        if kept is None or kept.gradient.shape != (chunk, len(embedding)):
            kept = self._buffers = _Buffers(
                chunk, len(embedding), self.rows.centre, self.compute_dtype
            )
        kept.load(embedding)
        return kept


def combine(
    tables: Float[Tensor, "world 3 batch"],
    *,
    margin: Margin,
    scale: float,
    shift: float,
    dtype: torch.dtype,
) -> Softmax:
    """Put the ranks' first visits together: the loss is log-sum minus target logit, unclamped.

    `dtype` is that of the cosines: a margin's slope near angle 0 is as sharp as they are.
    """
    negative_sum = tables[:, 0].sum(0)
    target_cosine = tables[:, 2].sum(0)  # one rank owns the class, the others say 0
    changed, slope = margin.target(target_cosine.to(dtype))
    target_logit = scale * changed.double()
    log_sum = (negative_sum + (target_logit - shift).exp()).log() + shift
    probability = (target_logit - log_sum).exp()
    return Softmax(
        log_sum=log_sum,
        target_gradient=(probability - 1.0) * slope,
        loss=(log_sum - target_logit).mean(),
        target_cosine=target_cosine.mean(),
        hardest_negative_cosine=(tables[:, 1].amax(0) / scale).mean(),
        finite=log_sum.isfinite().all(),
    )


@dataclass(frozen=True)
class _Targets:
    """Where each sample's own class lies: which chunk, which row of it; chunk -1 is elsewhere."""

    chunk: Int[Tensor, " batch"]
    row: Int[Tensor, "1 batch"]

    @classmethod
    def of(cls, local_label: Tensor, *, chunk: int, num_rows: int) -> "_Targets":
        here = (local_label >= 0) & (local_label < num_rows)
        return cls(
            torch.where(here, torch.div(local_label, chunk, rounding_mode="floor"), -1),
            torch.remainder(local_label, chunk).unsqueeze(0),
        )

    def write(self, logit: Tensor, index: int, value: float | Tensor) -> None:
        """Put `value` at the own class of each sample whose class lies in chunk `index`.

        Of fixed shape, so that no count of targets has to come to the host.
        """
        row = self.row.clamp_max(len(logit) - 1)
        kept = logit.gather(0, row)
        logit.scatter_(0, row, torch.where(self.chunk == index, value, kept))


class _Buffers:
    """What one chunk needs, allocated once; low-precision operands beside full-precision sums."""

    def __init__(self, chunk: int, batch: int, centre: Tensor, compute_dtype: torch.dtype) -> None:
        dim = centre.shape[1]
        self.product = centre.new_empty(chunk, batch)
        self.gradient = centre.new_empty(chunk, batch)
        self.row_gradient = centre.new_empty(chunk, dim)
        self.low = compute_dtype != centre.dtype
        self.embedding = centre.new_empty(batch, dim, dtype=compute_dtype)
        if self.low:
            self.low_rows = self.embedding.new_empty(chunk, dim)
            self.low_product = self.embedding.new_empty(chunk, batch)
            self.low_row_gradient = self.embedding.new_empty(chunk, dim)
            self.low_embedding_gradient = torch.empty_like(self.embedding)

    def load(self, embedding: Tensor) -> None:
        """Round the embeddings once a visit."""
        self.embedding.copy_(embedding)

    def products(self, rows: Tensor) -> Tensor:
        """Rows times embeddings, [classes, batch]."""
        product = self.product[: len(rows)]
        if not self.low:
            return torch.mm(rows, self.embedding.t(), out=product)
        low_rows = self.low_rows[: len(rows)].copy_(rows)
        low = torch.mm(low_rows, self.embedding.t(), out=self.low_product[: len(rows)])
        return product.copy_(low)

    def add_embedding_gradient(self, total: Tensor, gradient: Tensor, rows: Tensor) -> None:
        """Add this chunk's share; `products` of the same rows comes first."""
        if not self.low:
            total.addmm_(gradient.t(), rows)
            return
        low = self.low_product[: len(rows)].copy_(gradient)
        torch.mm(low.t(), self.low_rows[: len(rows)], out=self.low_embedding_gradient)
        total.add_(self.low_embedding_gradient)

    def row_gradients(self, gradient: Tensor) -> Tensor:
        """Logit gradients times embeddings; `add_embedding_gradient` comes first."""
        row_gradient = self.row_gradient[: len(gradient)]
        if not self.low:
            return torch.mm(gradient, self.embedding, out=row_gradient)
        low = torch.mm(
            self.low_product[: len(gradient)],
            self.embedding,
            out=self.low_row_gradient[: len(gradient)],
        )
        return row_gradient.copy_(low)
