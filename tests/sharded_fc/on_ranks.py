"""What the head's tests run on every rank, and the dense head they compare it with.

Imports of sharded_fc stay inside the functions, so that the ranks' shape checks see them.
"""

from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Batch = list[tuple[Tensor, Tensor]]  # one (embedding, label) a rank

FLOAT64 = {"dtype": torch.float64, "compute_dtype": torch.float64}


def draw_batches(
    counts: list[int], *, num_classes: int, dim: int, steps: int = 1, seed: int = 0
) -> list[Batch]:
    """`steps` global batches, cut into `counts` samples a rank, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            (
                torch.randn(count, dim, generator=generator, dtype=torch.float64),
                torch.randint(num_classes, (count,), generator=generator),
            )
            for count in counts
        ]
        for _ in range(steps)
    ]


def join(batch: Batch) -> tuple[Tensor, Tensor]:
    """The global batch, in rank order."""
    return torch.cat([e for e, _ in batch]), torch.cat([label for _, label in batch])


def recut(batch: Batch, counts: list[int]) -> Batch:
    """The same global batch over other ranks."""
    embedding, label = join(batch)
    return list(zip(embedding.split(counts), label.split(counts), strict=True))


def make_head(options: dict[str, Any]):
    """A head with the options that most tests share."""
    from sharded_fc import ShardedHead

    return ShardedHead(**{"learning_rate": 0.1, "weight_decay": 5e-4, "scale": 16.0, **options})


def collect(head) -> dict[str, Tensor]:
    """All rows of this rank, by name."""
    blocks = [tensors for _, tensors in head.rows(block=7)]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def train(
    options: dict[str, Any],
    batches: list[Batch],
    blocks: list[tuple[int, dict[str, Tensor]]] | None = None,
    state: dict[str, float | int] | None = None,
) -> dict[str, Any]:
    """Step through `batches`; return losses, gradients, statistics, rows and state of this rank."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    head = make_head(options)
    if blocks is not None and state is not None:
        head.load(iter(blocks), state)
    result: dict[str, Any] = {"loss": [], "sample_loss": [], "gradient": [], "statistics": []}
    result["initial"] = collect(head)
    dtype = torch.float64 if options.get("dtype") == torch.float64 else torch.float32
    for batch in batches:
        embedding, label, *extras = batch[rank]
        leaf = embedding.to(dtype, copy=True).requires_grad_()
        output = head([(leaf, label, *extras)])
        output.loss.backward()
        result["loss"].append(output.loss.detach())
        result["sample_loss"].append(output.sample_loss)
        result["gradient"].append(leaf.grad)
        result["statistics"].append(asdict(output.statistics))
    return result | {
        "rows": collect(head),
        "blocks": list(head.rows(block=3)),
        "state": head.state(),
        "partition": (head.partition.start, head.partition.stop),
    }


def dense_head(results: list[dict[str, Any]], options: dict[str, Any], **changes: Any):
    """The dense reference in float64, from the sharded head's initial rows."""
    from sharded_fc.arguments import make_optimizer
    from sharded_fc.reference import DenseHead

    defaults = {"learning_rate": 0.1, "weight_decay": 5e-4, "scale": 16.0, "momentum": 0.9}
    chosen = {**defaults, **options, **changes}
    centre = torch.cat([result["initial"]["centre"] for result in results]).double()
    own = {"num_classes", "embedding_dim", "compute_dtype", "dtype", "state_dtype", "chunk_classes"}
    own |= {
        "kept_bytes",
        "conflict_cosine",
        "optimizer",
        "gradient_reduction",
    }  # the sharded head's alone, or other here
    arguments = {name: value for name, value in chosen.items() if name not in own}
    if "optimizer" in chosen:
        arguments["optimizer"] = make_optimizer(
            chosen["optimizer"],
            momentum=chosen["momentum"],
            weight_decay=chosen["weight_decay"],
            betas=(0.9, 0.999),
            eps=1e-8,
        )
    return DenseHead(centre, **arguments)


def gathered(results: list[dict[str, Any]], name: str) -> Tensor:
    """One tensor of the final rows over all ranks."""
    return torch.cat([result["rows"][name] for result in results])
