"""The loss of every sample from all logits: cross-entropy, or one binary one a class."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.margins import Margin, Scalars, UniFace
from sharded_fc.reference.margins import Dense, change

Unlabelled = Literal["refuse", "ignore", "repel"]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Each sample's loss, 0 where it does not count; the margin's scalars after this step."""

    of_sample: Float[Tensor, " batch"]
    counted: Bool[Tensor, " batch"]
    state: Scalars


def dense_loss(
    embedding: Float[Tensor, "batch dim"],
    centre: Float[Tensor, "rows dim"],
    label: Int[Tensor, " batch"],
    *,
    margin: Margin,
    scale: float,
) -> Float[Tensor, ""]:
    """The mean loss of a first step, by autograd's means."""
    state = first_state(margin, num_classes=len(centre), device=centre.device)
    losses = sample_losses(embedding, centre, label, margin=margin, scale=scale, state=state)
    return losses.of_sample.mean()


def first_state(margin: Margin, *, num_classes: int, device: torch.device) -> Scalars:
    """The margin's scalars before the first step."""
    return {
        name: torch.tensor(value, dtype=torch.float64, device=device)
        for name, value in margin.initial_state(num_classes=num_classes).items()
    }


def sample_losses(
    embedding: Float[Tensor, "batch dim"],
    centre: Float[Tensor, "rows width"],
    label: Int[Tensor, " batch"],
    *,
    margin: Margin,
    scale: float,
    state: Scalars,
    sub_centres: int = 1,
    unlabelled: Unlabelled = "refuse",
    class_margin: Float[Tensor, " classes"] | None = None,
    class_range: Int[Tensor, "batch 2"] | None = None,
    inclusion: Float[Tensor, " classes"] | None = None,
    ignored_above: float | None = None,
    step: int = 0,
    seed: int = 0,
) -> Losses:
    """What `DenseHead` describes, differentiable by embeddings, centres and the state's bias."""
    margin.check(scale=scale, num_classes=len(centre) // sub_centres)
    cosine = _similarity(embedding, centre, normalised=margin.normalised)
    if sub_centres > 1:
        cosine = cosine.unflatten(1, (-1, sub_centres)).max(2).values
    conflict = None if ignored_above is None else cosine.detach() > ignored_above
    labelled = label >= 0
    complete = bool(labelled.all())
    if unlabelled == "refuse" and not complete:
        raise ValueError("a label is negative; use unlabelled='ignore' or 'repel'")
    penalty = torch.zeros_like(label, dtype=cosine.dtype)
    if labelled.any():
        place = labelled.nonzero().squeeze(1)
        own = label[place]
        changed = change(
            margin,
            Dense(
                cosine=cosine if complete else cosine[place],  # a whole copy, timed in benchmarks
                label=own,
                norm=torch.linalg.vector_norm(embedding, dim=1)[place],
                place=place,
                class_margin=None if class_margin is None else class_margin[own],
                state=state,
                step=step,
                seed=seed,
            ),
        )
        cosine = changed.cosine if complete else cosine.index_copy(0, place, changed.cosine)
        penalty[place] += changed.penalty
        state = state | changed.state
    outside = _outside(class_range, inclusion, num_classes=cosine.shape[1])
    if conflict is not None:
        conflict &= torch.arange(cosine.shape[1], device=label.device) != label.unsqueeze(1)
        outside = conflict if outside is None else outside | conflict
    times = torch.ones_like(cosine) if inclusion is None else _times(inclusion, cosine)
    if isinstance(margin, UniFace):
        shifted = scale * cosine - state["bias"].to(cosine.dtype)
        loss = _binary(shifted, label, outside, margin, times)
    else:
        loss = _softmax(scale * cosine + times.log(), label, outside)
    counted = torch.ones_like(labelled) if unlabelled == "repel" else labelled
    return Losses(of_sample=(loss + penalty) * counted, counted=counted, state=state)


def _similarity(embedding: Tensor, centre: Tensor, *, normalised: bool) -> Tensor:
    if normalised:
        return F.normalize(embedding) @ F.normalize(centre).t()
    return F.linear(embedding, centre[:, :-1], centre[:, -1])


def _outside(
    class_range: Tensor | None, inclusion: Tensor | None, *, num_classes: int
) -> Tensor | None:
    """Classes a sample does not compete with: of another range, or not drawn."""
    outside = None if inclusion is None else inclusion == 0
    if class_range is None:
        return outside
    number = torch.arange(num_classes, device=class_range.device)
    other = (number < class_range[:, :1]) | (number >= class_range[:, 1:])
    return other if outside is None else other | outside


def _times(inclusion: Tensor, cosine: Tensor) -> Tensor:
    """How many classes each one stands for; 1 for what is left out anyway."""
    return torch.where(inclusion == 0, 1.0, inclusion).reciprocal().expand_as(cosine)


def _softmax(logit: Tensor, label: Tensor, outside: Tensor | None) -> Tensor:
    if outside is not None:
        logit = logit.masked_fill(outside, -torch.inf)
    loss = F.cross_entropy(logit, label, ignore_index=-1, reduction="none")
    unlabelled = label < 0
    if not unlabelled.any():
        return loss
    return torch.where(unlabelled, logit.logsumexp(1), loss)


def _binary(
    logit: Tensor, label: Tensor, outside: Tensor | None, margin: UniFace, times: Tensor
) -> Tensor:
    positive = torch.arange(logit.shape[1], device=label.device) == label.unsqueeze(1)
    weight = (times * margin.negative_weight).masked_fill(positive, 1.0)
    if outside is not None:
        weight = weight.masked_fill(outside, 0.0)
    loss = F.binary_cross_entropy_with_logits(
        logit, positive.to(logit.dtype), weight=weight, reduction="none"
    )
    return loss.sum(1)
