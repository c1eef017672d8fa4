"""The loss of one pass against one rank's slots, and its gradient, a chunk of slots at a time.

A probe whose identity is in the pool gets a softmax with a margin over all identities in it, any
other one the mean of its largest cosines, clipped at 0. Both are taken twice, against row 0 of all
and against a mixture with row 1 where somebody was seen again, as in the code of arXiv:2105.10375.
No feature of the pool is trained, so the gradient is that of the probes alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.collectives import Ranks
from sharded_fc.combine import Batch, Outcome, combine
from sharded_fc.margins import Adjustment, Margin, Samples
from sharded_fc.partition import chunks, default_chunk
from sharded_fc.pool.outside import Outside
from sharded_fc.pool.rows import PoolRows
from sharded_fc.tile import (
    HIGHEST,
    MEASURES,
    SHIFT,
    Rules,
    Weights,
    gradient_tile,
    in_logits,
    sum_tile,
)

VARIANTS = 2  # row 0, and the mixture


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What stays the same from pass to pass. `chunk_slots=None` fits the cache."""

    margin: Margin
    scale: float
    nearest: int
    chunk_slots: int | None
    loss_weight: float
    seed: int
    ranks: Ranks
    rows: PoolRows


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The global batch of one pass, the same on every rank.

    `slot` is -1 outside the pool; `outside` are the places of those samples.
    """

    unit: Float[Tensor, "batch dim"]
    norm: Float[Tensor, " batch"]
    slot: Int[Tensor, " batch"]
    outside: Int[Tensor, " outside"]

    def as_batch(self) -> Batch:
        """As the head's other parts know it."""
        return Batch(
            embedding=self.unit,
            label=self.slot,
            norm=self.norm,
            weight=torch.ones_like(self.norm),
            counted=self.slot >= 0,
            class_range=None,
        )


@dataclass(frozen=True, kw_only=True)
class PassLoss:
    """What a pass found. All is the same on every rank but `gradient`, this rank's share."""

    batch: Batch
    loss: Float[Tensor, ""]
    sample_loss: Float[Tensor, " batch"]
    outside_loss: Float[Tensor, ""]
    gradient: Float[Tensor, "batch dim"] | None
    tables: Float[Tensor, "variants world measures batch"]
    cosine: Float[Tensor, "variants batch"]
    adjustments: list[Adjustment]
    outcomes: list[Outcome]

    def share(self) -> Float[Tensor, "batch dim"]:
        """The gradient of a pass that was differentiated."""
        assert self.gradient is not None
        return self.gradient


def pass_loss(
    problem: Problem,
    probes: Probes,
    *,
    filled: int,
    renewed: Int[Tensor, " renewed"],
    step: Int[Tensor, ""],
    differentiate: bool,
) -> PassLoss:
    """Visit this rank's part of the slots [0, filled); `renewed` are ascending, on the host.

    Collectives: one all_gather of target cosines, one of what the ranks' sums are made of.
    """
    visit = _Visit(problem, probes, filled=filled, renewed=renewed)
    cosine = visit.targets()
    adjustments = [
        problem.margin.adjust(
            Samples(
                cosine=of_variant,
                norm=probes.norm,
                labelled=probes.slot >= 0,
                class_margin=None,
                step=step,
                seed=problem.seed,
            ),
            {},
        )
        for of_variant in cosine
    ]
    rules = [visit.rules(adjustment) for adjustment in adjustments]
    tables = visit.sums(rules)
    batch = probes.as_batch()
    outcomes = [
        combine(
            table,
            batch,
            adjustment,
            scale=problem.scale,
            sigmoid_bias=None,
            negative_weight=1.0,
        )
        for table, adjustment in zip(tables, adjustments, strict=True)
    ]
    outside_loss = visit.outside.loss()
    loss = sum((outcome.loss for outcome in outcomes), outside_loss)
    sample_loss = sum((outcome.sample_loss for outcome in outcomes), visit.outside.sample_loss())
    return PassLoss(
        batch=batch,
        loss=problem.loss_weight * loss,
        sample_loss=sample_loss,
        outside_loss=outside_loss,
        gradient=visit.gradient(rules, outcomes) if differentiate else None,
        tables=tables,
        cosine=cosine,
        adjustments=adjustments,
        outcomes=outcomes,
    )


class _Visit:
    """The chunks of one pass, with their buffers."""

    def __init__(
        self, problem: Problem, probes: Probes, *, filled: int, renewed: Int[Tensor, " renewed"]
    ) -> None:
        rows = problem.rows
        self._problem = problem
        self._probes = probes
        self._own = max(0, min(filled, rows.stop) - rows.start)
        self._renewed = renewed[rows.own(renewed)] - rows.start
        self._row0, self._row1 = rows.feature
        self._label = torch.where(probes.slot >= rows.start, probes.slot - rows.start, -1)
        chunk = problem.chunk_slots or default_chunk(
            embedding_dim=probes.unit.shape[1],
            batch=len(probes.unit),
            item_bytes=probes.unit.element_size(),
            on_cpu=probes.unit.is_cpu,
        )
        self._chunks = chunks(self._own, min(chunk, max(1, self._own)))
        longest = self._chunks[0][1] if self._chunks else 0
        self._product, self._scratch, self._total = (
            probes.unit.new_empty(longest, len(probes.unit)) for _ in range(3)
        )
        self._ones = probes.unit.new_ones(longest)
        self.outside = Outside(
            probes.outside,
            nearest=problem.nearest,
            variants=VARIANTS,
            batch=len(probes.unit),
            like=probes.unit,
        )

    def targets(self) -> Float[Tensor, "variants batch"]:
        """Cosines with the own identity's features, 0 outside the pool."""
        label = self._label
        here = (label >= 0) & (label < self._own)
        place = label.clamp(0, len(self._row0) - 1)
        renewed = torch.zeros(len(self._row0), dtype=torch.bool, device=label.device)
        renewed[self._renewed.to(label.device)] = True
        own = self._row0[place]
        mixed = torch.where(renewed[place].unsqueeze(1), self._row1[place], own)
        cosine = torch.stack([(rows * self._probes.unit).sum(1) for rows in (own, mixed)])
        # One rank has the slot, the others say 0.
        found = torch.where(here, cosine.double(), 0.0)
        return self._problem.ranks.all_gather(found).sum(0).to(cosine.dtype)

    def rules(self, adjustment: Adjustment) -> Rules:
        """What turns a variant's products into logits."""
        scale = self._problem.scale
        return Rules(scale=scale, label=self._label, hard=in_logits(adjustment.hard, scale=scale))

    def sums(self, rules: list[Rules]) -> Float[Tensor, "variants world measures batch"]:
        """Every rank's `tile` measures of both variants; fills `outside` from all ranks."""
        batch = len(self._probes.unit)
        measures = self._probes.norm.new_zeros(VARIANTS, MEASURES, batch)
        measures[:, HIGHEST] = measures[:, SHIFT] = -math.inf
        for start, stop in self._chunks:
            for variant, product in enumerate(self._products(start, stop)):
                self.outside.see(variant, product, first=start)
                sum_tile(
                    product,
                    self._ones[: stop - start],
                    first_class=start,
                    rules=rules[variant],
                    measures=measures[variant],
                    keep_maximum=True,
                    out=self._scratch[: stop - start],
                )
        ranks = self._problem.ranks
        gathered = ranks.all_gather(torch.cat([measures.flatten(), self.outside.table()]))
        of_measures, of_outside = gathered.split(
            [measures.numel(), gathered.shape[1] - measures.numel()], dim=1
        )
        self.outside.combine(of_outside, rank=ranks.rank)
        return of_measures.reshape(-1, *measures.shape).transpose(0, 1)

    def gradient(self, rules: list[Rules], outcomes: list[Outcome]) -> Float[Tensor, "batch dim"]:
        """This rank's share of d loss / d unit embedding."""
        dtype, weight = self._probes.unit.dtype, self._problem.loss_weight
        gradient = torch.zeros_like(self._probes.unit)
        weights = [
            Weights(
                offset=outcome.offset.to(dtype),
                target=outcome.target_gradient.to(dtype),
                factor=(weight * self._problem.scale / outcome.num_counted).to(dtype),
            )
            for outcome in outcomes
        ]
        for start, stop in self._chunks:
            total = self._total[: stop - start].zero_()
            for variant, product in enumerate(self._products(start, stop)):
                of_variant = self._scratch[: stop - start]
                gradient_tile(
                    product.clone(),
                    self._ones[: stop - start],
                    first_class=start,
                    rules=rules[variant],
                    weights=weights[variant],
                    out=of_variant,
                )
                if variant:
                    place = self._renewed_in(start, stop)
                    gradient.addmm_(of_variant[place].t(), self._row1[start:stop][place])
                    of_variant[place] = 0.0
                total += of_variant
            gradient.addmm_(total.t(), self._row0[start:stop])
        self.outside.add_gradient(
            gradient, self._row0, self._row1, self._renewed, loss_weight=weight
        )
        return gradient

    def _products(self, start: int, stop: int) -> Iterator[Tensor]:
        """A chunk's cosines with row 0; then, in the same buffer, with the mixture."""
        unit = self._probes.unit
        product = torch.mm(self._row0[start:stop], unit.t(), out=self._product[: stop - start])
        yield product
        place = self._renewed_in(start, stop)
        product[place] = self._row1[start:stop][place] @ unit.t()
        yield product

    def _renewed_in(self, start: int, stop: int) -> Int[Tensor, " renewed"]:
        first, last = torch.searchsorted(self._renewed, torch.tensor([start, stop])).tolist()
        return (self._renewed[first:last] - start).to(self._probes.unit.device)
