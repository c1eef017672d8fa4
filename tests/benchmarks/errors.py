"""How far one step of a head is from the dense head in float64.

A difference is relative: of the loss, and the largest over samples or classes of the length of a
row's difference to the length of the true row.
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
    """What a step came to: its loss, the embeddings' gradient, the centres after it."""

    loss: Tensor
    gradient: Tensor
    centre: Tensor

    def error(self, truth: "Outcome") -> dict[str, Cell]:
        """The largest relative differences, as cells of a table."""
        loss = (self.loss.double() - truth.loss).abs() / truth.loss.abs()
        return {
            "loss error": float(loss),
            "gradient error": farthest_row(self.gradient, truth.gradient),
            "centre error": farthest_row(self.centre, truth.centre),
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


def farthest_row(ours: Tensor, truth: Tensor) -> float:
    """max over rows of |ours - truth| / |truth|."""
    worst = [
        (torch.linalg.vector_norm(a.double() - b, dim=1) / torch.linalg.vector_norm(b, dim=1)).max()
        for a, b in zip(ours.split(1 << 16), truth.split(1 << 16), strict=True)
    ]
    return float(torch.stack(worst).max())


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
