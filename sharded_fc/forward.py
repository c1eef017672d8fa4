"""One call of the head, up to its loss: gather, targets, margin, first visit, combine.

Nothing here changes rows or scalars; what the backward needs is kept in the `Pass`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.arguments import View, agree
from sharded_fc.chunk_work import Visit
from sharded_fc.collectives import Layout
from sharded_fc.combine import (
    Batch,
    Outcome,
    SigmoidTerms,
    Statistics,
    combine,
    constant_shift,
    out_of_range,
    sigmoid_terms,
    summarise,
    sums_stay_in_range,
)
from sharded_fc.global_batch import gather, normalise
from sharded_fc.margins import Adjustment, Samples
from sharded_fc.margins.base import Scalars
from sharded_fc.partition import default_chunk
from sharded_fc.parts import Part, Whole
from sharded_fc.problem import Problem
from sharded_fc.single_visit import SingleVisit
from sharded_fc.storage import Rows
from sharded_fc.targets import Targets
from sharded_fc.tile import Rules, Weights, in_logits


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One call: what it found and what its backward needs.

    `per_sample` is what a sample's loss counts for in the whole one: `loss_weight` over their
    number.
    """

    layout: Layout
    rank: int
    batch: Batch
    unit: Float[Tensor, "own width"]
    inverse: Float[Tensor, "own 1"]
    pieces: list[int]
    chunk: int
    rules: Rules
    parts: Sequence[Part]
    adjustment: Adjustment
    targets: Targets
    target_cosine: Float[Tensor, " batch"]
    visit: Visit
    tables: Float[Tensor, "world measures batch"]
    used_maximum: Tensor
    outcome: Outcome
    per_sample: Float[Tensor, ""]
    weights: Weights

    def own(self, of_batch: Float[Tensor, " batch"]) -> Float[Tensor, " own"]:
        """This rank's part of something of the global batch."""
        return of_batch.split(list(self.layout.counts))[self.rank]

    def statistics(self, loss: Float[Tensor, ""], *, scale: float, num_classes: int) -> Statistics:
        """What operators look at."""
        return summarise(
            self.tables,
            self.batch,
            self.target_cosine,
            self.adjustment,
            self.outcome,
            loss=loss,
            scale=scale,
            num_classes=num_classes,
            owner=self.layout.owner(device=loss.device),
            used_maximum=self.used_maximum,
        )


def run_forward(
    problem: Problem,
    views: list[View],
    *,
    scalars: Scalars,
    step: Tensor,
    loss_weight: float,
    keep: bool,
    next_label: Tensor | None,
) -> Pass:
    """Everything up to the loss. `keep`: a backward may follow, and what helps it is kept.

    Collectives: see `ShardedHead.__call__`.
    """
    softmax, scale = problem.softmax, problem.scale
    agreement = agree(
        problem.ranks,
        views,
        num_classes=problem.num_classes,
        embedding_dim=problem.embedding_dim,
        unlabelled=problem.unlabelled,
        device=problem.device,
    )
    unit, inverse, norm = normalise(problem, views)
    batch = gather(problem, agreement, views, unit, norm)
    chunk = _chunk(problem, len(batch.label))
    parts = _parts(problem, batch, step=step, chunk=chunk, next_label=next_label)
    targets = softmax.targets(batch, parts[0], step=step)
    waited = problem.ranks.start_all_gather(_target_table(problem, batch, targets))

    def adjust() -> tuple[Tensor, Adjustment]:
        cosine, class_margin = _join_targets(problem, waited())
        samples = Samples(
            cosine=cosine,
            norm=batch.norm,
            labelled=batch.labelled,
            class_margin=class_margin,
            step=step,
            seed=problem.seed,
        )
        return cosine, problem.margin.adjust(samples, scalars)

    at_once = keep and isinstance(softmax, SingleVisit)
    early = adjust() if at_once or problem.margin.changes_negatives else None
    bias = scalars["bias"] if problem.margin.loss == "sigmoid" else None
    hard = in_logits(early[1].hard, scale=scale) if early else None
    rules = Rules(
        scale=scale,
        label=batch.label,
        hard=hard,
        class_range=batch.class_range,
        conflict_logit=None if problem.conflict_cosine is None else problem.conflict_cosine * scale,
        ignore_conflicts=problem.ignore_conflicts,
        sub_centres=softmax.sub_centres,
        sigmoid_bias=bias,
        negative_weight=problem.negative_weight,
    )
    per_sample = loss_weight / batch.num_counted

    def weigh(terms: SigmoidTerms | Outcome) -> Weights:
        return Weights(
            offset=terms.offset.to(problem.dtype),
            target=terms.target_gradient.to(problem.dtype),
            factor=(per_sample * scale).to(problem.dtype),
        )

    used_maximum = torch.zeros((), dtype=torch.bool, device=problem.device)
    how = {"chunk": chunk, "step": step}
    if isinstance(softmax, SingleVisit):
        weights = None
        if early is not None and bias is not None:
            weights = weigh(sigmoid_terms(batch, early[1], scale=scale, sigmoid_bias=bias))
        visit = softmax.first_visit(batch, rules, parts, weights=weights, **how)
        tables = problem.ranks.all_gather(visit.measures)
        target_cosine, adjustment = early or adjust()
    else:
        first_visit = partial(softmax.first_visit, batch, rules, parts, keep=keep, **how)
        shift = _shift(problem, rules)
        visit = first_visit(shift=shift)
        tables = problem.ranks.all_gather(visit.measures)
        target_cosine, adjustment = early or adjust()
        if shift is not None and _may_leave_range(problem, rules):
            used_maximum = out_of_range(tables, batch, adjustment, scale=scale, dtype=problem.dtype)
            if bool(used_maximum):
                visit = first_visit(shift=None)
                tables = problem.ranks.all_gather(visit.measures)
    outcome = combine(
        tables,
        batch,
        adjustment,
        scale=scale,
        sigmoid_bias=bias,
        negative_weight=problem.negative_weight,
    )
    return Pass(
        layout=agreement.layout,
        rank=problem.ranks.rank,
        batch=batch,
        unit=unit,
        inverse=inverse,
        pieces=[len(view.embedding) for view in views],
        chunk=chunk,
        rules=rules,
        parts=parts,
        adjustment=adjustment,
        targets=targets,
        target_cosine=target_cosine,
        visit=visit,
        tables=tables,
        used_maximum=used_maximum,
        outcome=outcome,
        per_sample=per_sample,
        weights=weigh(outcome),
    )


def _target_table(problem: Problem, batch: Batch, targets: Targets) -> Tensor:
    """[1 or 2, batch]: own cosines and class margins where the class lives here, else 0."""
    if problem.class_margin is None:
        return targets.cosine.unsqueeze(0)
    margin = problem.class_margin[targets.row // problem.softmax.sub_centres].double()
    return torch.stack([targets.cosine, torch.where(targets.here, margin, 0.0)])


def _join_targets(problem: Problem, gathered: Tensor) -> tuple[Tensor, Tensor | None]:
    # One rank owns the class, the others say 0. In the dtype of the cosines: a margin's slope
    # near angle 0 is as sharp as they are.
    whole = gathered.sum(0).to(problem.dtype)
    return whole[0], None if problem.class_margin is None else whole[1]


def _parts(
    problem: Problem, batch: Batch, *, step: Tensor, chunk: int, next_label: Tensor | None
) -> Sequence[Part]:
    """The rows to visit."""
    if problem.sampler is not None:
        certain = batch.label
        if problem.miner is not None:
            mined = problem.miner.classes(
                batch.embedding, batch.label, batch.counted, batch.class_range
            )
            certain = torch.cat([certain, mined])
        return problem.sampler.parts(certain, step=step, chunk=chunk, next_label=next_label)
    rows = problem.softmax.rows
    assert isinstance(rows, Rows)  # those elsewhere go with a sampler alone
    return (Whole(rows, problem.softmax.sub_centres),)


def _chunk(problem: Problem, batch: int) -> int:
    """Rows a chunk: whole classes."""
    softmax = problem.softmax
    width = softmax.rows.width
    classes = problem.chunk_classes or max(
        1,
        default_chunk(
            embedding_dim=width,
            batch=batch,
            item_bytes=problem.dtype.itemsize,
            on_cpu=problem.device.type == "cpu",
        )
        // softmax.sub_centres,
    )
    most = len(softmax.rows) if problem.sampler is None else problem.sampler.most_rows
    return min(classes * softmax.sub_centres, most)


def _shift(problem: Problem, rules: Rules) -> Tensor | None:
    """What exponents are lowered by; None: each sample's largest logit, found on the way."""
    if not problem.margin.normalised:
        return None
    device = problem.device
    if rules.hard is None:
        highest = torch.full((), problem.scale, dtype=torch.float64, device=device)
    else:
        highest = rules.hard.highest.double()
    return constant_shift(highest, num_classes=problem.num_classes, dtype=problem.dtype)


def _may_leave_range(problem: Problem, rules: Rules) -> bool:
    """Where no bound proves the sums in range, one flag is waited for, to fall back in time."""
    return rules.hard is not None or not sums_stay_in_range(
        scale=problem.scale, num_classes=problem.num_classes, dtype=problem.dtype
    )
