"""One training step: all forwards of a rank, one head pass, one backward, both optimizers.

The head sees the global batch at once, however many micro-batches and ranks it came in; the
backbone's gradient is that of the global mean loss. Nothing here waits for the device but the one
decision whether the backbone may move.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from data_pipeline.batch import FaceBatch
from sharded_fc import Statistics
from sharded_fc.pool import PoolHead
from trainer.engine import Engine
from trainer.gallery import Gallery
from trainer.layers.batch_norm import apply_statistics, recording
from trainer.layers.stochastic import seed_draws
from trainer.pool import Head, two_views
from trainer.sample_rules import SampleRules
from trainer.series import HEAD_STATISTICS

ALL_ALIKE = SampleRules()


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What a step did, still on the device; equal on every rank but for `seconds`."""

    statistics: Statistics
    """Of the head."""
    gradient_norm: Float[Tensor, ""]
    """Of the backbone before clipping; zero where it is not finite."""
    skipped: bool
    """The backbone did not move: the head had not, or a gradient was not finite."""
    timer: "PhaseTimer"

    def numbers(self) -> dict[str, Float[Tensor, ""]]:
        """All but the times, by name; those of the margin come last, as `margin.<name>`."""
        statistics = self.statistics
        return {
            "loss": statistics.loss,
            **{name: getattr(statistics, name) for name in HEAD_STATISTICS},
            "gradient_norm": self.gradient_norm,
            "committed": statistics.committed,
            "used_maximum": statistics.used_maximum,
            "skipped": statistics.loss.new_tensor(float(self.skipped)),
            **{f"margin.{name}": value for name, value in statistics.margin.items()},
        }

    def seconds(self) -> dict[str, float]:
        """What forward, head, backward and optimizer took; waits for the device."""
        return self.timer.seconds()


def train_step(
    engine: Engine,
    head: Head,
    batches: Sequence[FaceBatch],
    *,
    micro_batches: range,
    total_micro_batches: int,
    learning_rate: float,
    rules: SampleRules = ALL_ALIKE,
    gallery: Gallery | None = None,
    next_label: Int64[Tensor, " next"] | None = None,
    draws: tuple[int, int] = (0, 0),
) -> StepOutcome:
    """Train on one global batch, of which this rank has `batches`, micro-batches `micro_batches`.

    `learning_rate` is the backbone's; the head has its own, and `rules` tell it more of samples.
    A pool takes the halves of each micro-batch as its two views, with features of the `gallery`,
    which moves first. `next_label` are the next global batch's labels, for a head that reads ahead.
    `draws` is the run's seed and the step's number, which with a micro-batch's number seed torch's
    generator for what layers draw in its forward.
    The ranks' shares may be uneven. If the head or the backbone meets a number that is not finite
    on any rank, that part moves on no rank, and the running statistics stay.
    Collectives: the head's, the engine's, one all_reduce of batch statistics.
    """
    assert len(batches) == len(micro_batches) > 0
    timer = PhaseTimer(engine.topology.device)
    with recording(engine.module) as records:
        embeddings = []
        for number, batch in zip(micro_batches, batches, strict=True):
            seed_draws(*draws, number)
            embeddings.append(engine.forward(batch.image))
    most = -(-total_micro_batches // engine.topology.world_size)
    if engine.equal_forwards and len(batches) < most:
        embeddings.append(engine.forward(batches[0].image))  # outside `recording`: leaves no trace
    features = []
    if gallery is not None:
        gallery.update()
        features = [gallery.forward(batch.image) for batch in batches]
    timer.end("forward")

    used = embeddings[: len(batches)]
    leaf = torch.cat([embedding.detach() for embedding in used]).requires_grad_()
    label = torch.cat([batch.label for batch in batches])
    if isinstance(head, PoolHead):
        sizes = [len(batch.label) for batch in batches]
        output = head(*two_views(leaf, torch.cat(features), label, sizes=sizes))
    else:
        output = head(leaf, label, **rules.of(label), next_label=next_label)
    output.loss.backward()
    assert leaf.grad is not None
    timer.end("head")

    gradients = leaf.grad.split([len(embedding) for embedding in used])
    parts = [(e * g).sum() for e, g in zip(used, gradients, strict=True)]
    parts += [(extra * 0).sum() for extra in embeddings[len(batches) :]]
    engine.backward(torch.stack(parts).sum())
    timer.end("backward")

    moved = engine.step(learning_rate, allowed=output.statistics.committed)
    if moved.applied:
        apply_statistics(
            records,
            micro_batches=micro_batches,
            total=total_micro_batches,
            group=engine.topology.group,
        )
    timer.end("optimizer")
    return StepOutcome(
        statistics=output.statistics,
        gradient_norm=moved.gradient_norm,
        skipped=not moved.applied,
        timer=timer,
    )


def read_numbers(outcomes: Sequence[StepOutcome]) -> list[dict[str, float]]:
    """The numbers of some steps, on the host; waits for the device once."""
    if not outcomes:
        return []
    numbers = [outcome.numbers() for outcome in outcomes]
    values = torch.stack([value.detach().float() for row in numbers for value in row.values()])
    rows = values.reshape(len(outcomes), -1).tolist()
    return [dict(zip(numbers[0], row, strict=True)) for row in rows]


class PhaseTimer:
    """Times consecutive phases where they run: the host's clock on a CPU, events on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._names: list[str] = []
        self._marks: list[Any] = [self._mark()]

    def end(self, name: str) -> None:
        """The phase that began where the one before it ended is over."""
        self._names.append(name)
        self._marks.append(self._mark())

    def seconds(self) -> dict[str, float]:
        """Seconds by phase; on a GPU waits for the last of them."""
        phases = list(pairwise(self._marks))
        if self._on_gpu:
            self._marks[-1].synchronize()
            lengths = [begin.elapsed_time(end) / 1000 for begin, end in phases]
        else:
            lengths = [end - begin for begin, end in phases]
        return dict(zip(self._names, lengths, strict=True))

    def _mark(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
