"""Margin softmax over one rank's classes, a chunk at a time, in two visits.

The first visit sums exponentials; after the ranks have put their sums together, the second takes
each chunk's products again (kept where they fit a budget, else recomputed), turns them into
gradients and updates the chunk's rows there and then. So neither all logits nor a full gradient
ever exists.

Nothing here communicates, and nothing waits for an accelerator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc import kernels, native_tile, tile
from sharded_fc.combine import Batch
from sharded_fc.operands import Operands
from sharded_fc.optimizer import Optimizer
from sharded_fc.partition import chunks, pieces
from sharded_fc.storage import Rows
from sharded_fc.tile import HIGHEST, MEASURES, SHIFT, Rules, Weights

Kernels = Literal["auto", "torch", "elementwise", "fused"]

# A centre or embedding shorter than this has no direction: its cosines are 0 and it gets no
# gradient. The same bound as torch.nn.functional.normalize.
SHORTEST = 1e-12


@dataclass(frozen=True)
class Visit:
    """What one rank found in its first visit; `measures` (see tile) is what the ranks exchange."""

    measures: Float[Tensor, "measures batch"]
    inverse_norm: Float[Tensor, " rows"]
    kept: int
    """How many chunks' products are kept for the second visit."""


@dataclass(frozen=True)
class Targets:
    """Cosines (float64) with the own class and the row that is nearest, where it lives `here`.

    Elsewhere the cosine is 0 and the row, counted within the partition, means nothing.
    """

    cosine: Float[Tensor, " batch"]
    row: Int[Tensor, " batch"]
    here: Bool[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """How the rows move. `ratios` are (first row, last row + 1, factor of the learning rate)."""

    learning_rate: float
    number: Int[Tensor, ""]
    skip: Bool[Tensor, ""]
    ratios: tuple[tuple[int, int, float], ...] = ()
    clip_row_norm: float | None = None


class ChunkedSoftmax:
    """The two visits over one rank's rows, with their buffers."""

    def __init__(
        self,
        rows: Rows,
        optimizer: Optimizer,
        *,
        sub_centres: int,
        normalised: bool,
        compute_dtype: torch.dtype,
        working_dtype: torch.dtype,
        kept_bytes: int,
        kernels_used: Kernels,
        seed: int,
    ) -> None:
        self.rows = rows
        self.optimizer = optimizer
        self.sub_centres = sub_centres
        self.normalised = normalised
        self.compute_dtype = compute_dtype
        self.working_dtype = working_dtype
        self.kept_bytes = kept_bytes
        self.seed = seed
        chosen = None if kernels_used == "torch" else kernels.choose(rows.centre.device)
        self._kernels = chosen if working_dtype == torch.float32 else None
        self._fused = kernels_used == "fused" and self._kernels is not None and sub_centres == 1
        self._operands: Operands | None = None
        self._kept: Tensor | None = None
        self._kept_for: Visit | None = None

    def first_visit(
        self,
        batch: Batch,
        rules: Rules,
        *,
        chunk: int,
        shift: Float[Tensor, ""] | None,
        keep: bool,
    ) -> Visit:
        """Sum exp(logit - shift) over this rank's negatives, and what else `tile` measures.

        `shift=None` lets it follow each sample's largest logit. With `keep`, the products of as
        many chunks as fit the budget are kept.
        """
        centre = self.rows.centre
        operands = self._operands_for(chunk, batch.embedding)
        measures = centre.new_zeros(MEASURES, len(batch.label), dtype=torch.float64)
        measures[HIGHEST] = -math.inf
        measures[SHIFT] = -math.inf if shift is None else shift
        inverse_norm = torch.ones(len(centre), dtype=self.working_dtype, device=centre.device)
        kept = self._room(operands, chunk) if keep and not self._fused else 0
        visit = Visit(measures, inverse_norm, kept)
        of_chunk = self._rules_of_chunks(rules, chunk)
        self._kept_for = visit if kept else None
        for index, (start, stop) in enumerate(chunks(len(centre), chunk)):
            self.rows.ready(start, stop)
            inverse = inverse_norm[start:stop]
            rows = self._measure(operands, centre[start:stop], inverse)
            product = self._place(operands, index, stop - start, kept)
            self._sum(
                operands,
                rows,
                product,
                operands.left_over(inverse),
                first_class=self._first_class(start),
                rules=of_chunk(index),
                measures=measures,
                keep_maximum=shift is None,
            )
        return visit

    def second_visit(
        self, batch: Batch, visit: Visit, rules: Rules, weights: Weights, step: Step, *, chunk: int
    ) -> Float[Tensor, "batch dim"]:
        """Update the rows; return this rank's share of the gradient of the batch's embeddings.

        Within a chunk the embedding gradient is taken before its rows are written. Where
        `step.skip` no row changes.
        """
        centre = self.rows.centre
        operands = self._operands_for(chunk, batch.embedding)
        largest = batch.weight.amax().to(self.working_dtype) * max(1.0, rules.negative_weight)
        weights = operands.fit(weights, largest, sigmoid=rules.sigmoid_bias is not None)
        kept = visit.kept if self._kept_for is visit else 0
        embedding_gradient = torch.zeros_like(batch.embedding)
        of_chunk = self._rules_of_chunks(rules, chunk)
        for index, (start, stop) in enumerate(chunks(len(centre), chunk)):
            inverse = visit.inverse_norm[start:stop]
            rows = operands.rows(centre[start:stop], inverse)
            product = self._place(operands, index, stop - start, kept)
            gradient, along = self._gradient(
                operands,
                rows,
                product,
                operands.left_over(inverse),
                made=index < kept,
                first_class=self._first_class(start),
                rules=of_chunk(index),
                weights=weights,
            )
            along = operands.along_rows(along, inverse)
            operands.add_embedding_gradient(embedding_gradient, gradient, rows)
            row_gradient = operands.row_gradients(gradient, inverse)
            self._update(start, stop, row_gradient, along if self.normalised else None, step)
        self._kept_for = None
        return embedding_gradient

    def targets(self, batch: Batch) -> Targets:
        """Each sample's nearest row of its own class, where that lives here.

        Row by row at full precision, whatever the products are computed in.
        """
        first = torch.arange(self.sub_centres, device=batch.label.device)
        row = batch.label.unsqueeze(1) * self.sub_centres + first - self.rows.start
        here = batch.labelled & (row[:, 0] >= 0) & (row[:, 0] < len(self.rows))
        self.rows.ready(0, len(self.rows))
        row = row.clamp(0, len(self.rows) - 1)
        own = self.rows.centre[row].to(self.working_dtype)
        product = (own * batch.embedding.unsqueeze(1)).sum(2)
        if self.normalised:
            norm = torch.linalg.vector_norm(own, dim=2)
            product = product * norm.reciprocal().masked_fill_(norm <= SHORTEST, 0.0)
        cosine, nearest = product.max(1, keepdim=True)
        cosine = torch.where(here, cosine.squeeze(1).double(), 0.0)
        return Targets(cosine, row.gather(1, nearest).squeeze(1), here)

    def _measure(self, operands: Operands, centre: Tensor, inverse: Tensor) -> Tensor:
        """Write one over the rows' lengths; return the rows as an operand."""
        if self._kernels is not None and operands.unit and self.normalised:
            rows = operands.low_rows[: len(centre)]
            self._kernels.unit_rows(centre, inverse_norm=inverse, out=rows)
            return rows
        if self.normalised:
            low = operands.bfloat16_rows(len(centre))
            if not native_tile.measure_rows(centre, inverse, shortest=SHORTEST, low=low):
                _inverse_norms(centre, out=inverse)
            elif low is not None:
                return low
        return operands.rows(centre, inverse)

    def _sum(
        self, operands: Operands, rows: Tensor, product: Tensor, inverse: Tensor, **how: Any
    ) -> None:
        """`tile.sum_tile` of a chunk's products; they stay in `product`, but for a fused pass."""
        if self._fused:
            assert self._kernels is not None
            self._kernels.sum_rows(rows, operands.embedding, inverse, **how)
            return
        operands.products(rows, out=product)
        if self._kernels is None and native_tile.sum_tile(product, inverse, **how):
            return
        sum_tile = (self._kernels or tile).sum_tile
        sum_tile(operands.widen(product), inverse, out=operands.gradient[: len(rows)], **how)

    def _gradient(
        self,
        operands: Operands,
        rows: Tensor,
        product: Tensor,
        inverse: Tensor,
        *,
        made: bool,
        **how: Any,
    ) -> tuple[Tensor, Tensor]:
        """What `tile.gradient_tile` wrote and returned; `made`: the products are there already."""
        out = operands.operand_gradient[: len(rows)]  # compiled code rounds as it writes
        if self._fused:
            assert self._kernels is not None
            return out, self._kernels.gradient_rows(
                rows, operands.embedding, inverse, out=out, **how
            )
        if not made:
            operands.products(rows, out=product)
        if self._kernels is None:
            along = native_tile.gradient_tile(product, inverse, out=out, **how)
            if along is not None:
                return out, along
            out = operands.gradient[: len(rows)]
        gradient_tile = (self._kernels or tile).gradient_tile
        return out, gradient_tile(operands.widen(product), inverse, out=out, **how)

    def _update(
        self, start: int, stop: int, gradient: Tensor, along: Tensor | None, step: Step
    ) -> None:
        if step.clip_row_norm is not None:
            gradient = gradient.to(self.working_dtype)
            if along is not None:
                rows = self.rows.centre[start:stop].to(gradient.dtype)
                gradient.addcmul_(rows, along.unsqueeze(1), value=-1.0)
                along = None
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((step.clip_row_norm / norm).clamp_max_(1.0))
        if self._kernels is None:
            update = self.optimizer.update
        else:
            update = partial(self._kernels.update, self.optimizer)
        for first, last, ratio in pieces(start, stop, step.ratios):
            if ratio == 0.0:
                continue
            update(
                self.rows.view(first, last),
                gradient[first - start : last - start],
                None if along is None else along[first - start : last - start],
                learning_rate=step.learning_rate * ratio,
                step=step.number,
                seed=self.seed,
                skip=step.skip,
            )

    def _rules_of_chunks(self, rules: Rules, chunk: int) -> Callable[[int], Rules]:
        """The rules of each chunk: on a CPU, where looking is free, most hold no sample's class."""
        if rules.label is None or self._kernels is not None or not rules.label.is_cpu:
            return lambda index: rules
        row = rules.label * self.sub_centres - self.rows.start
        here = (row >= 0) & (row < len(self.rows)) & (rules.label >= 0)
        holding = set((row[here] // chunk).tolist())
        without = replace(rules, label=None)
        return lambda index: rules if index in holding else without

    def _first_class(self, start: int) -> int:
        return (self.rows.start + start) // self.sub_centres

    def _operands_for(self, chunk: int, embedding: Tensor) -> Operands:
        kept = self._operands
        if kept is None or kept.tile.shape != (chunk, len(embedding)):
            self._operands = self._kept = None  # freed before the new ones are made
            kept = self._operands = Operands(
                chunk,
                len(embedding),
                self.rows.centre,
                working=self.working_dtype,
                compute=self.compute_dtype,
            )
        kept.load(embedding)
        return kept

    def _room(self, operands: Operands, chunk: int) -> int:
        """Make room for kept products; how many chunks it holds."""
        batch = operands.tile.shape[1]
        item = torch.empty((), dtype=operands.product_dtype).itemsize
        fitting = self.kept_bytes // (chunk * batch * item)
        kept = min(fitting, math.ceil(len(self.rows) / chunk))
        if kept and self._kept is None:
            self._kept = operands.tile.new_empty(kept, chunk, batch, dtype=operands.product_dtype)
        return kept

    def _place(self, operands: Operands, index: int, rows: int, kept: int) -> Tensor:
        """Where a chunk's products lie: among those kept, or in the buffer of one chunk."""
        if index < kept:
            assert self._kept is not None
            return self._kept[index, :rows]
        return operands.product[:rows]


def _inverse_norms(centre: Tensor, *, out: Tensor) -> None:
    torch.linalg.vector_norm(centre, dim=1, dtype=out.dtype, out=out)
    # A norm that is not a number stays out of the guard: its products are not finite, and that
    # must show in the sums.
    out.copy_(out.reciprocal().masked_fill_(out <= SHORTEST, 0.0))
