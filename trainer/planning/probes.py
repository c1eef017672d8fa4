"""Heads made for timing: any shape that a plan can hold, with drawn batches, stepped for real."""

from collections.abc import Callable

import torch

from sharded_fc import ShardedHead
from sharded_fc.capacity import HeadShape, PoolShape
from sharded_fc.margins import CosFace
from sharded_fc.pool import PoolHead, PoolView
from trainer.planning.clock import Clock

_MARGIN, _SCALE, _RATE = 0.4, 64.0, 0.1


def head_step(shape: HeadShape, clock: Clock) -> Callable[[], object]:
    """A function that takes a step of such a head on this rank, forward and backward."""
    assert shape.world_size == clock.ranks
    head = ShardedHead(
        shape.num_classes,
        shape.embedding_dim,
        margin=CosFace(_MARGIN),
        scale=_SCALE,
        group=clock.group,
        learning_rate=_RATE,
        weight_decay=5e-4,
        optimizer=shape.optimizer,
        momentum=shape.momentum,
        sub_centres=shape.sub_centres,
        sampling=shape.sampling,
        dtype=shape.dtype,
        state_dtype=shape.state,
        compute_dtype=shape.operands,
        chunk_classes=shape.chunk_classes,
        device=clock.device,
    )
    generator = torch.Generator().manual_seed(clock.group.rank())
    embedding = torch.randn(shape.own_batch, shape.embedding_dim, generator=generator)
    label = torch.randint(shape.num_classes, (shape.own_batch,), generator=generator)
    leaf = embedding.to(clock.device).requires_grad_()

    def step() -> None:
        leaf.grad = None
        head(leaf, label).loss.backward()

    return step


def pool_step(shape: PoolShape, clock: Clock) -> Callable[[], object]:
    """The same of a pool for ten times as many people as slots, so that most have none.

    As a pool's batches are: half of each view are pairs' images, of people who are therefore in the
    pool, the other half anybody's. Labels are drawn anew each step.
    """
    people = 10 * shape.slots
    head = PoolHead(
        people,
        shape.embedding_dim,
        slots=shape.slots,
        margin=CosFace(_MARGIN),
        scale=_SCALE,
        unfilled="random",  # so that all slots take part from the first step
        group=clock.group,
        device=clock.device,
    )
    generator = torch.Generator().manual_seed(clock.group.rank())
    own = -(-shape.view // shape.world_size)
    drawn = torch.randn(4, own, shape.embedding_dim, generator=generator).to(clock.device)
    probes = [each.requires_grad_() for each in drawn[:2].clone().unbind(0)]

    def step() -> None:
        first, second = torch.randint(people, (2, own), generator=generator)
        second[: own // 2] = first[: own // 2]
        views = [
            PoolView(probe, gallery, label)
            for probe, gallery, label in zip(probes, drawn[2:], (first, second), strict=True)
        ]
        head(*views).loss.backward()

    return step
