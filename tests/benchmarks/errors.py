"""How far a head's steps are from those of the dense head in float64.

A difference is relative: of each loss; of gradients and centres, the length of the largest row of
differences to that of the longest true row. (A well-fitted sample's own gradient is a difference of
nearly equal numbers, so rows relative to themselves would measure nothing but that.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sharded_fc.reference import DenseHead
from tests.benchmarks.heads import (
    LEARNING_RATE,
    MARGIN,
    MOMENTUM,
    SCALE,
    WEIGHT_DECAY,
    Candidate,
    Size,
    batches,
    make,
)
from tests.benchmarks.record import Cell


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What steps came to: losses, all embeddings' gradients, the centres after them."""

    loss: Tensor
    gradient: Tensor
    centre: Tensor

    def error(self, truth: "Outcome") -> dict[str, Cell]:
        """The largest relative differences, as cells of a table."""
        loss = (self.loss.double() - truth.loss).abs() / truth.loss.abs()
        return {
            "loss error": float(loss.max()),
            "gradient error": largest_row(self.gradient, truth.gradient),
            "centre error": largest_row(self.centre, truth.centre),
        }


class Errors:
    """One step of candidates beside float64; the truth is kept for those that start alike."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self._truths: dict[str, Outcome] = {}

    def of(self, candidate: Candidate) -> dict[str, Cell]:
        """The relative differences of a candidate's first step."""
        made = make(candidate, self.size)
        embedding, label = next(batches(self.size))
        if candidate.rows not in self._truths:
            self._truths[candidate.rows] = _truth(made.centre().double(), embedding, label)
        loss, gradient = made.step(embedding, label)
        outcome = Outcome(loss=loss, gradient=gradient, centre=made.centre())
        return outcome.error(self._truths[candidate.rows])


def largest_row(ours: Tensor, truth: Tensor) -> float:
    """max over rows of |ours - truth|, of max over rows of |truth|."""
    pieces = zip(ours.split(1 << 16), truth.split(1 << 16), strict=True)
    off, true = zip(*((_longest(a.double() - b), _longest(b)) for a, b in pieces), strict=True)
    return max(off) / max(true)


def _longest(rows: Tensor) -> float:
    return float(torch.linalg.vector_norm(rows, dim=1).max())


def _truth(centre: Tensor, embedding: Tensor, label: Tensor) -> Outcome:
    dense = DenseHead(
        centre,
        margin=MARGIN,
        scale=SCALE,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
    )
    loss, gradient = dense.step(embedding.double(), label)
    return Outcome(loss=loss, gradient=gradient, centre=dense.centre)
