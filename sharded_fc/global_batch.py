"""The global batch, made of what every rank passed."""

import torch
from torch import Tensor

from sharded_fc.arguments import Agreement, View
from sharded_fc.collectives import gather_batch
from sharded_fc.combine import Batch
from sharded_fc.problem import Problem
from sharded_fc.targets import SHORTEST


def normalise(problem: Problem, views: list[View]) -> tuple[Tensor, Tensor, Tensor]:
    """(what is multiplied with rows, 1 / length, length) of this rank's embeddings."""
    raw = torch.cat([view.embedding.to(problem.device, problem.dtype) for view in views])
    # In float64, so that no length over- or underflows.
    norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True, dtype=torch.float64)
    if not problem.margin.normalised:
        ones = raw.new_ones(len(raw), 1)
        return torch.cat([raw, ones], 1), torch.ones_like(norm), norm.squeeze(1)
    inverse = norm.reciprocal().masked_fill_(norm <= SHORTEST, 0.0)
    return raw.double().mul_(inverse).to(problem.dtype), inverse, norm.squeeze(1)


def gather(
    problem: Problem, agreement: Agreement, views: list[View], unit: Tensor, norm: Tensor
) -> Batch:
    """All ranks' samples in the order of ranks, the same on each. Collectives: one all_gather."""
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
