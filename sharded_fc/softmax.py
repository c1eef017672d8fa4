"""Margin softmax over one rank's classes, a chunk at a time, in two visits.

The first visit sums exponentials; after the ranks have put their sums together, the second takes
each chunk's products again (kept where they fit a budget, else recomputed), turns them into
gradients and updates the chunk's rows there and then. So neither all logits nor a full gradient
ever exists.

Nothing here communicates, and nothing waits for an accelerator.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc import huge_pages, kernels, native_tile, tile
from sharded_fc.catch_up import CatchUp
from sharded_fc.combine import Batch
from sharded_fc.operands import Operands
from sharded_fc.optimizer import Optimizer
from sharded_fc.outside import OutsideRows
from sharded_fc.partition import pieces
from sharded_fc.parts import Part, weigh_gradients, weigh_sums
from sharded_fc.row_step import Step, step_rows
from sharded_fc.storage import Rows
from sharded_fc.targets import SHORTEST, Targets, find_targets
from sharded_fc.tile import HIGHEST, MEASURES, SHIFT, Rules, Weights
from sharded_fc.visit_order import Piece, pieces_of

Kernels = Literal["auto", "torch", "elementwise", "fused"]


@dataclass(frozen=True)
class Visit:
    """What one rank found in its first visit; `measures` (see tile) is what the ranks exchange."""

    measures: Float[Tensor, "measures batch"]
    inverse_norm: Float[Tensor, " rows"]
    kept: int
    """How many chunks' products are kept for the second visit."""


class ChunkedSoftmax:
    """The two visits over one rank's rows, with their buffers."""

    def __init__(
        self,
        rows: Rows | OutsideRows,
        optimizer: Optimizer,
        *,
        sub_centres: int,
        normalised: bool,
        compute_dtype: torch.dtype,
        working_dtype: torch.dtype,
        kept_bytes: int,
        kernels_used: Kernels,
        seed: int,
        catch_up: CatchUp | None = None,
    ) -> None:
        self.rows = rows
        self.optimizer = optimizer
        self.sub_centres = sub_centres
        self.normalised = normalised
        self.compute_dtype = compute_dtype
        self.working_dtype = working_dtype
        self.kept_bytes = kept_bytes
        self.seed = seed
        self.catch_up = catch_up
        chosen = None if kernels_used == "torch" else kernels.choose(rows.device)
        self._kernels = chosen if working_dtype == torch.float32 else None
        self._fused = kernels_used == "fused" and self._kernels is not None and sub_centres == 1
        self._operands: Operands | None = None
        self._kept: Tensor | None = None
        self._kept_for: Visit | None = None

    def first_visit(
        self,
        batch: Batch,
        rules: Rules,
        parts: Sequence[Part],
        *,
        chunk: int,
        shift: Float[Tensor, ""] | None,
        keep: bool,
        step: Int[Tensor, ""],
    ) -> Visit:
        """Sum exp(logit - shift) over the negatives in `parts`, and what else `tile` measures.

        `shift=None` lets it follow each sample's largest logit. With `keep`, the products of as
        many chunks as fit the budget are kept. Only the first part may have a weight. `step`
        counts the steps before this one.
        """
        operands = self._operands_for(chunk, batch.embedding, parts[0].table)
        measures = batch.weight.new_zeros(MEASURES, len(batch.label))
        measures[HIGHEST] = -math.inf
        measures[SHIFT] = -math.inf if shift is None else shift
        inverse_norm = batch.embedding.new_ones(sum(map(len, parts)))
        kept = self._room(operands, parts, chunk) if keep and not self._fused else 0
        visit = Visit(measures, inverse_norm, kept)
        self._kept_for = visit if kept else None
        for which, part in enumerate(parts):
            for piece in self._pieces(parts, which, rules, chunk):
                inverse = inverse_norm[piece.place]
                rows = operands.place_for(part.table, len(inverse)) if self.normalised else None
                at = piece.start, piece.stop
                if rows is None or not part.measure(*at, inverse, shortest=SHORTEST, to=rows):
                    rows = self._measure(operands, part.centre(*at, step=step), inverse)
                product = self._place(operands, piece.number, len(inverse), kept)
                self._sum(
                    operands,
                    rows,
                    product,
                    operands.left_over(inverse),
                    first_class=piece.start // self.sub_centres,
                    rules=piece.rules,
                    measures=measures,
                    keep_maximum=shift is None,
                )
            weigh_sums(measures, part.weight)
        return visit

    def second_visit(
        self,
        batch: Batch,
        visit: Visit,
        rules: Rules,
        weights: Weights,
        parts: Sequence[Part],
        step: Step,
        *,
        chunk: int,
    ) -> Float[Tensor, "batch dim"]:
        """Update the rows; return this rank's share of the gradient of the batch's embeddings.

        Within a chunk the embedding gradient is taken before its rows are written. Where
        `step.skip` no row changes.
        """
        operands = self._operands_for(chunk, batch.embedding, parts[0].table)
        sigmoid = rules.sigmoid_bias is not None
        largest = batch.weight.amax().to(self.working_dtype) * max(1.0, rules.negative_weight)
        if sigmoid and parts[0].weight.term is not None and len(parts[0]):
            largest = largest * parts[0].weight.term.exp().to(largest.dtype)
        weights = operands.fit(weights, largest, sigmoid=sigmoid)
        kept = visit.kept if self._kept_for is visit else 0
        embedding_gradient = torch.zeros_like(batch.embedding)
        for which, part in enumerate(parts):
            ratios = part.ratios(step.ratios)
            of_part = weigh_gradients(weights, part.weight, sigmoid=sigmoid)
            for piece in self._pieces(parts, which, rules, chunk):
                inverse = visit.inverse_norm[piece.place]
                changed = part.open(piece.start, piece.stop, step=step.number, skip=step.skip)
                rows = operands.place_for(part.table, len(inverse))
                if rows is None or not part.round(piece.start, piece.stop, to=rows):
                    rows = operands.rows(part.kept(piece.start, piece.stop), inverse)
                product = self._place(operands, piece.number, len(inverse), kept)
                gradient, along = self._gradient(
                    operands,
                    rows,
                    product,
                    operands.left_over(inverse),
                    made=piece.number < kept,
                    first_class=piece.start // self.sub_centres,
                    rules=piece.rules,
                    weights=of_part,
                )
                along = operands.along_rows(along, inverse)
                operands.add_embedding_gradient(embedding_gradient, gradient, rows)
                row_gradient = operands.row_gradients(gradient, inverse)
                step_rows(
                    changed,
                    row_gradient,
                    along if self.normalised else None,
                    pieces(piece.start, piece.stop, ratios),
                    step,
                    optimizer=self.optimizer,
                    kernels=self._kernels,
                    seed=self.seed,
                )
        catch_up = parts[0].catch_up
        if catch_up is not None:
            visited = [part.index for part in parts]
            catch_up.step(visited, learning_rate=step.learning_rate, skip=step.skip)
        self._kept_for = None
        return embedding_gradient

    def targets(self, batch: Batch, part: Part, *, step: Int[Tensor, ""]) -> Targets:
        """Each sample's nearest row of its own class, where that lives here."""
        return find_targets(
            batch, part, sub_centres=self.sub_centres, normalised=self.normalised, step=step
        )

    def _measure(self, operands: Operands, centre: Tensor, inverse: Tensor) -> Tensor:
        """Write one over the rows' lengths; return the rows as an operand."""
        if self._kernels is not None and operands.unit and self.normalised:
            rows = operands.low_rows[: len(centre)]
            self._kernels.unit_rows(centre, inverse_norm=inverse, out=rows)
            return rows
        if self.normalised:
            low = operands.bfloat16_rows(len(centre))
            if not native_tile.measure_rows(centre, inverse, shortest=SHORTEST, copy=low):
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

    def _pieces(
        self, parts: Sequence[Part], which: int, rules: Rules, chunk: int
    ) -> Iterator[Piece]:
        return pieces_of(
            parts,
            which,
            rules,
            chunk=chunk,
            sub_centres=self.sub_centres,
            labels_everywhere=self._kernels is not None,
        )

    def _operands_for(self, chunk: int, embedding: Tensor, table: Tensor) -> Operands:
        kept = self._operands
        if kept is None or kept.tile.shape != (chunk, len(embedding)):
            self._operands = self._kept = None  # freed before the new ones are made
            kept = self._operands = Operands(
                chunk,
                len(embedding),
                table,
                working=self.working_dtype,
                compute=self.compute_dtype,
            )
        kept.load(embedding)
        return kept

    def _room(self, operands: Operands, parts: Sequence[Part], chunk: int) -> int:
        """Make room for kept products; how many chunks it holds."""
        batch = operands.tile.shape[1]
        item = torch.empty((), dtype=operands.product_dtype).itemsize
        fitting = self.kept_bytes // (chunk * batch * item)
        kept = min(fitting, sum(math.ceil(len(part) / chunk) for part in parts))
        if kept and (self._kept is None or len(self._kept) < kept):
            self._kept = huge_pages.empty(
                kept, chunk, batch, dtype=operands.product_dtype, device=operands.tile.device
            )
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
