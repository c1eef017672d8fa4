"""Small networks and batches for tests of the engine, the step and the checkpoint."""

from typing import Any

import torch
from torch import Tensor, nn

from data_pipeline.batch import FaceBatch
from sharded_fc import ShardedHead
from sharded_fc.margins import CosFace
from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d
from trainer.topology import Topology

SIZE = 6
EMBEDDING_DIM = 5
NUM_CLASSES = 7


class Plain(nn.Sequential):
    """A network without BatchNorm: micro-batches do not matter."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.PReLU(4),
            nn.Flatten(),
            nn.Linear(16, EMBEDDING_DIM),
        )


class Normalised(nn.Sequential):
    """A network with BatchNorm, between the layers and on the embedding."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, stride=2, bias=False),
            BatchNorm2d(width),
            nn.PReLU(width),
            nn.Flatten(),
            # A bias would have no gradient but rounding, which AdamW makes as large as any other.
            nn.Linear(4 * width, EMBEDDING_DIM, bias=False),
            BatchNorm1d(EMBEDDING_DIM),
        )


class Wide(Normalised):
    """The same with more channels."""

    def __init__(self) -> None:
        super().__init__(width=6)


def network(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """The network with seeded weights, the same on every rank and in the parent."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind()


def images(count: int, seed: int) -> Tensor:
    """Seeded noise in the shape of faces."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def topology() -> Topology:
    """This rank of the pool, on the CPU whatever the machine has."""
    found = Topology.of_default_group()
    return Topology(
        rank=found.rank,
        world_size=found.world_size,
        local_rank=found.rank,
        device=torch.device("cpu"),
        group=found.group,
    )


def batches(step: int, micro_batches: range, *, size: int = 4) -> list[FaceBatch]:
    """Micro-batches of a step, the same whoever asks for them."""
    made = []
    for j in micro_batches:
        generator = torch.Generator().manual_seed(1000 * step + j)
        label = torch.randint(NUM_CLASSES, (size,), generator=generator)
        image = torch.randn(size, 3, SIZE, SIZE, generator=generator)
        made.append(FaceBatch(image, label, torch.arange(size)))
    return made


def centres(num_rows: int = NUM_CLASSES) -> Tensor:
    """Centres of length about 2, so that gradients of rows are of size 1."""
    return torch.randn(num_rows, EMBEDDING_DIM, generator=torch.Generator().manual_seed(5))


def head(num_classes: int = NUM_CLASSES, **changes: Any) -> ShardedHead:
    """A head over the pool's ranks, with classes that do not divide evenly."""
    usual: dict[str, Any] = {
        "margin": CosFace(0.2),
        "scale": 8.0,
        "learning_rate": 0.1,
        "weight_decay": 1e-2,
    }
    made = ShardedHead(num_classes, EMBEDDING_DIM, **(usual | changes))
    num_rows = num_classes * made.sub_centres
    own = next(made.rows())[1]
    first = {name: torch.zeros(num_rows, tensor.shape[1]) for name, tensor in own.items()}
    made.load([(0, first | {"centre": centres(num_rows)})], made.state())
    return made


def rows(head: ShardedHead) -> dict[int, dict[str, Tensor]]:
    """This rank's centres and what the optimizer keeps for them, by the row's number."""
    return {
        start + i: {name: value[i] for name, value in block.items()}
        for start, block in head.rows()
        for i in range(len(block["centre"]))
    }
