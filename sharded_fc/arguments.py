"""What may be passed to the head, and what to change where it may not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.collectives import Layout, Ranks
from sharded_fc.margins import Margin
from sharded_fc.optimizer import SGD, AdamW, Optimizer, RowWise

Unlabelled = Literal["refuse", "ignore", "repel"]
OptimizerName = Literal["sgd", "nesterov", "adamw", "rowwise"]


class View(NamedTuple):
    """Some of a rank's samples; sizes differ from view to view.

    `sample_weight` multiplies each sample's loss. `class_range` holds the classes
    [start, stop) that each sample competes with: those of its dataset, say.
    """

    embedding: Float[Tensor, "_ _"]
    label: Int[Tensor, " _"]
    sample_weight: Float[Tensor, " _"] | None = None
    class_range: Int[Tensor, "_ 2"] | None = None


def as_views(
    embedding: Tensor | Sequence[tuple[Tensor | None, ...]],
    label: Tensor | None,
    sample_weight: Tensor | None,
    class_range: Tensor | None,
) -> list[View]:
    """One batch or several views, as a list."""
    if isinstance(embedding, Tensor):
        if label is None:
            raise ValueError("head(embedding) needs labels: head(embedding, label)")
        return [View(embedding, label, sample_weight, class_range)]
    if not (label is sample_weight is class_range is None) or not embedding:
        raise ValueError("pass head(embedding, label), or head([(embedding, label), ...])")
    return [View(*view) for view in embedding]  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Agreement:
    """What all ranks know of a call: how many samples each brings, and which extras exist."""

    layout: Layout
    weighted: bool
    ranged: bool


_LABEL, _SHAPE, _WEIGHT, _RANGE, _MIXED = range(1, 6)


def agree(
    ranks: Ranks,
    views: list[View],
    *,
    num_classes: int,
    embedding_dim: int,
    unlabelled: Unlabelled,
    device: torch.device,
) -> Agreement:
    """Tell every rank how many samples each one brings; refuse on all what is wrong on one.

    Collectives: one all_gather of six integers a rank.
    """
    lowest = 0 if unlabelled == "refuse" else -1
    complaint = [0, 0, 0]
    for view in views:
        complaint = _complaint(view, lowest, num_classes, embedding_dim)
        if complaint[0]:
            break
    count = sum(len(view.embedding) for view in views)
    weighted = sum(view.sample_weight is not None for view in views)
    ranged = sum(view.class_range is not None for view in views)
    if not complaint[0] and not ({weighted, ranged} <= {0, len(views)}):
        complaint = [_MIXED, 0, 0]
    answers = ranks.exchange_integers([count, weighted, ranged, *complaint], device=device)
    for rank, (_, _, _, kind, value, other) in enumerate(answers):
        if kind:
            raise ValueError(
                f"rank {rank} passed "
                + _explain(kind, value, other, lowest, num_classes, embedding_dim)
            )
    layout = Layout(tuple(answer[0] for answer in answers))
    if layout.total == 0:
        raise ValueError("no rank passed a sample; a step needs at least one")
    for extra, name in ((1, "sample_weight"), (2, "class_range")):
        given = {bool(answer[extra]) for answer in answers if answer[0]}
        if len(given) > 1:
            raise ValueError(f"some ranks passed {name}, others did not; pass it on all or none")
    return Agreement(
        layout,
        weighted=any(answer[1] for answer in answers),
        ranged=any(answer[2] for answer in answers),
    )


def _complaint(view: View, lowest: int, num_classes: int, embedding_dim: int) -> list[int]:
    """[kind, value, other value] of what is wrong with a view, kind 0 where nothing is."""
    size, label = len(view.embedding), view.label
    if view.embedding.shape != (size, embedding_dim) or label.shape != (size,):
        return [_SHAPE, size, len(label) if label.ndim else 0]
    if size == 0:
        return [0, 0, 0]
    low, high = (int(x) for x in torch.stack(torch.aminmax(label)).tolist())
    if low < lowest or high >= num_classes:
        return [_LABEL, low if low < lowest else high, 0]
    weight, ranges = view.sample_weight, view.class_range
    if weight is not None and (weight.shape != (size,) or not bool((weight >= 0).all())):
        return [_WEIGHT, 0, 0]
    if ranges is None:
        return [0, 0, 0]
    if ranges.shape != (size, 2):
        return [_RANGE, -1, -1]
    start, stop = ranges.to(label.device).unbind(1)
    wrong = (start < 0) | (stop > num_classes) | (start >= stop)
    wrong |= (label >= 0) & ((label < start) | (label >= stop))
    if bool(wrong.any()):
        first = int(wrong.int().argmax())
        return [_RANGE, int(start[first]), int(stop[first])]
    return [0, 0, 0]


def _explain(
    kind: int, value: int, other: int, lowest: int, num_classes: int, embedding_dim: int
) -> str:
    if kind == _LABEL:
        hint = "; unlabelled='ignore' or 'repel' takes -1" if value == -1 else ""
        return f"label {value}; labels must be in [{lowest}, {num_classes}){hint}"
    if kind == _SHAPE:
        return (
            f"{value} embeddings with {other} labels, or embeddings that are not "
            f"{embedding_dim} wide"
        )
    if kind == _WEIGHT:
        return "sample_weight that is not one number of 0 or more for each sample"
    if kind == _RANGE and value < 0 and other < 0:
        return "class_range that is not [samples, 2]"
    if kind == _RANGE:
        return (
            f"class_range [{value}, {other}), which is empty, leaves [0, {num_classes}) or does "
            "not hold its sample's label"
        )
    return "sample_weight or class_range with some views only; pass it with all or none"


def make_optimizer(
    name: OptimizerName,
    *,
    momentum: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> Optimizer:
    """The optimizer of a name; `momentum` is SGD's, `betas` and `eps` the others'."""
    if name in ("sgd", "nesterov"):
        return SGD(momentum=momentum, weight_decay=weight_decay, nesterov=name == "nesterov")
    if name == "adamw":
        return AdamW(betas=betas, eps=eps, weight_decay=weight_decay)
    if name == "rowwise":
        return RowWise(beta=betas[1], eps=eps, weight_decay=weight_decay)
    raise ValueError(f"optimizer {name!r}; use 'sgd', 'nesterov', 'adamw' or 'rowwise'")


def check_arguments(
    num_classes: int,
    embedding_dim: int,
    scale: float,
    *,
    margin: Margin,
    sub_centres: int,
    chunk_classes: int | None,
    gradient_reduction: str,
    unlabelled: str,
    kernels: str,
    class_margin: Tensor | None,
    clip_norm: float | None,
    clip_row_norm: float | None,
) -> None:
    """Refuse numbers that no head can have."""
    if num_classes < 2:
        raise ValueError(f"num_classes {num_classes}; a softmax needs at least 2")
    if embedding_dim < 1:
        raise ValueError(f"embedding_dim {embedding_dim}; use at least 1")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale {scale}; use a positive number, usually 64")
    if sub_centres < 1:
        raise ValueError(f"sub_centres {sub_centres}; use at least 1")
    if chunk_classes is not None and chunk_classes < 1:
        raise ValueError(f"chunk_classes {chunk_classes}; use at least 1, or None to choose")
    if gradient_reduction not in ("mean", "sum"):
        raise ValueError(f"gradient_reduction {gradient_reduction!r}; use 'mean' or 'sum'")
    if unlabelled not in ("refuse", "ignore", "repel"):
        raise ValueError(f"unlabelled {unlabelled!r}; use 'refuse', 'ignore' or 'repel'")
    if kernels not in ("auto", "torch", "elementwise", "fused"):
        raise ValueError(f"kernels {kernels!r}; use 'auto', 'torch', 'elementwise' or 'fused'")
    if clip_norm is not None:
        raise ValueError(
            "clip_norm: a global norm is known only after every row's gradient, and the head "
            "never holds them all; use clip_row_norm, which bounds each row's"
        )
    if clip_row_norm is not None and not clip_row_norm > 0:
        raise ValueError(f"clip_row_norm {clip_row_norm}; use a positive length, or None")
    if class_margin is not None and not margin.class_margins:
        raise ValueError(f"{type(margin).__name__} has no margin for each class; drop class_margin")
    if class_margin is not None and class_margin.shape != (num_classes,):
        raise ValueError(
            f"class_margin has shape {tuple(class_margin.shape)}; use one number for each of "
            f"{num_classes} classes"
        )
    if class_margin is not None and not bool(((class_margin >= 0) & (class_margin < 1.57)).all()):
        raise ValueError("class_margin has numbers outside [0, 1.57); use cosines or radians")
    margin.check(scale=scale, num_classes=num_classes)


def check_ratios(
    ranges: Sequence[tuple[int, int, float]], *, num_classes: int
) -> tuple[tuple[int, int, float], ...]:
    """The (first class, last class + 1, ratio) of `learning_rate_ratios`, sorted."""
    reached = 0
    for start, stop, ratio in sorted(ranges):
        if not (reached <= start < stop <= num_classes):
            raise ValueError(
                f"learning_rate_ratios has [{start}, {stop}); use ranges within "
                f"[0, {num_classes}) that are not empty and do not overlap"
            )
        if not ratio >= 0:
            raise ValueError(f"learning_rate_ratios has ratio {ratio}; use 0 (frozen) or more")
        reached = stop
    return tuple(sorted(ranges))


def check_dtypes(
    dtype: torch.dtype, state_dtype: torch.dtype | None, compute_dtype: torch.dtype
) -> None:
    """Refuse dtypes that are not supported together."""
    if dtype == torch.float64:
        if compute_dtype != torch.float64 or state_dtype not in (None, torch.float64):
            raise ValueError(
                f"rows in float64 go with state_dtype and compute_dtype float64, not "
                f"{state_dtype} and {compute_dtype}"
            )
        return
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype {dtype}; rows are kept in float32, float16, bfloat16 or float64")
    if compute_dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"compute_dtype {compute_dtype}; use float32, float16 or bfloat16")
    if state_dtype not in (None, torch.float32, torch.bfloat16):
        raise ValueError(f"state_dtype {state_dtype}; use float32 or bfloat16")
