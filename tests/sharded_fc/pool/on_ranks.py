"""What the pool's tests run on every rank; sharded_fc is imported there, under its shape checks."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

View = tuple[Tensor, Tensor, Tensor]
"""Probes, gallery features, labels."""
Step = Sequence[Sequence[View]]
"""The two views of each rank."""

USUAL = {"num_classes": 30, "embedding_dim": 6, "slots": 7, "scale": 8.0, "dtype": torch.float64}


def draw_steps(
    counts: list[tuple[int, int]],
    *,
    steps: int,
    num_classes: int = 30,
    dim: int = 6,
    seed: int = 0,
) -> list[Step]:
    """Views of `counts` samples a rank, in float64; some of the second's people are the first's."""
    generator = torch.Generator().manual_seed(seed)

    def view(count: int) -> View:
        probe, gallery = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
        # Nobody's features have unit length, and some are of the same people.
        return probe, 3 * gallery, torch.randint(num_classes, (count,), generator=generator)

    drawn = []
    for _ in range(steps):
        step = []
        for first, second in counts:
            one, other = view(first), view(second)
            shared = min(first, second) // 2
            other[2][:shared] = one[2][:shared]
            step.append((one, other))
        drawn.append(step)
    return drawn


def join(step: Step, which: int) -> View:
    """One view of the global batch, in rank order."""
    probes, galleries, labels = zip(*(views[which] for views in step), strict=True)
    return torch.cat(probes), torch.cat(galleries), torch.cat(labels)


def make_pool(options: dict[str, Any]):
    """A pool with the options that most tests share."""
    from sharded_fc.margins import CosFace
    from sharded_fc.pool import PoolHead

    return PoolHead(**{**USUAL, "margin": CosFace(0.2), **options})


def call(pool, step: Step):
    """One call with this rank's views; the output, and the leaves that get gradients."""
    from sharded_fc.pool import PoolView

    rank = dist.get_rank() if dist.is_initialized() else 0
    dtype = next(pool.rows())[1]["row0"].dtype
    leaves = [view[0].to(dtype, copy=True).requires_grad_() for view in step[rank]]
    views = [
        PoolView(leaf, gallery.to(dtype), label)
        for leaf, (_, gallery, label) in zip(leaves, step[rank], strict=True)
    ]
    output = pool(*views)
    for view, given in zip(views, step[rank], strict=True):
        for ours, theirs in zip(view, given, strict=True):
            same = torch.equal(ours.nan_to_num(), theirs.to(ours.dtype).nan_to_num())
            assert same, "the head changed what it was passed"
    return output, leaves


def content(pool) -> dict[str, Tensor]:
    """This rank's slots, by column."""
    blocks = [columns for _, columns in pool.rows(block=3)]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def train(
    options: dict[str, Any],
    steps: Sequence[Step],
    blocks: list[Any] | None = None,
    state: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Step through; losses, gradients and statistics of each step, and the slots after each."""
    pool = make_pool(options)
    if blocks is not None and state is not None:
        pool.load(iter(blocks), state)
    result: dict[str, Any] = {"initial": content(pool)}
    names = ("loss", "sample_loss", "gradient", "statistics", "content")
    result |= {name: [] for name in names}
    for step in steps:
        output, leaves = call(pool, step)
        output.loss.backward()
        result["loss"].append(output.loss.detach())
        result["sample_loss"].append(output.sample_loss)
        result["gradient"].append([leaf.grad for leaf in leaves])
        result["statistics"].append(output.statistics)
        result["content"].append(content(pool))
    return result | {"blocks": list(pool.rows(block=2)), "state": pool.state()}


def whole(results: list[dict[str, Any]], *, step: int) -> dict[str, Tensor]:
    """The slots of all ranks after a step; -1 is before the first."""
    parts = [r["initial"] if step < 0 else r["content"][step] for r in results]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
