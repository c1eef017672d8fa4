"""What visits do with one chunk of rows, and the buffers they do it in.

Which chunk when, and what follows from the sums, is for `softmax` and `single_visit` to say.
Nothing here communicates, and nothing waits for an accelerator.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from sharded_fc.parts import Part, Ratios, weigh_gradients
from sharded_fc.row_step import Step, step_rows
from sharded_fc.storage import Rows, RowSlice
from sharded_fc.targets import SHORTEST, Targets, find_targets
from sharded_fc.tile import HIGHEST, MEASURES, SHIFT, Rules, Weights
from sharded_fc.visit_order import Piece, pieces_of

Kernels = Literal["auto", "torch", "elementwise", "fused"]


@dataclass(frozen=True)
class Visit:
    """What one rank found in its first visit; `measures` (see tile) is what the ranks exchange."""

    measures: Float[Tensor, "measures batch"]
    inverse_norm: Float[Tensor, " rows"]
    pieces: list[list[Piece]]
    """Each part's chunks."""
    kept: int
    """For how many chunks, the first ones, a tile is kept for the second visit."""
    rows: dict[int, Tensor] = field(default_factory=dict, kw_only=True)
    """By number of a chunk its rows as an operand, where they are kept too."""


class ChunkWork:
    """The steps of a visit to one chunk of one rank's rows."""

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
        self._kept_rows: Tensor | None = None
        self._kept_for: Visit | None = None

    def targets(self, batch: Batch, part: Part, *, step: Int[Tensor, ""]) -> Targets:
        """Each sample's nearest row of its own class, where that lives here."""
        return find_targets(
            batch, part, sub_centres=self.sub_centres, normalised=self.normalised, step=step
        )

    def _pieces(self, parts: Sequence[Part], rules: Rules, chunk: int) -> list[list[Piece]]:
        return pieces_of(
            parts,
            rules,
            chunk=chunk,
            sub_centres=self.sub_centres,
            labels_everywhere=self._kernels is not None,
        )

    def _operands_for(self, chunk: int, embedding: Tensor, table: Tensor) -> Operands:
        kept = self._operands
        if kept is None or kept.tile.shape != (chunk, len(embedding)):
            # Freed before the new ones are made.
            self._operands = self._kept = self._kept_rows = None
            kept = self._operands = Operands(
                chunk,
                len(embedding),
                table,
                working=self.working_dtype,
                compute=self.compute_dtype,
            )
        kept.load(embedding)
        return kept

    def _room(self, like: Tensor, parts: Sequence[Part]) -> int:
        """Make room for tiles like that of a chunk, to be kept; how many it holds."""
        chunk = len(like)
        fitting = self.kept_bytes // like.nbytes
        kept = min(fitting, sum(math.ceil(len(part) / chunk) for part in parts))
        if kept and (self._kept is None or len(self._kept) < kept):
            self._kept = huge_pages.empty(kept, *like.shape, dtype=like.dtype, device=like.device)
        return kept

    def _place(self, piece: Piece, kept: int, *, otherwise: Tensor) -> Tensor:
        """Where a chunk's tile lies: among those kept, or in the buffer of one chunk."""
        number = piece.stop - piece.start
        if piece.number < kept:
            assert self._kept is not None
            return self._kept[piece.number, :number]
        return otherwise[:number]

    def _row_room(self, operands: Operands, parts: Sequence[Part], kept: int) -> Tensor | None:
        """Room for the operands of rows read here and there, in what `kept` tiles leave."""
        like = operands.place_for(parts[0].table, 1)
        number = sum(len(part) for part in parts if part.gathered)
        if like is None or not self.normalised:
            return None
        number = min(number, (self.kept_bytes - kept * operands.product.nbytes) // like.nbytes)
        if number and (self._kept_rows is None or len(self._kept_rows) < number):
            self._kept_rows = huge_pages.empty(
                number, like.shape[1], dtype=like.dtype, device=like.device
            )
        return None if self._kept_rows is None else self._kept_rows[:number]

    def _rows(
        self,
        operands: Operands,
        part: Part,
        piece: Piece,
        inverse: Tensor,
        *,
        step: Int[Tensor, ""],
        to: Tensor | None = None,
    ) -> Tensor:
        """Write one over the rows' lengths; return the rows as an operand, before any change.

        They may be in `to`, which is as large as they are.
        """
        at = piece.start, piece.stop
        rows = to
        if rows is None and self.normalised:
            rows = operands.place_for(part.table, len(inverse))
        if rows is None or not part.measure(*at, inverse, shortest=SHORTEST, to=rows):
            centre = part.centre(*at, step=step)
            if not self.normalised:
                return operands.rows(centre, inverse)
            rows = operands.measured_rows(centre, inverse, kernels=self._kernels)
        return rows

    def _opened_rows(self, operands: Operands, part: Part, piece: Piece, inverse: Tensor) -> Tensor:
        """Rows that `part` has opened, as an operand: what `_rows` returned."""
        rows = operands.place_for(part.table, len(inverse))
        if rows is None or not part.round(piece.start, piece.stop, to=rows):
            rows = operands.rows(part.kept(piece.start, piece.stop), inverse)
        return rows

    def _measures(self, batch: Batch, shift: Float[Tensor, ""] | None) -> Tensor:
        """Sums of nothing yet."""
        measures = batch.weight.new_zeros(MEASURES, len(batch.label))
        measures[HIGHEST] = -math.inf
        measures[SHIFT] = -math.inf if shift is None else shift
        return measures

    def _sum(
        self,
        operands: Operands,
        piece: Piece,
        rows: Tensor,
        product: Tensor,
        inverse: Tensor,
        **how: Any,
    ) -> None:
        """`tile.sum_tile` of a chunk's products; they stay in `product`, but for a fused pass."""
        left = operands.left_over(inverse)
        how |= {"first_class": piece.start // self.sub_centres, "rules": piece.rules}
        if self._fused:
            assert self._kernels is not None
            self._kernels.sum_rows(rows, operands.embedding, left, **how)
            return
        operands.products(rows, out=product)
        if self._kernels is None and native_tile.sum_tile(product, left, **how):
            return
        sum_tile = (self._kernels or tile).sum_tile
        sum_tile(operands.widen(product), left, out=operands.gradient[: len(rows)], **how)

    def _weights(
        self,
        operands: Operands,
        batch: Batch,
        rules: Rules,
        weights: Weights,
        parts: Sequence[Part],
    ) -> list[Weights]:
        """The weights for each part's chunks, such that gradients fit the operands' dtype."""
        sigmoid = rules.sigmoid_bias is not None
        largest = batch.weight.amax().to(self.working_dtype) * max(1.0, rules.negative_weight)
        if sigmoid and len(parts[0]):
            largest = largest * parts[0].weight.term
        fitted = operands.fit(weights, largest, sigmoid=sigmoid)
        return [weigh_gradients(fitted, part.weight, sigmoid=sigmoid) for part in parts]

    def _gradient(
        self,
        operands: Operands,
        piece: Piece,
        rows: Tensor,
        product: Tensor,
        inverse: Tensor,
        *,
        made: bool,
        weights: Weights,
        out: Tensor,
    ) -> Tensor:
        """Write gradients as an operand to `out`; return what multiplies each row as it is kept.

        `made`: the products are there already; they are overwritten.
        """
        left = operands.left_over(inverse)
        how = {
            "first_class": piece.start // self.sub_centres,
            "rules": piece.rules,
            "weights": weights,
        }
        if not (made or self._fused):
            operands.products(rows, out=product)
        if self._fused:
            assert self._kernels is not None
            along = self._kernels.gradient_rows(rows, operands.embedding, left, out=out, **how)
        elif self._kernels is not None:
            along = self._kernels.gradient_tile(operands.widen(product), left, out=out, **how)
        else:
            along = native_tile.gradient_tile(product, left, out=out, **how)
        if along is None:
            wide = out if out.dtype == self.working_dtype else operands.gradient[: len(rows)]
            along = tile.gradient_tile(operands.widen(product), left, out=wide, **how)
            if wide is not out:
                out.copy_(wide)
        return operands.along_rows(along, inverse)

    def _step(
        self,
        operands: Operands,
        piece: Piece,
        opened: RowSlice,
        gradient: Tensor,
        along: Tensor,
        inverse: Tensor,
        *,
        ratios: Ratios,
        step: Step,
    ) -> None:
        """Update a chunk's opened rows by its gradients."""
        step_rows(
            opened,
            operands.row_gradients(gradient, inverse),
            along if self.normalised else None,
            pieces(piece.start, piece.stop, ratios),
            step,
            optimizer=self.optimizer,
            kernels=self._kernels,
            seed=self.seed,
        )

    def _finish(self, parts: Sequence[Part], step: Step) -> None:
        """After the last chunk of a second visit."""
        catch_up = parts[0].catch_up
        if catch_up is not None:
            visited = [part.index for part in parts]
            catch_up.step(visited, learning_rate=step.learning_rate, skip=step.skip)
        self._kept_for = None
