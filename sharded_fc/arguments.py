"""What may be passed to the head, and what to change where it may not."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.collectives import Layout, Ranks

Pair = tuple[Float[Tensor, "_ _"], Int[Tensor, " _"]]  # sizes differ from pair to pair


def as_pairs(embedding: Tensor | Sequence[Pair], label: Tensor | None) -> list[Pair]:
    """One (embedding, label) or several views, as a list."""
    if isinstance(embedding, Tensor):
        if label is None:
            raise ValueError("head(embedding) needs labels: head(embedding, label)")
        return [(embedding, label)]
    if label is not None or not embedding:
        raise ValueError("pass head(embedding, label), or head([(embedding, label), ...])")
    return list(embedding)


_LABEL, _SHAPE = 1, 2


def agree(
    ranks: Ranks,
    embeddings: list[Tensor],
    labels: list[Tensor],
    *,
    num_classes: int,
    embedding_dim: int,
    device: torch.device,
) -> Layout:
    """Tell every rank how many samples each one brings; refuse on all what is wrong on one.

    Collectives: one all_gather of four integers a rank.
    """
    complaint = [0, 0, 0]
    for embedding, label in zip(embeddings, labels, strict=True):
        if embedding.shape != (len(label), embedding_dim) or label.ndim != 1:
            complaint = [_SHAPE, len(embedding), len(label)]
            break
        if len(label):
            low, high = torch.stack(torch.aminmax(label)).tolist()
            if low < 0 or high >= num_classes:
                complaint = [_LABEL, low if low < 0 else high, 0]
                break
    count = sum(len(embedding) for embedding in embeddings)
    answers = ranks.exchange_integers([count, *complaint], device=device)
    for rank, (_, kind, value, other) in enumerate(answers):
        if kind == _LABEL:
            raise ValueError(
                f"rank {rank} passed label {value}; labels must be in [0, {num_classes})"
            )
        if kind == _SHAPE:
            raise ValueError(
                f"rank {rank} passed {value} embeddings with {other} labels, or embeddings that "
                f"are not {embedding_dim} wide"
            )
    layout = Layout(tuple(answer[0] for answer in answers))
    if layout.total == 0:
        raise ValueError("no rank passed a sample; a step needs at least one")
    return layout


def check_arguments(
    num_classes: int,
    embedding_dim: int,
    scale: float,
    chunk_classes: int | None,
    gradient_reduction: str,
) -> None:
    """Refuse numbers that no head can have."""
    if num_classes < 2:
        raise ValueError(f"num_classes {num_classes}; a softmax needs at least 2")
    if embedding_dim < 1:
        raise ValueError(f"embedding_dim {embedding_dim}; use at least 1")
    if not scale > 0:
        raise ValueError(f"scale {scale}; use a positive number, usually 64")
    if chunk_classes is not None and chunk_classes < 1:
        raise ValueError(f"chunk_classes {chunk_classes}; use at least 1, or None to choose")
    if gradient_reduction not in ("mean", "sum"):
        raise ValueError(f"gradient_reduction {gradient_reduction!r}; use 'mean' or 'sum'")


def check_dtypes(dtype: torch.dtype, compute_dtype: torch.dtype) -> None:
    """Refuse pairs of dtypes that are not supported."""
    allowed = {torch.float32: (torch.float32, torch.bfloat16), torch.float64: (torch.float64,)}
    if dtype not in allowed:
        raise ValueError(f"dtype {dtype}; rows are kept in float32 or float64")
    if compute_dtype not in allowed[dtype]:
        names = " or ".join(str(choice) for choice in allowed[dtype])
        raise ValueError(f"compute_dtype {compute_dtype} with rows in {dtype}; use {names}")
