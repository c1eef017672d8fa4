"""Margin softmax over one rank's classes, a chunk at a time, in two visits.

The first visit sums exponentials; after the ranks have put their sums together, the second takes
each chunk's products again (kept where they fit a budget, else recomputed), turns them into
gradients and updates the chunk's rows there and then. So neither all logits nor a full gradient
ever exists.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.chunk_work import ChunkWork, Visit
from sharded_fc.combine import Batch
from sharded_fc.parts import Part, weigh_sums
from sharded_fc.row_step import Step
from sharded_fc.tile import Rules, Weights


class ChunkedSoftmax(ChunkWork):
    """The two visits over one rank's rows, with their buffers."""

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
        many chunks as fit the budget are kept, then rows that were read from here and there. Only
        the first part may have a weight. `step` counts the steps before this one.
        """
        operands = self._operands_for(chunk, batch.embedding, parts[0].table)
        measures = self._measures(batch, shift)
        inverse_norm = batch.embedding.new_ones(sum(map(len, parts)))
        kept = self._room(operands.product, parts) if keep and not self._fused else 0
        room = self._row_room(operands, parts, kept) if keep else None
        visit = Visit(measures, inverse_norm, self._pieces(parts, rules, chunk), kept)
        self._kept_for = visit if keep else None
        for part, pieces in zip(parts, visit.pieces, strict=True):
            for piece in pieces:
                inverse = inverse_norm[piece.place]
                to = None
                if room is not None and part.gathered and piece.place.stop <= len(room):
                    to = room[piece.place]
                rows = self._rows(operands, part, piece, inverse, step=step, to=to)
                if rows is to:  # else that was not done in one pass
                    visit.rows[piece.number] = rows
                product = self._place(piece, kept, otherwise=operands.product)
                self._sum(
                    operands,
                    piece,
                    rows,
                    product,
                    inverse,
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
        weights_of = self._weights(operands, batch, rules, weights, parts)
        kept, kept_rows = (visit.kept, visit.rows) if self._kept_for is visit else (0, {})
        embedding_gradient = torch.zeros_like(batch.embedding)
        for part, pieces, of_part in zip(parts, visit.pieces, weights_of, strict=True):
            ratios = part.ratios(step.ratios)
            for piece in pieces:
                inverse = visit.inverse_norm[piece.place]
                opened = part.open(piece.start, piece.stop, step=step.number, skip=step.skip)
                rows = kept_rows.get(piece.number)
                if rows is None:
                    rows = self._opened_rows(operands, part, piece, inverse)
                gradient = operands.operand_gradient[: len(rows)]
                along = self._gradient(
                    operands,
                    piece,
                    rows,
                    self._place(piece, kept, otherwise=operands.product),
                    inverse,
                    made=piece.number < kept,
                    weights=of_part,
                    out=gradient,
                )
                operands.add_embedding_gradient(embedding_gradient, gradient, rows)
                self._step(
                    operands, piece, opened, gradient, along, inverse, ratios=ratios, step=step
                )
        self._finish(parts, step)
        return embedding_gradient
