"""One call of the head, up to its loss: gather, targets, margin, first visit, combine.

Nothing here changes rows or scalars; what the backward needs is kept in the `Pass`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.arguments import Agreement, View, agree
from sharded_fc.collectives import Layout, gather_batch
from sharded_fc.combine import (
    Batch,
    Outcome,
    Statistics,
    combine,
    constant_shift,
    out_of_range,
    summarise,
    sums_stay_in_range,
)
from sharded_fc.margins import Adjustment, Samples
from sharded_fc.margins.base import Scalars
from sharded_fc.partition import default_chunk
from sharded_fc.parts import Part, Whole
from sharded_fc.problem import Problem
from sharded_fc.softmax import Visit
from sharded_fc.storage import Rows
from sharded_fc.targets import SHORTEST, Targets
from sharded_fc.tile import Rules, in_logits


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One call: what it found and what its backward needs."""

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
    keep: bool,
    next_label: Tensor | None,
) -> Pass:
    """Everything up to the loss. `keep`: a backward may follow, so products are worth keeping.

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
    unit, inverse, norm = _normalise(problem, views)
    batch = _gather(problem, agreement, views, unit, norm)
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

    early = adjust() if problem.margin.changes_negatives else None
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
    shift = _shift(problem, rules)
    first_visit = partial(
        softmax.first_visit, batch, rules, parts, chunk=chunk, keep=keep, step=step
    )
    visit = first_visit(shift=shift)
    tables = problem.ranks.all_gather(visit.measures)
    target_cosine, adjustment = early or adjust()
    used_maximum = torch.zeros((), dtype=torch.bool, device=problem.device)
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
    )


def _normalise(problem: Problem, views: list[View]) -> tuple[Tensor, Tensor, Tensor]:
    """(what is multiplied with rows, 1 / length, length) of this rank's embeddings."""
    raw = torch.cat([view.embedding.to(problem.device, problem.dtype) for view in views])
    # In float64, so that no length over- or underflows.
    norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True, dtype=torch.float64)
    if not problem.margin.normalised:
        ones = raw.new_ones(len(raw), 1)
        return torch.cat([raw, ones], 1), torch.ones_like(norm), norm.squeeze(1)
    inverse = norm.reciprocal().masked_fill_(norm <= SHORTEST, 0.0)
    return raw.double().mul_(inverse).to(problem.dtype), inverse, norm.squeeze(1)


def _gather(
    problem: Problem, agreement: Agreement, views: list[View], unit: Tensor, norm: Tensor
) -> Batch:
    device = problem.device

    def joined(name: str, dtype: torch.dtype) -> Tensor:
        return torch.cat([getattr(view, name).to(device, dtype) for view in views])

    label = joined("label", torch.int64)
    columns = [label, norm.view(torch.int64)]
    if agreement.weighted:
        empty = not len(label)  # a rank without samples need not pass what others do
        weight = norm if empty else joined("sample_weight", torch.float64)
        columns.append(weight.view(torch.int64))
    if agreement.ranged:
        columns += (
            [label, label] if not len(label) else joined("class_range", torch.int64).unbind(1)
        )
    embedding, numbers = gather_batch(
        problem.ranks, agreement.layout, unit, torch.stack(columns, 1)
    )
    whole = list(numbers.t().contiguous())
    label, norm = whole[0], whole[1].view(torch.float64)
    rest = whole[2:]
    return Batch(
        embedding=embedding,
        label=label,
        norm=norm,
        weight=rest.pop(0).view(torch.float64) if agreement.weighted else torch.ones_like(norm),
        counted=label >= (0 if problem.unlabelled == "ignore" else -1),
        class_range=torch.stack(rest) if agreement.ranged else None,
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
    if rules.sigmoid_bias is not None:
        return torch.zeros((), dtype=torch.float64, device=device)
    if rules.hard is None:
        highest = torch.full((), problem.scale, dtype=torch.float64, device=device)
    else:
        highest = rules.hard.highest.double()
    return constant_shift(highest, num_classes=problem.num_classes, dtype=problem.dtype)


def _may_leave_range(problem: Problem, rules: Rules) -> bool:
    """Where no bound proves the sums in range, one flag is waited for, to fall back in time."""
    if rules.sigmoid_bias is not None:
        return False
    return rules.hard is not None or not sums_stay_in_range(
        scale=problem.scale, num_classes=problem.num_classes, dtype=problem.dtype
    )
