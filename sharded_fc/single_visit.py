"""A loss of every class by itself over one rank's classes: one visit, as far as memory goes.

A sigmoid loss needs no sum over classes: what turns a logit into a gradient is known before any
product is made. So the forward's visit of a chunk takes its products once and, while they are at
hand, sums the loss, forms the gradients and adds their share of the embeddings' gradient. Rows may
not change yet: that takes a backward, and ranks that agree that all is finite. What waits for it is
the chunk's gradients as an operand, [rows, batch], and not the rows' own, which are as large as the
table. The backward makes the rows' gradients of them in one product, and the update.

Where a chunk's gradients do not fit what may be kept, it is visited twice, as `softmax` does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.chunk_work import ChunkWork, Visit
from sharded_fc.combine import Batch
from sharded_fc.parts import Part, weigh_sums
from sharded_fc.row_step import Step
from sharded_fc.tile import Rules, Weights


@dataclass(frozen=True)
class Begun(Visit):
    """A visit that has gone past its sums in the `kept` first chunks.

    `embedding_gradient` is their share of it; `along` what multiplies each of their rows.
    """

    embedding_gradient: Float[Tensor, "batch dim"]
    along: Float[Tensor, " rows"]


class SingleVisit(ChunkWork):
    """The visit over one rank's rows, and the update that follows, with their buffers.

    The rule: as many chunks as `kept_bytes` hold gradients of, from the first one on, are visited
    once, with three products of rows or embeddings each; the others twice, with four. Without a
    backward to come none is, and nothing is kept. Fused kernels are not used: sums and gradients
    would each make the product that is to be made once.
    """

    def first_visit(
        self,
        batch: Batch,
        rules: Rules,
        parts: Sequence[Part],
        *,
        chunk: int,
        weights: Weights | None,
        step: Int[Tensor, ""],
    ) -> Begun:
        """Sum the loss's negatives in `parts`, and what else `tile` measures.

        With `weights`, a backward may follow: gradients are formed too, as the rule says. Only the
        first part may have a weight. `step` counts the steps before this one.
        """
        operands = self._operands_for(chunk, batch.embedding, parts[0].table)
        kept = 0 if weights is None else self._room(operands.operand_gradient, parts)
        inverse_norm = batch.embedding.new_ones(sum(map(len, parts)))
        visit = Begun(
            measures=self._measures(batch, shift=batch.weight.new_zeros(())),
            inverse_norm=inverse_norm,
            pieces=self._pieces(parts, rules, chunk),
            kept=kept,
            embedding_gradient=torch.zeros_like(batch.embedding),
            along=torch.empty_like(inverse_norm),
        )
        self._kept_for = visit if kept else None
        weights_of = []
        if weights is not None:
            weights_of = self._weights(operands, batch, rules, weights, parts)
        for which, part in enumerate(parts):
            for piece in visit.pieces[which]:
                inverse = visit.inverse_norm[piece.place]
                rows = self._rows(operands, part, piece, inverse, step=step)
                product = operands.product[: len(rows)]
                measures = visit.measures
                self._sum(
                    operands, piece, rows, product, inverse, measures=measures, keep_maximum=False
                )
                if piece.number >= kept:
                    continue
                gradient = self._place(piece, kept, otherwise=operands.operand_gradient)
                visit.along[piece.place] = self._gradient(
                    operands,
                    piece,
                    rows,
                    product,
                    inverse,
                    made=True,
                    weights=weights_of[which],
                    out=gradient,
                )
                operands.add_embedding_gradient(visit.embedding_gradient, gradient, rows)
            weigh_sums(visit.measures, part.weight)
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

        `weights` are those of the first visit. Gradients that a later visit has overwritten are
        made again, for the rows alone. Where `step.skip` no row changes.
        """
        assert isinstance(visit, Begun)
        operands = self._operands_for(chunk, batch.embedding, parts[0].table)
        weights_of = self._weights(operands, batch, rules, weights, parts)
        kept = visit.kept if self._kept_for is visit else 0
        for which, part in enumerate(parts):
            ratios = part.ratios(step.ratios)
            for piece in visit.pieces[which]:
                inverse = visit.inverse_norm[piece.place]
                opened = part.open(piece.start, piece.stop, step=step.number, skip=step.skip)
                gradient = self._place(piece, kept, otherwise=operands.operand_gradient)
                if piece.number < kept:
                    along = visit.along[piece.place]
                else:
                    rows = self._opened_rows(operands, part, piece, inverse)
                    along = self._gradient(
                        operands,
                        piece,
                        rows,
                        operands.product[: len(rows)],
                        inverse,
                        made=False,
                        weights=weights_of[which],
                        out=gradient,
                    )
                    if piece.number >= visit.kept:
                        operands.add_embedding_gradient(visit.embedding_gradient, gradient, rows)
                self._step(
                    operands, piece, opened, gradient, along, inverse, ratios=ratios, step=step
                )
        self._finish(parts, step)
        return visit.embedding_gradient
